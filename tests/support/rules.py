"""The rules of docs/reliability.md, held against every write that operators have sent to an API server and it has taken.

What is at the end says little of what there was on the way: `check_rules` looks at the way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from steward_api import names
from steward_api.phases import ENDS, BackupState, Phase

from .operator import Write

Json = dict[str, Any]
ORDER = [phase for phase in Phase if phase not in ENDS and phase is not Phase.UNKNOWN]
CLAIMS = "/persistentvolumeclaims/"
#: Backups are deleted without a record: when they are old, or half.
NO_VOLUME = "backup-"


def check_rules(writes: Iterable[Write], users: Mapping[str, str]) -> None:
    """Every write is of one control plane, dry runs and refused ones among them; ``users`` are those of the requests, by
    the requests' paths. Raises AssertionError."""
    taken = [write for write in writes if write.happened]
    histories = history_of_requests(taken)
    for path, history in histories.items():
        check_order(path, history)
    records = [(write, row) for history in histories.values() for write in history for row in rows_of(write)]
    for write in taken:
        if write.method == "DELETE" and CLAIMS in write.path:
            check_delete(write, records, taken, users)
        if write.method == "POST" and write.path.endswith(CLAIMS.rstrip("/")):
            check_creation(write, records, users)
        if write.path.endswith("/resize"):
            check_resize(write, histories, users)


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


def user_of(write: Write, users: Mapping[str, str]) -> str:
    return users[write.path.removesuffix("/status")]


def check_creation(create: Write, records: list[tuple[Write, Json]], users: Mapping[str, str]) -> None:
    """Rules 4 and 6: what is made is word for word what was on record, for the user whose request it was."""
    meta = create.body["metadata"]
    if meta["name"].startswith(NO_VOLUME):
        return
    makers = [write for write, row in records if row.get("template") == create.body and write.began <= create.at]
    assert makers, f"{create.path}: {meta['name']} was not on record as it was made"
    assert any(user_of(maker, users) == meta["annotations"][names.USERNAME] for maker in makers), (
        f"{create.path}: {meta['name']} belongs to another user than the request"
    )


def check_resize(resize: Write, histories: Mapping[str, list[Write]], users: Mapping[str, str]) -> None:
    """Rule 6: the pod was on record before, in a request of its user."""
    uid = resize.body["metadata"]["uid"]
    planned = [
        write
        for history in histories.values()
        for write in history
        if (write.body.get("status") or {}).get("podUID") == uid and write.began <= resize.at
    ]
    assert planned, f"{resize.path}: {uid} was not on record"
    assert any(f"/pods/jupyter-{user_of(write, users)}/" in resize.path for write in planned), (
        f"{resize.path}: the server of another user than the request"
    )


def check_delete(
    delete: Write, records: list[tuple[Write, Json]], taken: list[Write], users: Mapping[str, str]
) -> None:
    """Rules 1, 3 and 6: what goes was on record before, by its UID, in a request of its user, and its backup was sealed
    where one is due."""
    uid, version = (delete.body["preconditions"].get(what) for what in ("uid", "resourceVersion"))
    assert uid, f"{delete.path}: a delete of whatever bears the name"
    assert version, f"{delete.path}: a delete of whatever became of the claim"
    name = delete.path.rpartition("/")[2]
    if name.startswith(NO_VOLUME):
        return
    known = [(write, row) for write, row in records if row["uid"] == uid and write.began <= delete.at]
    assert known, f"{delete.path}: {uid} was not on record"
    recorder, row = max(known, key=lambda pair: int(pair[0].body["metadata"]["resourceVersion"]))
    assert row["template"], f"{delete.path}: nothing says how to make it again"
    owner = row["template"]["metadata"]["annotations"][names.USERNAME]
    assert owner == user_of(recorder, users), f"{delete.path}: belongs to another user than the request"
    backup = row.get("backup")
    if backup is None or backup["state"] == BackupState.NOTHING_TO_BACK_UP:
        return
    assert backup["state"] == BackupState.READY, f"{delete.path}: the backup was {backup['state']}"
    assert any(
        write.began <= delete.at and write.path.endswith(f"/{backup['name']}") and is_seal(write) for write in taken
    ), f"{delete.path}: the backup {backup['name']} was not sealed"


def is_seal(write: Write) -> bool:
    return write.method == "PATCH" and bool((write.body["metadata"].get("annotations") or {}).get(names.BACKUP))


def check_same(claim: Json, was: Json) -> None:
    """Rule 4: a claim that was made again is as it was, for its user and whoever looks for it."""
    for what in ("resources", "storageClassName", "accessModes", "volumeMode"):
        assert claim["spec"].get(what) == was["spec"].get(what), what
    assert claim["metadata"]["labels"] == was["metadata"]["labels"]
    kept, had = (
        {k: v for k, v in found["metadata"]["annotations"].items() if names.GROUP not in k and "kubernetes.io" not in k}
        for found in (claim, was)
    )
    assert kept == had
