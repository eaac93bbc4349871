"""Servers that are stopped, started, lost or crash while a restart is carried out: what is done and what is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from steward_api.phases import Phase, Reason
from steward_operator.core.model import Container, Pod, Refusal, Request
from steward_operator.core.plan_restart import plan_restart
from steward_operator.core.steps import Done, ResizePod, StartServer, StopServer, Wait, WriteStatus

from tests.support.builders import (
    NOW,
    TABLE,
    after,
    claim,
    pod,
    reset,
    restart,
    status_of,
    told,
    with_status,
    world,
    written,
)

Json = dict[str, Any]
AT = "2026-11-21T12:00:00Z"


def bouncing(**spec: Any) -> Request:
    req = restart(**spec)
    return written(req, plan_restart(world(req, pod())))


def recreating(step: str = "Stopping") -> Request:
    return with_status(restart(), phase="Restarting", mechanism="Recreate", step=step, podUID="pod-1", stepTime=AT,
                       containerID="c1", restartCount=0, startTime=AT)  # fmt: skip


# -- what is written down before anything is done ----------------------------------------------------------------------


def test_what_a_restart_in_place_writes_down_first() -> None:
    assert status_of(plan_restart(world(restart(), pod(restarts=2)))) == {
        "phase": "Restarting", "reason": "InProgress", "message": "The server is being restarted in place.",
        "mechanism": "InPlace", "step": "Resizing", "resources": {"requests": {"cpu": "49m", "memory": "256Mi"}},
        "podName": "jupyter-ann", "podUID": "pod-1", "containerID": "c1", "restartCount": 2,
        "startTime": AT, "observedGeneration": 1,
    }  # fmt: skip


def test_what_a_new_start_writes_down_first_and_what_it_takes_back() -> None:
    waiting = with_status(restart(strategy="Recreate"), waitingUntil=AT)
    assert status_of(plan_restart(world(waiting, pod(), now=after(7)))) == {
        "phase": "Restarting", "reason": "InProgress", "message": "The server is being stopped and started again.",
        "mechanism": "Recreate", "step": "Stopping", "stepTime": "2026-11-21T12:00:07Z",
        "podName": "jupyter-ann", "podUID": "pod-1", "containerID": "c1", "restartCount": 0,
        "startTime": "2026-11-21T12:00:07Z", "observedGeneration": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ((), "The server is not running."),
        ((pod(deleting=True),), "The server is not running."),
        ((pod(container=""),), "The server is still starting; there is nothing to restart yet."),
    ],
)
def test_what_does_not_run_is_not_restarted(objects: tuple[Pod, ...], message: str) -> None:
    phase, reason, said = told(plan_restart(world(restart(), claim(), *objects)))
    assert (phase, reason) == ("Failed", "ServerNotRunning")
    assert said.startswith(message[:-1])


@pytest.mark.parametrize(
    ("of_pod", "why"),
    [
        ({"policy": "Never"}, "its restart policy is Never."),
        ({"resize": False}, "it was started without the resize policy that a restart in place needs."),
        ({"state": "waiting", "ready": False}, "it is not running."),
        ({"state": "terminated", "ready": False}, "it is not running."),
    ],
)
def test_why_a_server_cannot_be_restarted_in_place_is_said_where_nothing_else_is_wanted(of_pod: Json, why: str) -> None:
    server = pod(**of_pod)
    said = told(plan_restart(world(restart(strategy="InPlace"), server)))
    assert said == ("Failed", "InPlaceNotPossible", f"This server cannot be restarted in place: {why}")
    assert status_of(plan_restart(world(restart(), server)))["mechanism"] == "Recreate"


def test_a_device_is_spoken_of() -> None:
    both = {"requests": {"cpu": "50m"}, "limits": {"nvidia.com/gpu": "1"}}
    gpu = pod(present=both)
    device = " It holds a device that might be gone after a new start, so it was left alone."
    often = told(plan_restart(world(restart(), gpu, recent_restarts={"pod-1": 3})))
    assert often == (
        "Failed",
        "TooManyRestarts",
        "The server has been restarted too often in the last minutes." + device,
    )
    old = told(plan_restart(world(restart(), pod(present=both, resize=False))))
    assert old[2].endswith("a restart in place needs." + device)


def test_a_wait_says_until_when_and_records_what_is_to_go() -> None:
    young = pod(started=NOW - timedelta(seconds=10))
    status = status_of(plan_restart(world(restart(created=NOW - timedelta(seconds=5)), young)))
    assert status == {
        "phase": "Pending", "reason": "WaitingForServer", "waitingUntil": "2026-11-21T12:00:20Z",
        "message": "The server started a moment ago; it is restarted at 2026-11-21T12:00:20Z.",
        "podName": "jupyter-ann", "podUID": "pod-1", "containerID": "c1", "restartCount": 0, "observedGeneration": 1,
    }  # fmt: skip
    ready = pod(started=NOW - timedelta(seconds=30))
    assert status_of(plan_restart(world(restart(created=NOW - timedelta(seconds=5)), ready)))["mechanism"] == "InPlace"


def test_a_resize_that_is_on_is_waited_for() -> None:
    on = [{"type": "PodResizeInProgress", "status": "True"}]
    said = told(plan_restart(world(restart(), pod(conditions=on))))
    sentence = "The server's resources are being changed; it is restarted after that."
    assert said == ("Pending", "WaitingForServer", sentence)


def test_a_duplicate_names_the_restart_that_it_waits_for() -> None:
    first = with_status(restart(name="first"), phase="Restarting")
    said = told(plan_restart(world(restart(name="second"), pod(), others=(first,))))
    assert said == ("Pending", "WaitingForOtherRequest", "The restart first is running; this request ends with it.")
    for other in (
        with_status(restart(name="first"), phase="Pending"),
        with_status(restart(name="first", user="bob"), phase="Restarting"),
        with_status(restart(name="first", server="gpu"), phase="Restarting"),
    ):
        assert status_of(plan_restart(world(restart(name="second"), pod(), others=(other,))))["phase"] == "Restarting"


# -- a pod that goes in the middle -------------------------------------------------------------------------------------


def test_a_pod_that_is_gone_ends_the_request() -> None:
    said = told(plan_restart(world(bouncing(), claim())))
    assert said == ("Failed", "ServerNotRunning", "The server was stopped while it was being restarted.")


def test_a_pod_that_goes_is_waited_for_as_long_as_a_stop_may_take() -> None:
    going = pod(deleting=True)
    wait = plan_restart(world(bouncing(), going, now=after(119)))
    assert wait == Wait("the pod goes", after(121))
    assert told(plan_restart(world(bouncing(), going, now=after(120))))[1] == "ServerNotRunning"


@pytest.mark.parametrize(("strategy", "mechanism"), [("Auto", "Recreate"), ("InPlace", None)])
def test_a_pod_that_ended_is_started_anew_unless_in_place_is_asked_for(strategy: str, mechanism: str | None) -> None:
    step = plan_restart(world(bouncing(strategy=strategy), pod(phase="Failed")))
    if mechanism:
        assert (status_of(step)["mechanism"], status_of(step)["step"]) == (mechanism, "Stopping")
    else:
        assert told(step)[1] == "ServerNotRunning"


def test_a_server_that_somebody_started_anew_is_as_good() -> None:
    new = pod(uid="pod-2", container="c9")
    status = status_of(plan_restart(world(bouncing(), new)))
    assert (status["phase"], status["reason"]) == ("Succeeded", "Restarted")
    assert status["message"] == "The server was started anew meanwhile and answers."
    assert (status["newPodUID"], status["newContainerID"]) == ("pod-2", "c9")
    coming = pod(uid="pod-2", container="c9", ready=False)
    assert plan_restart(world(bouncing(), coming, now=after(1))) == Wait("the server answers", after(3))
    assert told(plan_restart(world(bouncing(), coming, now=after(300))))[:2] == ("Failed", "TimedOut")
    assert isinstance(plan_restart(world(bouncing(), coming, now=after(299))), Wait)


# -- crashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "message", "words"),
    [
        ({"exitCode": 3, "message": " bad config \n"}, "with exit code 3.", "bad config"),
        ({"exitCode": 0}, "with exit code 0.", None),
        ({"message": "x" * 5000}, "before it answered.", "x" * 4000),
    ],
)
def test_the_last_words_of_a_crash(last: Json, message: str, words: str | None) -> None:
    status = status_of(plan_restart(world(bouncing(), pod(container="c2", restarts=1, state="waiting", last=last))))
    assert (status["phase"], status["reason"], status["newContainerID"]) == ("Failed", "LabCrashed", "c2")
    assert status["message"].startswith("The server was restarted and ended before it answered")
    assert status["message"].endswith(message)
    assert status.get("lastWords") == words


def test_a_crash_that_came_and_went_unseen_shows_in_the_count() -> None:
    req = bouncing()
    assert told(plan_restart(world(req, pod(container="c3", restarts=2))))[1] == "LabCrashed"
    assert told(plan_restart(world(req, pod(container="c2", restarts=1))))[0] == "Succeeded"


# -- the kubelet that does not do it -----------------------------------------------------------------------------------


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


# -- through the hub ---------------------------------------------------------------------------------------------------


def test_a_hub_that_does_not_stop_the_server_is_told_of() -> None:
    answers: dict[str, Refusal | None] = {"stop": Refusal(503, "The hub is busy.")}
    step = plan_restart(world(recreating(), pod(), answers=answers, now=after(59)))
    sentence = "The hub did not stop the server: The hub is busy."
    assert told(step) == ("Restarting", "Retrying", sentence)
    req = written(recreating(), step)
    assert plan_restart(world(req, pod(), answers=answers, now=after(59))) == Wait("the pod goes", after(61))
    assert plan_restart(world(req, pod(), now=after(59))) == StopServer("ann", "", "pod-1")
    assert plan_restart(world(req, pod(), now=after(60))) == Wait("the pod goes", after(62)), "not asked any more"
    assert plan_restart(world(req, pod(), now=after(119))) == Wait("the pod goes", after(121)), "it may still do it"
    assert told(plan_restart(world(req, pod(), now=after(120)))) == (
        "Failed", "StartFailed", f"{sentence} It is still running.",
    )  # fmt: skip


def test_a_pod_that_does_not_go_is_told_of() -> None:
    going = pod(deleting=True)
    assert isinstance(plan_restart(world(recreating(), going, now=after(119))), Wait)
    step = plan_restart(world(recreating(), going, now=after(120)))
    sentence = "The server's pod is being deleted and is not gone yet; its node may be away."
    assert told(step) == ("Restarting", "InProgress", sentence)
    assert isinstance(plan_restart(world(written(recreating(), step), going, now=after(9999))), Wait)
    unmarked = told(plan_restart(world(recreating(), pod(), answers={"stop": None}, now=after(120))))
    assert unmarked == ("Failed", "TimedOut", "The server did not stop in time. Its pod is still there.")


def test_the_way_through_the_hub_is_told() -> None:
    status = status_of(plan_restart(world(recreating(), claim(), now=after(5))))
    assert (status["step"], status["stepTime"]) == ("Starting", "2026-11-21T12:00:05Z")
    assert status["message"] == "The server has stopped and is being started."
    status = status_of(plan_restart(world(recreating("Starting"), claim(), answers={"start": None})))
    assert (status["step"], status["message"]) == ("Awaiting", "The server is starting.")
    refused: dict[str, Refusal | None] = {"start": Refusal(400, "No such profile.")}
    waiting = world(recreating("Starting"), claim(), answers=refused, now=after(119))
    assert plan_restart(waiting) == Wait("the hub takes the start", after(121))
    said = told(plan_restart(world(recreating("Starting"), claim(), answers=refused, now=after(120))))
    assert said == ("Failed", "StartFailed", "The server was stopped, and the hub did not start it: No such profile.")
    away: dict[str, Refusal | None] = {"start": Refusal(503, "no upstream")}
    said = told(plan_restart(world(recreating("Starting"), claim(), answers=away, now=after(120))))
    assert said[2] == "The server has been stopped; it is started as soon as the hub takes starts again."
    awaiting = world(recreating("Awaiting"), claim(), now=after(59))
    assert plan_restart(awaiting) == Wait("the pod comes", after(61))
    again = status_of(plan_restart(world(recreating("Awaiting"), claim(), now=after(60))))
    assert (again["step"], again["message"]) == (
        "Starting",
        "The hub took the start, and no pod came. It is asked once more.",
    )
    twice = with_status(recreating("Awaiting"), starts=2)
    assert told(plan_restart(world(twice, claim(), now=after(60))))[1] == "StartFailed"


def test_a_new_server_that_crashes_again_and_again_is_told_of() -> None:
    last = {"exitCode": 1, "message": "No module named lab"}
    crashing = pod(uid="pod-2", container="c9", restarts=2, state="waiting", ready=False, last=last)
    status = status_of(plan_restart(world(recreating("Awaiting"), crashing)))
    assert (status["phase"], status["reason"]) == ("Failed", "LabCrashed")
    assert status["lastWords"] == "No module named lab"
    once = pod(uid="pod-2", container="c9", restarts=1, state="waiting", ready=False, last=last)
    assert isinstance(plan_restart(world(recreating("Awaiting"), once)), Wait)
    end = status_of(plan_restart(world(recreating("Awaiting"), pod(uid="pod-2", container="c9", restarts=1))))
    assert (end["phase"], end["newPodUID"], end["newContainerID"]) == ("Succeeded", "pod-2", "c9")


def test_a_phase_of_the_other_kind_is_refused() -> None:
    step = plan_restart(world(with_status(restart(), phase="Preparing"), pod()))
    assert told(step) == ("Failed", "NotSupported", "This operator does not know the phase Preparing.")
    assert Reason.NOT_SUPPORTED == "NotSupported"
    assert Phase.FAILED == "Failed"


def test_a_long_grace_period_puts_the_last_moment_off() -> None:
    req = bouncing()
    stuck = pod()
    stuck.manifest["spec"]["terminationGracePeriodSeconds"] = 100  # type: ignore[index]
    assert isinstance(plan_restart(world(req, stuck, now=after(399))), ResizePod)
    assert status_of(plan_restart(world(req, stuck, now=after(400))))["reason"] == Reason.TIMED_OUT


def test_what_was_recorded_first_stays_on_record() -> None:
    active = with_status(restart(name="first"), phase="Restarting")
    req = restart(name="second")
    req = written(req, plan_restart(world(req, pod(), others=(active,))))
    again = plan_restart(world(req, pod(container="c2", restarts=1, ready=False), others=(active,)))
    assert isinstance(again, WriteStatus | Wait)
    if isinstance(again, WriteStatus):
        assert again.status["containerID"] == "c1"
    assert told(plan_restart(world(req, pod(container="c2", restarts=1))))[1] == "JoinedOtherRestart"


def test_a_deleted_request_that_has_begun_goes_on_to_its_end() -> None:
    req = bouncing()
    deleted = Request({**req.manifest, "metadata": {**req.meta, "deletionTimestamp": AT}})
    assert isinstance(plan_restart(world(deleted, pod())), ResizePod)


def test_a_server_that_somebody_works_on_is_not_ended_by_an_operator_that_comes_back_late() -> None:
    """It has asked nobody yet, but the kubelet has said for long that the server answers."""
    asked = restart(created=NOW)
    works = pod(uid="pod-2", container="c9", probe=True, started=after(10))
    said = told(plan_restart(world(asked, works, now=after(400))))
    assert said[:2] == ("Succeeded", "JoinedOtherRestart")


def test_what_a_waiting_request_to_recreate_is_told() -> None:
    first = with_status(restart(name="first"), phase="Restarting", mechanism="InPlace")
    said = told(plan_restart(world(restart(name="second", strategy="Recreate"), pod(), others=(first,))))
    assert said[2] == "The restart first is running; this one comes after it."
    first = with_status(first, mechanism="Recreate")
    said = told(plan_restart(world(restart(name="second", strategy="Recreate"), pod(), others=(first,))))
    assert said[2] == "The restart first is running; this request ends with it."


@pytest.mark.parametrize(
    ("policy", "state", "comes_back"),
    [
        ("Always", {"terminated": {"exitCode": 0}}, True),
        ("Always", {"terminated": {"exitCode": 1}}, True),
        ("OnFailure", {"terminated": {"exitCode": 0}}, False),
        ("OnFailure", {"terminated": {"exitCode": 137}}, True),
        ("Never", {"terminated": {"exitCode": 137}}, False),
        ("OnFailure", {"waiting": {"reason": "CrashLoopBackOff"}}, True),
    ],
)
def test_what_the_kubelet_starts_again(policy: str, state: Json, comes_back: bool) -> None:
    ended = pod(policy=policy).notebook
    assert ended is not None
    assert Container(ended.spec, {**ended.status, "state": state}).comes_back(policy) is comes_back
