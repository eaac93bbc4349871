"""Backups, undo, and stopping and starting in the plan of a reset: each guard by the step that it holds back."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from steward_api import names
from steward_api.phases import BackupState, Phase, Reason
from steward_operator.core.copy_job import backup_claim, backup_name, restore_name
from steward_operator.core.model import Claim, Job, Pod, Refusal, Request
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.settings import Copying
from steward_operator.core.steps import (
    AddFinalizer,
    AnnotateClaim,
    CreateClaim,
    CreateJob,
    DeleteClaim,
    DeleteJob,
    RemoveFinalizer,
    StartServer,
    StopServer,
    TryCreateClaim,
    Wait,
    WriteStatus,
)

from tests.support.builders import NOW, claim, pod, reset, stamp, with_status, world, written

Json = dict[str, Any]
BOUND = {"phase": "Bound", "capacity": {"storage": "2Gi"}}
REPORT = {"files": 3, "bytes": 1000, "checksum": "c0ffee"}


def home(**more: Any) -> Claim:
    return claim("home", status=BOUND, **more)


def allowed(req: Request) -> dict[str, Refusal | None]:
    return {f"try/{row['claim']}": None for row in req.status["volumes"]}


def prepared(**spec: Any) -> Request:
    req = reset("home", **spec)
    return written(req, plan_reset(world(req, home())))


def backing_up(**spec: Any) -> Request:
    req = prepared(**spec)
    return written(req, plan_reset(world(req, home(), answers=allowed(req))))


def held(req: Request, *, ready: bool = False, **meta: Any) -> Claim:
    """The claim that the backup goes into."""
    manifest = backup_claim(req, home(), "home", Copying())
    annotations = {**manifest["metadata"]["annotations"], **({names.BACKUP: json.dumps(REPORT)} if ready else {})}
    extra = {
        "uid": "backup-1",
        "resourceVersion": "3",
        "creationTimestamp": stamp(),
        "annotations": annotations,
        **meta,
    }
    return Claim({**manifest, "metadata": {**manifest["metadata"], **extra}})


def job(req: Request, condition: str = "", **meta: Any) -> Job:
    status = {"conditions": [{"type": condition, "status": "True", "message": "x"}]} if condition else {}
    return Job({"metadata": {"name": backup_name(req, "home"), "uid": "job-1", **meta}, "status": status})


def copy_pod(req: Request, message: str = "") -> Pod:
    state = {"terminated": {"message": message}} if message else {"running": {}}
    labels = {names.JOB_NAME: backup_name(req, "home"), names.REQUEST: req.uid}
    return Pod({
        "metadata": {"name": "copy", "uid": "copy", "labels": labels, "creationTimestamp": stamp()}, "spec": {},
        "status": {"phase": "Running", "containerStatuses": [{"name": "copy", "state": state}]},
    })  # fmt: skip


def reason_of(step: object, phase: Phase = Phase.FAILED) -> str:
    assert isinstance(step, WriteStatus), step
    assert step.status["phase"] == phase, step.status
    return str(step.status["reason"])


def test_home_is_not_deleted_before_its_backup_phase() -> None:
    assert backing_up().phase is Phase.BACKING_UP
    without = prepared(backup="None", requestedBy={"kind": "KubernetesUser", "name": "x"})
    assert isinstance(plan_reset(world(without, home(), answers=allowed(without))), AddFinalizer)


def test_a_user_cannot_do_without_the_backup_and_an_administrator_can() -> None:
    for kind, phase in (("HubUser", "Failed"), ("HubService", "Failed"), ("KubernetesUser", "Preparing")):
        req = reset("home", backup="None", requestedBy={"kind": kind, "name": "x"})
        step = plan_reset(world(req, home()))
        assert isinstance(step, WriteStatus)
        assert step.status["phase"] == phase


def test_claim_then_job_then_seal_then_record() -> None:
    req = backing_up()
    first = plan_reset(world(req, home()))
    assert isinstance(first, CreateClaim)
    assert first.template["spec"]["resources"]["requests"]["storage"] == "2Gi"
    second = plan_reset(world(req, home(), held(req)))
    assert isinstance(second, CreateJob)
    assert isinstance(plan_reset(world(req, home(), held(req), jobs=(job(req),))), Wait)
    done = {"jobs": (job(req, "Complete"),)}
    message = json.dumps(REPORT)
    third = plan_reset(world(req, home(), held(req), copy_pod(req, message), **done))
    assert isinstance(third, AnnotateClaim)
    assert json.loads(third.value or "") == REPORT
    fourth = plan_reset(world(req, home(), held(req, ready=True), copy_pod(req, message), **done))
    assert isinstance(fourth, WriteStatus)
    assert fourth.status["volumes"][0]["backup"]["state"] == BackupState.READY
    assert fourth.status["volumes"][0]["backup"]["checksum"] == "c0ffee"


def test_the_copys_pods_are_gone_before_the_delete() -> None:
    req = with_status(backing_up())
    rows = [{**req.status["volumes"][0], "backup": {"provider": "Copy", "name": held(req).name, "state": "Ready"}}]
    req = with_status(req, volumes=rows)
    objects = (home(), held(req, ready=True))
    assert plan_reset(world(req, *objects, jobs=(job(req, "Complete"),))) == DeleteJob(job(req).name, "job-1")
    assert isinstance(plan_reset(world(req, *objects, copy_pod(req, "{}"))), Wait)
    assert not isinstance(plan_reset(world(req, *objects)), Wait)


def on_a_dead_node(req: Request) -> Pod:
    going = copy_pod(req)
    return Pod({**going.manifest, "metadata": {**going.meta, "deletionTimestamp": stamp()}})


def test_a_copy_on_a_node_that_is_away_is_told_of_and_keeps_nobody() -> None:
    """Its pod never ends, so that the Job never fails: FailureTarget comes before that, and calling it off helps."""
    req = backing_up()
    running = job(req, creationTimestamp=stamp())
    gone = on_a_dead_node(req)
    late = NOW + timedelta(seconds=60)
    assert isinstance(plan_reset(world(req, home(), held(req), gone, jobs=(running,))), Wait)
    step = plan_reset(world(req, home(), held(req), gone, jobs=(running,), now=late))
    assert isinstance(step, WriteStatus)
    assert step.status["message"] == "The copy's pod copy is being deleted and is not gone yet; its node may be away."
    assert {c["type"]: c["status"] for c in step.status["conditions"]}["Stalled"] == "True"
    cancelled = Request({**req.manifest, "spec": {**req.spec, "cancel": True}})
    deleted = job(req, deletionTimestamp=stamp())
    assert plan_reset(world(cancelled, home(), held(req), gone, jobs=(running,))) == DeleteJob(running.name, "job-1")
    assert isinstance(plan_reset(world(cancelled, home(), held(req), gone, jobs=(deleted,))), DeleteClaim)
    assert reason_of(plan_reset(world(cancelled, home(), gone, jobs=(deleted,))), Phase.CANCELLED) == Reason.CANCELLED
    failed = plan_reset(world(req, home(), held(req), gone, jobs=(job(req, "FailureTarget"),)))
    assert isinstance(failed, WriteStatus)
    assert failed.status["volumes"][0]["reason"] == Reason.BACKUP_FAILED
    end = plan_reset(world(written(req, failed), home(), gone, jobs=(deleted,)))
    assert reason_of(end) == Reason.BACKUP_FAILED


def test_a_copy_that_no_pod_comes_for_is_told_of() -> None:
    req = backing_up()
    late = NOW + timedelta(seconds=60)
    running = job(req, creationTimestamp=stamp())

    def said(*pods: Pod) -> str:
        step = plan_reset(world(req, home(), held(req), *pods, jobs=(running,), now=late))
        return str(step.status["message"]) if isinstance(step, WriteStatus) else ""

    assert said() == f"The copy has no pod: the cluster may refuse it. The Events of the Job {running.name} say why."
    waiting = copy_pod(req)
    scheduled = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available."}
    pending = Pod({**waiting.manifest, "status": {"phase": "Pending", "conditions": [scheduled]}})
    assert said(pending) == "The copy's pod copy has no node yet: 0/1 nodes are available."
    assert said(waiting) == "", "it runs, and may take its time"


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        ('{"unreadable": ["a", "b"], "count": 2}', Reason.BACKUP_INCOMPLETE, "2 files could not be read: a, b."),
        ('{"unreadable": ["a"], "count": 1}', Reason.BACKUP_INCOMPLETE, "1 file could not be read: a."),
        (json.dumps({"unreadable": list("abcdefghij"), "count": 14}), Reason.BACKUP_INCOMPLETE, "j and 4 more."),
        ('{"error": "the new volume is too small"}', Reason.BACKUP_FAILED, "too small"),
        ("Killed", Reason.BACKUP_FAILED, "Killed"),
        ("", Reason.BACKUP_FAILED, "The copy failed: x"),
    ],
)
def test_a_copy_that_fails_is_told_and_nothing_is_deleted(message: str, reason: Reason, words: str) -> None:
    req = backing_up()
    step = plan_reset(world(req, home(), held(req), copy_pod(req, message), jobs=(job(req, "Failed"),)))
    assert isinstance(step, WriteStatus)
    row = step.status["volumes"][0]
    assert (row["outcome"], row["reason"]) == ("Failed", reason)
    assert words in row["message"]
    req = written(req, step)
    assert isinstance(plan_reset(world(req, home(), held(req), jobs=(job(req, "Failed"),))), DeleteJob)
    assert plan_reset(world(req, home(), held(req))) == DeleteClaim(held(req).name, "backup-1", "3")
    assert reason_of(plan_reset(world(req, home()))) == reason


def test_a_copy_without_a_report_is_no_backup() -> None:
    req = backing_up()
    step = plan_reset(world(req, home(), held(req), jobs=(job(req, "Complete"),)))
    assert isinstance(step, WriteStatus)
    assert step.status["volumes"][0]["reason"] == Reason.BACKUP_FAILED


def deleting(ready: bool = True) -> Request:
    req = backing_up()
    rows = [{**req.status["volumes"][0], "outcome": "Deleting",
             "backup": {"provider": "Copy", "name": held(req).name, "state": "Ready" if ready else "Pending"}}]  # fmt: skip
    return with_status(req, (names.FINALIZER,), phase="Deleting", volumes=rows)


@pytest.mark.parametrize("objects", [(home(),), (home(deleting=True),)], ids=["before the delete", "after it"])
def test_a_copy_that_was_begun_once_more_is_taken_away(objects: tuple[Claim, ...]) -> None:
    """By another leader, or by a request that came late: the claim would not go before the copy is forgotten."""
    req = deleting()
    late = job(req)
    ready = held(req, ready=True)
    assert plan_reset(world(req, *objects, ready, jobs=(late,))) == DeleteJob(late.name, "job-1")
    going = copy_pod(req)
    step = plan_reset(world(req, *objects, ready, going))
    assert isinstance(step, Wait), "its pod goes first"


def test_the_delete_needs_the_backup_to_be_there_still() -> None:
    assert isinstance(plan_reset(world(deleting(), home(), held(deleting(), ready=True))), DeleteClaim)
    for gone in ((), (held(deleting()),), (held(deleting(), ready=True, deletionTimestamp=stamp()),)):
        step = plan_reset(world(deleting(), home(), *gone))
        assert isinstance(step, AnnotateClaim), "given up, not deleted"
        assert step.annotation == names.KEPT_BY


def test_a_record_that_says_the_backup_is_pending_is_not_enough() -> None:
    step = plan_reset(world(deleting(ready=False), home(), held(deleting(), ready=True)))
    assert isinstance(step, AnnotateClaim)


# -- undo --------------------------------------------------------------------------------------------------------------


def undo(**more: Any) -> Request:
    return reset("home", name="undo", contents={"from": "Backup", "name": source().name}, **more)


def source(**meta: Any) -> Claim:
    return held(reset("home"), ready=True, **meta)


def test_an_undo_backs_up_what_is_there_now_and_pins_what_it_needs() -> None:
    req = undo()
    req = written(req, plan_reset(world(req, home(), source())))
    assert req.status["volumes"][0]["backup"]["state"] == "Pending"
    step = plan_reset(world(req, home(), source(), answers=allowed(req)))
    assert step == AnnotateClaim(source().name, "backup-1", "3", names.PINNED_BY, "uid-undo")


@pytest.mark.parametrize(
    ("held_by", "reason"),
    [
        (None, Reason.BACKUP_MISSING),
        (held(reset("home")), Reason.BACKUP_MISSING),
        (source(deletionTimestamp=stamp()), Reason.BACKUP_MISSING),
        (source(annotations={names.USERNAME: "bob", names.BACKUP: json.dumps(REPORT)}), Reason.NOT_ALLOWED),
        (source(annotations={names.USERNAME: "ann", names.SERVERNAME: "gpu", names.BACKUP: json.dumps(REPORT)}),
         Reason.NOT_ALLOWED),
        (source(annotations={names.USERNAME: "ann", names.BACKUP: json.dumps({**REPORT, "bytes": 9 * 2**30})}),
         Reason.BACKUP_MISSING),
        (home(), Reason.BACKUP_MISSING),
    ],
)  # fmt: skip
def test_a_backup_that_does_not_belong_or_fit_is_refused(held_by: Claim | None, reason: Reason) -> None:
    req = (
        undo()
        if held_by is None or held_by.is_backup
        else reset("home", contents={"from": "Backup", "name": "home-ann"})
    )
    objects = [o for o in (home(), held_by) if o is not None]
    assert reason_of(plan_reset(world(req, *objects))) == reason


def filling(**more: Any) -> tuple[Request, Job, Pod]:
    """An undo whose copy has just ended, with the Job and its pod."""
    req = undo(backup="None")
    req = written(req, plan_reset(world(req, home(), source())))
    rows = [{**req.status["volumes"][0], "outcome": "Deleting", **more}]
    req = with_status(req, (names.FINALIZER,), phase="Recreating", volumes=rows)
    step = plan_reset(world(req, home(uid="home-2"), source()))
    assert isinstance(step, CreateJob) or more
    fill = Job({"metadata": {"name": restore_name(req, "home"), "uid": "j"},
                "status": {"conditions": [{"type": "Complete", "status": "True"}]}})  # fmt: skip
    labels = {names.JOB_NAME: fill.name, names.REQUEST: req.uid}
    done = copy_pod(req, json.dumps(REPORT))
    return req, fill, Pod({**done.manifest, "metadata": {**done.meta, "labels": labels}})


def test_the_lock_holds_until_the_backup_is_back_and_compared() -> None:
    req, fill, done = filling()
    new = home(uid="home-2")
    step = plan_reset(world(req, new, source()))
    assert isinstance(step, CreateJob)
    assert step.manifest["spec"]["template"]["spec"]["containers"][0]["args"][-1] == "--expect=c0ffee"
    said = plan_reset(world(req, new, source(), done, jobs=(fill,)))
    assert isinstance(said, WriteStatus)
    assert said.status["volumes"][0]["restored"] is True
    assert said.status["lockedClaims"] == ["home-ann"]
    req = written(req, said)
    assert isinstance(plan_reset(world(req, new, source(), done, jobs=(fill,))), DeleteJob)
    unpinned = source(annotations={**source().annotations, names.PINNED_BY: "uid-undo"})
    assert isinstance(plan_reset(world(req, new, unpinned)), AnnotateClaim)
    assert isinstance(plan_reset(world(req, new, source())), RemoveFinalizer)


def test_a_claim_that_is_deleted_while_a_backup_is_put_back_is_let_go_and_filled_again() -> None:
    """The copy's finished pod would hold it for ever, and what the copy reported is not in the next claim."""
    req, fill, done = filling()
    going = home(uid="home-2", deleting=True)
    assert plan_reset(world(req, going, source(), done, jobs=(fill,))) == DeleteJob(fill.name, "j")
    assert isinstance(plan_reset(world(req, going, source(), done)), Wait)
    assert isinstance(plan_reset(world(req, going, source())), Wait)
    assert plan_reset(world(req, source(), done, jobs=(fill,))) == DeleteJob(fill.name, "j")
    assert isinstance(plan_reset(world(req, source())), CreateClaim)
    assert isinstance(plan_reset(world(req, home(uid="home-3"), source())), CreateJob)


