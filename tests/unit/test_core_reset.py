"""Every way a reset goes on and ends, word for word: the status is what administrators and users read."""

from __future__ import annotations

from typing import Any

import pytest
from steward_api import names
from steward_operator.core.model import Claim, Pod, Refusal, Request
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.plan_restart import plan_restart
from steward_operator.core.steps import (
    AddFinalizer,
    AnnotateClaim,
    CreateClaim,
    DeleteClaim,
    Done,
    RemoveFinalizer,
    StartServer,
    StopServer,
    TryCreateClaim,
    Wait,
    WriteStatus,
)

from tests.support.builders import (
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
from tests.support.under_way import AT, BOUND, FINAL, OK, at, begun, is_stalled

Json = dict[str, Any]


# -- Pending -----------------------------------------------------------------------------------------------------------


def test_what_is_written_down_before_anything_is_done() -> None:
    bound = claim(
        status=BOUND, spec={"volumeName": "pv-1"}, annotations={"pv.kubernetes.io/bound-by-controller": "yes"}
    )
    waited = with_status(reset("workspace", "cache"), waitingUntil=AT)
    status = status_of(plan_reset(world(waited, bound, claim("cache"))))
    rows = status.pop("volumes")
    assert status == {
        "phase": "Preparing", "reason": "InProgress", "message": "The request is being carried out.",
        "lockedClaims": ["cache-ann", "workspace-ann"], "startTime": AT, "observedGeneration": 1,
    }  # fmt: skip
    templates = [row.pop("template") for row in rows]
    assert rows == [
        {"volume": "workspace", "claim": "workspace-ann", "uid": "workspace-1", "outcome": "Pending",
         "persistentVolume": "pv-1"},
        {"volume": "cache", "claim": "cache-ann", "uid": "cache-1", "outcome": "Pending"},
    ]  # fmt: skip
    assert [template["metadata"]["name"] for template in templates] == ["workspace-ann", "cache-ann"]


@pytest.mark.parametrize(
    ("spec", "objects", "expected"),
    [
        ({"volumes": ["models"]}, (claim(),), ("UnknownVolume", "There is no volume 'models' here. There are: cache, home, shared, workspace.")),
        ({"volumes": ["shared"]}, (claim("shared"),), ("NotAllowed", "Shared cannot be reset on this hub.")),
        ({"volumes": ["cache"]}, (claim(),), ("VolumeMissing", "The user ann has no volume 'cache' for this server; its next start creates it, empty.")),
        ({}, (claim(spec={"storageClassName": ""}),), ("StaticallyProvisioned", "The volume 'workspace' cannot be reset: it has no storage class that could make a new volume.")),
        ({"expected": [{"volume": "workspace", "uid": "other"}]}, (claim(),), ("Stale", "The volume 'workspace' is not the one that was looked at any more.")),
        ({"serverPolicy": "Pause"}, (claim(),), ("NotSupported", "This operator cannot do serverPolicy Pause yet.")),
        ({"backup": "Tape"}, (claim(),), ("NotSupported", "This operator cannot do backup Tape yet.")),
        ({"contents": {"from": "Template", "name": "x"}}, (claim(),), ("NotSupported", "This operator cannot do contents from Template yet.")),
        ({"requestedBy": None}, (claim(),), ("NotAllowed", "The request does not say who asked. Add spec.requestedBy with kind KubernetesUser and your user name.")),
        ({"user": "bob"}, (claim(),), ("UnknownUser", "There is no user 'bob' with a server or a volume here.")),
        ({"user": "Ann"}, (claim(),), ("UnknownUser", "There is no user 'Ann' here. Did you mean 'ann'?")),
        ({"volumes": ["home"], "backup": "None", "requestedBy": {"kind": "HubUser", "name": "ann"}}, (claim("home"),), ("NotAllowed", "Only an administrator may reset 'home' without a backup.")),
    ],
)  # fmt: skip
def test_a_refusal_word_for_word(spec: Json, objects: tuple[Any, ...], expected: tuple[str, str]) -> None:
    kinds = spec.pop("volumes", ["workspace"])
    phase, reason, said = told(plan_reset(world(reset(*kinds, **spec), *objects)))
    assert phase == "Failed"
    assert (reason, said) == expected
    spec["volumes"] = kinds


def test_cancelled_scheduled_and_late() -> None:
    assert told(plan_reset(world(reset(cancel=True), claim())))[:2] == ("Cancelled", "CancelledByRequest")
    planned = reset(notBefore="2026-11-21T13:00:00Z")
    step = plan_reset(world(planned, claim()))
    status = status_of(step)
    assert told(step) == ("Pending", "Scheduled", "The request waits until 2026-11-21T13:00:00Z.")
    assert status["waitingUntil"] == "2026-11-21T13:00:00Z"
    waiting = written(planned, step)
    assert plan_reset(world(waiting, claim())) == Wait("scheduled", after(3600))
    assert status_of(plan_reset(world(waiting, claim(), now=after(3600))))["phase"] == "Preparing"
    assert told(plan_reset(world(waiting, claim(), now=after(4200))))[1] == "Expired"
    assert status_of(plan_reset(world(reset(), claim(), now=after(599))))["phase"] == "Preparing"
    assert told(plan_reset(world(reset(), claim(), now=after(600))))[1] == "Expired"
    short = reset(startingDeadlineSeconds=10)
    assert told(plan_reset(world(short, claim(), now=after(10))))[1] == "Expired"


def test_a_request_that_is_deleted_before_it_begins_does_nothing() -> None:
    req = reset()
    gone = Request({**req.manifest, "metadata": {**req.meta, "deletionTimestamp": AT}})
    assert plan_reset(world(gone, claim())) == Done()


def test_waiting_for_a_lock_and_for_a_claim_that_goes() -> None:
    other = with_status(reset(name="other"), phase="Deleting", lockedClaims=["workspace-ann"])
    step = plan_reset(world(reset(), claim(), others=(other,)))
    assert told(step) == ("Pending", "WaitingForOtherRequest", "Waiting for the request other.")
    waiting = written(reset(), step)
    assert plan_reset(world(waiting, claim(), others=(other,))) == Wait("another request", after(5))
    near = plan_reset(world(waiting, claim(), others=(other,), now=after(598)))
    assert near == Wait("another request", after(600)), "never past the moment when it is too late"
    for free in (
        with_status(reset(name="other"), phase="Succeeded", lockedClaims=["workspace-ann"]),
        with_status(reset(name="other"), phase="Deleting", lockedClaims=["cache-ann"]),
        with_status(reset(name="other"), phase="Pending"),
    ):
        assert status_of(plan_reset(world(reset(), claim(), others=(free,))))["phase"] == "Preparing"
    step = plan_reset(world(reset(), claim(deleting=True)))
    sentence = (
        "The claim workspace-ann is being deleted and is not gone yet; the storage system or a pod still holds it."
    )
    assert told(step) == ("Pending", "WaitingForClaim", sentence)
    assert plan_reset(world(written(reset(), step), claim(deleting=True))) == Wait("the claim goes", after(5))


def test_a_volume_that_another_request_is_about_to_make_again_is_waited_for() -> None:
    """It may have been all that there was of its user."""
    maker = with_status(begun("workspace"), phase="Recreating")
    step = plan_reset(world(reset(name="second"), others=(maker,)))
    assert told(step) == ("Pending", "WaitingForOtherRequest", "Waiting for the request r.")
    assert told(plan_reset(world(reset("cache", name="second"), others=(maker,))))[1] == "VolumeMissing"
    named = reset(name="second", server="second")
    assert told(plan_reset(world(named, others=(maker,))))[1] == "VolumeMissing", "that of another server"
    over = with_status(maker, lockedClaims=[])
    assert told(plan_reset(world(reset(name="second"), others=(over,))))[1] == "VolumeMissing"
    assert told(plan_reset(world(reset(name="second"), others=(reset(name="r"),))))[1] == "UnknownUser"
    refused = with_status(reset(name="r"), phase="Failed", reason="UnknownUser")
    assert told(plan_reset(world(reset(name="second"), others=(refused,))))[1] == "UnknownUser", "and so it stays"
    stopped = told(plan_restart(world(restart(name="second"), others=(maker,))))
    assert stopped[1] == "ServerNotRunning"


def test_joining_another_reset_needs_all_its_volumes_new_and_meant() -> None:
    def new(kind: str = "workspace", seconds: float = 1, **notes: str) -> Claim:
        return claim(kind, uid=f"{kind}-2", created=after(seconds), annotations={names.RESET_BY: "another", **notes})

    said = told(plan_reset(world(reset(), new(), now=after(5))))
    assert said == ("Succeeded", "Reset", "Another request has just reset these volumes.")
    same_second = told(plan_reset(world(reset(), new(seconds=0), now=after(5))))
    assert same_second[1] == "Reset"
    for req, objects in (
        (reset(), (new(seconds=-1),)),
        (reset("workspace", "cache"), (new(), claim("cache"))),
        (reset(expected=[{"volume": "workspace", "uid": "workspace-2"}]), (new(),)),
        (reset(), (new(**{names.RESTORED_FROM: "b"}),)),
        (reset(name="another"), (claim(created=after(1), annotations={names.RESET_BY: "uid-another"}),)),
        (reset(), (claim(created=after(1)),)),
    ):
        assert status_of(plan_reset(world(req, *objects, now=after(5))))["phase"] == "Preparing"


# -- Preparing ---------------------------------------------------------------------------------------------------------


def test_the_creation_of_every_volume_is_tried_and_the_refused_ones_are_left() -> None:
    req = begun("workspace", "cache")
    both = (claim(), claim("cache"))
    first = plan_reset(world(req, *both))
    assert first == TryCreateClaim(req.status["volumes"][0]["template"])
    answers: dict[str, Refusal | None] = {"try/workspace-ann": Refusal(422, "no such class")}
    assert plan_reset(world(req, *both, answers=answers)) == TryCreateClaim(req.status["volumes"][1]["template"])
    answers["try/cache-ann"] = None
    assert plan_reset(world(req, *both, answers=answers)) == AddFinalizer()
    step = plan_reset(world(with_status(req, FINAL), *both, answers=answers))
    rows = status_of(step)["volumes"]
    assert [row["outcome"] for row in rows] == ["Failed", "Deleting"]
    sentence = "Nothing was deleted, because it could not be made again: no such class"
    assert (rows[0]["reason"], rows[0]["message"]) == ("CannotRecreate", sentence)
    answers["try/cache-ann"] = Refusal(422, "no such class")
    step = plan_reset(world(req, *both, answers=answers))
    assert told(step) == ("Failed", "CannotRecreate", sentence)
    assert [row["outcome"] for row in status_of(step)["volumes"]] == ["Failed", "Failed"]
    assert status_of(step)["lockedClaims"] == []


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ((claim(), pod()), ("ServerRunning", "The server is running. Stop it first, then reset the volume.")),
        ((claim(uid="other"),), ("Stale", "The volume 'workspace' changed while the request began.")),
        ((claim(deleting=True),), ("Stale", "The volume 'workspace' changed while the request began.")),
        ((), ("Stale", "The volume 'workspace' changed while the request began.")),
        ((claim(), pod(user="bob", claims=("workspace-ann",))), ("ClaimInUse", "The pod jupyter-bob has this volume open; it is not one of this user's servers.")),
    ],
)  # fmt: skip
def test_what_changed_between_the_look_and_the_lock(objects: tuple[Any, ...], expected: tuple[str, str]) -> None:
    phase, *said = told(plan_reset(world(begun(), *objects)))
    assert phase == "Failed"
    assert tuple(said) == expected


