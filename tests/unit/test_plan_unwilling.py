"""Restarts that the node, the hub or the cluster refuses, puts off, takes up late or half carries out: nobody is ended twice,
and no server is left behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from steward_api.phases import Phase, Reason
from steward_operator.core.model import Pod, Refusal, Request
from steward_operator.core.plan_restart import plan_restart
from steward_operator.core.steps import Done, ResizePod, StartServer, StopServer, Wait, WriteStatus

from tests.support.builders import (
    AT,
    TABLE,
    after,
    bouncing,
    claim,
    pod,
    recreating,
    reset,
    restart,
    status_of,
    told,
    with_status,
    world,
    written,
)

Json = dict[str, Any]


def test_the_last_moment_leaves_the_server_as_it_was() -> None:
    req = bouncing()
    failing = [{"type": "PodResizeInProgress", "status": "True", "reason": "Error"}]
    undoing = status_of(
        plan_restart(world(req, pod(present=req.status["resources"], conditions=failing), now=after(330)))
    )
    assert (undoing["step"], undoing["message"]) == (
        "Reverting", "The node did not restart the server in place; undoing that.",
    )  # fmt: skip
    unsent = told(plan_restart(world(req, pod(), now=after(330))))
    assert unsent == ("Failed", "TimedOut", "The server was not restarted in time; it is as it was before.")


@pytest.mark.parametrize("device", [False, True])
def test_a_resize_that_cannot_be_undone_is_not_left_behind(device: bool) -> None:
    limits = {"nvidia.com/gpu": "1"} if device else None
    req = with_status(bouncing(strategy="Auto" if device else "InPlace"), step="Reverting",
                      resources={"requests": {"cpu": "50m"}})  # fmt: skip
    stepped = pod(present={"requests": {"cpu": "49m", "memory": "256Mi"}, "limits": limits or {}})
    answers: dict[str, Refusal | None] = {
        ResizePod("jupyter-ann", "pod-1", "", req.status["resources"]).key: Refusal(403, "minimum is 60m.")
    }
    step = plan_restart(world(req, stepped, answers=answers, now=after(1000)))
    assert told(step) == ("Restarting", "Retrying", "The resize cannot be undone yet: minimum is 60m.")
    assert isinstance(plan_restart(world(written(req, step), stepped, answers=answers, now=after(1001))), Wait)
    assert isinstance(plan_restart(world(written(req, step), stepped, now=after(1002))), ResizePod)
    auto = with_status(bouncing(), step="Reverting", resources={"requests": {"cpu": "50m"}})
    plain = pod(present={"requests": {"cpu": "49m", "memory": "256Mi"}})
    assert status_of(plan_restart(world(auto, plain, answers=answers)))["mechanism"] == "Recreate"


def test_what_the_node_does_after_all_is_the_restart_and_the_server_is_not_stopped_as_well() -> None:
    """The resize could not be undone, so that the server is to be stopped; the node may be quicker."""
    req = with_status(bouncing(), step="Reverting", resources={"requests": {"cpu": "50m"}})
    stepped = {"requests": {"cpu": "49m", "memory": "256Mi"}}
    refused: dict[str, Refusal | None] = {
        ResizePod("jupyter-ann", "pod-1", "", req.status["resources"]).key: Refusal(403, "minimum is 60m.")
    }
    req = written(req, plan_restart(world(req, pod(present=stepped), answers=refused)))
    assert plan_restart(world(req, pod(present=stepped))) == StopServer("ann", "", "pod-1", "c1")
    killed = pod(present=stepped, state="terminated")
    assert plan_restart(world(req, killed)) == StopServer("ann", "", "pod-1", "c1"), "it may never come back"
    new = pod(present=stepped, container="c2", restarts=1)
    waiting = Wait("a stop that the hub was asked for may still come", after(121))
    assert plan_restart(world(req, new, now=after(119))) == waiting
    end = status_of(plan_restart(world(req, new, now=after(120))))
    assert (end["phase"], end["reason"], end["newContainerID"]) == (Phase.SUCCEEDED, Reason.RESTARTED, "c2")
    dead = pod(present=stepped, container="c2", restarts=1, state="terminated")
    assert plan_restart(world(req, dead, now=after(120))) == StopServer("ann", "", "pod-1", "c2")
    assert isinstance(plan_restart(world(req, pod(present=stepped, container="c2", restarts=1, deleting=True))), Wait)
    asked = with_status(req, resources=None)
    assert plan_restart(world(asked, new)) == StopServer("ann", "", "pod-1"), "where nothing was left to the node"


DEFERRED = [{"type": "PodResizePending", "status": "True", "reason": "Deferred"}]
UNDER_WAY = [{"type": "PodResizeInProgress", "status": "True"}]
STEPPED: Json = {"requests": {"cpu": "49m", "memory": "256Mi"}}


def stopping_with_a_resize_left() -> Request:
    """The node put the resize off, it may not be undone, and the hub is to stop the server."""
    return with_status(recreating("Stopping"), resources={"requests": {"cpu": "50m"}})


def test_what_the_node_has_still_to_do_is_taken_back_before_the_end_of_a_server_that_came_by_itself() -> None:
    req = stopping_with_a_resize_left()
    new = pod(present=STEPPED, container="c2", restarts=1, conditions=DEFERRED)
    assert isinstance(plan_restart(world(req, new, now=after(119))), Wait)
    undoing = plan_restart(world(req, new, now=after(120)))
    assert (status_of(undoing)["mechanism"], status_of(undoing)["step"]) == ("InPlace", "Reverting")
    req = written(req, undoing)
    assert isinstance(plan_restart(world(req, new, now=after(121))), ResizePod)
    undone = pod(container="c2", restarts=1)
    assert status_of(plan_restart(world(req, undone, now=after(122))))["reason"] == Reason.RESTARTED


def test_nor_is_it_left_behind_when_the_hub_does_not_stop_the_server() -> None:
    req = stopping_with_a_resize_left()
    old = pod(present=STEPPED, conditions=DEFERRED)
    undoing = status_of(plan_restart(world(req, old, now=after(120))))
    assert (undoing["mechanism"], undoing["step"]) == ("InPlace", "Reverting")
    somebody_elses = pod(present={"requests": {"cpu": "2", "memory": "1Gi"}}, conditions=DEFERRED)
    assert status_of(plan_restart(world(req, somebody_elses, now=after(120))))["phase"] == Phase.FAILED
    assert status_of(plan_restart(world(req, pod(present=STEPPED), now=after(120))))["phase"] == Phase.FAILED


def test_a_resize_that_the_node_has_taken_up_is_not_taken_back() -> None:
    """It would be a second change: the node would end the new instance, too."""
    req = with_status(bouncing(), step="Reverting", resources={"requests": {"cpu": "50m"}})
    taken_up = pod(present=STEPPED, conditions=UNDER_WAY)
    assert isinstance(plan_restart(world(req, taken_up, now=after(5))), Wait)
    assert isinstance(plan_restart(world(req, pod(present=STEPPED), now=after(5))), ResizePod)
    step = plan_restart(world(req, taken_up, now=after(330)))
    assert told(step)[2] == "The node has begun to restart the server and is not done with that yet."
    assert isinstance(plan_restart(world(written(req, step), taken_up, now=after(999))), Wait)
    resizing = plan_restart(world(bouncing(), taken_up, now=after(330)))
    assert told(resizing) == told(step), "nor is it given up"
    stopping = stopping_with_a_resize_left()
    assert isinstance(plan_restart(world(stopping, taken_up, now=after(29))), Wait)
    assert plan_restart(world(stopping, taken_up, now=after(30))) == StopServer("ann", "", "pod-1", "c1")
    assert told(plan_restart(world(stopping, taken_up, now=after(400)))) == told(step)


@pytest.mark.parametrize("device", [False, True])
def test_what_the_node_took_up_before_it_could_be_undone_and_does_not_start_again_is_started(device: bool) -> None:
    """Back-off, and an exit code of 0: the container is dead for good, or, where it was alone, its pod is over."""
    req = with_status(bouncing(strategy="Auto" if device else "InPlace"), step="Reverting",
                      resources={"requests": {"cpu": "50m"}})  # fmt: skip
    limits = {"limits": {"nvidia.com/gpu": "1"}} if device else {}
    dead = pod(present={**STEPPED, **limits}, state="terminated")
    assert status_of(plan_restart(world(req, dead)))["mechanism"] == "Recreate"
    over = pod(present={**STEPPED, **limits}, state="terminated", phase="Succeeded")
    assert status_of(plan_restart(world(req, over)))["mechanism"] == "Recreate"
    undone = pod(present={"requests": {"cpu": "50m"}, **limits}, state="terminated")
    assert status_of(plan_restart(world(req, undone)))["mechanism"] == "Recreate", "nor is it left dead afterwards"


def test_a_container_that_the_node_starts_again_with_its_new_size_is_not_resized_back_meanwhile() -> None:
    req = with_status(bouncing(strategy="InPlace"), step="Reverting", resources={"requests": {"cpu": "50m"}})
    dying = pod(present=STEPPED, state="waiting", last={"exitCode": 137})
    assert told(plan_restart(world(req, dying)))[0] == "Restarting"
    assert told(plan_restart(world(req, dying, now=after(400))))[1] == "TimedOut"
    put_off = pod(present=STEPPED, state="waiting", last={"exitCode": 137}, conditions=DEFERRED)
    assert isinstance(plan_restart(world(req, put_off)), ResizePod), "what the node has not taken up is taken back"


def test_a_resize_that_the_node_takes_up_for_an_instance_that_came_by_itself_is_waited_for() -> None:
    """It ends that one; the next one is the end of the request, and no crash."""

    def came(size: Json, **more: Any) -> Pod:
        found = pod(present=STEPPED, conditions=UNDER_WAY, **more)
        found.manifest["status"]["containerStatuses"][0]["resources"] = size  # type: ignore[index]
        return found

    req = with_status(bouncing(), step="Reverting", resources={"requests": {"cpu": "50m"}})
    old_size: Json = {"requests": {"cpu": "50m", "memory": "256Mi"}}
    assert isinstance(plan_restart(world(req, came(old_size, container="c2", restarts=1))), Wait)
    assert status_of(plan_restart(world(req, came(STEPPED, container="c3", restarts=2))))["reason"] == Reason.RESTARTED
    new = came(STEPPED, container="c2", restarts=1)
    assert status_of(plan_restart(world(bouncing(), new)))["reason"] == Reason.RESTARTED, "not for a word that is old"


def test_an_instance_that_was_waited_for_beyond_the_last_moment_has_its_time() -> None:
    new = pod(container="c2", restarts=1, started=after(500), ready=False, present=STEPPED)
    assert isinstance(plan_restart(world(bouncing(), new, now=after(799))), Wait)
    assert told(plan_restart(world(bouncing(), new, now=after(800))))[1] == "TimedOut"
    late = pod(uid="pod-2", container="", created=after(600), ready=False)
    assert isinstance(plan_restart(world(recreating("Starting"), late, now=after(899))), Wait)
    assert told(plan_restart(world(recreating("Starting"), late, now=after(900))))[1] == "TimedOut"


def test_a_hub_that_is_back_and_not_ready_for_everything_is_asked_for_as_long_as_before() -> None:
    away: dict[str, Refusal | None] = {"start": Refusal(503, "no upstream")}
    step = plan_restart(world(recreating("Starting"), claim(), answers=away, now=after(600)))
    req = written(recreating("Starting"), step)
    pending: dict[str, Refusal | None] = {"start": Refusal(400, "ann is pending check")}
    again = plan_restart(world(req, claim(), answers=pending, now=after(601)))
    assert (status_of(again)["step"], status_of(again)["reason"]) == ("Starting", Reason.IN_PROGRESS)
    req = written(req, again)
    assert isinstance(plan_restart(world(req, claim(), answers=pending, now=after(720))), Wait)
    assert told(plan_restart(world(req, claim(), answers=pending, now=after(721))))[1] == "StartFailed"


def test_a_stop_on_its_way_is_waited_for_when_an_instance_comes_late() -> None:
    req = stopping_with_a_resize_left()
    late = pod(present=STEPPED, container="c2", restarts=1, started=after(200))
    assert isinstance(plan_restart(world(req, late, now=after(259))), Wait)
    assert status_of(plan_restart(world(req, late, now=after(260))))["reason"] == Reason.RESTARTED


def test_the_size_that_was_asked_for_is_none_of_a_new_start_s_business() -> None:
    """Where no restart in place was tried, what the node has still to do is somebody else's."""
    put_off = pod(present=STEPPED, conditions=DEFERRED)
    said = told(plan_restart(world(recreating(), put_off, now=after(120))))
    assert said == ("Failed", "TimedOut", "The server did not stop in time. Its pod is still there.")