def test_a_claim_that_is_deleted_after_a_backup_was_put_back_is_filled_again() -> None:
    req, _, _ = filling(restored=True, newUID="home-2")
    assert isinstance(plan_reset(world(req, home(uid="home-3"), source())), CreateJob)
    assert isinstance(plan_reset(world(req, home(uid="home-2"), source())), RemoveFinalizer)


def test_a_claim_with_a_backup_in_it_is_not_taken_for_an_empty_one() -> None:
    req = undo(backup="None")
    req = written(req, plan_reset(world(req, home(), source())))
    template = req.status["volumes"][0]["template"]
    assert template["metadata"]["annotations"][names.RESTORED_FROM] == source().name
    filled = Claim({**template, "metadata": {**template["metadata"], "uid": "home-2", "resourceVersion": "8",
                    "creationTimestamp": stamp(NOW + timedelta(seconds=9))}, "status": BOUND})  # fmt: skip
    waited = reset("home", name="waited")
    step = plan_reset(world(waited, filled, now=NOW + timedelta(seconds=10)))
    assert isinstance(step, WriteStatus)
    assert step.status["phase"] == Phase.PREPARING
    assert names.RESTORED_FROM not in step.status["volumes"][0]["template"]["metadata"]["annotations"]


# -- stopping and starting ---------------------------------------------------------------------------------------------


