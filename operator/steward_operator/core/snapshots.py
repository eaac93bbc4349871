"""Backups by VolumeSnapshot (``snapshot.storage.k8s.io/v1``), where the storage's CSI driver takes them.

A snapshot counts when it is ready to use. Put back, it is the data source of the new claim.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from steward_api import names
from steward_api.phases import Reason

from .backup_results import LONGEST_TOLD, Completed, NotAllowed, NotCompleted
from .copies import run_job
from .copy_job import look_job, restore_name, snapshot
from .model import Claim, Snapshot, World
from .server import LOOK_AGAIN
from .steps import AnnotateSnapshot, CreateJob, CreateSnapshot, Wait


def by_name(world: World, name: str) -> Snapshot | None:
    return next((snapshot for snapshot in world.snapshots if snapshot.name == name), None)


def make(
    world: World, record: Mapping[str, Any], source: Claim
) -> CreateJob | CreateSnapshot | AnnotateSnapshot | Wait | Completed | NotCompleted:
    held = by_name(world, record["backup"]["name"])
    if held is None:
        return _settle(world, record, source) or _take(world, record, source)
    if held.is_deleting:
        return NotCompleted(Reason.BACKUP_FAILED, "The snapshot was deleted before it was ready.")
    if held.backup is not None:
        return Completed(held.backup)
    if held.is_usable:
        # From here on it is a backup, whatever its driver says of it some day.
        report = json.dumps({"bytes": held.restore_size})
        seal = AnnotateSnapshot(held.name, held.uid, held.resource_version, names.BACKUP, report)
        if refused := world.answers.get(seal.key):
            return NotCompleted(
                Reason.BACKUP_FAILED, f"The backup could not be sealed: {refused.message}"[:LONGEST_TOLD]
            )
        return seal
    if world.now >= held.created + timedelta(seconds=world.settings.snapshots.deadline):
        told = held.error or "The storage did not say why; is there a VolumeSnapshotClass for it?"
        return NotCompleted(Reason.BACKUP_FAILED, f"The snapshot was not ready in time. {told}"[:LONGEST_TOLD])
    return Wait("the snapshot becomes ready", world.now + LOOK_AGAIN)


def _settle(world: World, record: Mapping[str, Any], source: Claim) -> CreateJob | Wait | NotCompleted | None:
    """A pod is gone before its node has written everything out: the volume is mounted once more and synchronised."""
    name = record["backup"]["name"]
    answer = run_job(world, look_job(world.request, name, record["volume"], source.name, world.settings.copying))
    match answer:
        case Completed():
            return None
        case NotAllowed(message) | NotCompleted(_, message):
            told = f"The volume could not be opened before its snapshot: {message}"
            return NotCompleted(Reason.BACKUP_FAILED, told[:LONGEST_TOLD])
        case step:
            return step


def _take(world: World, record: Mapping[str, Any], source: Claim) -> CreateSnapshot | NotCompleted:
    settings = world.settings
    create = CreateSnapshot(
        snapshot(world.request, source, record["volume"], settings.copying, settings.snapshots.class_name)
    )
    if refused := world.answers.get(create.key):
        return NotCompleted(Reason.BACKUP_FAILED, f"The snapshot was refused: {refused.message}"[:LONGEST_TOLD])
    return create


def data_source(held: Snapshot) -> dict[str, str]:
    """What makes a new claim begin with the snapshot's content."""
    return {"apiGroup": names.SNAPSHOT_GROUP, "kind": "VolumeSnapshot", "name": held.name}


def restore(
    world: World, record: Mapping[str, Any], held: Snapshot, claim: Claim
) -> CreateJob | Wait | Completed | NotCompleted | NotAllowed:
    """The claim is mounted once, so that it is bound and filled whether its class binds at once or late."""
    if claim.spec.get("dataSource") != data_source(held):
        return NotCompleted(Reason.RESTORE_FAILED, "Something else created this volume first, without the backup.")
    name = restore_name(world.request, record["volume"])
    answer = run_job(world, look_job(world.request, name, record["volume"], claim.name, world.settings.copying))
    if isinstance(answer, NotCompleted) and claim.is_unused:
        told = "The storage has not made a volume from the snapshot. Reset the volume to have an empty one."
        return NotCompleted(Reason.RESTORE_FAILED, told)
    return answer
