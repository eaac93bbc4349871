"""What may be thrown away: old backups, backups that were never finished, and finished requests past their time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from steward_api import names

from .admission import is_replayed
from .clock import parse_time
from .model import Claim, Copying, Request, World

#: Whatever an administrator sets: a volume's newest backups, these many, stay.
ALWAYS_KEPT = 2
#: A backup that is not finished may belong to a request that was not listed yet when it was made.
UNFINISHED_FOR = timedelta(minutes=10)


def old_backups(
    claims: Iterable[Claim], requests: Iterable[Request], copying: Copying, now: datetime
) -> list[Claim]:  # fmt: skip
    """Backups beyond their number or age, never a volume's last two; and those whose request is over without them."""
    active = [request for request in requests if not request.is_finished]
    at_work = {request.uid for request in active}
    wanted = {str((request.spec.get("contents") or {}).get("name", "")) for request in active}
    volumes: dict[tuple[str, str, str], list[Claim]] = defaultdict(list)
    found: list[Claim] = []
    for claim in claims:
        if not claim.is_backup or claim.is_deleting:
            continue
        if claim.backup is not None:
            volumes[(claim.user, claim.server, claim.kind)].append(claim)
        elif claim.labels.get(names.REQUEST) not in at_work and now - claim.created > UNFINISHED_FOR:
            found.append(claim)
    for backups in volumes.values():
        newest_first = sorted(backups, key=lambda claim: (claim.created, claim.name), reverse=True)
        for place, claim in enumerate(newest_first):
            is_old = now - claim.created > timedelta(days=copying.keep_days)
            spare = place >= ALWAYS_KEPT and (is_old or place >= copying.keep_last)
            if spare and claim.name not in wanted and claim.pinned_by not in at_work:
                found.append(claim)
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