def stopping(policy: str = "StopAndStart") -> Request:
    req = reset(serverPolicy=policy)
    running = (claim(), pod(claims=("workspace-ann",)))
    req = written(req, plan_reset(world(req, *running)))
    assert isinstance(plan_reset(world(req, *running, answers=allowed(req))), AddFinalizer)
    req = with_status(req, (names.FINALIZER,))
    step = plan_reset(world(req, *running, answers=allowed(req)))
    assert isinstance(step, WriteStatus)
    assert (step.status["step"], step.status["podUID"]) == ("Stopping", "pod-1")
    return written(req, step)


def let_go(req: Request) -> Request:
    """Without the finalizer, which goes before an end is written."""
    return with_status(req)


def test_the_server_is_stopped_only_when_the_claim_could_be_made_again() -> None:
    req = reset(serverPolicy="Stop")
    running = (claim(), pod(claims=("workspace-ann",)))
    req = written(req, plan_reset(world(req, *running)))
    assert isinstance(plan_reset(world(req, *running)), TryCreateClaim)
    refused = plan_reset(world(req, *running, answers={"try/workspace-ann": Refusal(403, "no")}))
    assert reason_of(refused) == Reason.CANNOT_RECREATE


def test_nothing_is_deleted_while_the_server_stops() -> None:
    req = stopping()
    assert plan_reset(world(req, claim(), pod(claims=("workspace-ann",)))) == StopServer("ann", "", "pod-1")
    assert isinstance(plan_reset(world(req, claim(), pod(claims=("workspace-ann",), deleting=True))), Wait)
    assert isinstance(plan_reset(world(req, claim())), TryCreateClaim)


