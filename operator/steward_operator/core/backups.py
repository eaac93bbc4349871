"""Backups, whoever makes them: whether one is due, the next step of making it, and of putting one back.

`copies` and `snapshots` are the two providers. A request never owns a backup, and no claim is deleted before the
backup that is due of it may be relied on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steward_api import names
from steward_api.phases import Backup, BackupState, Provider, Reason, RequesterKind
from steward_api.volumes import BackupPolicy, Volume

from . import claims, copies, snapshots
from .backup_results import Completed, NotAllowed, NotCompleted
from .copy_job import backup_name
from .model import Claim, Holder, Snapshot, World
from .quantities import quantity
from .server import LOOK_AGAIN
from .steps import (
    AnnotateClaim,
    AnnotateSnapshot,
    CreateClaim,
    CreateJob,
    CreateSnapshot,
    DeleteClaim,
    DeleteJob,
    DeleteSnapshot,
    Wait,
)

Record = dict[str, Any]
__all__ = ["Completed", "NotAllowed", "NotCompleted"]


def refuse_choice(world: World, volume: Volume) -> tuple[Reason, str] | None:
    """A user may not do without the backup that the volume's entry asks for; an administrator may."""
    asked = world.request.spec.get("backup", Backup.DEFAULT)
    by = (world.request.spec.get("requestedBy") or {}).get("kind")
    needed = volume.backup is not BackupPolicy.NONE or world.request.is_undo
    if _provider(world, volume) is Provider.SNAPSHOT and not world.settings.snapshots.enabled:
        return Reason.NOT_SUPPORTED, "Snapshots are off in this installation (operator.backups.snapshots.enabled)."
    if asked == Backup.NONE and needed and by != RequesterKind.KUBERNETES_USER:
        return Reason.NOT_ALLOWED, f"Only an administrator may reset '{volume.kind}' without a backup."
    return None


def _provider(world: World, volume: Volume) -> Provider | None:
    """Who makes the backup that is due; None when none is."""
    asked = Backup(world.request.spec.get("backup", Backup.DEFAULT))
    match asked if asked is not Backup.DEFAULT else volume.backup:
        case Backup.COPY | BackupPolicy.COPY:
            return Provider.COPY
        case Backup.SNAPSHOT | BackupPolicy.SNAPSHOT:
            return Provider.SNAPSHOT
        case _:
            # What is there now is kept at every undo, unless it is said that it need not be.
            return Provider.COPY if world.request.is_undo and asked is Backup.DEFAULT else None


def planned(world: World, claim: Claim, volume: Volume) -> Record | None:
    """What goes into the volume's record before anything is done; None when no backup is due."""
    provider = _provider(world, volume)
    if provider is None:
        return None
    if claim.is_unused:
        return {"provider": str(provider), "state": str(BackupState.NOTHING_TO_BACK_UP)}
    return _pending(world, volume.kind, provider)


def _pending(world: World, kind: str, provider: Provider) -> Record:
    return {"provider": str(provider), "name": backup_name(world.request, kind), "state": str(BackupState.PENDING)}


def reconsider(world: World, record: Record) -> None:
    """A volume that had never been used may have been, while its server was being stopped."""
    backup = record.get("backup") or {}
    claim = claims.by_name(world, record["claim"])
    if backup.get("state") == BackupState.NOTHING_TO_BACK_UP and claim and not claim.is_unused:
        record["backup"] = _pending(world, record["volume"], Provider(backup["provider"]))


def is_due(record: Mapping[str, Any]) -> bool:
    """Whether the volume still waits for its backup."""
    backup = record.get("backup")
    return bool(backup and backup["state"] == BackupState.PENDING and record["outcome"] == "Pending")


def find(world: World, name: str) -> Holder | None:
    """The claim or the snapshot that holds, or is going to hold, a backup."""
    return claims.by_name(world, name) or snapshots.by_name(world, name)


def allows_delete(world: World, record: Mapping[str, Any]) -> bool:
    """No delete before the backup is verified, when one is due; and it has to be there still."""
    backup = record.get("backup")
    if not backup:
        return True
    if backup["state"] == BackupState.READY:
        held = find(world, backup["name"])
        return held is not None and held.backup is not None and held.is_usable and not held.is_deleting
    claim = claims.by_name(world, record["claim"])
    return bool(backup["state"] == BackupState.NOTHING_TO_BACK_UP and claim and claim.is_unused)


Making = CreateClaim | CreateJob | CreateSnapshot | AnnotateClaim | AnnotateSnapshot | Wait | Completed | NotCompleted