def test_a_step_from_somebody_elses_size_is_taken_back_too() -> None:
    grown: Json = {"requests": {"cpu": "499m", "memory": "256Mi"}}
    req = with_status(recreating(), resources=grown)
    undoing = status_of(plan_restart(world(req, pod(present=grown, conditions=DEFERRED), now=after(120))))
    assert undoing["step"] == "Reverting"


@pytest.mark.parametrize("reason", ["our resize", "by itself"])
def test_a_server_that_comes_back_after_all_is_not_stopped_because_it_was_dead(reason: str) -> None:
    """It was found dead, so that the hub is to stop and start it; the hub is slow, and the node is not."""
    conditions = DEFERRED if reason == "by itself" else []
    dead = pod(present=STEPPED, state="terminated", last={"exitCode": 137}, conditions=conditions)
    req = written(bouncing(), plan_restart(world(bouncing(), dead)))
    assert req.status["mechanism"] == "Recreate"
    assert plan_restart(world(req, dead)) == StopServer("ann", "", "pod-1", "c1")
    back = pod(present=STEPPED, container="c2", restarts=1)
    assert isinstance(plan_restart(world(req, back, now=after(60))), Wait)
    end = status_of(plan_restart(world(req, back, now=after(120))))
    assert (end["phase"], end["newContainerID"]) == (Phase.SUCCEEDED, "c2")