def test_a_server_that_does_not_stop_is_left_running() -> None:
    late = {"now": NOW + timedelta(seconds=130)}
    running = (claim(), pod(claims=("workspace-ann",)))
    assert isinstance(plan_reset(world(stopping(), *running, **late)), RemoveFinalizer)
    step = plan_reset(world(let_go(stopping()), *running, **late))
    assert reason_of(step) == Reason.TIMED_OUT
    assert isinstance(step, WriteStatus)
    assert "ending" not in step.status


@pytest.mark.parametrize(("policy", "starts"), [("StopAndStart", True), ("Stop", False)])
def test_after_the_reset_the_server_starts_if_asked_for(policy: str, starts: bool) -> None:
    req = with_status(stopping(policy), (names.FINALIZER,) if starts else (), phase="Recreating")
    step = plan_reset(world(req, claim(uid="workspace-2")))
    assert isinstance(step, WriteStatus)
    assert step.status["lockedClaims"] == []
    assert ("ending" in step.status) == starts
    if starts:
        ending = written(req, step)
        assert plan_reset(world(ending, claim(uid="workspace-2"))) == StartServer("ann", "")


def test_whoever_calls_it_off_gets_his_server_back() -> None:
    req = stopping("Stop")
    asked = Request({**req.manifest, "spec": {**req.spec, "cancel": True}})
    step = plan_reset(world(asked, claim()))
    assert isinstance(step, WriteStatus)
    assert step.status["ending"]["phase"] == Phase.CANCELLED
    running = pod(uid="pod-2", claims=("workspace-ann",))
    assert isinstance(plan_reset(world(written(asked, step), claim(), running)), RemoveFinalizer)
    end = plan_reset(world(let_go(written(asked, step)), claim(), running))
    assert reason_of(end, Phase.CANCELLED) == Reason.CANCELLED
    assert isinstance(end, WriteStatus)
    assert {c["type"]: c["status"] for c in end.status["conditions"]}["ServerStarted"] == "True"


