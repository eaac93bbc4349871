"""The plan of a ServerRestart: one instance ended, never a container killed that may not come back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from steward_api.phases import Phase, Reason
from steward_operator.core import bounce
from steward_operator.core.model import Refusal, Request
from steward_operator.core.plan_restart import plan_restart
from steward_operator.core.steps import Done, ResizePod, StartServer, StopServer, Wait, WriteStatus

from tests.support.builders import NOW, claim, pod, restart, status_of, told, with_status, world, written


def begun(**of_pod: Any) -> Request:
    req = restart()
    return written(req, plan_restart(world(req, pod(**of_pod))))


def test_the_resize_is_on_record_before_it_is_sent() -> None:
    status = status_of(plan_restart(world(restart(), pod())))
    assert status["phase"] == Phase.RESTARTING
    assert status["mechanism"] == "InPlace"
    assert (status["podUID"], status["containerID"]) == ("pod-1", "c1")
    assert status["resources"]["requests"]["cpu"] == "49m"
    step = plan_restart(world(begun(), pod()))
    assert isinstance(step, ResizePod)
    assert (step.uid, step.resource_version, step.resources) == ("pod-1", "9", status["resources"])


def test_the_next_restart_goes_back_to_the_original() -> None:
    stepped = {"requests": {"cpu": "49m", "memory": "256Mi"}}
    status = status_of(plan_restart(world(restart(), pod(present=stepped))))
    assert status["resources"]["requests"]["cpu"] == "50m"


@pytest.mark.parametrize(
    ("of_pod", "expected"),
    [
        ({"requests": {"cpu": "50m"}, "limits": {"cpu": "2"}}, ("limits", "cpu", "1999m")),
        ({"requests": {"cpu": "1"}}, ("requests", "cpu", "999m")),
        ({"requests": {"cpu": "2m"}}, ("requests", "cpu", "3m")),
        ({"requests": {"cpu": "1m"}, "limits": {"cpu": "10m"}}, ("limits", "cpu", "11m")),
        (
            {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}, "qos": "Guaranteed"},
            ("limits", "memory", str(2**30 - 2**20)),
        ),
    ],
)
def test_the_step_fits_the_quality_of_service(of_pod: dict[str, Any], expected: tuple[str, str, str]) -> None:
    part, resource, value = expected
    assert bounce.candidates(pod(**of_pod))[0][part][resource] == value


def test_a_guaranteed_pod_stays_guaranteed() -> None:
    both = {"cpu": "1", "memory": "1Gi"}
    step = bounce.candidates(pod(requests=both, limits=both, qos="Guaranteed"))[0]
    assert step["limits"] == step["requests"]


def test_done_only_when_the_new_instance_answers() -> None:
    req = begun()
    assert isinstance(plan_restart(world(req, pod(container="c2", restarts=1, ready=False))), Wait)
    end = status_of(plan_restart(world(req, pod(container="c2", restarts=1))))
    assert (end["phase"], end["reason"], end["newContainerID"]) == (Phase.SUCCEEDED, Reason.RESTARTED, "c2")


def test_the_kubelets_ready_is_not_believed_where_the_server_can_be_asked() -> None:
    req = begun(probe=True)
    new = pod(container="c2", restarts=1, ready=True, probe=True, started=NOW)
    assert isinstance(plan_restart(world(req, new)), Wait)
    assert isinstance(plan_restart(world(req, new, now=NOW + timedelta(seconds=29))), Wait)
    later = status_of(plan_restart(world(req, new, now=NOW + timedelta(seconds=30))))
    assert later["phase"] == Phase.SUCCEEDED, "by then the kubelet speaks of the new instance"
    end = status_of(plan_restart(world(req, new, answering=frozenset({"c2"}))))
    assert end["phase"] == Phase.SUCCEEDED


def test_an_applied_resize_is_not_sent_again() -> None:
    req = begun()
    assert isinstance(plan_restart(world(req, pod(present=req.status["resources"]))), Wait)


def test_the_fourth_restart_within_ten_minutes_is_not_a_kill_but_a_recreate() -> None:
    status = status_of(plan_restart(world(restart(), pod(), recent_restarts={"pod-1": 3})))
    assert (status["phase"], status["mechanism"], status["step"]) == (Phase.RESTARTING, "Recreate", "Stopping")
    third = status_of(plan_restart(world(restart(), pod(), recent_restarts={"pod-1": 2})))
    assert third["mechanism"] == "InPlace"


def test_in_place_and_nothing_else_fails_where_recreate_would_be_needed() -> None:
    step = plan_restart(world(restart(strategy="InPlace"), pod(), recent_restarts={"pod-1": 3}))
    assert status_of(step)["reason"] == Reason.TOO_MANY_RESTARTS


def test_auto_does_not_give_a_gpu_away() -> None:
    gpu = pod(limits={"nvidia.com/gpu": "1"}, present={"requests": {"cpu": "50m"}, "limits": {"nvidia.com/gpu": "1"}})
    status = status_of(plan_restart(world(restart(), gpu, recent_restarts={gpu.uid: 3})))
    assert (status["phase"], status["reason"]) == (Phase.FAILED, Reason.TOO_MANY_RESTARTS)


def test_a_server_that_has_just_started_is_left_to_run_for_a_moment() -> None:
    young = pod(started=NOW - timedelta(seconds=10))
    step = status_of(plan_restart(world(restart(), young)))
    assert (step["phase"], step["reason"]) == (Phase.PENDING, Reason.WAITING_FOR_SERVER)
    assert step["waitingUntil"] == "2026-11-21T12:00:20Z"
    req = written(restart(), plan_restart(world(restart(), young)))
    waiting = plan_restart(world(req, young))
    assert isinstance(waiting, Wait)
    assert waiting.until == NOW + timedelta(seconds=20)


def test_a_duplicate_joins_and_restarts_nothing() -> None:
    active = with_status(restart(name="first"), phase="Restarting")
    req = restart(name="second")
    req = written(req, plan_restart(world(req, pod(), others=(active,))))
    assert req.status["reason"] == Reason.WAITING_FOR_OTHER
    end = status_of(plan_restart(world(req, pod(container="c2", restarts=1, started=NOW))))
    assert (end["phase"], end["reason"]) == (Phase.SUCCEEDED, Reason.JOINED)


def test_a_duplicate_waits_while_the_server_is_stopped_and_started() -> None:
    active = with_status(restart(name="first"), phase="Restarting", mechanism="Recreate")
    req = restart(name="second")
    req = written(req, plan_restart(world(req, pod(), others=(active,))))
    for between in (pod(deleting=True), claim(), pod(uid="pod-2", container="", phase="Pending")):
        assert isinstance(plan_restart(world(req, between, others=(active,))), Wait)
    end = status_of(plan_restart(world(req, pod(uid="pod-2", container="c9"), others=(active,))))
    assert (end["phase"], end["reason"]) == (Phase.SUCCEEDED, Reason.JOINED)


def test_a_new_instance_in_the_old_pod_does_not_answer_a_request_to_recreate() -> None:
    """What is offered for a server that crashes again and again has to end with a new pod."""
    crashing = pod(container="c7", restarts=4, started=NOW, created=NOW - timedelta(hours=1))
    status = status_of(plan_restart(world(restart(strategy="Recreate"), crashing)))
    assert (status["phase"], status["mechanism"]) == (Phase.RESTARTING, "Recreate")
    seen = with_status(restart(strategy="Recreate"), podUID="pod-1", containerID="c6")
    assert status_of(plan_restart(world(seen, crashing)))["mechanism"] == "Recreate"
    joined = status_of(plan_restart(world(seen, pod(uid="pod-2", container="c8"))))
    assert joined["reason"] == Reason.JOINED


@pytest.mark.parametrize("state", ["waiting", "terminated"])
def test_an_instance_that_came_after_the_request_and_died_is_not_waited_for(state: str) -> None:
    req = written(restart(), plan_restart(world(restart(), pod(started=NOW, ready=False))))
    assert req.status["reason"] == Reason.WAITING_FOR_OTHER
    status = status_of(plan_restart(world(req, pod(container="c2", restarts=2, state=state, ready=False))))
    assert (status["phase"], status["mechanism"]) == (Phase.RESTARTING, "Recreate")


def test_an_instance_that_never_answers_is_not_waited_for_longer_than_a_start_may_take() -> None:
    req = written(restart(), plan_restart(world(restart(), pod(started=NOW, ready=False))))
    hung = pod(started=NOW, ready=False)
    assert isinstance(plan_restart(world(req, hung, now=NOW + timedelta(seconds=299))), Wait)
    late = status_of(plan_restart(world(req, hung, now=NOW + timedelta(seconds=301))))
    assert (late["phase"], late["mechanism"]) == (Phase.RESTARTING, "InPlace")


def test_a_bounce_found_terminated_escalates_at_once() -> None:
    req = begun()
    status = status_of(plan_restart(world(req, pod(present=req.status["resources"], state="terminated"))))
    assert (status["mechanism"], status["step"]) == ("Recreate", "Stopping")


def test_a_new_instance_that_dies_is_lab_crashed_with_its_last_words() -> None:
    req = begun()
    last = {"exitCode": 3, "message": "Traceback: no such module", "finishedAt": "2026-11-21T12:00:01Z"}
    status = status_of(plan_restart(world(req, pod(container="c2", restarts=1, state="waiting", last=last))))
    assert (status["phase"], status["reason"]) == (Phase.FAILED, Reason.LAB_CRASHED)
    assert status["lastWords"] == "Traceback: no such module"


def test_a_refused_direction_is_followed_by_the_other_and_then_by_recreate() -> None:
    req = begun()
    first = plan_restart(world(req, pod()))
    assert isinstance(first, ResizePod)
    answers = {first.key: Refusal(403, "minimum cpu usage per Container is 50m")}
    up = plan_restart(world(req, pod(), answers=answers))
    assert status_of(up)["resources"]["requests"]["cpu"] == "51m"
    req = written(req, up)
    second = plan_restart(world(req, pod(), answers=answers))
    assert isinstance(second, ResizePod)
    end = plan_restart(world(req, pod(), answers={**answers, second.key: Refusal(403, "maximum is 50m")}))
    assert status_of(end)["mechanism"] == "Recreate"


def test_where_a_quota_has_no_room_for_a_step_the_server_is_not_put_at_risk_for_a_new_pod() -> None:
    """It is a step smaller than it was; others have taken what it gave up, and would keep a new pod out."""
    smaller = pod(present={"requests": {"cpu": "49m", "memory": "256Mi"}})
    req = written(restart(), plan_restart(world(restart(), smaller)))
    back = plan_restart(world(req, smaller))
    assert isinstance(back, ResizePod)
    assert back.resources["requests"]["cpu"] == "50m"
    answers: dict[str, Refusal | None] = {back.key: Refusal(403, "exceeded quota: team")}
    on = plan_restart(world(req, smaller, answers=answers))
    assert status_of(on)["resources"]["requests"]["cpu"] == "48m"
    req = written(req, on)
    down = plan_restart(world(req, smaller, answers=answers))
    assert isinstance(down, ResizePod)
    answers[down.key] = Refusal(403, "minimum cpu usage is 49m")
    end = plan_restart(world(req, smaller, answers=answers))
    assert told(end) == (
        "Failed", "InPlaceNotPossible",
        "This server cannot be restarted in place: minimum cpu usage is 49m. Others have used the quota up, "
        "and a new start might be refused, so it was left alone.",
    )  # fmt: skip
    node = with_status(req, step="Reverting", resources={"requests": {"cpu": "51m"}})
    undoing = ResizePod("jupyter-ann", "pod-1", "", {"requests": {"cpu": "51m"}})
    kept = plan_restart(world(node, smaller, answers={undoing.key: Refusal(403, "exceeded quota: team")}))
    assert told(kept)[:2] == ("Restarting", "Retrying")


def test_an_infeasible_resize_is_taken_back_before_the_mechanism_is_left() -> None:
    req = begun()
    pending = [{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]
    stuck = pod(present=req.status["resources"], conditions=pending)
    req = written(req, plan_restart(world(req, stuck)))
    assert req.status["step"] == "Reverting"
    back = plan_restart(world(req, stuck))
    assert isinstance(back, ResizePod)
    assert back.resources["requests"]["cpu"] == "50m"
    assert isinstance(plan_restart(world(req, pod(conditions=pending))), Wait)
    assert status_of(plan_restart(world(req, pod())))["mechanism"] == "Recreate"


def recreating(step: str = "Stopping") -> Request:
    return with_status(restart(), phase="Restarting", mechanism="Recreate", step=step, podUID="pod-1",
                       containerID="c1", restartCount=0, startTime="2026-11-21T12:00:00Z")  # fmt: skip


def test_recreate_stops_waits_and_starts_through_the_hub() -> None:
    assert plan_restart(world(recreating(), pod())) == StopServer("ann", "", "pod-1")
    assert isinstance(plan_restart(world(recreating(), pod(deleting=True))), Wait)
    assert status_of(plan_restart(world(recreating(), claim())))["step"] == "Starting"
    assert plan_restart(world(recreating("Starting"), claim())) == StartServer("ann", "")
    coming = pod(uid="pod-2", container="", phase="Pending")
    assert isinstance(plan_restart(world(recreating("Starting"), coming)), Wait)
    end = status_of(plan_restart(world(recreating("Starting"), pod(uid="pod-2", container="c9"))))
    assert (end["phase"], end["newPodUID"]) == (Phase.SUCCEEDED, "pod-2")


def test_a_start_that_the_hub_keeps_refusing_ends_with_the_hubs_words() -> None:
    answers = {"start": Refusal(400, "no such profile")}
    soon = world(recreating("Starting"), claim(), answers=answers, now=NOW + timedelta(seconds=100))
    assert isinstance(plan_restart(soon), Wait)
    late = world(recreating("Starting"), claim(), answers=answers, now=NOW + timedelta(seconds=121))
    status = status_of(plan_restart(late))
    assert status["reason"] == Reason.START_FAILED
    assert "no such profile" in status["message"]


@pytest.mark.parametrize("status", [0, 429, 502, 503, 504])
def test_a_server_that_was_stopped_is_started_however_long_the_hub_is_away(status: int) -> None:
    req = recreating("Starting")
    answers: dict[str, Refusal | None] = {"start": Refusal(status, "upstream connect error")}
    step = plan_restart(world(req, claim(), answers=answers, now=NOW + timedelta(days=1)))
    assert isinstance(step, WriteStatus)
    assert (step.status["phase"], step.status["reason"]) == (Phase.RESTARTING, Reason.RETRYING)
    assert {c["type"]: c["status"] for c in step.status["conditions"]}["Stalled"] == "True"
    later = written(req, step)
    assert isinstance(plan_restart(world(later, claim(), answers=answers, now=NOW + timedelta(days=2))), Wait)
    assert plan_restart(world(later, claim(), now=NOW + timedelta(days=2))) == StartServer("ann", "")


def test_a_start_that_the_hub_took_is_not_asked_for_again_and_again() -> None:
    """Each failed start counts towards the hub's own end; one user's restart must not bring it down. A hub that was
    restarted after it took the start has forgotten it, so that it is asked a second time, and then no more."""
    req = recreating("Starting")
    for starts in (1, 2):
        taken = status_of(plan_restart(world(req, claim(), answers={"start": None})))
        assert (taken["step"], taken["starts"]) == ("Awaiting", starts)
        req = with_status(req, **taken)
        assert isinstance(plan_restart(world(req, claim(), now=NOW + timedelta(seconds=30))), Wait)
        end = status_of(plan_restart(world(req, claim(), now=NOW + timedelta(seconds=61))))
        if starts == 1:
            assert (end["phase"], end["step"]) == (Phase.RESTARTING, "Starting")
            req = with_status(req, **end)
    assert (end["phase"], end["reason"]) == (Phase.FAILED, Reason.START_FAILED)


def test_a_slow_stop_does_not_shorten_the_start() -> None:
    req = with_status(recreating("Starting"), stepTime="2026-11-21T12:05:00Z")
    refused = {"start": Refusal(400, "ann is pending stop")}
    assert isinstance(plan_restart(world(req, claim(), answers=refused, now=NOW + timedelta(minutes=6))), Wait)


@pytest.mark.parametrize(
    "of_pod",
    [
        # What the API server adds to what was asked for: a LimitRange's defaults, a limit's request.
        {"requests": {"cpu": "50m"}, "present": {"requests": {"cpu": "50m", "memory": "1Gi"}, "limits": {"cpu": "2"}}},
        {"requests": {"cpu": 0.7}, "present": {"requests": {"cpu": "700m"}}},
        {"requests": {"cpu": 1.9}, "present": {"requests": {"cpu": "1900m"}}},
    ],
)
def test_what_the_api_server_made_of_the_resources_is_not_taken_for_a_step(of_pod: dict[str, Any]) -> None:
    asked = round(bounce.quantity(of_pod["requests"]["cpu"]) * 1000)
    (down, up) = [step["requests"]["cpu"] for step in bounce.candidates(pod(**of_pod))]
    assert (down, up) == (f"{asked - 1}m", f"{asked + 1}m")


def test_limits_alone_are_stepped_with_their_requests() -> None:
    limits = {"cpu": "1", "memory": "1Gi"}
    both = {"requests": limits, "limits": limits}
    step = bounce.candidates(pod(requests={}, limits=limits, present=both, qos="Guaranteed"))[0]
    assert step["limits"] == step["requests"] != limits


def test_a_change_that_the_cluster_takes_and_does_not_make_is_not_sent_for_ever() -> None:
    req = begun()
    first = plan_restart(world(req, pod()))
    assert isinstance(first, ResizePod)
    assert not isinstance(plan_restart(world(req, pod(), answers={first.key: None})), ResizePod)


def test_a_lab_that_ignores_its_signal_is_given_its_whole_grace_period() -> None:
    req = begun()
    hung = pod(present=req.status["resources"])
    assert isinstance(plan_restart(world(req, hung, now=NOW + timedelta(seconds=44))), Wait)
    assert status_of(plan_restart(world(req, hung, now=NOW + timedelta(seconds=46))))["step"] == "Reverting"


def test_nothing_hinders_a_restart_for_ever() -> None:
    req = with_status(begun(), step="Reverting", resources={"requests": {"cpu": "50m"}})
    pending = [{"type": "PodResizePending", "status": "True", "reason": "Deferred"}]
    end = status_of(plan_restart(world(req, pod(conditions=pending), now=NOW + timedelta(seconds=331))))
    assert (end["phase"], end["reason"]) == (Phase.FAILED, Reason.TIMED_OUT)


@pytest.mark.parametrize("objects", [[claim()], [pod(deleting=True)], [pod(container="", phase="Pending")]])
def test_what_is_not_running_is_not_restarted(objects: list[Any]) -> None:
    assert status_of(plan_restart(world(restart(), *objects)))["reason"] == Reason.SERVER_NOT_RUNNING


@pytest.mark.parametrize(
    "of_pod", [{"resize": False}, {"policy": "Never"}, {"requests": {}, "qos": "BestEffort"}, {"state": "waiting"}]
)
def test_what_cannot_be_bounced_is_recreated_or_refused(of_pod: dict[str, Any]) -> None:
    assert status_of(plan_restart(world(restart(), pod(**of_pod))))["mechanism"] == "Recreate"
    refused = status_of(plan_restart(world(restart(strategy="InPlace"), pod(**of_pod))))
    assert refused["reason"] == Reason.IN_PLACE_NOT_POSSIBLE


def test_only_the_named_servers_pod_is_restarted() -> None:
    status = status_of(plan_restart(world(restart(server="gpu"), pod(), pod(server="gpu", uid="pod-gpu"))))
    assert status["podUID"] == "pod-gpu"


def test_cancelled_and_finished_requests_do_nothing() -> None:
    assert status_of(plan_restart(world(restart(cancel=True), pod())))["phase"] == Phase.CANCELLED
    assert plan_restart(world(with_status(restart(), phase="Failed"), pod())) == Done()