def test_calling_off_and_being_late_while_preparing() -> None:
    req = begun()
    cancelled = Request({**req.manifest, "spec": {**req.spec, "cancel": True}})
    assert told(plan_reset(world(cancelled, claim())))[:2] == ("Cancelled", "CancelledByRequest")
    assert told(plan_reset(world(req, claim(), now=after(600))))[:2] == ("Failed", "Expired")
    assert isinstance(plan_reset(world(req, claim(), now=after(599))), TryCreateClaim)
    deleted = Request({**req.manifest, "metadata": {**req.meta, "deletionTimestamp": AT, "finalizers": list(FINAL)}})
    assert plan_reset(world(deleted, claim(), answers=OK)) == RemoveFinalizer()


@pytest.mark.parametrize("more", [{"phase": "Preparing", "step": "Stopping"}, {"phase": "BackingUp"},
                                  {"phase": "Deleting"}, {"phase": "Recreating"}])  # fmt: skip
def test_what_goes_with_its_namespace_waits_for_nothing(more: dict[str, str]) -> None:
    """Not for a hub, which goes, too, nor for a claim: nothing can be made there any more."""
    req = with_status(begun(serverPolicy="StopAndStart"), FINAL, podUID="pod-1", stepTime=AT, **more)
    deleted = Request({**req.manifest, "metadata": {**req.meta, "deletionTimestamp": AT}})
    asked = plan_reset(world(deleted, claim()))
    assert asked == TryCreateClaim(req.status["volumes"][0]["template"])
    sentence = 'persistentvolumeclaims "workspace-ann" is forbidden: unable to create new content in namespace hub ' \
               "because it is being terminated"  # fmt: skip
    answers: dict[str, Refusal | None] = {"try/workspace-ann": Refusal(403, sentence)}
    assert plan_reset(world(deleted, claim(), answers=answers)) == RemoveFinalizer()
    stays: dict[str, Refusal | None] = {"try/workspace-ann": Refusal(403, "not in this class")}
    assert plan_reset(world(deleted, claim(), answers=stays)) != RemoveFinalizer()


