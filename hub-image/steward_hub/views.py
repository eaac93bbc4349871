"""What the handlers read out of requests, claims and container statuses. Pure; talks to nobody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from steward_api import names
from steward_api.phases import SENTENCES, BackupState, Phase, Reason
from steward_api.requests import is_finished
from steward_api.volumes import Volume

#: The kubelet reports a new instance ready about a second after it answers.
PROBE_LAG = timedelta(seconds=15)


def container_answers(status: Mapping[str, Any]) -> bool:
    """Whether the kubelet takes the container for ready; a young instance is given the time to be probed."""
    running = (status.get("state") or {}).get("running")
    if status.get("ready") or not running or not running.get("startedAt"):
        return bool(status.get("ready"))
    return datetime.now(UTC) - datetime.fromisoformat(running["startedAt"]) < PROBE_LAG


def active_request(requests: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The request that is at work. One that waits for a later day keeps nobody from anything until then."""
    for request in requests:
        if not is_finished(request) and (request.get("status") or {}).get("reason") != Reason.SCHEDULED:
            return request
    return None


def is_same_action(active: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if active["kind"] != wanted["kind"]:
        return False
    if active["kind"] == names.SERVER_RESTART:
        return True
    return sorted(active["spec"]["volumes"]) == sorted(wanted["spec"]["volumes"]) and (
        (active["spec"].get("contents") or {}).get("name") == (wanted["spec"].get("contents") or {}).get("name")
    )


def summary(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request as the page needs it."""
    status = request.get("status") or {}
    reason = status.get("reason")
    return {
        "kind": request["kind"],
        "name": request["metadata"]["name"],
        "createdAt": request["metadata"]["creationTimestamp"],
        "requestedBy": request["spec"].get("requestedBy"),
        "volumes": request["spec"].get("volumes", []),
        "phase": status.get("phase") or "Pending",
        "reason": reason or "",
        "message": status.get("message") or SENTENCES[Reason.ACCEPTED],
        "finished": is_finished(request),
        "completedAt": status.get("completionTime"),
        "mechanism": status.get("mechanism"),
        "lastWords": status.get("lastWords", ""),
        "outcomes": [
            {key: row[key] for key in ("volume", "outcome", "message") if key in row} | _backup_in(row)
            for row in status.get("volumes") or []
        ],
        "cancellable": not is_finished(request)
        and (status.get("phase") or "Pending") in (Phase.PENDING, Phase.PREPARING, Phase.BACKING_UP)
        and "ending" not in status
        and not request["spec"].get("cancel"),
    }


def _backup_in(row: Mapping[str, Any]) -> dict[str, str]:
    """The backup that was made of a volume before it was erased: what an undo puts back."""
    backup = row.get("backup") or {}
    if row.get("outcome") != "Reset" or backup.get("state") != BackupState.READY:
        return {}
    return {"backup": backup["name"]}


def backups_of(
    claims: list[Any], snapshots: list[dict[str, Any]], volume: Volume, server: str
) -> list[dict[str, Any]]:  # fmt: skip
    """Backups of a volume that can be put back, newest first.

    ``claims`` and ``snapshots`` are the user's claims and VolumeSnapshots that hold backups.
    """
    owner = server if volume.is_per_server else ""
    found = []
    for claim in claims:
        notes, labels = claim.metadata.annotations or {}, claim.metadata.labels or {}
        if labels.get(names.VOLUME) != volume.kind or notes.get(names.SERVERNAME, "") != owner:
            continue
        if claim.metadata.deletion_timestamp or names.BACKUP not in notes:
            continue
        made = claim.metadata.creation_timestamp.isoformat()
        found.append({"name": claim.metadata.name, "createdAt": made, **json.loads(notes[names.BACKUP])})
    for snapshot in snapshots:
        meta = snapshot["metadata"]
        notes, labels = meta.get("annotations") or {}, meta.get("labels") or {}
        if labels.get(names.VOLUME) != volume.kind or notes.get(names.SERVERNAME, "") != owner:
            continue
        if "deletionTimestamp" in meta or names.BACKUP not in notes:
            continue
        if not (snapshot.get("status") or {}).get("readyToUse"):
            continue
        made = datetime.fromisoformat(meta["creationTimestamp"]).isoformat()
        found.append({"name": meta["name"], "createdAt": made})
    return sorted(found, key=lambda backup: backup["createdAt"], reverse=True)


def claim_of(claims: list[Any], volume: Volume, server: str) -> Any | None:
    found = [
        claim
        for claim in claims
        if (claim.metadata.labels or {}).get(names.VOLUME, names.HOME) == volume.kind
        and (
            (claim.metadata.annotations or {}).get(names.SERVERNAME, "") == server
            or (not volume.is_per_server and names.SERVERNAME not in (claim.metadata.annotations or {}))
        )
    ]
    return max(found, key=lambda claim: claim.metadata.creation_timestamp, default=None)
