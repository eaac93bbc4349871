"""Backups by copy, on any storage: a claim of its own, filled by a Job that reads it again and compares.

The claim counts from the moment its annotation says what is in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from steward_api import names
from steward_api.phases import Reason

from . import claims
from .backup_results import LONGEST_TOLD, Completed, NotAllowed, NotCompleted
from .clock import parse_time
from .copy_job import backup_claim, copy_job, restore_name
from .model import Claim, Job, World
from .server import LOOK_AGAIN
from .steps import AnnotateClaim, CreateClaim, CreateJob, Wait

REPORTED = ("files", "bytes", "checksum")


def make(
    world: World, record: Mapping[str, Any], source: Claim
) -> CreateClaim | CreateJob | AnnotateClaim | Wait | Completed | NotCompleted:
    name = record["backup"]["name"]
    held = claims.by_name(world, name)
    if held is None:
        create = CreateClaim(backup_claim(world.request, source, record["volume"], world.settings.copying))
        if refused := world.answers.get(create.key):
            return NotCompleted(Reason.BACKUP_FAILED, f"The backup's volume was refused: {refused.message}")
        return create
    copying = world.settings.copying
    copied = _copy(world, copy_job(world.request, name, record["volume"], record["claim"], name, copying))
    if isinstance(copied, Completed) and held.backup is None:
        report = {key: copied.report[key] for key in REPORTED}
        seal = AnnotateClaim(held.name, held.uid, held.resource_version, names.BACKUP, json.dumps(report))
        if refused := world.answers.get(seal.key):
            return NotCompleted(Reason.BACKUP_FAILED, f"The backup could not be sealed: {refused.message}")
        return seal
    if isinstance(copied, NotAllowed):
        return NotCompleted(Reason.BACKUP_FAILED, f"The copy was refused: {copied.message}"[:LONGEST_TOLD])
    return copied


def restore(
    world: World, record: Mapping[str, Any], held: Claim
) -> CreateJob | Wait | Completed | NotCompleted | NotAllowed:
    job = restore_name(world.request, record["volume"])
    checksum = str((held.backup or {}).get("checksum", ""))
    return _copy(
        world,
        copy_job(world.request, job, record["volume"], held.name, record["claim"], world.settings.copying, checksum),
    )


def _copy(world: World, manifest: Mapping[str, Any]) -> CreateJob | Wait | Completed | NotCompleted | NotAllowed:
    answer = run_job(world, manifest)
    if isinstance(answer, Completed) and "checksum" not in answer.report:
        return NotCompleted(Reason.BACKUP_FAILED, "The copy ended without a report.")
    return answer


def run_job(world: World, manifest: Mapping[str, Any]) -> CreateJob | Wait | Completed | NotCompleted | NotAllowed:
    """One of the operator's Jobs, from its creation to what its pod reported."""
    name = manifest["metadata"]["name"]
    job = next((job for job in world.jobs if job.name == name), None)
    if job is None:
        create = CreateJob(manifest)
        if refused := world.answers.get(create.key):
            return NotAllowed(refused.message)
        return create
    if job.condition("Complete"):
        return Completed(_report(world, job))
    # Failed comes when its pods have ended, which one on a node that is away does not; FailureTarget before that.
    if failed := job.condition("Failed") or job.condition("FailureTarget"):
        return _failure(_report(world, job), str(failed.get("message") or failed.get("reason") or ""))
    return Wait("the copy runs", world.now + LOOK_AGAIN)


def hindrance(world: World) -> str:
    """Why a Job of the request has not got on for a while, as far as can be seen; empty when nothing hinders it."""
    patience = timedelta(seconds=world.settings.stalled_after)
    for job in world.jobs:
        begun = parse_time(job.status.get("startTime") or job.meta.get("creationTimestamp"))
        if begun is None or world.now - begun < patience or job.condition("Complete") or job.condition("Failed"):
            continue
        pods = [pod for pod in world.pods if pod.job == job.name and not pod.is_over]
        if not pods:
            return f"The copy has no pod: the cluster may refuse it. The Events of the Job {job.name} say why."
        for pod in pods:
            if pod.is_deleting:
                return f"The copy's pod {pod.name} is being deleted and is not gone yet; its node may be away."
            if waits := pod.unscheduled:
                return f"The copy's pod {pod.name} has no node yet: {waits}"
    return ""


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


def _failure(report: Mapping[str, Any], told: str) -> NotCompleted:
    if paths := report.get("unreadable"):
        count = int(report.get("count") or len(paths))
        listed = ", ".join(map(str, paths[:10])) + (f" and {count - 10} more" if count > 10 else "")
        message = f"{count} {'file' if count == 1 else 'files'} could not be read: {listed}."
        return NotCompleted(Reason.BACKUP_INCOMPLETE, message[:LONGEST_TOLD])
    return NotCompleted(Reason.BACKUP_FAILED, f"The copy failed: {report.get('error') or told}"[:LONGEST_TOLD])