def test_nor_does_what_only_has_a_server_to_start() -> None:
    req = with_status(at("Recreating", spec={"serverPolicy": "StopAndStart"}), FINAL, podUID="pod-1")
    new = claim(uid="workspace-2")
    starting = written(req, plan_reset(world(req, new, answers=OK)))
    assert starting.status["ending"]["phase"] == "Succeeded"
    deleted = Request(
        {**starting.manifest, "metadata": {**starting.meta, "deletionTimestamp": AT, "finalizers": list(FINAL)}}
    )
    step = plan_reset(world(deleted, new))
    assert isinstance(step, TryCreateClaim)
    refused: dict[str, Refusal | None] = {step.key: Refusal(403, "because it is being terminated")}
    assert plan_reset(world(deleted, new, answers=refused)) == RemoveFinalizer()
    assert plan_reset(world(deleted, new, answers=OK)) == StartServer("ann", ""), (
        "where the hub stays the server comes back"
    )


def stopping(policy: str = "StopAndStart", step: str = "Stopping") -> Request:
    return with_status(begun(serverPolicy=policy), FINAL, step=step, stepTime=AT, podUID="pod-1")


RUNNING = pod(claims=("workspace-ann",))


def test_a_server_that_is_stopped_for_a_reset() -> None:
    req = begun(serverPolicy="Stop")
    assert plan_reset(world(req, claim(), RUNNING, answers=OK)) == AddFinalizer()
    status = status_of(plan_reset(world(with_status(req, FINAL), claim(), RUNNING, answers=OK, now=after(3))))
    assert (status["step"], status["podUID"], status["stepTime"]) == ("Stopping", "pod-1", "2026-11-21T12:00:03Z")
    assert status["message"] == "The server is being stopped."
    assert plan_reset(world(stopping(), claim(), RUNNING)) == StopServer("ann", "", "pod-1")
    going = pod(claims=("workspace-ann",), deleting=True)
    assert plan_reset(world(stopping(), claim(), going)) == Wait("the pod goes", after(2))
    assert plan_reset(world(stopping(), claim())) == TryCreateClaim(stopping().status["volumes"][0]["template"])
    assert status_of(plan_reset(world(stopping(), claim(), answers=OK)))["phase"] == "Deleting"


