"""Plans a VolumeReset: one step at a time, each decided from the request's status and a live look at the cluster.

The order that may never change: the claim's UID and template are in the status, then the lock, then the look at the
pods, then the backup and its comparison, then the finalizer, then the delete, then the new claim, then the finalizer
goes, then the end is written. `reset_begin` has what comes before the lock, `reset_end` what comes after the new claim.
"""

from __future__ import annotations

from typing import Any

from steward_api import names
from steward_api.phases import BackupState, Phase, Reason

from . import backups, claims, copies, server
from .admission import deadline
from .model import Claim, World
from .reset_begin import begin, in_use, may_stop
from .reset_end import end, finalizer_off, goes_with_namespace, leave, start_again
from .reset_record import LOOK_AGAIN, Record, intact, is_slow, records_of, titles, vanishing
from .server import NotStopped, Stopped
from .status import fail, step_or_wait, write_status
from .steps import AddFinalizer, AnnotateClaim, CreateClaim, DeleteClaim, Done, Plan, TryCreateClaim, Wait


def plan_reset(world: World) -> Plan:
    request = world.request
    if request.is_finished:
        return finalizer_off(world) or Done()
    if going := goes_with_namespace(world):
        return going
    if request.status.get("ending"):
        return start_again(world)
    match request.phase:
        case Phase.PENDING:
            return begin(world)
        case Phase.PREPARING:
            return _prepare(world)
        case Phase.BACKING_UP:
            return _back_up(world)
        case Phase.DELETING:
            return _delete(world)
        case Phase.RECREATING:
            return _recreate(world)
        case Phase.UNKNOWN:
            # Of a newer operator, which may have deleted a claim: what is not understood is not ended either.
            return Done()
        case _:
            return fail(world, Reason.NOT_SUPPORTED, f"This operator does not know the phase {request.phase}.")


# -- Preparing: the lock is on, and ``world.pods`` was listed after it: whoever is not there cannot come any more --


def _prepare(world: World) -> Plan:
    request, records = world.request, records_of(world)
    if over := _called_off(world) or _expired(world):
        return over
    refused = in_use(world, [r["claim"] for r in records], ignore_own=may_stop(world))
    for record in records:
        if not intact(world, record):
            refused = Reason.STALE, f"The volume '{record['volume']}' changed while the request began."
    if refused is None and world.request.is_undo and (claim := intact(world, records[0])):
        refused = backups.refuse_source(world, claim)
    if refused:
        return leave(world, *refused)
    if request.status.get("step") == "Stopping" and (stopping := _await_stop(world)):
        return stopping
    for record in records:
        step = TryCreateClaim(record["template"])
        if step.key not in world.answers:
            return step
        if answer := world.answers[step.key]:
            told = f"Nothing was deleted, because it could not be made again: {answer.message}"
            record.update(outcome="Failed", reason=str(Reason.CANNOT_RECREATE), message=told[:1024])
    if all(record["outcome"] == "Failed" for record in records):
        return leave(world, Reason.CANNOT_RECREATE, records[0]["message"], records)
    if pinning := backups.pin(world):
        if refusal := world.answers.get(pinning.key):
            return leave(world, Reason.NOT_ALLOWED, f"The backup could not be pinned: {refusal.message}")
        return pinning
    if may_stop(world) and (pod := server.server_pod(world)) and pod.uid != request.status.get("podUID"):
        if not request.has_finalizer:
            # From here on a deleted request, too, has a server to start again.
            return AddFinalizer()
        return server.next_step(world, "Stopping", "The server is being stopped.", podUID=pod.uid)
    for record in records:
        backups.reconsider(world, record)
    if any(map(backups.is_due, records)):
        told = f"A backup of {titles(world, [r for r in records if backups.is_due(r)])} is being made."
        return write_status(world, Phase.BACKING_UP, Reason.IN_PROGRESS, told, volumes=records)
    return _begin_delete(world, records)


def _await_stop(world: World) -> Plan | None:
    """None when the server is gone."""
    match server.stop(world, world.request.status["podUID"]):
        case Stopped():
            return None
        case NotStopped(reason, message):
            # The reason speaks of starts where a restart is meant.
            return leave(world, Reason.STOP_FAILED if reason is Reason.START_FAILED else reason, message)
        case plan:
            return plan


def _begin_delete(world: World, records: list[Record]) -> Plan:
    if not world.request.has_finalizer:
        return AddFinalizer()
    for record in records:
        if record["outcome"] == "Pending":
            record["outcome"] = "Deleting"
    return write_status(world, Phase.DELETING, Reason.IN_PROGRESS, volumes=records)