def make(world: World, record: Mapping[str, Any]) -> Making:
    """The next step of one volume's backup."""
    source = claims.by_name(world, record["claim"])
    if source is None or source.uid != record["uid"] or source.is_deleting:
        return NotCompleted(Reason.STALE, f"The volume '{record['volume']}' changed while its backup was made.")
    if record["backup"]["provider"] == Provider.SNAPSHOT:
        return snapshots.make(world, record, source)
    return copies.make(world, record, source)


def restore(
    world: World, record: Mapping[str, Any], claim: Claim
) -> CreateJob | Wait | Completed | NotCompleted | NotAllowed:
    """The next step of putting a backup back into the new claim."""
    held = find(world, world.request.backup_to_restore)
    if held is None or held.backup is None:
        return NotCompleted(Reason.RESTORE_FAILED, f"The backup {world.request.backup_to_restore} is gone.")
    if isinstance(held, Snapshot):
        answer = snapshots.restore(world, record, held, claim)
    else:
        assert isinstance(held, Claim)
        answer = copies.restore(world, record, held)
    if isinstance(answer, NotCompleted):
        told = f"{answer.message.rstrip('.')}. The backup {held.name} is still there."
        return NotCompleted(Reason.RESTORE_FAILED, told)
    return answer


def end_copies(world: World, *, waits: bool = True) -> DeleteJob | Wait | None:
    """Take the request's Jobs away. A finished pod, too, would hold its claims.

    Where no claim is going to be deleted nobody ``waits`` for the pods: one may be on a node that is away.
    """
    for job in world.jobs:
        if not job.is_deleting:
            return DeleteJob(job.name, job.uid)
    is_left = bool(world.jobs) or any(pod.labels.get(names.REQUEST) == world.request.uid for pod in world.pods)
    return Wait("the copy's pods go", world.now + LOOK_AGAIN) if waits and is_left else None


def tidy(world: World, *, waits: bool = True) -> DeleteJob | DeleteClaim | DeleteSnapshot | Wait | None:
    """Take the request's Jobs away, and what they filled in vain."""
    if ending := end_copies(world, waits=waits):
        return ending
    mine = world.request.uid
    for held in (*world.claims, *world.snapshots):
        unfinished = held.is_backup and held.labels.get(names.REQUEST) == mine and held.backup is None
        if unfinished and not held.is_deleting:
            kind = DeleteClaim if isinstance(held, Claim) else DeleteSnapshot
            step = kind(held.name, held.uid, held.resource_version)
            # Refused, it is left to retention: nobody is kept waiting for what is only in the way.
            if not world.answers.get(step.key):
                return step
    return None


def refuse_source(world: World, target: Claim) -> tuple[Reason, str] | None:
    """Why the backup that is to be put back cannot be: it is missing, somebody else's, or too large."""
    name = world.request.backup_to_restore
    held = find(world, name)
    if held is None or not held.is_backup or held.is_deleting:
        return Reason.BACKUP_MISSING, f"There is no backup '{name}'."
    if (held.user, held.server, held.kind) != (target.user, target.server, target.kind):
        return Reason.NOT_ALLOWED, f"The backup '{name}' is not of this volume of this user."
    if held.backup is None or not held.is_usable:
        return Reason.BACKUP_MISSING, f"The backup '{name}' is not complete."
    if isinstance(held, Snapshot) and held.storage_class != target.storage_class:
        return Reason.BACKUP_MISSING, f"The backup '{name}' was taken on other storage, '{held.storage_class}'."
    if float(held.backup.get("bytes") or 0) > quantity(target.size):
        return Reason.BACKUP_MISSING, f"The backup '{name}' does not fit into the volume any more."
    return None


def contents(world: World) -> dict[str, Any]:
    """What a new claim's spec says of its content; empty where it begins empty or is filled by a copy."""
    held = _source(world)
    return {"dataSource": snapshots.data_source(held)} if isinstance(held, Snapshot) else {}


def pin(world: World) -> AnnotateClaim | AnnotateSnapshot | None:
    """Keep the backup from retention while it is put back."""
    held = _source(world)
    if held is None or held.pinned_by == world.request.uid:
        return None
    return _note(held, world.request.uid)


def unpin(world: World) -> AnnotateClaim | AnnotateSnapshot | None:
    held = _source(world)
    if held is None or held.pinned_by != world.request.uid:
        return None
    step = _note(held, None)
    # A request that has ended pins nothing, whatever the annotation says.
    return None if world.answers.get(step.key) else step


def _note(held: Holder, value: str | None) -> AnnotateClaim | AnnotateSnapshot:
    kind = AnnotateSnapshot if isinstance(held, Snapshot) else AnnotateClaim
    return kind(held.name, held.uid, held.resource_version, names.PINNED_BY, value)


def _source(world: World) -> Holder | None:
    if not world.request.is_undo:
        return None
    held = find(world, world.request.backup_to_restore)
    return held if held and held.is_backup and not held.is_deleting else None