@pytest.mark.parametrize("state", ["running", "terminated"])
def test_a_resize_that_is_still_to_come_does_not_end_an_instance_that_came_by_itself(state: str) -> None:
    """The old instance died while the node put the resize off; what runs now is what the user works in."""
    pending = [{"type": "PodResizePending", "status": "True", "reason": "Deferred"}]
    req = bouncing()
    stepped = req.status["resources"]
    back = {"requests": {"cpu": "50m", "memory": "256Mi"}}

    def new(present: Json, conditions: list[Json]) -> Pod:
        return pod(container="c2", restarts=1, state=state, policy="Always", present=present, conditions=conditions)

    step = plan_restart(world(req, new(stepped, pending)))
    assert (status_of(step)["phase"], status_of(step)["step"]) == ("Restarting", "Reverting")
    req = written(req, step)
    assert req.status["resources"] == back
    sent = plan_restart(world(req, new(stepped, pending)))
    assert isinstance(sent, ResizePod)
    assert sent.resources == back
    refused: dict[str, Refusal | None] = {sent.key: Refusal(403, "minimum is 60m.")}
    told_of = told(plan_restart(world(req, new(stepped, pending), answers=refused)))
    assert told_of == ("Restarting", "Retrying", "The resize cannot be undone yet: minimum is 60m.")
    assert plan_restart(world(req, new(back, pending), now=after(329))) == Wait("the resize is undone", after(331))
    end = "Succeeded" if state == "running" else "Failed"
    assert told(plan_restart(world(req, new(back, pending), now=after(330))))[0] == end
    assert told(plan_restart(world(req, new(back, []))))[0] == end