def test_a_server_that_does_not_stop_keeps_its_volume() -> None:
    busy: dict[str, Refusal | None] = {"stop": Refusal(503, "The hub is busy.")}
    step = plan_reset(world(stopping(), claim(), RUNNING, answers=busy, now=after(59)))
    sentence = "The hub did not stop the server: The hub is busy."
    assert told(step) == ("Preparing", "Retrying", sentence)
    assert is_stalled(step)
    refused = written(stopping(), step)
    assert isinstance(plan_reset(world(refused, claim(), RUNNING, now=after(59))), StopServer)
    assert isinstance(plan_reset(world(refused, claim(), RUNNING, now=after(60))), Wait), "it is not asked any more"
    assert isinstance(plan_reset(world(refused, claim(), RUNNING, now=after(119))), Wait), "it may still do it"
    assert plan_reset(world(refused, claim(), RUNNING, now=after(120))) == RemoveFinalizer()
    let_go = with_status(stopping(), step="Stopping")
    let_go = Request({**let_go.manifest, "metadata": {**let_go.meta, "finalizers": []}})
    said = told(plan_reset(world(written(let_go, step), claim(), RUNNING, now=after(120))))
    assert said == ("Failed", "StopFailed", f"{sentence} It is still running.")
    going = pod(claims=("workspace-ann",), deleting=True)
    assert isinstance(plan_reset(world(let_go, claim(), going, now=after(119))), Wait)
    step = plan_reset(world(let_go, claim(), going, now=after(120)))
    sentence = "The server's pod is being deleted and is not gone yet; its node may be away."
    assert told(step) == ("Preparing", "InProgress", sentence)
    assert is_stalled(step)
    assert isinstance(plan_reset(world(written(let_go, step), claim(), going, now=after(150))), Wait)
    ending = status_of(plan_reset(world(let_go, claim(), going, now=after(600))))["ending"]
    assert (ending["phase"], ending["reason"]) == ("Failed", "Expired")