def test_a_deleted_request_starts_the_server_that_it_stopped_before_it_goes() -> None:
    gone = stopping()
    gone = Request({**gone.manifest, "metadata": {**gone.meta, "deletionTimestamp": stamp()}})
    answers = allowed(gone)
    step = plan_reset(world(gone, claim(), answers=answers))
    assert isinstance(step, WriteStatus)
    assert plan_reset(world(written(gone, step), claim(), answers=answers)) == StartServer("ann", "")


def test_a_volume_that_was_used_while_its_server_stopped_is_backed_up_after_all() -> None:
    req = reset("home", serverPolicy="Stop")
    starting = pod(claims=("home-ann",), phase="Pending", container="")
    req = written(req, plan_reset(world(req, claim("home"), starting)))
    assert req.status["volumes"][0]["backup"]["state"] == BackupState.NOTHING_TO_BACK_UP
    req = with_status(req, (names.FINALIZER,), step="Stopping", podUID="pod-1", stepTime=stamp())
    step = plan_reset(world(req, home(), answers=allowed(req)))
    assert reason_of(step, Phase.BACKING_UP) == Reason.IN_PROGRESS
    assert isinstance(step, WriteStatus)
    assert step.status["volumes"][0]["backup"]["state"] == BackupState.PENDING


def test_a_volume_that_is_used_by_now_is_not_deleted_as_an_unused_one() -> None:
    req = deleting()
    rows = [{**req.status["volumes"][0], "backup": {"provider": "Copy", "state": "NothingToBackUp"}}]
    req = with_status(req, (names.FINALIZER,), volumes=rows)
    assert isinstance(plan_reset(world(req, claim("home"))), DeleteClaim)
    for used in (home(), claim("home", status={"phase": "Lost"}), claim("home", spec={"volumeName": "pv-1"})):
        assert isinstance(plan_reset(world(req, used)), AnnotateClaim)