def test_the_pending_resize_of_somebody_else_is_none_of_a_restart_s_business() -> None:
    pending = [{"type": "PodResizePending", "status": "True", "reason": "Deferred"}]
    grown = {"requests": {"cpu": "4", "memory": "8Gi"}}
    other = pod(container="c2", restarts=1, present=grown, conditions=pending)
    assert told(plan_restart(world(bouncing(), other)))[:2] == ("Succeeded", "Restarted")


@pytest.mark.parametrize("strategy", ["Auto", "InPlace"])
def test_a_killed_server_that_does_not_come_back_is_started_anew_whatever_was_asked_for(strategy: str) -> None:
    """A container that ended with exit code 0 is gone for good, and holds its device for nothing."""
    req = bouncing(strategy=strategy)
    gone = pod(present={**req.status["resources"], "limits": {"nvidia.com/gpu": "1"}}, state="terminated")
    for moment in (after(1), after(1000)):
        status = status_of(plan_restart(world(req, gone, now=moment)))
        assert (status["phase"], status["mechanism"], status["step"]) == ("Restarting", "Recreate", "Stopping")


def test_a_killed_server_that_the_node_holds_back_keeps_its_device() -> None:
    req = bouncing()
    resources = {**req.status["resources"], "limits": {"nvidia.com/gpu": "1"}}
    held = pod(present=resources, state="terminated", policy="Always")
    step = plan_restart(world(req, held, now=after(1)))
    said = "The server has ended; the node starts it again when it has waited for a while."
    assert told(step) == ("Restarting", "InProgress", said)
    assert isinstance(plan_restart(world(written(req, step), held, now=after(329))), Wait)
    late = told(plan_restart(world(req, held, now=after(330))))
    assert late == ("Failed", "TimedOut", f"{said} That was not waited for any longer.")
    deferred = [{"type": "PodResizePending", "status": "True", "reason": "Deferred"}]
    put_off = pod(present=resources, state="terminated", policy="Always", conditions=deferred)
    status = status_of(plan_restart(world(req, put_off, now=after(330))))
    assert (status["phase"], status["step"]) == ("Restarting", "Reverting"), "it would end the server some other day"
    without = pod(present=req.status["resources"], state="terminated", policy="Always")
    assert status_of(plan_restart(world(req, without, now=after(1))))["mechanism"] == "Recreate"