def _is_called_off(world: World) -> bool:
    return world.request.is_deleting or bool(world.request.spec.get("cancel"))


def _called_off(world: World) -> Plan | None:
    """Honoured until the first delete."""
    return leave(world, Reason.CANCELLED, phase=Phase.CANCELLED) if _is_called_off(world) else None


def _keep(world: World, claim: Claim) -> AnnotateClaim | None:
    """Mark a claim that is not deleted after all.

    A delete may already be on its way, from this process or another that leads no more; the mark changes the version
    which that delete names, and no delete is sent for a claim that bears it.
    """
    step = AnnotateClaim(claim.name, claim.uid, claim.resource_version, names.KEPT_BY, world.request.uid)
    return None if claim.kept_by == world.request.uid or world.answers.get(step.key) else step


def _expired(world: World) -> Plan | None:
    return leave(world, Reason.EXPIRED) if world.now >= deadline(world) else None


# -- BackingUp: every volume that needs one has a verified backup before any is deleted ----------------------------


def _back_up(world: World) -> Plan:
    records = records_of(world)
    if over := _called_off(world):
        return over
    waiting: Wait | None = None
    for record in records:
        if not backups.is_due(record):
            continue
        match backups.make(world, record):
            case backups.Completed(report):
                kept = {key: report[key] for key in ("files", "bytes", "checksum") if key in report}
                record["backup"].update(state=str(BackupState.READY), **kept)
                return write_status(world, Phase.BACKING_UP, Reason.IN_PROGRESS, volumes=records)
            case backups.NotCompleted(reason, message):
                record["backup"]["state"] = str(BackupState.FAILED)
                record.update(outcome="Failed", reason=str(reason), message=message[:1024])
                return write_status(world, Phase.BACKING_UP, Reason.IN_PROGRESS, volumes=records)
            case Wait() as wait:
                waiting = wait
            case step:
                return step
    if waiting:
        return _tell_hindrance(world, waiting)
    if all(record["outcome"] == "Failed" for record in records):
        told = f"Nothing was erased. {records[0]['message']}"
        return leave(world, Reason(records[0]["reason"]), told, records)
    if tidying := backups.tidy(world):
        return tidying
    return _begin_delete(world, records)


def _tell_hindrance(world: World, wait: Wait, told: str = "") -> Plan:
    """Wait for a copy, and say so when it does not get on; else ``told``, or what has been told before."""
    if hindrance := copies.hindrance(world):
        status = write_status(world, world.request.phase, Reason.IN_PROGRESS, hindrance, stalled=True)
        return step_or_wait(world, status, wait)
    if told:
        return step_or_wait(world, write_status(world, world.request.phase, Reason.IN_PROGRESS, told), wait)
    return wait


# -- Deleting: from the first delete on there is no way back, only through -----------------------------------------


def _delete(world: World) -> Plan:
    request, records = world.request, records_of(world)
    due = [
        (record, claim) for record in records if record["outcome"] == "Deleting" and (claim := intact(world, record))
    ]
    if len(due) == sum(record["outcome"] == "Deleting" for record in records) and _is_called_off(world):
        for _, claim in due:
            if keeping := _keep(world, claim):
                return keeping
        return leave(world, Reason.CANCELLED, phase=Phase.CANCELLED)
    # A copy whose creation came late has nothing to do any more, and would hold the claims.
    if ending := backups.end_copies(world, waits=bool(due)):
        return ending
    for record, claim in due:
        step = DeleteClaim(claim.name, claim.uid, claim.resource_version)
        refused = claims.refuse_user_of(world, claim.name)
        if refused is None and not backups.allows_delete(world, record):
            refused = Reason.BACKUP_FAILED, "The backup is gone, so the volume was not erased."
        if refused is None and world.request.is_undo:
            refused = backups.refuse_source(world, claim)
        if answer := world.answers.get(step.key):
            refused = Reason.NOT_ALLOWED, f"The cluster does not let it be deleted: {answer.message}"
        elif refused is None and claim.kept_by == request.uid:
            refused = Reason.STALE, "The request had already given this volume up; it was not erased."
        if refused is None and (renewed := _edited(world, record, claim)):
            record["template"] = renewed
            return write_status(world, Phase.DELETING, Reason.IN_PROGRESS, volumes=records)
        if refused is None:
            # The finalizer may have come off on the way to an end that is none any more.
            return step if request.has_finalizer else AddFinalizer()
        if keeping := _keep(world, claim):
            return keeping
        reason, message = refused
        record.update(outcome="Failed", reason=str(reason), message=message[:1024])
        if all(row["outcome"] == "Failed" for row in records):
            return end(world, records)
        return write_status(world, Phase.DELETING, Reason.IN_PROGRESS, volumes=records)
    for record in records:
        claim = claims.by_name(world, record["claim"])
        if record["outcome"] == "Deleting" and claim and claim.uid == record["uid"]:
            step_status = write_status(
                world, Phase.DELETING, Reason.WAITING_FOR_CLAIM, vanishing(claim), stalled=is_slow(world)
            )
            wait = Wait("the claim goes", world.now + LOOK_AGAIN)
            return step_or_wait(world, step_status, wait) if is_slow(world) else wait
    return write_status(world, Phase.RECREATING, Reason.IN_PROGRESS, volumes=records)