def test_an_undo_whose_backup_has_gone_erases_nothing() -> None:
    req = undo()
    req = written(req, plan_reset(world(req, home(), source())))
    assert reason_of(plan_reset(world(req, home(), answers=allowed(req)))) == Reason.BACKUP_MISSING
    rows = [{**req.status["volumes"][0], "outcome": "Deleting"}]
    rows[0].pop("backup")
    late = with_status(req, (names.FINALIZER,), phase="Deleting", volumes=rows)
    assert isinstance(plan_reset(world(late, home())), AnnotateClaim)


def test_a_refused_clean_up_holds_nothing_up() -> None:
    req = backing_up()
    rows = [{**req.status["volumes"][0], "outcome": "Failed", "reason": "BackupIncomplete", "message": "It is so.",
             "backup": {"provider": "Copy", "name": held(req).name, "state": "Failed"}}]  # fmt: skip
    req = with_status(req, volumes=rows)
    refused = {f"delete/{held(req).name}": Refusal(403, "no claim is deleted here")}
    assert reason_of(plan_reset(world(req, home(), held(req), answers=refused))) == Reason.BACKUP_INCOMPLETE


def test_a_refused_copy_of_an_undo_is_tried_again_and_says_stalled() -> None:
    req = undo(backup="None")
    req = written(req, plan_reset(world(req, home(), source())))
    rows = [{**req.status["volumes"][0], "outcome": "Deleting"}]
    req = with_status(req, (names.FINALIZER,), phase="Recreating", volumes=rows)
    step = plan_reset(world(req, home(uid="home-2"), source()))
    assert isinstance(step, CreateJob)
    told = plan_reset(world(req, home(uid="home-2"), source(), answers={step.key: Refusal(403, "quota")}))
    assert isinstance(told, WriteStatus)
    assert {c["type"]: c["status"] for c in told.status["conditions"]}["Stalled"] == "True"


def test_an_old_volume_that_its_class_keeps_is_named() -> None:
    req = with_status(stopping("Stop"), phase="Recreating")
    rows = [{**req.status["volumes"][0], "persistentVolume": "pv-1"}]
    req = with_status(req, volumes=rows)
    step = plan_reset(world(req, claim(uid="workspace-2"), retained=frozenset({"pv-1"})))
    assert isinstance(step, WriteStatus)
    assert step.status["volumes"][0]["retainedVolume"] == "pv-1"
