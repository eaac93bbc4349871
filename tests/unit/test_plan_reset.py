"""The plan of a VolumeReset: what is refused, what is written before what, and what no order may do."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from steward_api import names
from steward_api.phases import Phase, Reason
from steward_operator.core.model import Claim, Refusal, Request
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.steps import (
    AddFinalizer,
    AnnotateClaim,
    CreateClaim,
    DeleteClaim,
    Done,
    RemoveFinalizer,
    TryCreateClaim,
    Wait,
    WriteStatus,
)

from tests.support.builders import NOW, claim, pod, reset, stamp, with_status, world, written
from tests.support.under_way import OK


def ended(step: object, phase: Phase = Phase.FAILED) -> str:
    assert isinstance(step, WriteStatus), step
    assert step.status["phase"] == phase
    return str(step.status["reason"])


def prepared(*objects: Any, **spec: Any) -> Request:
    req = reset(**spec)
    return written(req, plan_reset(world(req, *(objects or (claim(),)))))


@pytest.mark.parametrize(
    ("spec", "objects", "reason"),
    [
        ({"user": "eve"}, [claim()], Reason.UNKNOWN_USER),
        ({"requestedBy": None}, [claim()], Reason.NOT_ALLOWED),
        ({"volumes": ["models"]}, [claim()], Reason.UNKNOWN_VOLUME),
        ({"volumes": ["shared"]}, [claim("shared")], Reason.NOT_ALLOWED),
        ({"volumes": ["cache"]}, [claim("workspace")], Reason.VOLUME_MISSING),
        ({"expected": [{"volume": "workspace", "uid": "other"}]}, [claim()], Reason.STALE),
        ({"serverPolicy": "Wait"}, [claim()], Reason.NOT_SUPPORTED),
        ({"backup": "Snapshot"}, [claim()], Reason.NOT_SUPPORTED),
        ({"contents": {"from": "Template", "name": "b"}}, [claim()], Reason.NOT_SUPPORTED),
        ({"contents": {"from": "Backup", "name": "b"}}, [claim()], Reason.BACKUP_MISSING),
        ({}, [claim(), pod(claims=("workspace-ann",))], Reason.SERVER_RUNNING),
        ({}, [claim(), pod()], Reason.SERVER_RUNNING),
        ({}, [claim(), pod(phase="Pending", container="")], Reason.SERVER_RUNNING),
        ({}, [claim(), pod(server="gpu", claims=("workspace-ann",))], Reason.IN_USE_BY_OTHER_SERVER),
        ({}, [claim(), pod(is_server=False, claims=("workspace-ann",))], Reason.CLAIM_IN_USE),
        ({}, [claim(spec={"selector": {"matchLabels": {"a": "b"}}})], Reason.STATICALLY_PROVISIONED),
        ({}, [claim(spec={"volumeName": "pv-by-hand"})], Reason.STATICALLY_PROVISIONED),
    ],
)
def test_a_refusal_is_immediate_and_says_why(spec: dict[str, Any], objects: list[Any], reason: Reason) -> None:
    assert ended(plan_reset(world(reset(**spec), *objects))) == reason


def test_another_case_of_the_name_is_asked_about_and_not_taken() -> None:
    step = plan_reset(world(reset(user="Ann"), claim()))
    assert ended(step) == Reason.UNKNOWN_USER
    assert isinstance(step, WriteStatus)
    assert "did you mean 'ann'" in step.status["message"].lower()


def test_a_finished_pod_and_other_peoples_pods_do_not_hold_a_claim() -> None:
    objects = [claim(), pod(claims=("workspace-ann",), phase="Succeeded"), pod("ann-x", claims=("workspace-ann-x",))]
    assert ended(plan_reset(world(reset(), *objects)), Phase.PREPARING) == Reason.IN_PROGRESS


def test_a_prefix_of_a_name_selects_nothing_of_the_other() -> None:
    for user, own in (("ann-x", "x-1"), ("ann", "workspace-1")):
        for claims in permutations((claim(), claim(user="ann-x", uid="x-1"))):
            step = plan_reset(world(reset(user=user), *claims))
            assert isinstance(step, WriteStatus)
            assert [row["uid"] for row in step.status["volumes"]] == [own]


def test_where_case_is_kept_two_names_are_two_people() -> None:
    both = (claim(), claim(user="Ann", name="workspace-ann---1a1cf792", uid="Ann-1"))
    for user, uid in (("ann", "workspace-1"), ("Ann", "Ann-1")):
        step = plan_reset(world(reset(user=user), *both))
        assert isinstance(step, WriteStatus)
        assert [row["uid"] for row in step.status["volumes"]] == [uid]


def test_named_servers_have_claims_of_their_own() -> None:
    step = plan_reset(world(reset(server="gpu"), claim(), claim(server="gpu", uid="gpu-1")))
    assert isinstance(step, WriteStatus)
    assert [row["uid"] for row in step.status["volumes"]] == ["gpu-1"]


def test_what_is_deleted_is_on_record_with_its_template_and_locked_first() -> None:
    step = plan_reset(world(reset("workspace", "cache"), claim(), claim("cache")))
    assert isinstance(step, WriteStatus)
    assert step.status["lockedClaims"] == ["cache-ann", "workspace-ann"]
    row = step.status["volumes"][0]
    assert (row["uid"], row["claim"]) == ("workspace-1", "workspace-ann")
    assert row["template"]["metadata"]["annotations"][names.RESET_BY] == "uid-r"
    assert "uid" not in row["template"]["metadata"]


def test_the_template_keeps_what_the_user_had_and_drops_what_ties_it_to_the_old_volume() -> None:
    bound = claim(
        annotations={"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes",
                     "volume.kubernetes.io/selected-node": "n1", "team": "blue"},
        spec={"volumeName": "pv-1", "volumeMode": "Filesystem"},
        status={"capacity": {"storage": "5Gi"}},
    )  # fmt: skip
    step = plan_reset(world(reset(), bound))
    assert isinstance(step, WriteStatus)
    template = step.status["volumes"][0]["template"]
    assert template["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "standard",
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": "5Gi"}},
    }
    assert template["metadata"]["annotations"] == {names.USERNAME: "ann", "team": "blue", names.RESET_BY: "uid-r"}


def test_a_pod_that_came_between_look_and_lock_is_seen_by_the_look_after_the_lock() -> None:
    req = prepared()
    step = plan_reset(world(req, claim(), pod(phase="Pending", container="", claims=("workspace-ann",))))
    assert ended(step) == Reason.SERVER_RUNNING
    assert isinstance(step, WriteStatus)
    assert step.status["lockedClaims"] == []


def test_creation_is_tried_before_anything_is_deleted() -> None:
    req = prepared()
    step = plan_reset(world(req, claim()))
    assert isinstance(step, TryCreateClaim)
    refused = plan_reset(world(req, claim(), answers={step.key: Refusal(403, "policy says no")}))
    assert ended(refused) == Reason.CANNOT_RECREATE
    allowed = plan_reset(world(req, claim(), answers={step.key: None}))
    assert isinstance(allowed, AddFinalizer)


def deleting(req: Request | None = None, **status: Any) -> Request:
    req = req or prepared()
    rows = [{**row, "outcome": "Deleting"} for row in req.status["volumes"]]
    return with_status(req, (names.FINALIZER,), phase="Deleting", volumes=rows, **status)


def test_the_delete_names_the_recorded_claim_and_no_other() -> None:
    step = plan_reset(world(deleting(), claim()))
    assert step == DeleteClaim("workspace-ann", "workspace-1", "7")
    stranger = plan_reset(world(deleting(), claim(uid="somebody-elses")))
    assert isinstance(stranger, WriteStatus)
    assert stranger.status["phase"] == Phase.RECREATING


def test_nothing_is_deleted_twice() -> None:
    assert isinstance(plan_reset(world(deleting(), claim(deleting=True))), Wait)


def test_a_pod_that_turns_up_before_the_delete_stops_it() -> None:
    stranger = pod(is_server=False, claims=("workspace-ann",))
    step = plan_reset(world(deleting(), claim(), stranger))
    assert step == KEEP, "a delete on its way must not arrive any more"
    assert isinstance(plan_reset(world(deleting(), kept(), stranger)), RemoveFinalizer)


KEEP = AnnotateClaim("workspace-ann", "workspace-1", "7", names.KEPT_BY, "uid-r")


def kept(kind: str = "workspace") -> Claim:
    return claim(kind, annotations={names.KEPT_BY: "uid-r"})


def test_a_claim_that_was_given_up_is_not_deleted_by_a_leader_that_has_not_heard() -> None:
    step = plan_reset(world(deleting(), kept()))
    assert isinstance(step, RemoveFinalizer)


def test_cancel_is_honoured_until_the_first_delete_and_not_after() -> None:
    req = deleting(prepared())
    asked = Request({**req.manifest, "spec": {**req.spec, "cancel": True}})
    assert plan_reset(world(asked, claim())) == KEEP
    assert isinstance(plan_reset(world(asked, kept())), RemoveFinalizer)
    without = Request({**asked.manifest, "metadata": {**asked.meta, "finalizers": []}})
    assert ended(plan_reset(world(without, kept())), Phase.CANCELLED) == Reason.CANCELLED
    assert isinstance(plan_reset(world(asked, claim(deleting=True))), Wait)


def test_after_the_delete_the_claim_is_made_again_even_when_the_request_is_deleted() -> None:
    req = deleting()
    gone = Request({**req.manifest, "metadata": {**req.meta, "deletionTimestamp": stamp()}})
    step = plan_reset(world(gone, answers=OK))
    again = plan_reset(world(written(gone, step), answers=OK))
    assert isinstance(again, CreateClaim)


def recreating() -> Request:
    return with_status(deleting(), (names.FINALIZER,), phase="Recreating")


def test_a_refused_creation_is_tried_for_ever_and_says_stalled() -> None:
    req = recreating()
    step = plan_reset(world(req))
    assert isinstance(step, CreateClaim)
    told = plan_reset(world(req, answers={step.key: Refusal(403, "exceeded quota")}))
    assert isinstance(told, WriteStatus)
    assert told.status["phase"] == Phase.RECREATING
    assert {c["type"]: c["status"] for c in told.status["conditions"]}["Stalled"] == "True"
    later = plan_reset(world(written(req, told), answers={step.key: Refusal(403, "exceeded quota")}))
    assert isinstance(later, Wait)


def test_the_finalizer_goes_before_the_end_is_written() -> None:
    new = claim(uid="workspace-2", annotations={names.RESET_BY: "uid-r"})
    req = recreating()
    assert isinstance(plan_reset(world(req, new)), RemoveFinalizer)
    bare = with_status(req)
    step = plan_reset(world(bare, new))
    assert ended(step, Phase.SUCCEEDED) == Reason.RESET
    assert isinstance(step, WriteStatus)
    assert step.status["volumes"][0]["newUID"] == "workspace-2"
    assert step.status["lockedClaims"] == []


def test_one_refused_delete_among_two_is_never_a_plain_success() -> None:
    req = reset("workspace", "cache")
    both = (claim(), claim("cache"))
    req = deleting(written(req, plan_reset(world(req, *both))))
    first = plan_reset(world(req, *both))
    assert isinstance(first, DeleteClaim)
    answers = {first.key: Refusal(403, "denied by policy")}
    assert plan_reset(world(req, *both, answers=answers)) == KEEP
    refused = plan_reset(world(req, kept(), claim("cache"), answers=answers))
    req = written(req, refused)
    second = plan_reset(world(req, kept(), claim("cache")))
    assert isinstance(second, DeleteClaim)
    assert second.name == "cache-ann"
    req = written(req, plan_reset(world(req, claim())))
    end = plan_reset(world(with_status(req), claim(), claim("cache", uid="cache-2")))
    assert ended(end) == Reason.PARTIAL_FAILURE
    assert isinstance(end, WriteStatus)
    assert {r["volume"]: r["outcome"] for r in end.status["volumes"]} == {"workspace": "Failed", "cache": "Reset"}
    assert "denied by policy" in end.status["message"]


def test_a_request_that_is_late_changes_nothing() -> None:
    late = world(reset(), claim(), now=NOW + timedelta(seconds=601))
    assert ended(plan_reset(late)) == Reason.EXPIRED
    late_after_lock = world(prepared(), claim(), now=NOW + timedelta(seconds=601))
    assert ended(plan_reset(late_after_lock)) == Reason.EXPIRED


def test_a_request_waits_for_its_time_and_says_so_once() -> None:
    req = reset(notBefore=stamp(NOW + timedelta(hours=1)))
    step = plan_reset(world(req, claim()))
    assert isinstance(step, WriteStatus)
    assert step.status["reason"] == Reason.SCHEDULED
    waiting = plan_reset(world(written(req, step), claim()))
    assert isinstance(waiting, Wait)
    assert waiting.until == NOW + timedelta(hours=1)


def test_a_second_request_waits_for_the_one_that_holds_the_lock() -> None:
    other = with_status(reset(name="first"), phase="Preparing", lockedClaims=["workspace-ann"])
    step = plan_reset(world(reset(), claim(), others=(other,)))
    assert ended(step, Phase.PENDING) == Reason.WAITING_FOR_OTHER


def test_a_duplicate_made_before_the_new_claim_ends_without_a_second_reset() -> None:
    new = claim(uid="workspace-2", annotations={names.RESET_BY: "uid-first"}, created=NOW + timedelta(seconds=2))
    assert ended(plan_reset(world(reset(), new)), Phase.SUCCEEDED) == Reason.RESET


def test_a_reset_for_a_later_day_is_not_done_by_an_earlier_one() -> None:
    due = NOW + timedelta(days=4)
    earlier = claim(uid="workspace-2", annotations={names.RESET_BY: "uid-first"}, created=NOW + timedelta(days=2))
    step = plan_reset(world(reset(notBefore=stamp(due)), earlier, now=due))
    assert ended(step, Phase.PREPARING) == Reason.IN_PROGRESS


def test_nothing_is_deleted_while_the_finalizer_is_off() -> None:
    assert isinstance(plan_reset(world(with_status(deleting()), claim())), AddFinalizer)


@pytest.mark.parametrize("key", ["argocd.argoproj.io/instance", "velero.io/restore-name"])
def test_what_a_tool_applies_again_does_not_erase_again(key: str) -> None:
    req = reset()
    replayed = Request({**req.manifest, "metadata": {**req.meta, "labels": {key: "x"}}})
    assert ended(plan_reset(world(replayed, claim()))) == Reason.UNSAFE_REPLAY


def test_a_finished_request_does_nothing() -> None:
    done = with_status(reset(), phase="Succeeded")
    assert plan_reset(world(done, claim())) == Done()


def test_a_namespace_that_goes_away_is_let_go() -> None:
    req = recreating()
    step = plan_reset(world(req))
    assert isinstance(step, CreateClaim)
    answer = Refusal(403, "unable to create new content in namespace hub because it is being terminated")
    assert isinstance(plan_reset(world(req, answers={step.key: answer})), RemoveFinalizer)
