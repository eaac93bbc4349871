"""Plans a ServerRestart. The goal: the container instance seen first is gone, and the new one answers.

In place is a resize (see `bounce`); Recreate stops and starts the server through the hub, so that the chosen profile
is kept. Which one is decided before anything is killed, because a container killed while the kubelet's crash
back-off holds may not come back at all.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from steward_api.phases import Phase, Reason, Strategy

from . import bounce
from .admission import before_anything, deadline
from .clock import format_time
from .model import Container, Pod, Refusal, Request, World
from .server import (
    CRASHED_AFTER,
    LOOK_AGAIN,
    NotStarted,
    NotStopped,
    Started,
    Stopped,
    answers,
    await_answer,
    began,
    crash,
    next_step,
    server_pod,
    start,
    step_began,
    stop,
)
from .status import fail, finish, step_or_wait, write_status
from .steps import Done, Plan, ResizePod, Wait

#: Kubernetes' own default of terminationGracePeriodSeconds.
DEFAULT_GRACE = 30
AS_BEFORE = "The server was not restarted in time; it is as it was before."
BACK_OFF = "The server has ended; the node starts it again when it has waited for a while."


def plan_restart(world: World) -> Plan:
    request = world.request
    if request.is_finished or (request.is_deleting and request.phase is Phase.PENDING):
        return Done()
    if request.phase is Phase.PENDING:
        return _begin(world)
    if request.phase is Phase.UNKNOWN:
        return Done()
    if request.phase is not Phase.RESTARTING:
        return fail(world, Reason.NOT_SUPPORTED, f"This operator does not know the phase {request.phase}.")
    if request.status.get("mechanism") == "Recreate":
        return _recreate(world)
    return _bounce(world)


def _begin(world: World) -> Plan:
    if refused := before_anything(world) or _refuse_unsupported(world):
        return refused
    pod, active = server_pod(world), _active_other(world)
    container = pod.notebook if pod else None
    if pod is None or pod.is_deleting or container is None or not container.id:
        if active:
            return _wait(world, Reason.WAITING_FOR_OTHER, _told_of(world.request, active))
        if pod is None or pod.is_deleting:
            return fail(world, Reason.SERVER_NOT_RUNNING)
        return fail(world, Reason.SERVER_NOT_RUNNING, "The server is still starting; there is nothing to restart yet.")
    if is_answered_by(world.request, pod):
        if answers(world, pod, container):
            return finish(world, Phase.SUCCEEDED, Reason.JOINED, newContainerID=container.id)
        if container.started_at and world.now < container.started_at + timedelta(seconds=world.settings.answer_timeout):
            return _wait(world, Reason.WAITING_FOR_OTHER, "The server is being restarted.", _observed(pod, container))
    if active:
        return _wait(world, Reason.WAITING_FOR_OTHER, _told_of(world.request, active), _observed(pod, container))
    return _choose(world, pod, container)


def _refuse_unsupported(world: World) -> Plan | None:
    """What a newer CRD may let through and this operator cannot do."""
    strategy = world.request.spec.get("strategy", Strategy.AUTO)
    if strategy in list(Strategy):
        return None
    return fail(world, Reason.NOT_SUPPORTED, f"This operator cannot do strategy {strategy} yet.")


def is_answered_by(request: Request, pod: Pod) -> bool:
    """Whether what runs now came after the request was due: another restart has done what this one asks for.

    All times are whole seconds. No server answers in the second it is started in, so nobody can have meant the new
    instance in that second. Recreate asks for a new pod: a new instance in the old pod is not what was asked for.
    """
    container = pod.notebook
    if container is None:
        return False
    if request.spec.get("strategy") == Strategy.RECREATE:
        recorded, present, born = request.status.get("podUID"), pod.uid, pod.created
    else:
        recorded, present = request.status.get("containerID"), container.id
        born = container.started_at or datetime.min.replace(tzinfo=UTC)
    return (bool(recorded) and recorded != present) or born >= request.due


def _active_other(world: World) -> Request | None:
    for other in world.others:
        if other.phase is Phase.RESTARTING and (other.user, other.server) == (
            world.request.user,
            world.request.server,
        ):
            return other
    return None


def _choose(world: World, pod: Pod, container: Container) -> Plan:
    """In place or through the hub. Decided here, before any kill."""
    if world.request.spec.get("strategy") == Strategy.RECREATE:
        return _start_recreate(world, pod, container)
    if refusal := bounce.refuse_in_place(pod):
        return _not_in_place(world, pod, container, Reason.IN_PLACE_NOT_POSSIBLE, f"{_cannot} {refusal}.")
    if container.state != "running":
        return _not_in_place(world, pod, container, Reason.IN_PLACE_NOT_POSSIBLE, f"{_cannot} it is not running.")
    if world.recent_restarts.get(pod.uid, 0) >= world.settings.restarts_per_window:
        return _not_in_place(world, pod, container, Reason.TOO_MANY_RESTARTS, "")
    if container.started_at:
        ready_at = container.started_at + timedelta(seconds=world.settings.min_restart_interval)
        if world.now < ready_at:
            told = f"The server started a moment ago; it is restarted at {format_time(ready_at)}."
            return _wait(world, Reason.WAITING_FOR_SERVER, told, _observed(pod, container), ready_at)
    if bounce.is_in_flight(pod):
        told = "The server's resources are being changed; it is restarted after that."
        return _wait(world, Reason.WAITING_FOR_SERVER, told, _observed(pod, container))
    return write_status(
        world,
        Phase.RESTARTING,
        Reason.IN_PROGRESS,
        "The server is being restarted in place.",
        mechanism="InPlace",
        step="Resizing",
        resources=bounce.candidates(pod)[0],
        waitingUntil=None,
        **_observed(pod, container),
    )


_cannot = "This server cannot be restarted in place:"


def _observed(pod: Pod, container: Container) -> dict[str, Any]:
    return {
        "podName": pod.name,
        "podUID": pod.uid,
        "containerID": container.id,
        "restartCount": container.restart_count,
    }


def _told_of(request: Request, active: Request) -> str:
    wants_more = request.spec.get("strategy") == Strategy.RECREATE and active.status.get("mechanism") != "Recreate"
    what = "this one comes after it" if wants_more else "this request ends with it"
    return f"The restart {active.name} is running; {what}."


def _wait(
    world: World, reason: Reason, told: str, observed: dict[str, Any] | None = None, until: datetime | None = None
) -> Plan:
    """Wait, with the instance that is to go on record: should another restart end it, this request is done too."""
    recorded = {} if world.request.status.get("containerID") else observed or {}
    status = write_status(
        world, Phase.PENDING, reason, told, waitingUntil=format_time(until) if until else None, **recorded
    )
    again = until or world.now + LOOK_AGAIN
    return step_or_wait(world, status, Wait(told, min(again, max(deadline(world), world.now))))


def _not_in_place(world: World, pod: Pod, container: Container, reason: Reason, told: str) -> Plan:
    if not _keeps_its_pod(world, pod):
        return _start_recreate(world, pod, container)
    if world.request.spec.get("strategy", Strategy.AUTO) == Strategy.AUTO:
        risk = "It holds a device that might be gone after a new start"
        if not bounce.holds_extended_resources(pod):
            risk = "Others have used the quota up, and a new start might be refused"
        told = f"{told or 'The server has been restarted too often in the last minutes.'} {risk}, so it was left alone."
    return fail(world, reason, told)


def _start_recreate(world: World, pod: Pod, container: Container) -> Plan:
    """What a restart in place has planned stays on record: the node may carry it out until the server stops."""
    return write_status(
        world,
        Phase.RESTARTING,
        Reason.IN_PROGRESS,
        "The server is being stopped and started again.",
        mechanism="Recreate",
        step="Stopping",
        stepTime=format_time(world.now),
        waitingUntil=None,
        stalled=_is_late(world, pod),
        **_observed(pod, container),
    )


def _bounce(world: World) -> Plan:
    status = world.request.status
    pod = next((pod for pod in world.pods if pod.uid == status["podUID"]), None)
    if pod is None or pod.is_over or pod.is_deleting:
        return _lost_pod(world, pod)
    container = pod.notebook
    if container is None:
        return fail(world, Reason.SERVER_NOT_RUNNING)
    if container.id == status["containerID"]:
        return _kill(world, pod, container)
    if bounce.pending_reason(pod) and (undoing := _take_back(world, pod, container)):
        return undoing
    if bounce.is_under_way(pod) and bounce.is_to_be_resized(container):
        # The old instance went by itself, and the node carries our resize out after all: it ends this one.
        return _await_node(world, pod)
    return _follow(world, pod, container)


def _follow(world: World, pod: Pod, container: Container) -> Plan:
    """A new instance, until it answers."""
    # One more where the old instance went by itself and the node carried the resize out later.
    crashed_after = CRASHED_AFTER + int(_is_reverting(world))
    is_crashing = container.restart_count >= world.request.status["restartCount"] + crashed_after
    if is_crashing or container.state in ("terminated", "waiting"):
        return _crashed(world, container)
    if answers(world, pod, container):
        return finish(world, Phase.SUCCEEDED, Reason.RESTARTED, newContainerID=container.id)
    return _await_answer(world, pod)


def _take_back(world: World, pod: Pod, container: Container) -> Plan | None:
    """The instance went by itself, and the node still has the resize to do: it would end the new one some other day."""
    if _is_reverting(world):
        return _undo(world, pod, container)
    is_ours = bounce.is_applied(container, world.request.status["resources"])
    return _revert(world, pod, container) if is_ours else None


def _kill(world: World, pod: Pod, container: Container) -> Plan:
    """The old instance is still there: send the resize, or see what became of it."""
    status = world.request.status
    planned = status["resources"]
    step = ResizePod(pod.name, pod.uid, pod.resource_version, planned)
    # What the API server took and did not apply would be sent for ever: that, too, is a refusal.
    sent = step.key in world.answers
    is_ours = _is_reverting(world) or bounce.is_applied(container, planned)
    if is_ours and container.state == "running" and bounce.is_under_way(pod):
        return _await_node(world, pod)
    if _is_reverting(world):
        if container.state != "running" and not _may_be_undone(pod, container, planned):
            return _killed(world, pod, container)
        is_refused = sent and not bounce.is_applied(container, planned)
        if is_refused and not _keeps_its_pod(world, pod):
            return _start_recreate(world, pod, container)
        if undoing := _undo(world, pod, container):
            return undoing
        if bounce.pending_reason(pod):
            return fail(world, Reason.TIMED_OUT, AS_BEFORE)
        told = "The node refused to resize the server."
        return _not_in_place(world, pod, container, Reason.IN_PLACE_NOT_POSSIBLE, told)
    if bounce.is_applied(container, planned):
        if container.state != "running":
            return _killed(world, pod, container)
        grace = float(pod.spec.get("terminationGracePeriodSeconds") or DEFAULT_GRACE)
        overdue = world.now >= began(world) + timedelta(seconds=grace + world.settings.kill_timeout)
        if world.now >= _last_moment(world, pod):
            return _revert(world, pod, container)
        if bounce.pending_reason(pod) or overdue:
            return _revert(world, pod, container)
        return Wait("the kubelet restarts the container", world.now + LOOK_AGAIN)
    if container.state != "running":
        # It ended by itself. A resize would do nothing now and end the next instance.
        return _not_in_place(world, pod, container, Reason.IN_PLACE_NOT_POSSIBLE, f"{_cannot} it is not running.")
    if world.now >= _last_moment(world, pod):
        return fail(world, Reason.TIMED_OUT, AS_BEFORE)
    if not sent:
        return step
    refused = world.answers[step.key]
    others = [c for c in bounce.candidates(pod) if c != planned]
    untried = [c for c in others if ResizePod(pod.name, pod.uid, "", c).key not in world.answers]
    if untried:
        return write_status(
            world, Phase.RESTARTING, Reason.IN_PROGRESS, "The server is being restarted in place.",
            resources=untried[0],
        )  # fmt: skip
    return _not_in_place(
        world,
        pod,
        container,
        Reason.IN_PLACE_NOT_POSSIBLE,
        f"{_cannot} {refused.message if refused else 'the cluster did not take the change'}.",
    )


def _may_be_undone(pod: Pod, container: Container, back: bounce.Resources) -> bool:
    """Whether a resize may be taken back though its container has ended: that comes back, and not because of it."""
    is_with_the_node = bool(bounce.pending_reason(pod)) or bounce.is_applied(container, back)
    return is_with_the_node and container.comes_back(pod.restart_policy)


def _await_node(world: World, pod: Pod) -> Plan:
    """What the node has taken up is not taken back: that would be a second change, and a second end."""
    wait = Wait("the node ends the container", world.now + LOOK_AGAIN)
    if world.now < _last_moment(world, pod):
        return wait
    told = "The node has begun to restart the server and is not done with that yet."
    return step_or_wait(world, write_status(world, Phase.RESTARTING, Reason.IN_PROGRESS, told, stalled=True), wait)


def _killed(world: World, pod: Pod, container: Container) -> Plan:
    """Killed, and not started again yet: the kubelet's back-off holds it, or has taken exit code 0 for the end.

    A container that is gone for good is no server any more, whatever the request says of its pod, and holds its device
    for nothing. One that the node is going to start again is left to it, with its device.
    """
    if not (_keeps_its_pod(world, pod) and container.comes_back(pod.restart_policy)):
        return _start_recreate(world, pod, container)
    if world.now >= _last_moment(world, pod):
        if bounce.pending_reason(pod):
            return _revert(world, pod, container)
        return fail(world, Reason.TIMED_OUT, f"{BACK_OFF} That was not waited for any longer.")
    status = write_status(world, Phase.RESTARTING, Reason.IN_PROGRESS, BACK_OFF)
    return step_or_wait(world, status, Wait("the kubelet's back-off", world.now + LOOK_AGAIN))


def _keeps_its_pod(world: World, pod: Pod) -> bool:
    """Whether a new pod is not an answer: it was not asked for, would give a device away, or might not be let in again.

    The server gave a part of its size up at its last restart; where a quota has no room for that part, it has none for
    a new pod of the whole size either.
    """
    is_auto = world.request.spec.get("strategy", Strategy.AUTO) == Strategy.AUTO
    has_no_room = any(refused and refused.is_quota for refused in world.answers.values())
    return not is_auto or has_no_room or bounce.holds_extended_resources(pod)


def _is_reverting(world: World) -> bool:
    return world.request.status.get("step") == "Reverting"


def _undo(world: World, pod: Pod, container: Container) -> Plan | None:
    """What is still to do for a resize that is taken back; None when it is done, or was waited for long enough."""
    step = ResizePod(pod.name, pod.uid, pod.resource_version, world.request.status["resources"])
    if not bounce.is_applied(container, step.resources):
        return _await_undoing(world, world.answers[step.key]) if step.key in world.answers else step
    if bounce.pending_reason(pod) and world.now < _last_moment(world, pod):
        return Wait("the resize is undone", world.now + LOOK_AGAIN)
    return None


def _await_undoing(world: World, refused: Refusal | None) -> Plan:
    """Left behind, the resize would end the server some other day. It is undone, or carried out after all."""
    told = f"The resize cannot be undone yet: {refused.message if refused else 'the cluster did not take the change'}"
    status = write_status(world, Phase.RESTARTING, Reason.RETRYING, told, stalled=True)
    return step_or_wait(world, status, Wait("the resize is undone", world.now + LOOK_AGAIN))


def _revert(world: World, pod: Pod, container: Container) -> Plan:
    """Take a resize back that the node did not carry out: left there, it would restart the server some other day."""
    allocated = container.status.get("allocatedResources")
    present = container.status.get("resources") or {}
    back = dict(present) or ({"requests": dict(allocated)} if allocated else pod.original_resources or {})
    return write_status(
        world, Phase.RESTARTING, Reason.IN_PROGRESS, "The node did not restart the server in place; undoing that.",
        mechanism="InPlace", step="Reverting", resources=back, stalled=_is_late(world, pod),
    )  # fmt: skip


def _lost_pod(world: World, pod: Pod | None) -> Plan:
    """The pod went while it was restarted. Whoever took it, the goal is a new instance that answers."""
    present = server_pod(world)
    if pod is not None and pod.is_deleting:
        if world.now < began(world) + timedelta(seconds=world.settings.stop_timeout):
            return Wait("the pod goes", world.now + LOOK_AGAIN)
    elif pod is not None and pod.notebook is not None:
        # With exit code 0 the node takes the pod for done. Where our resize ended it, it is started whatever was asked.
        # While it is taken back, the record is of what is to be again.
        is_ours = bounce.is_applied(pod.notebook, world.request.status["resources"]) != _is_reverting(world)
        if is_ours or world.request.spec.get("strategy") != Strategy.IN_PLACE:
            return _start_recreate(world, pod, pod.notebook)
    if present and present.uid != world.request.status["podUID"]:
        container = present.notebook
        if container and answers(world, present, container):
            return finish(
                world, Phase.SUCCEEDED, Reason.RESTARTED, "The server was started anew meanwhile and answers.",
                newContainerID=container.id, newPodUID=present.uid,
            )  # fmt: skip
        return _await_answer(world, present)
    return fail(world, Reason.SERVER_NOT_RUNNING, "The server was stopped while it was being restarted.")


def _crashed(world: World, container: Container) -> Plan:
    told, words = crash(container)
    return fail(world, Reason.LAB_CRASHED, told, newContainerID=container.id or None, lastWords=words or None)


def _last_moment(world: World, pod: Pod) -> datetime:
    """Whatever hinders a restart in place, it is not waited for longer than this."""
    grace = float(pod.spec.get("terminationGracePeriodSeconds") or DEFAULT_GRACE)
    return began(world) + timedelta(seconds=grace + world.settings.answer_timeout)


def _is_late(world: World, pod: Pod) -> bool:
    """What is begun anew by then goes round in circles: something else has to change."""
    return world.now >= _last_moment(world, pod)


def _await_answer(world: World, pod: Pod) -> Plan:
    waiting = await_answer(world, pod)
    return fail(world, waiting.reason) if isinstance(waiting, NotStarted) else waiting


def _recreate(world: World) -> Plan:
    old = world.request.status["podUID"]
    if world.request.status.get("step") == "Stopping":
        match _stop(world):
            case Stopped():
                return next_step(world, "Starting", "The server has stopped and is being started.")
            case NotStopped(reason, message):
                return _left_with_the_node(world) or fail(world, reason, message)
            case stopping:
                return stopping
    match start(world, old):
        case Started(pod, container):
            return finish(world, Phase.SUCCEEDED, Reason.RESTARTED, newPodUID=pod.uid, newContainerID=container.id)
        case NotStarted(crashed=Container() as container):
            return _crashed(world, container)
        case NotStarted(reason, message):
            return fail(world, reason, message)
        case starting:
            return starting


def _stop(world: World) -> Plan | Stopped | NotStopped:
    """A resize that is with the node may be carried out before the server stops: then it has been restarted."""
    status = world.request.status
    pod = next((pod for pod in world.pods if pod.uid == status["podUID"]), None)
    container = pod.notebook if pod and status.get("resources") else None
    if pod is None or container is None:
        return stop(world, status["podUID"])
    time = timedelta(seconds=world.settings.stop_timeout)
    waited = world.now - step_began(world)
    if pod.is_deleting or container.state != "running" or container.id == status["containerID"]:
        if bounce.is_under_way(pod) and not pod.is_deleting and waited < time / 4:
            return Wait("the node restarts the container after all", world.now + LOOK_AGAIN)
        return stop(world, pod.uid, container.id)
    # No stop is taken of an instance that has gone; one that was taken before comes within this time.
    if waited < time or (container.started_at and world.now < container.started_at + time / 2):
        return Wait("a stop that the hub was asked for may still come", world.now + LOOK_AGAIN)
    return _left_with_the_node(world) or _follow(world, pod, container)


def _left_with_the_node(world: World) -> Plan | None:
    """Before the end: take a resize of ours back that the node has put off, and wait for one that it has taken up."""
    planned = world.request.status.get("resources")
    pod = next((pod for pod in world.pods if pod.uid == world.request.status["podUID"]), None)
    if planned is None or pod is None or pod.notebook is None or pod.is_deleting:
        return None
    if not (bounce.is_a_step_of_ours(pod) or bounce.is_applied(pod.notebook, planned)):
        return None
    if bounce.is_under_way(pod):
        return _await_node(world, pod)
    return _revert(world, pod, pod.notebook) if bounce.pending_reason(pod) else None