def test_a_stop_that_the_hub_was_asked_for_is_waited_for_when_the_request_is_given_up() -> None:
    """It may mark the pod after the request has been cancelled, and then somebody has to start the server again."""
    given_up = stopping()
    given_up = Request({**given_up.manifest, "spec": {**given_up.spec, "cancel": True},
                        "metadata": {**given_up.meta, "finalizers": []}})  # fmt: skip
    until = after(120)
    assert plan_reset(world(given_up, claim(), RUNNING, now=after(119))) == Wait(
        "whether the hub stops the server", until
    )
    assert told(plan_reset(world(given_up, claim(), RUNNING, now=until)))[0] == "Cancelled"
    going = pod(claims=("workspace-ann",), deleting=True)
    assert status_of(plan_reset(world(given_up, claim(), going, now=after(119))))["step"] == "Starting"


def test_a_server_that_a_restart_has_stopped_is_not_taken_for_a_stopped_one() -> None:
    between = with_status(restart(name="again"), phase="Restarting", mechanism="Recreate", step="Starting")
    step = plan_reset(world(reset(), claim(), others=(between,)))
    sentence = "Waiting until the request again has started the server again."
    assert told(step) == ("Pending", "WaitingForOtherRequest", sentence)
    assert isinstance(plan_reset(world(written(reset(), step), claim(), others=(between,))), Wait)
    in_place = with_status(between, mechanism="InPlace")
    assert told(plan_reset(world(reset(), claim(), others=(in_place,))))[0] == "Preparing"
    ending = {"phase": "Succeeded", "reason": "Reset", "message": "New and empty."}
    other = with_status(reset(name="again"), phase="Recreating", lockedClaims=[], ending=ending)
    assert told(plan_reset(world(reset(), claim(), others=(other,)))) == ("Pending", "WaitingForOtherRequest", sentence)


def test_a_time_that_nobody_can_read_is_refused() -> None:
    for text in ("0000-01-01T00:00:00Z", "2026-11-21T12:00:00+99:99", "2026-11-21T12:00:00ZTrash",
                 "9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00"):  # fmt: skip
        _, reason, said = told(plan_reset(world(reset(notBefore=text), claim())))
        assert (reason, text in said) == ("NotSupported", True), text


# -- Deleting and Recreating -------------------------------------------------------------------------------------------


def test_a_claim_that_was_made_larger_during_its_reset_comes_back_as_large() -> None:
    """A backup may take an hour; what an administrator changes of the claim meanwhile is not taken back."""
    req = at("Deleting")
    larger = claim(spec={"resources": {"requests": {"storage": "50Gi"}}}, annotations={"team": "blue"})
    step = plan_reset(world(req, larger))
    (row,) = status_of(step)["volumes"]
    assert row["template"]["spec"]["resources"]["requests"]["storage"] == "50Gi"
    assert row["template"]["metadata"]["annotations"]["team"] == "blue"
    assert plan_reset(world(written(req, step), larger)) == DeleteClaim("workspace-ann", "workspace-1", "7")
    assert plan_reset(world(req, larger, table={})) == DeleteClaim("workspace-ann", "workspace-1", "7")


def test_a_claim_that_goes_slowly_is_told_of_after_a_minute() -> None:
    req = at("Deleting")
    going = claim(deleting=True)
    assert plan_reset(world(req, going)) == Wait("the claim goes", after(5))
    assert isinstance(plan_reset(world(req, going, now=after(60))), Wait)
    step = plan_reset(world(req, going, now=after(61)))
    assert told(step)[:2] == ("Deleting", "WaitingForClaim")
    assert is_stalled(step)
    again = with_status(written(req, step), FINAL)
    assert plan_reset(world(again, going, now=after(62))) == Wait("the claim goes", after(67))
    assert status_of(plan_reset(world(req)))["phase"] == "Recreating"