def test_the_hub_is_asked_to_stop_what_is_dead_until_it_does() -> None:
    busy: dict[str, Refusal | None] = {"stop": Refusal(503, "The hub is busy.")}
    dead = pod(state="terminated")
    said = plan_restart(world(recreating(), dead, answers=busy, now=after(9999)))
    assert told(said) == ("Restarting", "Retrying", "The hub did not stop the server: The hub is busy.")
    assert isinstance(plan_restart(world(written(recreating(), said), dead, answers=busy, now=after(9999))), Wait)
    assert isinstance(plan_restart(world(written(recreating(), said), dead, now=after(9999))), StopServer)
    forgotten = "The hub says that it has stopped the server, and its pod is still there."
    assert plan_restart(world(recreating(), dead, answers={"stop": None}, now=after(119))) == Wait(
        "the pod goes", after(121)
    )
    assert told(plan_restart(world(recreating(), dead, answers={"stop": None}, now=after(120))))[2] == forgotten
    assert told(plan_restart(world(written(recreating(), said), pod(), now=after(120))))[0] == "Failed"


def test_a_start_waits_for_a_volume_that_another_request_holds() -> None:
    other = with_status(reset(name="other"), phase="BackingUp", lockedClaims=["home-ann"])
    req = recreating("Starting")
    assert isinstance(plan_restart(world(req, claim(), others=(other,), now=after(59))), Wait)
    step = plan_restart(world(req, claim(), others=(other,), now=after(60)))
    assert status_of(step)["stepTime"] == "2026-11-21T12:01:00Z"
    assert told(step)[2] == "The server starts when the request other is done with its volumes."
    assert plan_restart(world(written(req, step), claim(), now=after(200))) == StartServer("ann", "")
    elsewhere = with_status(reset(name="other", server="gpu"), phase="BackingUp", lockedClaims=["home-ann--gpu"],
                            volumes=[{"volume": "home"}, {"volume": "of before"}])  # fmt: skip
    assert plan_restart(world(req, claim(), others=(elsewhere,))) == StartServer("ann", "")
    shared = with_status(elsewhere, lockedClaims=["shared-ann"], volumes=[{"volume": "everywhere"}])
    table = {**TABLE, "everywhere": replace(TABLE["home"], kind="everywhere", name_template="shared-{username}")}
    assert isinstance(plan_restart(world(req, claim(), others=(shared,), table=table)), Wait)


def test_a_start_that_the_spawner_took_back_because_of_a_lock_is_asked_for_again() -> None:
    """The hub answers before its spawner looks."""
    other = with_status(reset(name="other"), phase="BackingUp", lockedClaims=["home-ann"])
    step = plan_restart(world(recreating("Awaiting"), claim(), others=(other,), now=after(59)))
    assert status_of(step)["step"] == "Starting"
    assert status_of(step)["stepTime"] == "2026-11-21T12:00:59Z"
    assert told(step)[2] == "The server starts when the request other is done with its volumes."
    assert plan_restart(world(written(recreating(), step), claim(), now=after(600))) == StartServer("ann", "")


@pytest.mark.parametrize("strategy", ["Auto", "InPlace"])
def test_a_server_whose_pod_is_over_after_our_resize_is_started_whatever_was_asked(strategy: str) -> None:
    """With exit code 0 and OnFailure the node takes a pod of one container for done."""
    req = bouncing(strategy=strategy)
    over = pod(present=req.status.get("resources"), state="terminated", phase="Succeeded")
    status = status_of(plan_restart(world(req, over)))
    assert (status["phase"], status["mechanism"]) == ("Restarting", "Recreate")


def test_a_pod_that_was_over_before_our_resize_is_not_started_by_a_restart_in_place() -> None:
    req = bouncing(strategy="InPlace")
    assert told(plan_restart(world(req, pod(state="terminated", phase="Succeeded"))))[:2] == (
        "Failed",
        "ServerNotRunning",
    )
    back = with_status(req, step="Reverting", resources={"requests": {"cpu": "50m", "memory": "256Mi"}})
    assert told(plan_restart(world(back, pod(state="terminated", phase="Succeeded"))))[:2] == (
        "Failed",
        "ServerNotRunning",
    )


