"""Servers that are stopped, started, lost or crash while a restart is carried out: what is done and what is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from steward_api.phases import Phase, Reason
from steward_operator.core.model import Container, Pod, Refusal, Request
from steward_operator.core.plan_restart import plan_restart
from steward_operator.core.steps import ResizePod, StopServer, Wait, WriteStatus

from tests.support.builders import (
    AT,
    NOW,
    after,
    bouncing,
    claim,
    pod,
    recreating,
    restart,
    status_of,
    told,
    with_status,
    world,
    written,
)

Json = dict[str, Any]

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