def test_the_last_look_before_a_delete() -> None:
    req = at("Deleting")
    assert plan_reset(world(req, claim())) == DeleteClaim("workspace-ann", "workspace-1", "7")
    bare = at("Deleting", finalizers=())
    assert plan_reset(world(bare, claim())) == AddFinalizer()
    kept = claim(annotations={names.KEPT_BY: "uid-r"})
    step = plan_reset(world(req, kept))
    assert step == RemoveFinalizer()
    said = told(plan_reset(world(bare, kept)))
    assert said == ("Failed", "Stale", "The request had already given this volume up; it was not erased.")
    refused: dict[str, Refusal | None] = {"delete/workspace-ann": Refusal(403, "legal hold")}
    assert plan_reset(world(req, claim(), answers=refused)) == AnnotateClaim(
        "workspace-ann", "workspace-1", "7", names.KEPT_BY, "uid-r"
    )
    both: dict[str, Refusal | None] = {**refused, f"annotate/workspace-ann/{names.KEPT_BY}": Refusal(403, "no notes")}
    said = told(plan_reset(world(bare, claim(), answers=both)))
    assert said == ("Failed", "NotAllowed", "The cluster does not let it be deleted: legal hold")


def test_a_creation_that_is_refused_is_told_of_and_tried_again() -> None:
    req = at("Recreating")
    assert plan_reset(world(req)) == CreateClaim(req.status["volumes"][0]["template"])
    refused: dict[str, Refusal | None] = {"create/workspace-ann": Refusal(403, "exceeded quota")}
    step = plan_reset(world(req, answers=refused))
    assert told(step) == ("Recreating", "Retrying", "The volume 'workspace' could not be created yet: exceeded quota")
    assert is_stalled(step)
    again = with_status(written(req, step), FINAL)
    assert plan_reset(world(again, answers=refused)) == Wait("creation refused", after(5))
    gone: dict[str, Refusal | None] = {
        "create/workspace-ann": Refusal(403, "x because it is being terminated"),
    }
    assert plan_reset(world(req, answers=gone)) == RemoveFinalizer()
    assert plan_reset(world(at("Recreating", finalizers=()), answers=gone)) == Done()
    assert plan_reset(world(req, claim())) == Wait("the claim goes", after(5))
    assert plan_reset(world(req, claim(uid="workspace-2", deleting=True))) == Wait("the claim goes", after(5))


def test_the_end_of_one_volume_and_of_several() -> None:
    end = plan_reset(world(at("Recreating", finalizers=()), claim(uid="workspace-2")))
    status = status_of(end)
    assert told(end) == ("Succeeded", "Reset", "New and empty: Workspace.")
    assert status["volumes"] == [
        {
            "volume": "workspace",
            "claim": "workspace-ann",
            "uid": "workspace-1",
            "newUID": "workspace-2",
            "outcome": "Reset",
        }
    ]
    assert status["completionTime"] == AT
    both = at("Recreating", "workspace", "cache", finalizers=())
    two = (claim(uid="workspace-2"), claim("cache", uid="cache-2"))
    assert told(plan_reset(world(both, *two)))[2] == "New and empty: Workspace, Cache."
    rows = [both.status["volumes"][0], {**both.status["volumes"][1], "outcome": "Failed", "reason": "ClaimInUse",
            "message": "It is in use."}]  # fmt: skip
    mixed = with_status(both, volumes=rows)
    said = told(plan_reset(world(mixed, claim(uid="workspace-2"), claim("cache"))))
    assert said == ("Failed", "PartialFailure", "Workspace: reset. Cache: not reset. It is in use.")


def test_a_claim_that_is_smaller_than_promised_is_told_of() -> None:
    smaller = claim(uid="workspace-2", spec={"resources": {"requests": {"storage": "1Gi"}}})
    row = status_of(plan_reset(world(at("Recreating", finalizers=()), smaller)))["volumes"][0]
    assert row["message"] == "Something else created this volume first, with another size, class or mode."
    assert row["outcome"] == "Reset"


