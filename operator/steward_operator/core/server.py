"""Stopping and starting a user's server through the hub, and telling whether it answers. Both kinds need it.

A request that stops a server has its pod's UID in ``status.podUID`` and the step in ``status.step`` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from steward_api.phases import Reason

from .clock import format_time, parse_time
from .model import Container, Pod, World
from .status import step_or_wait, write_status
from .steps import StartServer, StopServer, Wait, WriteStatus

LOOK_AGAIN = timedelta(seconds=2)
#: So long after the start of an instance the kubelet's word is about that instance.
KUBELET_KNOWS = timedelta(seconds=30)
#: Two instances more than at the first look: ours, and one that came and went after it.
CRASHED_AFTER = 2
#: How often a start is asked for that the hub takes and no pod comes of.
MOST_STARTS = 2


@dataclass(frozen=True)
class Stopped:
    """The pod is gone."""


@dataclass(frozen=True)
class NotStopped:
    """The server still runs; nothing has been lost."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Started:
    """The new instance answers."""

    pod: Pod
    container: Container


@dataclass(frozen=True)
class NotStarted:
    reason: Reason
    message: str = ""
    crashed: Container | None = None


def server_pod(world: World) -> Pod | None:
    """The newest pod of the request's server that has not ended."""
    found = [
        pod
        for pod in world.pods
        if pod.is_server and not pod.is_over and (pod.user, pod.server) == (world.request.user, world.request.server)
    ]
    return max(found, key=lambda pod: (not pod.is_deleting, str(pod.meta.get("creationTimestamp"))), default=None)


def answers(world: World, pod: Pod, container: Container) -> bool:
    """Asked itself where it can be; the kubelet's word is stale for a moment after an in-place restart."""
    if not pod.probe_url or (container.started_at and world.now >= container.started_at + KUBELET_KNOWS):
        # This process may not have asked yet, and a server that somebody works on must not be taken for a dead one.
        return container.answers or container.id in world.answering
    return container.state == "running" and container.id in world.answering


def began(world: World) -> datetime:
    return parse_time(world.request.status.get("startTime")) or world.now


def step_began(world: World) -> datetime:
    return parse_time(world.request.status.get("stepTime")) or began(world)


def next_step(world: World, step: str, told: str, **fields: Any) -> WriteStatus:
    """The request stays in its phase and goes on to a step of stopping or starting."""
    return write_status(
        world, world.request.phase, Reason.IN_PROGRESS, told, step=step, stepTime=format_time(world.now), **fields
    )


def await_answer(world: World, pod: Pod) -> Wait | NotStarted:
    """What came late, because it was waited for long, has its time all the same."""
    born = (pod.notebook and pod.notebook.started_at) or pod.created
    limit = max(step_began(world), born) + timedelta(seconds=world.settings.answer_timeout)
    if world.now >= limit:
        return NotStarted(Reason.TIMED_OUT)
    return Wait("the server answers", min(limit, world.now + LOOK_AGAIN))


def crash(container: Container) -> tuple[str, str]:
    """What is told of a server that came up and ended, and its last words."""
    ended = container.last_ended
    code = ended.get("exitCode")
    words = str(ended.get("message") or "").strip()[-4000:]
    return "The server was restarted and ended before it answered" + (
        f", with exit code {code}." if code is not None else "."
    ), words


def stop(world: World, pod_uid: str, container_id: str = "") -> StopServer | WriteStatus | Wait | Stopped | NotStopped:
    """The hub stops the server; its pod has to be gone before anything else happens.

    The hub may hold a stop for a while and carry it out after all. So it is asked for the first half of the time only,
    and a server that lives is given up when the whole of it is over: by then no stop can be on its way any more.
    """
    old = next((pod for pod in world.pods if pod.uid == pod_uid), None)
    if old is None:
        return Stopped()
    if old.is_deleting:
        return _await_going(world)
    waited = (world.now - step_began(world)).total_seconds()
    step = StopServer(world.request.user, world.request.server, pod_uid, container_id)
    # One whose container has ended for good is no server to go back to: the hub is asked until it has taken it.
    is_alive = old.notebook is None or old.notebook.state == "running"
    if is_alive and waited >= world.settings.stop_timeout:
        if told := _refused_so_far(world):
            return NotStopped(Reason.START_FAILED, f"{told} It is still running.")
        return NotStopped(Reason.TIMED_OUT, "The server did not stop in time. Its pod is still there.")
    if step.key not in world.answers and (not is_alive or waited < world.settings.stop_timeout / 2):
        return step
    wait = Wait("the pod goes", world.now + LOOK_AGAIN)
    told = ""
    if refused := world.answers.get(step.key):
        told = f"{_NOT_STOPPED} {refused.message}"
    elif waited >= world.settings.stop_timeout:
        told = "The hub says that it has stopped the server, and its pod is still there."
    if not told:
        return wait
    return step_or_wait(world, write_status(world, world.request.phase, Reason.RETRYING, told, stalled=True), wait)