def _edited(world: World, record: Record, claim: Claim) -> dict[str, Any] | None:
    """The template anew, where the claim was made larger or labelled since it went on record; the delete names the
    version that was compared."""
    volume = world.table.get(record["volume"])
    if volume is None:
        return None
    template = claims.template(claim, world.request, volume, backups.contents(world))
    return template if template != record["template"] else None


# -- Recreating: for as long as it takes, the user must end up with a claim ----------------------------------------


def _recreate(world: World) -> Plan:
    records = records_of(world)
    for record in records:
        is_failed = record["outcome"] == "Failed"
        if is_failed and "newUID" not in record:
            # It was never deleted. Where a backup could not be put back there is a new claim, which must stay.
            continue
        claim = claims.by_name(world, record["claim"])
        step = CreateClaim(record["template"])
        answer = world.answers.get(step.key)
        gone = claim is None or claim.is_deleting
        if gone and world.request.is_undo and (tidying := backups.tidy(world)):
            # Somebody deleted the new claim, too. What was copied into it says nothing about the next one, and the
            # copy's finished pod would keep it from going.
            return tidying
        if claim is None:
            if answer is None:
                return step
            if answer.is_namespace_terminating:
                return finalizer_off(world) or Done()
            status = write_status(
                world,
                Phase.RECREATING,
                Reason.RETRYING,
                f"The volume '{record['volume']}' could not be created yet: {answer.message}",
                stalled=True,
            )
            return step_or_wait(world, status, Wait("creation refused", world.now + LOOK_AGAIN))
        if claim.uid == record["uid"] or claim.is_deleting:
            return Wait("the claim goes", world.now + LOOK_AGAIN)
        if record.get("restored") and record["newUID"] != claim.uid:
            del record["restored"]
        record["newUID"] = claim.uid
        if is_failed:
            continue
        record["outcome"] = "Reset"
        if record.get("persistentVolume") in world.retained:
            record["retainedVolume"] = record["persistentVolume"]
        if not claims.same_promise(claim, record["template"]):
            record["message"] = "Something else created this volume first, with another size, class or mode."
    if world.request.is_undo and (filling := _fill(world, records)):
        return filling
    return end(world, records)


def _fill(world: World, records: list[Record]) -> Plan | None:
    """Put the backup back, under the lock; None when its comparison has passed, or it cannot be."""
    (record,) = records
    claim = claims.by_name(world, record["claim"])
    if record["outcome"] == "Failed" or record.get("restored") or claim is None:
        return None
    match backups.restore(world, record, claim):
        case backups.Completed():
            record["restored"] = True
            return write_status(world, Phase.RECREATING, Reason.IN_PROGRESS, volumes=records)
        case backups.NotCompleted(reason, message):
            record.update(outcome="Failed", reason=str(reason), message=message[:1024])
            return write_status(world, Phase.RECREATING, Reason.IN_PROGRESS, volumes=records)
        case backups.NotAllowed(message) if _is_called_off(world):
            # No claim is missing: whoever gives up an undo that is refused is not kept waiting for it.
            told = f"The backup could not be put back and is still there: {message}"
            record.update(outcome="Failed", reason=str(Reason.RESTORE_FAILED), message=told[:1024])
            return write_status(world, Phase.RECREATING, Reason.IN_PROGRESS, volumes=records)
        case backups.NotAllowed(message):
            told = f"The backup cannot be put back yet: {message}"
            status = write_status(world, Phase.RECREATING, Reason.RETRYING, told, stalled=True)
            return step_or_wait(world, status, Wait("copy refused", world.now + LOOK_AGAIN))
        case Wait() as wait:
            told = f"The backup of {titles(world, records)} is being put back."
            return _tell_hindrance(world, wait, told)
        case step:
            return step
