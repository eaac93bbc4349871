"""What may be thrown away: old backups, backups that were never finished, and finished requests past their time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from steward_api import names

from .admission import is_replayed
from .clock import parse_time
from .model import Holder, Request, World
from .settings import Copying

#: Whatever an administrator sets: a volume's newest backups, these many, stay.
ALWAYS_KEPT = 2
#: A backup that is not finished may belong to a request that was not listed yet when it was made.
UNFINISHED_FOR = timedelta(minutes=10)


def old_backups(
    holders: Iterable[Holder], requests: Iterable[Request], copying: Copying, now: datetime
) -> list[Holder]:  # fmt: skip
    """Claims and snapshots: backups beyond their number or age, never a volume's last two, and those that were never
    finished and whose request is over.

    Backups without a file in them are counted apart: they take the place of none that has one. A backup that an undo
    could not put back still bears its pin, and stays whatever has been backed up since, until it is old.
    """
    active = [request for request in requests if not request.is_finished]
    at_work = {request.uid for request in active}
    wanted = {request.backup_to_restore for request in active}
    volumes: dict[tuple[str, str, str, bool], list[Holder]] = defaultdict(list)
    found: list[Holder] = []
    for held in holders:
        if not held.is_backup or held.is_deleting:
            continue
        if held.backup is not None:
            volumes[(held.user, held.server, held.kind, held.backup.get("files") == 0)].append(held)
        elif held.labels.get(names.REQUEST) not in at_work and now - held.created > UNFINISHED_FOR:
            found.append(held)
    for backups in volumes.values():
        newest_first = sorted(backups, key=lambda held: (held.created, held.name), reverse=True)
        for place, held in enumerate(newest_first):
            is_old = now - held.created > timedelta(days=copying.keep_days)
            spare = place >= ALWAYS_KEPT and (is_old or place >= copying.keep_last)
            is_pinned = held.pinned_by in at_work or (held.pinned_by and not is_old)
            if spare and held.name not in wanted and not is_pinned:
                found.append(held)
    return found


def old_requests(requests: Iterable[Request], most: int, now: datetime) -> list[Request]:
    """Finished requests whose TTL is over, and the oldest of those beyond ``most``.

    What a tool would apply again is kept: it would erase again.
    """
    found: dict[str, Request] = {}
    finished: list[tuple[datetime, Request]] = []
    for request in requests:
        ended = parse_time(request.status.get("completionTime"))
        if not request.is_finished or ended is None or request.is_deleting:
            continue
        if is_replayed(World(now=now, request=request)):
            continue
        finished.append((ended, request))
        ttl = request.spec.get("ttlSecondsAfterFinished")
        if ttl is not None and now >= ended + timedelta(seconds=ttl):
            found[request.uid] = request
    finished.sort(key=lambda row: (row[0], row[1].name))
    for _, request in finished[: max(0, len(finished) - most)]:
        found[request.uid] = request
    return list(found.values())
