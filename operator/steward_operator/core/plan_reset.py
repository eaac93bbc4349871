"""Plans a VolumeReset: one step at a time, each decided from the request's status and a live look at the cluster.

The order that may never change: the claim's UID and template are in the status, then the lock, then the look at the
pods, then the finalizer, then the delete, then the new claim, then the finalizer goes, then the end is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from steward_api.phases import Backup, ContentsFrom, Phase, Reason, ServerPolicy

from . import claims
from .admission import before_anything, deadline, is_replayed
from .clock import parse_time
from .model import Claim, World
from .status import fail, finish, step_or_wait, write_status
from .steps import AddFinalizer, CreateClaim, DeleteClaim, Done, Plan, RemoveFinalizer, TryCreateClaim, Wait

Record = dict[str, Any]

#: How often a claim that does not go away, or cannot be made, is looked at again without an event.
LOOK_AGAIN = timedelta(seconds=5)


def plan_reset(world: World) -> Plan:
    request = world.request
    if request.is_finished:
        return _finalizer_off(world) or Done()
    match request.phase:
        case Phase.PENDING:
            return _begin(world)
        case Phase.PREPARING:
            return _prepare(world)
        case Phase.DELETING:
            return _delete(world)
        case Phase.RECREATING:
            return _recreate(world)
        case _:
            return fail(world, Reason.NOT_SUPPORTED, f"This operator does not know the phase {request.phase}.")


def _begin(world: World) -> Plan:
    """Check everything that can be checked, then write down what will be deleted and lock it."""
    request = world.request
    if request.is_deleting:
        return Done()
    if refused := before_anything(world) or _refuse_unsupported(world):
        return refused
    if is_replayed(world) and not request.spec.get("expected"):
        return fail(world, Reason.UNSAFE_REPLAY)
    found: list[Claim] = []
    for kind in request.spec["volumes"]:
        if kind not in world.table:
            known = ", ".join(sorted(world.table))
            return fail(world, Reason.UNKNOWN_VOLUME, f"There is no volume '{kind}' here. There are: {known}.")
        if refusal := world.table[kind].refusal:
            return fail(world, Reason.NOT_ALLOWED, refusal)
        claim = claims.find(world, kind)
        if claim is None:
            return fail(
                world,
                Reason.VOLUME_MISSING,
                f"{request.user} has no volume '{kind}' for this server; its next start creates it, empty.",
            )
        if refusal := claims.refuse_static(claim):
            return fail(world, Reason.STATICALLY_PROVISIONED, f"The volume '{kind}' cannot be reset: {refusal}.")
        found.append(claim)
    if all(_was_reset_since(world, claim) for claim in found):
        return finish(world, Phase.SUCCEEDED, Reason.RESET, "Another request has just reset these volumes.")
    if refused := _refuse_stale(world, found):
        return refused
    if refused := _refuse_in_use(world, found):
        return refused
    for claim in found:
        if holder := _holder(world, claim.name):
            step = write_status(world, Phase.PENDING, Reason.WAITING_FOR_OTHER, f"Waiting for the request {holder}.")
            return step_or_wait(world, step, Wait("another request", min(deadline(world), world.now + LOOK_AGAIN)))
    for claim in found:
        if claim.is_deleting:
            step = write_status(world, Phase.PENDING, Reason.WAITING_FOR_CLAIM, _vanishing(claim))
            return step_or_wait(world, step, Wait("the claim goes", min(deadline(world), world.now + LOOK_AGAIN)))
    return write_status(
        world,
        Phase.PREPARING,
        Reason.IN_PROGRESS,
        lockedClaims=sorted(claim.name for claim in found),
        waitingUntil=None,
        volumes=[
            {
                "volume": claim.kind,
                "claim": claim.name,
                "uid": claim.uid,
                "outcome": "Pending",
                "template": claims.template(claim, request.uid, world.table[claim.kind]),
            }
            for claim in found
        ],
    )


def _refuse_unsupported(world: World) -> Plan | None:
    """What a newer CRD may let through and this operator cannot do."""
    spec = world.request.spec
    policy = spec.get("serverPolicy", ServerPolicy.REQUIRE_STOPPED)
    backup = spec.get("backup", Backup.DEFAULT)
    source = (spec.get("contents") or {}).get("from", ContentsFrom.EMPTY)
    if policy != ServerPolicy.REQUIRE_STOPPED:
        return fail(world, Reason.NOT_SUPPORTED, f"This operator cannot do serverPolicy {policy} yet.")
    if backup not in (Backup.DEFAULT, Backup.NONE):
        return fail(world, Reason.NOT_SUPPORTED, f"This operator cannot do backup {backup} yet.")
    if source != ContentsFrom.EMPTY:
        return fail(world, Reason.NOT_SUPPORTED, f"This operator cannot do contents from {source} yet.")
    return None


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


def _refuse_in_use(world: World, found: list[Claim]) -> Plan | None:
    refused = claims.refuse_server_pod(world)
    for claim in found:
        refused = refused or claims.refuse_user_of(world, claim.name)
    return fail(world, *refused) if refused else None


def _holder(world: World, claim_name: str) -> str:
    for other in world.others:
        if not other.is_finished and claim_name in (other.status.get("lockedClaims") or ()):
            return other.name
    return ""


def _prepare(world: World) -> Plan:
    """The lock is in the status and ``world.pods`` was listed after it: whoever is not there cannot come any more."""
    request = world.request
    if request.is_deleting:
        return _finalizer_off(world) or Done()
    if request.spec.get("cancel"):
        return _finalizer_off(world) or finish(world, Phase.CANCELLED, Reason.CANCELLED)
    if world.now >= deadline(world):
        return _finalizer_off(world) or fail(world, Reason.EXPIRED)
    records = _records(world)
    refused = claims.refuse_server_pod(world)
    for record in records:
        refused = refused or claims.refuse_user_of(world, record["claim"])
        if not _intact(world, record):
            refused = Reason.STALE, f"The volume '{record['volume']}' changed while the request began."
    if refused:
        return _finalizer_off(world) or fail(world, *refused)
    for record in records:
        step = TryCreateClaim(record["template"])
        if step.key not in world.answers:
            return step
        if answer := world.answers[step.key]:
            record.update(outcome="Failed", reason=str(Reason.CANNOT_RECREATE), message=answer.message[:1024])
    if all(record["outcome"] == "Failed" for record in records):
        told = f"Nothing was deleted: {records[0]['message']}"
        return _finalizer_off(world) or fail(world, Reason.CANNOT_RECREATE, told, volumes=records)
    if not request.has_finalizer:
        return AddFinalizer()
    for record in records:
        if record["outcome"] == "Pending":
            record["outcome"] = "Deleting"
    return write_status(world, Phase.DELETING, Reason.IN_PROGRESS, volumes=records)


def _delete(world: World) -> Plan:
    request, records = world.request, _records(world)
    untouched = all(_intact(world, record) for record in records if record["outcome"] == "Deleting")
    if untouched and request.is_deleting:
        return _finalizer_off(world) or Done()
    if untouched and request.spec.get("cancel"):
        return _finalizer_off(world) or finish(world, Phase.CANCELLED, Reason.CANCELLED)
    for record in records:
        if record["outcome"] != "Deleting" or not (claim := _intact(world, record)):
            continue
        step = DeleteClaim(claim.name, claim.uid, claim.resource_version)
        refused = claims.refuse_user_of(world, claim.name)
        answer = world.answers.get(step.key)
        if refused is None and answer is None:
            # The finalizer may have come off on the way to an end that is none any more.
            return step if request.has_finalizer else AddFinalizer()
        reason, message = refused or (Reason.NOT_ALLOWED, answer.message if answer else "")
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
            # The user must end up with a claim, so this is tried for as long as it takes.
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
        if not claims.same_promise(claim, record["template"]):
            record["message"] = "Something else created this volume first, with another size, class or mode."
    return _end(world, records)


def _end(world: World, records: list[Record]) -> Plan:
    if world.request.has_finalizer or world.request.is_deleting:
        return _finalizer_off(world) or Done()
    failed = [record for record in records if record["outcome"] == "Failed"]
    for record in records:
        record.pop("template", None)
    if not failed:
        titles = ", ".join(
            world.table[r["volume"]].title if r["volume"] in world.table else r["volume"] for r in records
        )
        return finish(world, Phase.SUCCEEDED, Reason.RESET, f"New and empty: {titles}.", volumes=records)
    if len(failed) == len(records):
        return fail(world, Reason(failed[0]["reason"]), failed[0]["message"], volumes=records)
    told = " ".join(
        f"{r['volume']}: {'reset' if r['outcome'] == 'Reset' else 'not reset, ' + r['message']}" for r in records
    )
    return fail(world, Reason.PARTIAL_FAILURE, told, volumes=records)


def _finalizer_off(world: World) -> RemoveFinalizer | None:
    """The first step of every end: a finished request holds nothing back."""
    return RemoveFinalizer() if world.request.has_finalizer else None


def _records(world: World) -> list[Record]:
    return [dict(record) for record in world.request.status.get("volumes") or ()]


def _intact(world: World, record: Mapping[str, Any]) -> Claim | None:
    """The claim that is to go, if no delete has reached it yet."""
    claim = claims.by_name(world, record["claim"])
    return claim if claim and claim.uid == record["uid"] and not claim.is_deleting else None


def _is_slow(world: World) -> bool:
    started = parse_time(world.request.status.get("startTime"))
    return started is not None and world.now - started > timedelta(seconds=world.settings.stalled_after)


def _vanishing(claim: Claim) -> str:
    return f"The claim {claim.name} is being deleted and is not gone yet; the storage system or a pod still holds it."