def test_an_old_volume_that_is_kept_is_named() -> None:
    rows = [{**begun().status["volumes"][0], "persistentVolume": "pv-1", "outcome": "Deleting"}]
    req = at("Recreating", finalizers=(), volumes=rows)
    kept = plan_reset(world(req, claim(uid="workspace-2"), retained=frozenset({"pv-1"})))
    assert status_of(kept)["volumes"][0]["retainedVolume"] == "pv-1"
    gone = plan_reset(world(req, claim(uid="workspace-2"), retained=frozenset({"pv-2"})))
    assert "retainedVolume" not in status_of(gone)["volumes"][0]


# -- the server comes back ---------------------------------------------------------------------------------------------


def ending(step: str = "Starting", **more: Any) -> Request:
    end = {"phase": "Succeeded", "reason": "Reset", "message": "New and empty: Workspace."}
    return with_status(stopping(), (), phase="Recreating", step=step, ending=end, lockedClaims=[], **more)


def test_the_end_waits_for_the_server_and_the_lock_goes_before() -> None:
    req = at("Recreating", spec={"serverPolicy": "StopAndStart"}, podUID="pod-1", step="Stopping", stepTime=AT)
    step = plan_reset(world(req, claim(uid="workspace-2"), now=after(9)))
    status = status_of(step)
    assert told(step) == ("Recreating", "InProgress", "The server is being started again.")
    assert (status["step"], status["stepTime"], status["lockedClaims"]) == ("Starting", "2026-11-21T12:00:09Z", [])
    assert status["ending"] == {"phase": "Succeeded", "reason": "Reset", "message": "New and empty: Workspace."}
    assert plan_reset(world(with_status(written(req, step)), claim(uid="workspace-2"))) == StartServer("ann", "")


@pytest.mark.parametrize(
    ("objects", "seconds", "answers", "said", "started"),
    [
        ((pod(uid="pod-2", container="c9"),), 1, {}, "The server is running again.", True),
        ((), 120, {"start": Refusal(400, "No such profile.")},
         "The server did not start again: The server was stopped, and the hub did not start it: No such profile.", False),
        ((pod(uid="pod-2", container="c9", ready=False),), 300, {},
         "The server did not start again: it did not answer in time.", False),
        ((pod(uid="pod-2", container="c9", restarts=2, state="waiting", ready=False, last={"exitCode": 7}),), 9, {},
         "The server did not start again: The server was restarted and ended before it answered, with exit code 7.",
         False),
    ],
)  # fmt: skip
def test_how_the_end_speaks_of_the_server(
    objects: tuple[Pod, ...], seconds: float, answers: dict[str, Refusal | None], said: str, started: bool
) -> None:
    step = plan_reset(world(ending(), claim(), *objects, answers=answers, now=after(seconds)))
    assert told(step) == ("Succeeded", "Reset", f"New and empty: Workspace. {said}")
    status = status_of(step)
    assert not {"ending", "step", "stepTime"} & set(status)
    assert isinstance(step, WriteStatus)
    conditions = {c["type"]: c["status"] for c in step.status["conditions"]}
    assert conditions["ServerStarted"] == str(started)
    assert (conditions["Complete"], conditions["Failed"], conditions["Finished"]) == ("True", "False", "True")


def test_a_start_that_the_hub_took_and_that_comes_to_nothing() -> None:
    again = status_of(plan_reset(world(ending("Awaiting", starts=1), claim(), now=after(60))))
    assert (again["phase"], again["step"]) == ("Recreating", "Starting"), "a hub that was restarted has forgotten it"
    step = plan_reset(world(ending("Awaiting", starts=2), claim(), now=after(60)))
    assert told(step)[2].endswith("The server did not start again: start it from the home page.")


def test_a_reset_that_is_deleted_does_not_wait_for_a_hub_that_is_away() -> None:
    away: dict[str, Refusal | None] = {"start": Refusal(0, "no route")}
    gone = ending()
    gone.meta["deletionTimestamp"] = AT  # type: ignore[index]
    assert isinstance(plan_reset(world(ending(), claim(), answers=away, now=after(120))), WriteStatus)
    assert not isinstance(plan_reset(world(gone, claim(), answers=away, now=after(120))), WriteStatus | Wait)


# -- backups that are due, newer operators, tools that apply again -----------------------------------------------------


