"""The rules of docs/reliability.md, held against every write that operators have sent to an API server and it has taken.

What is at the end says little of what there was on the way: `check_rules` looks at the way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from steward_api import names
from steward_api.phases import ENDS, BackupState, Phase

from .operator import Write

Json = dict[str, Any]
ORDER = [phase for phase in Phase if phase not in ENDS and phase is not Phase.UNKNOWN]
CLAIMS = "/persistentvolumeclaims/"
#: Backups are deleted without a record: when they are old, or half.
NO_VOLUME = "backup-"


def check_rules(writes: Iterable[Write]) -> None:
    """Every write is of one control plane, dry runs and refused ones among them. Raises AssertionError."""
    taken = [write for write in writes if write.happened]
    histories = history_of_requests(taken)
    for path, history in histories.items():
        check_order(path, history)
    records = [(write, row) for history in histories.values() for write in history for row in rows_of(write)]
    for delete in taken:
        if delete.method == "DELETE" and CLAIMS in delete.path:
            check_delete(delete, records, taken)


def history_of_requests(taken: Iterable[Write]) -> dict[str, list[Write]]:
    """Writes to each request, in the order in which they changed it: each names the version it was made from."""
    found = defaultdict(list)
    for write in taken:
        if write.method == "PATCH" and f"/{names.GROUP}/" in write.path:
            found[write.path.removesuffix("/status")].append(write)
    for history in found.values():
        history.sort(key=lambda write: int(write.body["metadata"]["resourceVersion"]))
    return found


def check_order(path: str, history: list[Write]) -> None:
    """Rules 7 and 8: phases never go back, nothing follows the end, and the finalizer goes before it."""
    phase, has_finalizer = Phase.PENDING, False
    for write in history:
        if not write.path.endswith("/status"):
            has_finalizer = names.FINALIZER in write.body["metadata"]["finalizers"]
            continue
        assert phase not in ENDS, f"{path}: a status after the end"
        # What does not change is not sent.
        following = Phase(write.body["status"].get("phase", phase))
        assert following in ENDS or ORDER.index(following) >= ORDER.index(phase), f"{path}: {phase} to {following}"
        assert not (following in ENDS and has_finalizer), f"{path}: an end with the finalizer on"
        phase = following


def rows_of(write: Write) -> list[Json]:
    return list((write.body.get("status") or {}).get("volumes") or ())


def check_delete(delete: Write, records: list[tuple[Write, Json]], taken: list[Write]) -> None:
    """Rules 1 and 3: what goes was on record before, by its UID, and its backup was sealed where one is due."""
    uid, version = (delete.body["preconditions"].get(what) for what in ("uid", "resourceVersion"))
    assert uid, f"{delete.path}: a delete of whatever bears the name"
    assert version, f"{delete.path}: a delete of whatever became of the claim"
    name = delete.path.rpartition("/")[2]
    if name.startswith(NO_VOLUME):
        return
    known = [(write, row) for write, row in records if row["uid"] == uid and write.began <= delete.at]
    assert known, f"{delete.path}: {uid} was not on record"
    _, row = max(known, key=lambda pair: int(pair[0].body["metadata"]["resourceVersion"]))
    assert row["template"], f"{delete.path}: nothing says how to make it again"
    backup = row.get("backup")
    if backup is None or backup["state"] == BackupState.NOTHING_TO_BACK_UP:
        return
    assert backup["state"] == BackupState.READY, f"{delete.path}: the backup was {backup['state']}"
    assert any(
        write.began <= delete.at and write.path.endswith(f"/{backup['name']}") and is_seal(write) for write in taken
    ), f"{delete.path}: the backup {backup['name']} was not sealed"


def is_seal(write: Write) -> bool:
    return write.method == "PATCH" and bool((write.body["metadata"].get("annotations") or {}).get(names.BACKUP))