def test_a_strategy_and_a_phase_of_a_newer_operator() -> None:
    said = told(plan_restart(world(restart(strategy="Hibernate"), pod())))
    assert said == ("Failed", "NotSupported", "This operator cannot do strategy Hibernate yet.")
    newer = with_status(restart(), phase="Hibernating")
    assert plan_restart(world(newer, pod())) == Done()
    assert not newer.is_finished
    assert with_status(newer, completionTime=AT).is_finished


@pytest.mark.parametrize(
    ("reported", "back"),
    [
        (
            {"resources": {"requests": {"cpu": "50m"}}, "allocatedResources": {"cpu": "7m"}},
            {"requests": {"cpu": "50m"}},
        ),
        ({"allocatedResources": {"cpu": "50m"}}, {"requests": {"cpu": "50m"}}),
        ({}, {"requests": {"cpu": "50m", "memory": "256Mi"}}),
    ],
)
def test_a_resize_is_taken_back_to_what_the_node_gave(reported: Json, back: Json) -> None:
    req = bouncing()
    pending = [{"type": "PodResizePending", "status": "True", "reason": "Deferred"}]
    stuck = pod(present=req.status["resources"], conditions=pending)
    stuck.manifest["status"]["containerStatuses"][0].update(reported)  # type: ignore[index]
    status = status_of(plan_restart(world(req, stuck)))
    assert (status["step"], status["resources"]) == ("Reverting", back)
    assert (status["reason"], status["message"]) == (
        "InProgress",
        "The node did not restart the server in place; undoing that.",
    )
    req = written(req, plan_restart(world(req, stuck)))
    step = plan_restart(world(req, stuck))
    assert isinstance(step, ResizePod)
    assert step.resources == back


def test_a_kubelet_that_does_nothing_is_given_the_grace_period_and_a_little_more() -> None:
    req = bouncing()
    applied = pod(present=req.status["resources"])
    assert plan_restart(world(req, applied, now=after(44))) == Wait("the kubelet restarts the container", after(46))
    assert status_of(plan_restart(world(req, applied, now=after(45))))["step"] == "Reverting"
    short = pod(present=req.status["resources"])
    short.manifest["spec"]["terminationGracePeriodSeconds"] = 5  # type: ignore[index]
    assert isinstance(plan_restart(world(req, short, now=after(19))), Wait)
    assert status_of(plan_restart(world(req, short, now=after(20))))["step"] == "Reverting"


def test_what_was_taken_back_is_waited_for_and_then_left() -> None:
    req = with_status(bouncing(), step="Reverting", resources={"requests": {"cpu": "50m", "memory": "256Mi"}})
    pending = [{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]
    assert plan_restart(world(req, pod(conditions=pending))) == Wait("the resize is undone", after(2))
    only = with_status(req)
    only = Request({**only.manifest, "spec": {**only.spec, "strategy": "InPlace"}})
    said = told(plan_restart(world(only, pod())))
    assert said == ("Failed", "InPlaceNotPossible", "The node refused to resize the server.")


@pytest.mark.parametrize(("answer", "why"), [(Refusal(403, "exceeded quota: x"), "exceeded quota: x"), (None, None)])
def test_a_change_that_nobody_takes_is_told_of(answer: Refusal | None, why: str | None) -> None:
    """Refused, or taken and not written down: an admission webhook may put the old size back."""
    req = bouncing(strategy="InPlace")
    answers: dict[str, Refusal | None] = {}
    for _ in range(2):
        step = plan_restart(world(req, pod(), answers=answers))
        if isinstance(step, WriteStatus):
            req = written(req, step)
            step = plan_restart(world(req, pod(), answers=answers))
        assert isinstance(step, ResizePod)
        answers[step.key] = answer
    said = told(plan_restart(world(req, pod(), answers=answers)))
    why = why or "the cluster did not take the change"
    assert said == ("Failed", "InPlaceNotPossible", f"This server cannot be restarted in place: {why}.")


def test_a_container_that_ended_by_itself_is_not_resized() -> None:
    assert status_of(plan_restart(world(bouncing(), pod(state="terminated"))))["mechanism"] == "Recreate"
    said = told(plan_restart(world(bouncing(strategy="InPlace"), pod(state="terminated"))))
    assert said[2] == "This server cannot be restarted in place: it is not running."