def test_a_phase_of_the_other_kind_is_refused() -> None:
    step = plan_reset(world(with_status(reset(), phase="Restarting"), claim()))
    assert told(step) == ("Failed", "NotSupported", "This operator does not know the phase Restarting.")


def test_a_phase_of_a_newer_operator_is_left_alone() -> None:
    newer = with_status(begun("workspace"), phase="Archiving")
    assert plan_reset(world(newer)) == Done()
    assert not newer.is_finished


def test_a_volume_that_was_used_after_all_gets_its_backup() -> None:
    req = begun("home", serverPolicy="Stop")
    assert req.status["volumes"][0]["backup"] == {"provider": "Copy", "state": "NothingToBackUp"}
    step = plan_reset(world(req, claim("home", status=BOUND), answers=OK))
    assert told(step) == ("BackingUp", "InProgress", "A backup of Home is being made.")
    backup = status_of(step)["volumes"][0]["backup"]
    assert backup == {"provider": "Copy", "name": "backup-home-uid-r", "state": "Pending"}


def test_a_backup_that_failed_is_on_record_and_ends_the_request_with_its_reason() -> None:
    row = {**begun("home").status["volumes"][0],
           "backup": {"provider": "Copy", "name": "b", "state": "Pending"}}  # fmt: skip
    req = with_status(begun("home"), phase="BackingUp", volumes=[row])
    gone = plan_reset(world(req, claim("home", uid="other")))
    row = status_of(gone)["volumes"][0]
    sentence = "The volume 'home' changed while its backup was made."
    assert (row["outcome"], row["reason"], row["message"]) == ("Failed", "Stale", sentence)
    assert row["backup"]["state"] == "Failed"
    end = plan_reset(world(with_status(written(req, gone)), claim("home", uid="other")))
    assert told(end) == ("Failed", "Stale", f"Nothing was erased. {sentence}")
    assert status_of(end)["volumes"][0]["outcome"] == "Failed"


@pytest.mark.parametrize("policy", ["Stop", "StopAndStart"])
def test_a_server_that_was_stopped_in_vain_comes_back(policy: str) -> None:
    """Nothing was erased, so everything is as before, the server included."""
    row = {**begun().status["volumes"][0], "outcome": "Failed", "reason": "NotAllowed", "message": "It is held."}
    req = with_status(stopping(policy), (), phase="Deleting", volumes=[row])
    refused: dict[str, Refusal | None] = {
        "delete/workspace-ann": Refusal(403, "legal hold"), f"annotate/workspace-ann/{names.KEPT_BY}": Refusal(403, "no"),
    }  # fmt: skip
    due = with_status(req, volumes=[{**row, "outcome": "Deleting"}])
    status = status_of(plan_reset(world(due, claim(), answers=refused)))
    assert (status["step"], status["ending"]["reason"]) == ("Starting", "NotAllowed")
    made = with_status(stopping("Stop"), (), phase="Recreating", volumes=[{**row, "outcome": "Failed", "newUID": "x"}])
    assert told(plan_reset(world(made, claim(uid="x"))))[0] == "Failed", "something was erased: it stays stopped"


def test_a_request_that_a_tool_applied_needs_to_say_what_it_saw() -> None:
    def applied(**spec: Any) -> Request:
        req = reset(**spec)
        notes = {"argocd.argoproj.io/tracking-id": "x"}
        return Request({**req.manifest, "metadata": {**req.meta, "annotations": notes}})

    assert told(plan_reset(world(applied(), claim())))[1] == "UnsafeReplay"
    seen = applied(expected=[{"volume": "workspace", "uid": "workspace-1"}])
    assert status_of(plan_reset(world(seen, claim())))["phase"] == "Preparing"


def test_a_backup_that_is_gone_at_the_last_moment_keeps_the_volume() -> None:
    row = {**begun("home").status["volumes"][0], "outcome": "Deleting",
           "backup": {"provider": "Copy", "name": "b", "state": "Ready"}}  # fmt: skip
    req = with_status(begun("home"), phase="Deleting", volumes=[row])
    kept = claim("home", annotations={names.KEPT_BY: "uid-r"})
    assert told(plan_reset(world(req, kept))) == (
        "Failed", "BackupFailed", "The backup is gone, so the volume was not erased.",
    )  # fmt: skip
