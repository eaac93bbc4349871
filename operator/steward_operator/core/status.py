"""Builds the status of a request: phase, reason, sentence and the conditions that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from steward_api.phases import ENDS, SENTENCES, ConditionType, Phase, Reason

from .clock import format_time
from .model import World
from .steps import Wait, WriteStatus

#: Bound of ``status.message`` and of a condition's message in the CRDs.
LONGEST_MESSAGE = 4096


def write_status(
    world: World, phase: Phase, reason: Reason, message: str = "", *, stalled: bool = False,
    server_started: bool | None = None, **fields: Any,
) -> WriteStatus:  # fmt: skip
    """The present status moved to ``phase``. A field given as None is taken out.

    ``server_started`` says of a server that the request stopped whether it runs again.
    """
    message = (message or SENTENCES[reason])[:LONGEST_MESSAGE]
    present = world.request.status
    status: dict[str, Any] = {**present, **fields}
    status = {key: value for key, value in status.items() if value is not None}
    status["phase"] = str(phase)
    status["reason"] = str(reason)
    status["message"] = message
    status["observedGeneration"] = world.request.meta.get("generation", 0)
    if phase is not Phase.PENDING:
        status.setdefault("startTime", format_time(world.now))
    if phase in ENDS:
        status["completionTime"] = format_time(world.now)
        status.pop("waitingUntil", None)
    status["conditions"] = _conditions(world, phase, reason, message, stalled, server_started)
    return WriteStatus(status)


def _conditions(
    world: World, phase: Phase, reason: Reason, message: str, stalled: bool, server_started: bool | None
) -> list[dict[str, Any]]:
    ended = phase in ENDS
    values: dict[ConditionType, bool] = {
        ConditionType.COMPLETE: phase is Phase.SUCCEEDED,
        ConditionType.FAILED: phase is Phase.FAILED,
        ConditionType.FINISHED: ended,
        ConditionType.RECONCILING: not ended,
        ConditionType.STALLED: stalled and not ended,
    }
    if server_started is not None:
        values[ConditionType.SERVER_STARTED] = server_started
    before = {c["type"]: c for c in world.request.status.get("conditions") or ()}
    return [
        {
            "type": str(kind),
            "status": "True" if value else "False",
            "reason": str(reason),
            "message": message,
            "lastTransitionTime": _transition(before.get(str(kind)), value, world.now),
            "observedGeneration": world.request.meta.get("generation", 0),
        }
        for kind, value in values.items()
    ]


def _transition(before: Mapping[str, Any] | None, value: bool, now: datetime) -> str:
    if before and before["status"] == ("True" if value else "False"):
        return str(before["lastTransitionTime"])
    return format_time(now)


def finish(world: World, phase: Phase, reason: Reason, message: str = "", **fields: Any) -> WriteStatus:
    """A terminal status. Nothing is locked any more."""
    if "lockedClaims" in world.request.status:
        fields.setdefault("lockedClaims", [])
    return write_status(world, phase, reason, message, **fields)


def fail(world: World, reason: Reason, message: str = "", **fields: Any) -> WriteStatus:
    return finish(world, Phase.FAILED, reason, message, **fields)


def step_or_wait(world: World, step: WriteStatus, wait: Wait) -> WriteStatus | Wait:
    """Say once in the status why the request waits, then wait."""
    return wait if dict(world.request.status) == dict(step.status) else step
