"""A VolumeReset that is pending: all that can be checked is, then what will be deleted is written down and locked."""

from __future__ import annotations

from steward_api.phases import Backup, ContentsFrom, Phase, Reason, ServerPolicy

from . import backups, claims
from .admission import before_anything, deadline, is_replayed
from .model import Claim, World
from .reset_record import LOOK_AGAIN, Record, vanishing
from .status import fail, finish, step_or_wait, write_status
from .steps import Done, Plan, Wait


def begin(world: World) -> Plan:
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
    if not world.request.is_undo and all(_was_reset_since(world, claim) for claim in found):
        return finish(world, Phase.SUCCEEDED, Reason.RESET, "Another request has just reset these volumes.")
    if refused := _refuse_stale(world, found):
        return refused
    for claim in found:
        if holder := _holder(world, claim.name):
            return _wait_for_other(world, f"Waiting for the request {holder}.")
    if starter := _starting(world):
        return _wait_for_other(world, f"Waiting until the request {starter} has started the server again.")
    if used := in_use(world, [claim.name for claim in found], ignore_own=may_stop(world)):
        return fail(world, *used)
    for claim in found:
        if claim.is_deleting:
            step = write_status(world, Phase.PENDING, Reason.WAITING_FOR_CLAIM, vanishing(claim))
            return step_or_wait(world, step, Wait("the claim goes", min(deadline(world), world.now + LOOK_AGAIN)))
    if world.request.is_undo and (refusal := backups.refuse_source(world, found[0])):
        return fail(world, *refusal)
    return write_status(
        world,
        Phase.PREPARING,
        Reason.IN_PROGRESS,
        lockedClaims=sorted(claim.name for claim in found),
        waitingUntil=None,
        volumes=[_record(world, claim) for claim in found],
    )


def _wait_for_other(world: World, told: str) -> Plan:
    step = write_status(world, Phase.PENDING, Reason.WAITING_FOR_OTHER, told)
    return step_or_wait(world, step, Wait("another request", min(deadline(world), world.now + LOOK_AGAIN)))


def _record(world: World, claim: Claim) -> Record:
    volume = world.table[claim.kind]
    record: Record = {
        "volume": claim.kind,
        "claim": claim.name,
        "uid": claim.uid,
        "outcome": "Pending",
        "template": claims.template(claim, world.request, volume, backups.contents(world)),
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
        if maker := _making_again(world, kind):
            return _wait_for_other(world, f"Waiting for the request {maker}.")
        told = (
            f"The user {world.request.user} has no volume '{kind}' for this server; its next start creates it, empty."
        )
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


def may_stop(world: World) -> bool:
    return bool(world.request.spec.get("serverPolicy", ServerPolicy.REQUIRE_STOPPED) != ServerPolicy.REQUIRE_STOPPED)


def _was_reset_since(world: World, claim: Claim) -> bool:
    """Whether another request made the claim, empty, after this one was due, and it is not the very one it means."""
    request = world.request
    expected = {row["uid"] for row in request.spec.get("expected") or ()}
    if not claim.reset_by or claim.reset_by == request.uid or claim.restored_from or claim.uid in expected:
        return False
    return claim.created >= request.due


def _refuse_stale(world: World, found: list[Claim]) -> Plan | None:
    expected = {row["volume"]: row["uid"] for row in world.request.spec.get("expected") or ()}
    for claim in found:
        if claim.kind in expected and expected[claim.kind] != claim.uid:
            return fail(world, Reason.STALE, f"The volume '{claim.kind}' is not the one that was looked at any more.")
    return None


def in_use(world: World, wanted: list[str], *, ignore_own: bool = False) -> tuple[Reason, str] | None:
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


def _making_again(world: World, kind: str) -> str:
    """Who has deleted the volume and is about to make it again: until then it is not there to be found."""
    for other in world.others:
        is_ours = other.server == world.request.server or not world.table[kind].is_per_server
        is_about_it = any(row["volume"] == kind for row in other.status.get("volumes") or ())
        if is_ours and is_about_it and not other.is_finished and other.status.get("lockedClaims"):
            return other.name
    return ""


def _starting(world: World) -> str:
    """Who starts one of the user's servers, that it has stopped: without a pod the server uses its volumes still."""
    for other in world.others:
        is_recreating = other.phase is Phase.RESTARTING and other.status.get("mechanism") == "Recreate"
        if is_recreating or (other.status.get("ending") and not other.is_finished):
            return other.name
    return ""