_NOT_STOPPED = "The hub did not stop the server:"


def _refused_so_far(world: World) -> str:
    """What the hub has last answered to the question whether it stops the server, if that was no."""
    told = str(world.request.status.get("message", ""))
    return told if told.startswith(_NOT_STOPPED) else ""


def _await_going(world: World) -> Wait | WriteStatus:
    """A pod that is being deleted does not come back, however long its node takes: whoever asked for that waits."""
    wait = Wait("the pod goes", world.now + LOOK_AGAIN)
    if world.now < step_began(world) + timedelta(seconds=world.settings.stop_timeout):
        return wait
    told = "The server's pod is being deleted and is not gone yet; its node may be away."
    status = write_status(world, world.request.phase, Reason.IN_PROGRESS, told, stalled=True)
    return step_or_wait(world, status, wait)


def start(world: World, old_uid: str) -> StartServer | WriteStatus | Wait | Started | NotStarted:
    """Asked for until the hub has taken it; where no pod comes of it once more, and then no more."""
    present = server_pod(world)
    if present and present.uid != old_uid:
        container = present.notebook
        if container and answers(world, present, container):
            return Started(present, container)
        if container and container.restart_count >= CRASHED_AFTER:
            told, _ = crash(container)
            return NotStarted(Reason.LAB_CRASHED, told, container)
        return await_answer(world, present)
    waited = (world.now - step_began(world)).total_seconds()
    hindrance = _hinders_start(world, present)
    if world.request.status.get("step") == "Awaiting":
        if hindrance:
            # The hub took the start, and its spawner then found the lock and took the pod back.
            return next_step(world, "Starting", hindrance, stalled=True)
        if waited < world.settings.start_failure_timeout:
            return Wait("the pod comes", world.now + LOOK_AGAIN)
        if _starts(world) < MOST_STARTS:
            # A hub that is restarted after it took the start knows nothing of it.
            return next_step(world, "Starting", "The hub took the start, and no pod came. It is asked once more.")
        return NotStarted(Reason.START_FAILED)
    if hindrance:
        # The time that a start may take begins when nothing is in its way any more.
        if waited < world.settings.start_failure_timeout:
            return Wait(hindrance, world.now + LOOK_AGAIN)
        return next_step(world, "Starting", hindrance, stalled=True)
    step = StartServer(world.request.user, world.request.server)
    if step.key not in world.answers:
        return step
    refused = world.answers[step.key]
    if refused is None:
        return next_step(world, "Awaiting", "The server is starting.", starts=_starts(world) + 1)
    wait = Wait("the hub takes the start", world.now + LOOK_AGAIN)
    if waited < world.settings.stop_timeout:
        return wait
    if refused.is_for_now and not world.request.is_deleting:
        # Whoever has stopped a server starts it again, however long the hub is away.
        told = "The server has been stopped; it is started as soon as the hub takes starts again."
        return step_or_wait(world, write_status(world, world.request.phase, Reason.RETRYING, told, stalled=True), wait)
    if world.request.status.get("reason") == Reason.RETRYING and not world.request.is_deleting:
        # It is back, and may not be ready for everything yet.
        return next_step(world, "Starting", "The server has stopped and is being started.")
    return NotStarted(Reason.START_FAILED, f"The server was stopped, and the hub did not start it: {refused.message}")


def _starts(world: World) -> int:
    """How often the hub has taken the start."""
    return int(world.request.status.get("starts") or 0)


def _hinders_start(world: World, present: Pod | None) -> str:
    """What is waited for before the hub is asked for a start; empty when nothing is."""
    if present is not None and present.is_deleting:
        return "The server's pod is being deleted and is not gone yet."
    for other in world.others:
        is_shared = any(
            row["volume"] in world.table and not world.table[row["volume"]].is_per_server
            for row in other.status.get("volumes") or ()
        )
        is_ours = is_shared or other.server == world.request.server
        if is_ours and not other.is_finished and other.status.get("lockedClaims"):
            return f"The server starts when the request {other.name} is done with its volumes."
    return ""
