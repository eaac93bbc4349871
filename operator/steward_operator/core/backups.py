"""Backups by copy: whether one is due, the steps that make and verify one, and the steps that put one back.

A backup is a claim of its own. It counts from the moment its annotation says what is in it, which is written only after
the copy has been read again and compared. A request never owns it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steward_api import names
from steward_api.phases import Backup, BackupState, ContentsFrom, Reason, RequesterKind
from steward_api.volumes import BackupPolicy, Volume

from . import claims
from .copy_job import backup_claim, backup_name, copy_job, restore_name
from .model import Claim, Job, World
from .server import LOOK_AGAIN
from .steps import AnnotateClaim, CreateClaim, CreateJob, DeleteClaim, DeleteJob, Wait

Record = dict[str, Any]
GOOD = (BackupState.READY, BackupState.NOTHING_TO_BACK_UP)
LONGEST_TOLD = 1024


@dataclass(frozen=True)
class Copied:
    """What the copy holds, as the copy itself reported after comparing."""

    report: Mapping[str, Any]


@dataclass(frozen=True)
class NotAllowed:
    """The cluster would not have the Job. It may have it later."""

    message: str


@dataclass(frozen=True)
class NotCopied:
    reason: Reason
    message: str


def refuse_choice(world: World, volume: Volume) -> tuple[Reason, str] | None:
    """A user may not do without the backup that the volume's entry asks for; an administrator may."""
    asked = world.request.spec.get("backup", Backup.DEFAULT)
    by = (world.request.spec.get("requestedBy") or {}).get("kind")
    needed = volume.backup is not BackupPolicy.NONE or is_undo(world)
    if asked == Backup.NONE and needed and by != RequesterKind.KUBERNETES_USER:
        return Reason.NOT_ALLOWED, f"Only an administrator may reset '{volume.kind}' without a backup."
    return None


def is_undo(world: World) -> bool:
    return bool((world.request.spec.get("contents") or {}).get("from") == ContentsFrom.BACKUP)


def planned(world: World, claim: Claim, volume: Volume) -> Record | None:
    """What goes into the volume's record before anything is done; None when no backup is due."""
    asked = world.request.spec.get("backup", Backup.DEFAULT)
    by_default = volume.backup is BackupPolicy.COPY or is_undo(world)
    if asked == Backup.NONE or (asked == Backup.DEFAULT and not by_default):
        return None
    if claim.is_unused:
        return {"provider": "Copy", "state": str(BackupState.NOTHING_TO_BACK_UP)}
    return _pending(world, volume.kind)


def _pending(world: World, kind: str) -> Record:
    return {"provider": "Copy", "name": backup_name(world.request, kind), "state": str(BackupState.PENDING)}


def look_again(world: World, record: Record) -> None:
    """A volume that had never been used may have been, while its server was being stopped."""
    backup = record.get("backup") or {}
    claim = claims.by_name(world, record["claim"])
    if backup.get("state") == BackupState.NOTHING_TO_BACK_UP and claim and not claim.is_unused:
        record["backup"] = _pending(world, record["volume"])


def is_due(record: Mapping[str, Any]) -> bool:
    """Whether the volume still waits for its backup."""
    backup = record.get("backup")
    return bool(backup and backup["state"] == BackupState.PENDING and record["outcome"] == "Pending")


def allows_delete(world: World, record: Mapping[str, Any]) -> bool:
    """No delete before the backup is verified, when one is due; and it has to be there still."""
    backup = record.get("backup")
    if not backup:
        return True
    if backup["state"] == BackupState.READY:
        held = claims.by_name(world, backup["name"])
        return held is not None and held.backup is not None and not held.is_deleting
    claim = claims.by_name(world, record["claim"])
    return bool(backup["state"] == BackupState.NOTHING_TO_BACK_UP and claim and claim.is_unused)


Making = CreateClaim | CreateJob | AnnotateClaim | Wait | Copied | NotCopied


def make(world: World, record: Mapping[str, Any]) -> Making:
    """The next step of one volume's backup."""
    source = claims.by_name(world, record["claim"])
    name = record["backup"]["name"]
    if source is None or source.uid != record["uid"] or source.is_deleting:
        return NotCopied(Reason.STALE, f"The volume '{record['volume']}' changed while its backup was made.")
    held = claims.by_name(world, name)
    if held is None:
        create = CreateClaim(backup_claim(world.request, source, record["volume"], world.settings.copying))
        if refused := world.answers.get(create.key):
            return NotCopied(Reason.BACKUP_FAILED, f"The backup's volume was refused: {refused.message}")
        return create
    copying = world.settings.copying
    copied = _copy(world, copy_job(world.request, name, record["volume"], record["claim"], name, copying))
    if isinstance(copied, Copied) and held.backup is None:
        report = {key: copied.report[key] for key in ("files", "bytes", "checksum")}
        seal = AnnotateClaim(held.name, held.uid, held.resource_version, names.BACKUP, json.dumps(report))
        if refused := world.answers.get(seal.key):
            return NotCopied(Reason.BACKUP_FAILED, f"The backup could not be sealed: {refused.message}")
        return seal
    if isinstance(copied, NotAllowed):
        return NotCopied(Reason.BACKUP_FAILED, f"The copy was refused: {copied.message}"[:LONGEST_TOLD])
    return copied


