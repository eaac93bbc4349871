"""How a VolumeReset ends: what was made for it goes, the finalizer goes, the server comes back, the end is written.

A server that the request stopped is started when the lock is off, and the end is written when that is over, too
(``status.ending`` holds it until then).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from steward_api.phases import Phase, Reason, ServerPolicy

from . import backups, server
from .model import World
from .reset_record import Record, records_of, titles
from .server import NotStarted, Started
from .status import finish
from .steps import Done, Plan, RemoveFinalizer, TryCreateClaim, Wait


def end(world: World, records: list[Record]) -> Plan:
    """Every end after the first delete was due. No claim is missing any more."""
    failed = [record for record in records if record["outcome"] == "Failed"]
    # What could not be put back is wanted still: with its pin it outlives the backups that further attempts make.
    is_wanted = any(record.get("reason") == Reason.RESTORE_FAILED for record in failed)
    if step := backups.tidy(world) or (None if is_wanted else backups.unpin(world)):
        return step
    wants_start = world.request.spec.get("serverPolicy") == ServerPolicy.STOP_AND_START
    if not failed:
        told = titles(world, records)
        if world.request.is_undo:
            how = Phase.SUCCEEDED, Reason.RESTORED, f"The content of the backup is back: {told}."
        else:
            how = Phase.SUCCEEDED, Reason.RESET, f"New and empty: {told}."
    elif len(failed) == len(records):
        how = Phase.FAILED, Reason(failed[0]["reason"]), failed[0]["message"]
        # Nothing was deleted, so the server comes back whatever was asked for.
        wants_start = wants_start or not any("newUID" in record for record in records)
    else:
        told = " ".join(
            f"{titles(world, [r])}: " + ("reset." if r["outcome"] == "Reset" else f"not reset. {r['message']}")
            for r in records
        )
        how = Phase.FAILED, Reason.PARTIAL_FAILURE, told
    return _finish(world, *how, records, wants_start=wants_start)


def leave(
    world: World, reason: Reason, message: str = "", records: list[Record] | None = None, *,
    phase: Phase = Phase.FAILED,
) -> Plan:  # fmt: skip
    """Every end before the first delete: everything is put back as it was, the server included."""
    if step := backups.tidy(world, waits=False) or backups.unpin(world):
        return step
    return _finish(world, phase, reason, message, records, wants_start=True)


def _finish(
    world: World, phase: Phase, reason: Reason, message: str, records: list[Record] | None, *, wants_start: bool
) -> Plan:
    fields: dict[str, Any] = {"volumes": records} if records is not None else {}
    stopped = world.request.status.get("podUID")
    old = next((pod for pod in world.pods if pod.uid == stopped), None)
    if old and not old.is_deleting and wants_start and (asked_until := _stop_may_come(world)):
        return Wait("whether the hub stops the server", asked_until)
    if not stopped or not wants_start or (old and not old.is_deleting):
        return _let_go(world) or finish(world, phase, reason, message, volumes=_over(world, records))
    step = finish(world, phase, reason, message)
    ending = {key: step.status[key] for key in ("phase", "reason", "message")}
    # The lock goes before the start is asked for: the spawner looks for it.
    return server.next_step(
        world, "Starting", "The server is being started again.", ending=ending, lockedClaims=[], **fields
    )


def _stop_may_come(world: World) -> datetime | None:
    """Until when a stop that the hub was asked for may still mark the pod; None when that is over."""
    if world.request.status.get("step") != "Stopping":
        return None
    until = server.step_began(world) + timedelta(seconds=world.settings.stop_timeout)
    return until if world.now < until else None


def start_again(world: World) -> Plan:
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
        server_started=started, ending=None, step=None, stepTime=None, volumes=_over(world, None),
    )  # fmt: skip


def _over(world: World, records: list[Record] | None) -> list[Record]:
    """The records, or those that are in the status, without what only a request that is at work needs."""
    found = records_of(world) if records is None else records
    return [{key: value for key, value in record.items() if key != "template"} for record in found]


def _sentence(reason: Reason) -> str:
    return "it did not answer in time." if reason is Reason.TIMED_OUT else "start it from the home page."


def _let_go(world: World) -> Plan | None:
    """Before an end is written the finalizer goes; a request that is being deleted goes with it."""
    return finalizer_off(world) or (Done() if world.request.is_deleting else None)


def goes_with_namespace(world: World) -> Plan | None:
    """First of all for a request that is being deleted: is it going with its namespace?

    In that nothing can be made again, nor is there a hub to start a server, so that the request holds nothing back.
    """
    template = next((record["template"] for record in records_of(world) if "template" in record), None)
    if template is None or not world.request.is_deleting or not world.request.has_finalizer:
        return None
    step = TryCreateClaim(template)
    if step.key not in world.answers:
        return step
    answer = world.answers[step.key]
    return finalizer_off(world) if answer and answer.is_namespace_terminating else None


def finalizer_off(world: World) -> RemoveFinalizer | None:
    """The first step of every end: a finished request holds nothing back."""
    return RemoveFinalizer() if world.request.has_finalizer else None
