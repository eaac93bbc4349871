"""Plans a VolumeReset: one step at a time, each decided from the request's status and a live look at the cluster.

The order that may never change: the claim's UID and template are in the status, then the lock, then the look at the
pods, then the backup and its comparison, then the finalizer, then the delete, then the new claim, then the finalizer
goes, then the end is written. A server that the request stopped is started after the lock is off.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from steward_api import names
from steward_api.phases import Backup, BackupState, ContentsFrom, Phase, Reason, ServerPolicy

from . import backups, claims, server
from .admission import before_anything, deadline, is_replayed
from .clock import parse_time
from .model import Claim, World
from .server import NotStarted, NotStopped, Started, Stopped
from .status import fail, finish, step_or_wait, write_status
from .steps import (
    AddFinalizer,
    AnnotateClaim,
    CreateClaim,
    DeleteClaim,
    Done,
    Plan,
    RemoveFinalizer,
    TryCreateClaim,
    Wait,
)

Record = dict[str, Any]

#: How often a claim that does not go away, or cannot be made, is looked at again without an event.
LOOK_AGAIN = timedelta(seconds=5)


def plan_reset(world: World) -> Plan:
    request = world.request
    if request.is_finished:
        return _finalizer_off(world) or Done()
    if request.status.get("ending"):
        return _start_again(world)
    match request.phase:
        case Phase.PENDING:
            return _begin(world)
        case Phase.PREPARING:
            return _prepare(world)
        case Phase.BACKING_UP:
            return _back_up(world)
        case Phase.DELETING:
            return _delete(world)
        case Phase.RECREATING:
            return _recreate(world)
        case _:
            return fail(world, Reason.NOT_SUPPORTED, f"This operator does not know the phase {request.phase}.")


# -- Pending: check everything that can be checked, then write down what will be deleted and lock it ---------------


def _begin(world: World) -> Plan:
    request = world.request
    if request.is_deleting:
        return Done()
    if refused := before_anything(world) or _refuse_unsupported(world):
        return refused
    if is_replayed(world) and not request.spec.get("expected"):
        return fail(world, Reason.UNSAFE_REPLAY)
    found: list[Claim] = []
    for kind in request.spec["volumes"]:
        claim = _claim_to_reset(world, kind)
        if not isinstance(claim, Claim):
            return claim
        found.append(claim)
    if not backups.is_undo(world) and all(_was_reset_since(world, claim) for claim in found):
        return finish(world, Phase.SUCCEEDED, Reason.RESET, "Another request has just reset these volumes.")
    if refused := _refuse_stale(world, found):
        return refused
    for claim in found:
        if holder := _holder(world, claim.name):
            step = write_status(world, Phase.PENDING, Reason.WAITING_FOR_OTHER, f"Waiting for the request {holder}.")
            return step_or_wait(world, step, Wait("another request", min(deadline(world), world.now + LOOK_AGAIN)))
    if in_use := _in_use(world, [claim.name for claim in found], ignore_own=_may_stop(world)):
        return fail(world, *in_use)
    for claim in found:
        if claim.is_deleting:
            step = write_status(world, Phase.PENDING, Reason.WAITING_FOR_CLAIM, _vanishing(claim))
            return step_or_wait(world, step, Wait("the claim goes", min(deadline(world), world.now + LOOK_AGAIN)))
    if backups.is_undo(world) and (refusal := backups.refuse_source(world, found[0])):
        return fail(world, *refusal)
    return write_status(
        world,
        Phase.PREPARING,
        Reason.IN_PROGRESS,
        lockedClaims=sorted(claim.name for claim in found),
        waitingUntil=None,
        volumes=[_record(world, claim) for claim in found],
    )


def _record(world: World, claim: Claim) -> Record:
    volume = world.table[claim.kind]
    record: Record = {
        "volume": claim.kind,
        "claim": claim.name,
        "uid": claim.uid,
        "outcome": "Pending",
        "template": claims.template(claim, world.request.uid, volume),
    }
    if name := claim.spec.get("volumeName"):
        record["persistentVolume"] = name
    if backup := backups.planned(world, claim, volume):
        record["backup"] = backup
    return record


def _claim_to_reset(world: World, kind: str) -> Claim | Plan:
    if kind not in world.table:
        known = ", ".join(sorted(world.table))
        return fail(world, Reason.UNKNOWN_VOLUME, f"There is no volume '{kind}' here. There are: {known}.")
    volume = world.table[kind]
    if refusal := volume.refusal:
        return fail(world, Reason.NOT_ALLOWED, refusal)
    if refused := backups.refuse_choice(world, volume):
        return fail(world, *refused)
    claim = claims.find(world, kind)
    if claim is None:
        told = f"{world.request.user} has no volume '{kind}' for this server; its next start creates it, empty."
        return fail(world, Reason.VOLUME_MISSING, told)
    if refusal := claims.refuse_static(claim):
        return fail(world, Reason.STATICALLY_PROVISIONED, f"The volume '{kind}' cannot be reset: {refusal}.")
    return claim


def _refuse_unsupported(world: World) -> Plan | None:
    """What a newer CRD may let through and this operator cannot do."""
    spec = world.request.spec
    policy = spec.get("serverPolicy", ServerPolicy.REQUIRE_STOPPED)
    backup = spec.get("backup", Backup.DEFAULT)
    source = (spec.get("contents") or {}).get("from", ContentsFrom.EMPTY)
    if policy not in list(ServerPolicy):
        return fail(world, Reason.NOT_SUPPORTED, f"This operator cannot do serverPolicy {policy} yet.")
    if backup not in list(Backup):
        return fail(world, Reason.NOT_SUPPORTED, f"This operator cannot do backup {backup} yet.")
    if source not in list(ContentsFrom):
        return fail(world, Reason.NOT_SUPPORTED, f"This operator cannot do contents from {source} yet.")
    return None


def _may_stop(world: World) -> bool:
    return bool(world.request.spec.get("serverPolicy", ServerPolicy.REQUIRE_STOPPED) != ServerPolicy.REQUIRE_STOPPED)


def _was_reset_since(world: World, claim: Claim) -> bool:
    """Whether the claim is one that another request made after this one was due, and not the very one it means."""
    request = world.request
    expected = {row["uid"] for row in request.spec.get("expected") or ()}
    if not claim.reset_by or claim.reset_by == request.uid or claim.uid in expected:
        return False
    return claim.created >= max(request.created, request.not_before or request.created)


def _refuse_stale(world: World, found: list[Claim]) -> Plan | None:
    expected = {row["volume"]: row["uid"] for row in world.request.spec.get("expected") or ()}
    for claim in found:
        if claim.kind in expected and expected[claim.kind] != claim.uid:
            return fail(world, Reason.STALE, f"The volume '{claim.kind}' is not the one that was looked at any more.")
    return None


def _in_use(world: World, wanted: list[str], *, ignore_own: bool = False) -> tuple[Reason, str] | None:
    """Who uses one of the claims; with ``ignore_own`` the server that the request is going to stop does not count."""
    refused = None if ignore_own else claims.refuse_server_pod(world)
    for name in wanted:
        refused = refused or claims.refuse_user_of(world, name, ignore_own=ignore_own)
    return refused


def _holder(world: World, claim_name: str) -> str:
    for other in world.others:
        if not other.is_finished and claim_name in (other.status.get("lockedClaims") or ()):
            return other.name
    return ""


# -- Preparing: the lock is on, and ``world.pods`` was listed after it: whoever is not there cannot come any more --


def _prepare(world: World) -> Plan:
    request, records = world.request, _records(world)
    if over := _called_off(world) or _expired(world):
        return over
    refused = _in_use(world, [r["claim"] for r in records], ignore_own=_may_stop(world))
    for record in records:
        if not _intact(world, record):
            refused = Reason.STALE, f"The volume '{record['volume']}' changed while the request began."
    if refused is None and backups.is_undo(world) and (claim := _intact(world, records[0])):
        refused = backups.refuse_source(world, claim)
    if refused:
        return _leave(world, *refused)
    if request.status.get("step") == "Stopping" and (stopping := _await_stop(world)):
        return stopping
    for record in records:
        step = TryCreateClaim(record["template"])
        if step.key not in world.answers:
            return step
        if answer := world.answers[step.key]:
            record.update(outcome="Failed", reason=str(Reason.CANNOT_RECREATE), message=answer.message[:1024])
    if all(record["outcome"] == "Failed" for record in records):
        told = f"Nothing was deleted: {records[0]['message']}"
        return _leave(world, Reason.CANNOT_RECREATE, told, records)
    if pinning := backups.pin(world):
        if refusal := world.answers.get(pinning.key):
            return _leave(world, Reason.NOT_ALLOWED, f"The backup could not be pinned: {refusal.message}")
        return pinning
    if _may_stop(world) and (pod := server.server_pod(world)) and pod.uid != request.status.get("podUID"):
        if not request.has_finalizer:
            # From here on a deleted request, too, has a server to start again.
            return AddFinalizer()
        return server.next_step(world, "Stopping", "The server is being stopped.", podUID=pod.uid)
    for record in records:
        backups.look_again(world, record)
    if any(map(backups.is_due, records)):
        told = f"A backup of {_titles(world, [r for r in records if backups.is_due(r)])} is being made."
        return write_status(world, Phase.BACKING_UP, Reason.IN_PROGRESS, told, volumes=records)
    return _begin_delete(world, records)


def _await_stop(world: World) -> Plan | None:
    """None when the server is gone."""
    match server.stop(world, world.request.status["podUID"]):
        case Stopped():
            return None
        case NotStopped(reason, message):
            # The reason speaks of starts where a restart is meant.
            return _leave(world, Reason.STOP_FAILED if reason is Reason.START_FAILED else reason, message)
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
    return _leave(world, Reason.CANCELLED, phase=Phase.CANCELLED) if _is_called_off(world) else None


def _keep(world: World, claim: Claim) -> AnnotateClaim | None:
    """Mark a claim that is not deleted after all.

    A delete may already be on its way, from this process or another that leads no more; the mark changes the version
    which that delete names, and no delete is sent for a claim that bears it.
    """
    step = AnnotateClaim(claim.name, claim.uid, claim.resource_version, names.KEPT_BY, world.request.uid)
    return None if claim.kept_by == world.request.uid or world.answers.get(step.key) else step


def _expired(world: World) -> Plan | None:
    return _leave(world, Reason.EXPIRED) if world.now >= deadline(world) else None


# -- BackingUp: every volume that needs one has a verified backup before any is deleted ----------------------------


def _back_up(world: World) -> Plan:
    records = _records(world)
    if over := _called_off(world):
        return over
    waiting: Wait | None = None
    for record in records:
        if not backups.is_due(record):
            continue
        match backups.make(world, record):
            case backups.Copied(report):
                kept = {key: report[key] for key in ("files", "bytes", "checksum")}
                record["backup"].update(state=str(BackupState.READY), **kept)
                return write_status(world, Phase.BACKING_UP, Reason.IN_PROGRESS, volumes=records)
            case backups.NotCopied(reason, message):
                record["backup"]["state"] = str(BackupState.FAILED)
                record.update(outcome="Failed", reason=str(reason), message=message[:1024])
                return write_status(world, Phase.BACKING_UP, Reason.IN_PROGRESS, volumes=records)
            case Wait() as wait:
                waiting = wait
            case step:
                return step
    if waiting:
        return waiting
    if tidying := backups.tidy(world):
        return tidying
    if all(record["outcome"] == "Failed" for record in records):
        told = f"Nothing was erased. {records[0]['message']}"
        return _leave(world, Reason(records[0]["reason"]), told, records)
    return _begin_delete(world, records)


# -- Deleting: from the first delete on there is no way back, only through -----------------------------------------


def _delete(world: World) -> Plan:
    request, records = world.request, _records(world)
    due = [
        (record, claim) for record in records if record["outcome"] == "Deleting" and (claim := _intact(world, record))
    ]
    if len(due) == sum(record["outcome"] == "Deleting" for record in records) and _is_called_off(world):
        for _, claim in due:
            if keeping := _keep(world, claim):
                return keeping
        return _leave(world, Reason.CANCELLED, phase=Phase.CANCELLED)
    for record, claim in due:
        step = DeleteClaim(claim.name, claim.uid, claim.resource_version)
        refused = claims.refuse_user_of(world, claim.name)
        if refused is None and not backups.allows_delete(world, record):
            refused = Reason.BACKUP_FAILED, "The backup is gone, so the volume was not erased."
        if refused is None and backups.is_undo(world):
            refused = backups.refuse_source(world, claim)
        if answer := world.answers.get(step.key):
            refused = Reason.NOT_ALLOWED, answer.message
        elif refused is None and claim.kept_by == request.uid:
            refused = Reason.STALE, "The request had already given this volume up; it was not erased."
        if refused is None:
            # The finalizer may have come off on the way to an end that is none any more.
            return step if request.has_finalizer else AddFinalizer()
        if keeping := _keep(world, claim):
            return keeping
        reason, message = refused
        record.update(outcome="Failed", reason=str(reason), message=message[:1024])
        if all(row["outcome"] == "Failed" for row in records):
            return _end(world, records)
        return write_status(world, Phase.DELETING, Reason.IN_PROGRESS, volumes=records)
    for record in records:
        claim = claims.by_name(world, record["claim"])
        if record["outcome"] == "Deleting" and claim and claim.uid == record["uid"]:
            step_status = write_status(
                world, Phase.DELETING, Reason.WAITING_FOR_CLAIM, _vanishing(claim), stalled=_is_slow(world)
            )
            wait = Wait("the claim goes", world.now + LOOK_AGAIN)
            return step_or_wait(world, step_status, wait) if _is_slow(world) else wait
    return write_status(world, Phase.RECREATING, Reason.IN_PROGRESS, volumes=records)


# -- Recreating: for as long as it takes, the user must end up with a claim ----------------------------------------


def _recreate(world: World) -> Plan:
    records = _records(world)
    for record in records:
        if record["outcome"] == "Failed":
            continue
        claim = claims.by_name(world, record["claim"])
        step = CreateClaim(record["template"])
        answer = world.answers.get(step.key)
        if claim is None:
            if answer is None:
                return step
            if answer.is_namespace_terminating:
                return _finalizer_off(world) or Done()
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
        record["newUID"] = claim.uid
        record["outcome"] = "Reset"
        if record.get("persistentVolume") in world.retained:
            record["retainedVolume"] = record["persistentVolume"]
        if not claims.same_promise(claim, record["template"]):
            record["message"] = "Something else created this volume first, with another size, class or mode."
    if backups.is_undo(world) and (filling := _fill(world, records)):
        return filling
    return _end(world, records)


def _fill(world: World, records: list[Record]) -> Plan | None:
    """Put the backup back, under the lock; None when its comparison has passed, or it cannot be."""
    (record,) = records
    if record["outcome"] == "Failed" or record.get("restored"):
        return None
    match backups.restore(world, record):
        case backups.Copied():
            record["restored"] = True
            return write_status(world, Phase.RECREATING, Reason.IN_PROGRESS, volumes=records)
        case backups.NotCopied(reason, message):
            record.update(outcome="Failed", reason=str(reason), message=message[:1024])
            return write_status(world, Phase.RECREATING, Reason.IN_PROGRESS, volumes=records)
        case backups.NotAllowed(message):
            told = f"The backup cannot be put back yet: {message}"
            status = write_status(world, Phase.RECREATING, Reason.RETRYING, told, stalled=True)
            return step_or_wait(world, status, Wait("copy refused", world.now + LOOK_AGAIN))
        case Wait() as wait:
            told = f"The backup of {_titles(world, records)} is being put back."
            return step_or_wait(world, write_status(world, Phase.RECREATING, Reason.IN_PROGRESS, told), wait)
        case step:
            return step


# -- Ends ----------------------------------------------------------------------------------------------------------


def _end(world: World, records: list[Record]) -> Plan:
    """Every end after the first delete was due. No claim is missing any more."""
    if step := backups.tidy(world) or backups.unpin(world):
        return step
    failed = [record for record in records if record["outcome"] == "Failed"]
    for record in records:
        record.pop("template", None)
    wants_start = world.request.spec.get("serverPolicy") == ServerPolicy.STOP_AND_START
    if not failed:
        titles = _titles(world, records)
        if backups.is_undo(world):
            end = Phase.SUCCEEDED, Reason.RESTORED, f"The content of the backup is back: {titles}."
        else:
            end = Phase.SUCCEEDED, Reason.RESET, f"New and empty: {titles}."
    elif len(failed) == len(records):
        end = Phase.FAILED, Reason(failed[0]["reason"]), failed[0]["message"]
        # Nothing was deleted, so the server comes back whatever was asked for.
        wants_start = wants_start or not any("newUID" in record for record in records)
    else:
        told = " ".join(
            f"{r['volume']}: {'reset' if r['outcome'] == 'Reset' else 'not reset, ' + r['message']}" for r in records
        )
        end = Phase.FAILED, Reason.PARTIAL_FAILURE, told
    return _finish(world, *end, records, wants_start=wants_start)


def _leave(
    world: World, reason: Reason, message: str = "", records: list[Record] | None = None, *,
    phase: Phase = Phase.FAILED,
) -> Plan:  # fmt: skip
    """Every end before the first delete: everything is put back as it was, the server included."""
    if step := backups.tidy(world) or backups.unpin(world):
        return step
    return _finish(world, phase, reason, message, records, wants_start=True)


def _finish(
    world: World, phase: Phase, reason: Reason, message: str, records: list[Record] | None, *, wants_start: bool
) -> Plan:
    fields: dict[str, Any] = {"volumes": records} if records is not None else {}
    stopped = world.request.status.get("podUID")
    old = next((pod for pod in world.pods if pod.uid == stopped), None)
    if not stopped or not wants_start or (old and not old.is_deleting):
        return _let_go(world) or finish(world, phase, reason, message, **fields)
    step = finish(world, phase, reason, message)
    ending = {key: step.status[key] for key in ("phase", "reason", "message")}
    # The lock goes before the start is asked for: the spawner looks for it.
    return server.next_step(
        world, "Starting", "The server is being started again.", ending=ending, lockedClaims=[], **fields
    )


def _start_again(world: World) -> Plan:
    """The work is done and the lock is off; the server that was stopped for it comes back."""
    ending = world.request.status["ending"]
    match server.start(world, world.request.status["podUID"]):
        case Started():
            told, started = "The server is running again.", True
        case NotStarted(reason, message):
            told, started = f"The server did not start again: {message or _sentence(reason)}", False
        case plan:
            return plan
    return _let_go(world) or finish(
        world, Phase(ending["phase"]), Reason(ending["reason"]), f"{ending['message']} {told}",
        server_started=started, ending=None, step=None, stepTime=None,
    )  # fmt: skip


def _sentence(reason: Reason) -> str:
    return "it did not answer in time." if reason is Reason.TIMED_OUT else "start it from the home page."


def _let_go(world: World) -> Plan | None:
    """Before an end is written the finalizer goes; a request that is being deleted goes with it."""
    return _finalizer_off(world) or (Done() if world.request.is_deleting else None)


def _finalizer_off(world: World) -> RemoveFinalizer | None:
    """The first step of every end: a finished request holds nothing back."""
    return RemoveFinalizer() if world.request.has_finalizer else None


# -- Reading the record --------------------------------------------------------------------------------------------


def _records(world: World) -> list[Record]:
    found = [dict(record) for record in world.request.status.get("volumes") or ()]
    for record in found:
        if "backup" in record:
            record["backup"] = dict(record["backup"])
    return found


def _titles(world: World, records: list[Record]) -> str:
    return ", ".join(world.table[r["volume"]].title if r["volume"] in world.table else r["volume"] for r in records)


def _intact(world: World, record: Mapping[str, Any]) -> Claim | None:
    """The claim that is to go, if no delete has reached it yet."""
    claim = claims.by_name(world, record["claim"])
    return claim if claim and claim.uid == record["uid"] and not claim.is_deleting else None


def _is_slow(world: World) -> bool:
    started = parse_time(world.request.status.get("startTime"))
    return started is not None and world.now - started > timedelta(seconds=world.settings.stalled_after)


def _vanishing(claim: Claim) -> str:
    return f"The claim {claim.name} is being deleted and is not gone yet; the storage system or a pod still holds it."