def restore(world: World, record: Mapping[str, Any]) -> CreateJob | Wait | Copied | NotCopied | NotAllowed:
    """The next step of putting a backup back into the new claim."""
    name = str(world.request.spec["contents"]["name"])
    held = claims.by_name(world, name)
    if held is None or held.backup is None:
        return NotCopied(Reason.RESTORE_FAILED, f"The backup {name} is gone.")
    job = restore_name(world.request, record["volume"])
    checksum = str(held.backup.get("checksum", ""))
    copied = _copy(
        world, copy_job(world.request, job, record["volume"], name, record["claim"], world.settings.copying, checksum)
    )
    if isinstance(copied, NotCopied):
        return NotCopied(Reason.RESTORE_FAILED, f"{copied.message} The backup {name} is still there.")
    return copied


def _copy(world: World, manifest: Mapping[str, Any]) -> CreateJob | Wait | Copied | NotCopied | NotAllowed:
    name = manifest["metadata"]["name"]
    job = next((job for job in world.jobs if job.name == name), None)
    if job is None:
        create = CreateJob(manifest)
        if refused := world.answers.get(create.key):
            return NotAllowed(refused.message)
        return create
    if job.condition("Complete"):
        report = _report(world, job)
        if "checksum" in report:
            return Copied(report)
        return NotCopied(Reason.BACKUP_FAILED, "The copy ended without a report.")
    if failed := job.condition("Failed"):
        return _failure(_report(world, job), str(failed.get("message") or failed.get("reason") or ""))
    return Wait("the copy runs", world.now + LOOK_AGAIN)


def _report(world: World, job: Job) -> Mapping[str, Any]:
    """The termination message of the Job's last pod (``steward_operator.copier`` writes it)."""
    pods = [pod for pod in world.pods if pod.job == job.name and pod.last_message]
    if not pods:
        return {}
    newest = max(pods, key=lambda pod: str(pod.meta.get("creationTimestamp")))
    try:
        value = json.loads(newest.last_message)
    except ValueError:
        return {"error": newest.last_message[-500:]}
    return value if isinstance(value, dict) else {}


def _failure(report: Mapping[str, Any], told: str) -> NotCopied:
    if paths := report.get("unreadable"):
        count = int(report.get("count") or len(paths))
        listed = ", ".join(map(str, paths[:10])) + (f" and {count - 10} more" if count > 10 else "")
        message = f"{count} {'file' if count == 1 else 'files'} could not be read: {listed}."
        return NotCopied(Reason.BACKUP_INCOMPLETE, message[:LONGEST_TOLD])
    return NotCopied(Reason.BACKUP_FAILED, f"The copy failed: {report.get('error') or told}"[:LONGEST_TOLD])


def tidy(world: World) -> DeleteJob | DeleteClaim | Wait | None:
    """Take the request's Jobs away, and what they filled in vain. A finished pod, too, would hold its claims."""
    for job in world.jobs:
        if not job.is_deleting:
            return DeleteJob(job.name, job.uid)
    names_of_jobs = {job.name for job in world.jobs}
    mine = world.request.uid
    if names_of_jobs or any(pod.labels.get(names.REQUEST) == mine for pod in world.pods):
        return Wait("the copy's pods go", world.now + LOOK_AGAIN)
    for claim in world.claims:
        unfinished = claim.is_backup and claim.labels.get(names.REQUEST) == mine and claim.backup is None
        if unfinished and not claim.is_deleting:
            step = DeleteClaim(claim.name, claim.uid, claim.resource_version)
            # Refused, it is left to retention: nobody is kept waiting for what is only in the way.
            if not world.answers.get(step.key):
                return step
    return None


def refuse_source(world: World, target: Claim) -> tuple[Reason, str] | None:
    """Why the backup that is to be put back cannot be: it is missing, somebody else's, or too large."""
    name = str(world.request.spec["contents"].get("name", ""))
    held = claims.by_name(world, name)
    if held is None or not held.is_backup or held.is_deleting:
        return Reason.BACKUP_MISSING, f"There is no backup '{name}'."
    if (held.user, held.server, held.kind) != (target.user, target.server, target.kind):
        return Reason.NOT_ALLOWED, f"The backup '{name}' is not of this volume of this user."
    if held.backup is None:
        return Reason.BACKUP_MISSING, f"The backup '{name}' is not complete."
    size = claims.quantity(target.spec["resources"]["requests"]["storage"])
    if float(held.backup.get("bytes") or 0) > size:
        return Reason.BACKUP_MISSING, f"The backup '{name}' does not fit into the volume any more."
    return None


def pin(world: World) -> AnnotateClaim | None:
    """Keep the backup from retention while it is put back."""
    held = _source(world)
    if held is None or held.pinned_by == world.request.uid:
        return None
    return AnnotateClaim(held.name, held.uid, held.resource_version, names.PINNED_BY, world.request.uid)


def unpin(world: World) -> AnnotateClaim | None:
    held = _source(world)
    if held is None or held.pinned_by != world.request.uid:
        return None
    step = AnnotateClaim(held.name, held.uid, held.resource_version, names.PINNED_BY, None)
    # A request that has ended pins nothing, whatever the annotation says.
    return None if world.answers.get(step.key) else step


def _source(world: World) -> Claim | None:
    if not is_undo(world):
        return None
    held = claims.by_name(world, str(world.request.spec["contents"].get("name", "")))
    return held if held and held.is_backup and not held.is_deleting else None
