"""Snapshots in the plan of a reset: when one counts, what an undo makes of it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from steward_api import names
from steward_api.phases import BackupState, Phase, Reason
from steward_api.volumes import BackupPolicy
from steward_operator.core.copy_job import backup_name, restore_name
from steward_operator.core.copy_job import snapshot as manifest_of
from steward_operator.core.model import Claim, Job, Refusal, Request, Snapshot
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.retention import old_backups
from steward_operator.core.settings import Copying, Settings, Snapshots
from steward_operator.core.steps import (
    AddFinalizer,
    AnnotateClaim,
    AnnotateSnapshot,
    CreateJob,
    CreateSnapshot,
    DeleteJob,
    DeleteSnapshot,
    Wait,
)

from tests.support.builders import NOW, TABLE, claim, reset, stamp, status_of, with_status, written
from tests.support.builders import world as plain_world

Json = dict[str, Any]
ON = Settings(snapshots=Snapshots(enabled=True, class_name="fast"))
BOUND = {"phase": "Bound", "capacity": {"storage": "2Gi"}}


def world(req: Request, *objects: Any, **more: Any) -> Any:
    snapshots = tuple(o for o in objects if isinstance(o, Snapshot))
    rest = [o for o in objects if not isinstance(o, Snapshot)]
    return plain_world(req, *rest, **{"settings": ON, "snapshots": snapshots, **more})


def home(**more: Any) -> Claim:
    return claim("home", **{"status": BOUND, **more})


def snap(req: Request, *, ready: bool = True, sealed: bool = True, error: str = "", **meta: Any) -> Snapshot:
    manifest = manifest_of(req, home(), "home", Copying(), "fast")
    if ready and sealed:
        meta["annotations"] = {
            **meta.get("annotations", manifest["metadata"]["annotations"]), names.BACKUP: '{"bytes": 1073741824}',
        }  # fmt: skip
    status: Json = {"readyToUse": ready, "restoreSize": "1Gi"}
    if error:
        status["error"] = {"message": error}
    given = {"uid": "snap-1", "resourceVersion": "5", "creationTimestamp": stamp(), **meta}
    return Snapshot({**manifest, "metadata": {**manifest["metadata"], **given}, "status": status})


def backing_up() -> Request:
    req = reset("home", backup="Snapshot")
    req = written(req, plan_reset(world(req, home())))
    answers: dict[str, Refusal | None] = {"try/home-ann": None}
    return written(req, plan_reset(world(req, home(), answers=answers)))


def settled(req: Request, condition: str = "Complete") -> Job:
    """The Job that mounts the volume once more before its snapshot is taken."""
    conditions = [{"type": condition, "status": "True", "message": "no node"}] if condition else []
    return Job({"metadata": {"name": backup_name(req, "home"), "uid": "s"}, "status": {"conditions": conditions}})


def test_a_snapshot_is_taken_waited_for_sealed_and_written_down() -> None:
    req = backing_up()
    assert req.phase is Phase.BACKING_UP
    step = plan_reset(world(req, home()))
    assert isinstance(step, CreateJob), "what a server wrote last is written out first"
    pod = step.manifest["spec"]["template"]["spec"]
    assert (pod["containers"][0]["args"], pod["volumes"][0]["persistentVolumeClaim"]["claimName"]) == (
        ["--look=/source"], "home-ann",
    )  # fmt: skip
    assert isinstance(plan_reset(world(req, home(), jobs=(settled(req, ""),))), Wait)
    jobs = (settled(req),)
    step = plan_reset(world(req, home(), jobs=jobs))
    assert isinstance(step, CreateSnapshot)
    assert step.manifest["spec"] == {
        "source": {"persistentVolumeClaimName": "home-ann"},
        "volumeSnapshotClassName": "fast",
    }
    assert "ownerReferences" not in step.manifest["metadata"]
    assert step.manifest["metadata"]["annotations"][names.USERNAME] == "ann"
    assert isinstance(plan_reset(world(req, home(), snap(req, ready=False), jobs=jobs)), Wait)
    seal = plan_reset(world(req, home(), snap(req, sealed=False), jobs=jobs))
    assert seal == AnnotateSnapshot(snap(req).name, "snap-1", "5", names.BACKUP, '{"bytes": 1073741824}')
    refused: dict[str, Refusal | None] = {seal.key: Refusal(403, "no notes")}
    unsealed = status_of(plan_reset(world(req, home(), snap(req, sealed=False), jobs=jobs, answers=refused)))
    assert unsealed["volumes"][0]["message"] == "The backup could not be sealed: no notes"
    row = status_of(plan_reset(world(req, home(), snap(req), jobs=jobs)))["volumes"][0]
    assert (row["backup"]["provider"], row["backup"]["state"]) == ("Snapshot", BackupState.READY)
    assert row["backup"]["bytes"] == 2**30


def test_a_volume_that_cannot_be_opened_is_not_snapshotted() -> None:
    req = backing_up()
    failed = status_of(plan_reset(world(req, home(), jobs=(settled(req, "Failed"),))))["volumes"][0]
    assert failed["reason"] == Reason.BACKUP_FAILED
    sentence = "The volume could not be opened before its snapshot: The copy failed: no node"
    assert failed["message"] == sentence
    refused: dict[str, Refusal | None] = {f"job/{backup_name(req, 'home')}": Refusal(403, "exceeded quota")}
    row = status_of(plan_reset(world(req, home(), answers=refused)))["volumes"][0]
    assert row["message"] == "The volume could not be opened before its snapshot: exceeded quota"


def test_a_sealed_snapshot_that_is_not_ready_now_is_kept_and_not_used() -> None:
    """Restored by Velero, or lost to its driver for a while: retention and the clean-up leave it alone."""
    unready = snap(reset("home"))
    unready.manifest["status"]["readyToUse"] = False  # type: ignore[index]
    old = Snapshot(
        {**unready.manifest, "metadata": {**unready.meta, "creationTimestamp": stamp(NOW - timedelta(days=9))}}
    )
    assert old_backups([old], [], Copying(keep_last=2, keep_days=1), NOW) == []
    assert status_of(plan_reset(world(undo(), home(), unready)))["reason"] == Reason.BACKUP_MISSING


def test_the_default_class_is_the_drivers_own() -> None:
    assert "volumeSnapshotClassName" not in manifest_of(reset(), home(), "home", Copying(), "")["spec"]


def test_what_the_volumes_entry_says_is_what_default_means() -> None:
    table = {**TABLE, "home": replace(TABLE["home"], backup=BackupPolicy.SNAPSHOT)}
    row = status_of(plan_reset(world(reset("home"), home(), table=table)))["volumes"][0]
    assert row["backup"]["provider"] == "Snapshot"
    unused = status_of(plan_reset(world(reset("home"), home(status={"phase": "Pending"}), table=table)))["volumes"][0]
    assert unused["backup"] == {"provider": "Snapshot", "state": "NothingToBackUp"}


def test_where_snapshots_are_off_nothing_is_touched() -> None:
    status = status_of(plan_reset(plain_world(reset("home", backup="Snapshot"), home())))
    assert (status["phase"], status["reason"]) == (Phase.FAILED, Reason.NOT_SUPPORTED)
    assert "operator.backups.snapshots.enabled" in status["message"]


def test_a_snapshot_that_never_becomes_ready_keeps_everything() -> None:
    req = backing_up()
    stuck = snap(req, ready=False, error="no room for snapshots")
    late = NOW + timedelta(seconds=3601)
    assert isinstance(plan_reset(world(req, home(), stuck, now=NOW + timedelta(seconds=3599))), Wait)
    status = status_of(plan_reset(world(req, home(), stuck, now=late)))
    assert "no room for snapshots" in status["volumes"][0]["message"]
    req = written(req, plan_reset(world(req, home(), stuck, now=late)))
    assert plan_reset(world(req, home(), stuck, now=late)) == DeleteSnapshot(stuck.name, "snap-1", "5")
    end = status_of(plan_reset(world(req, home(), now=late)))
    assert (end["phase"], end["reason"]) == (Phase.FAILED, Reason.BACKUP_FAILED)


def test_a_cluster_without_snapshots_is_told_of() -> None:
    req = backing_up()
    refused: dict[str, Refusal | None] = {f"snapshot/{backup_name(req, 'home')}": Refusal(422, "this cluster has no x")}
    status = status_of(plan_reset(world(req, home(), answers=refused, jobs=(settled(req),))))
    assert status["volumes"][0]["reason"] == Reason.BACKUP_FAILED
    assert "this cluster has no x" in status["volumes"][0]["message"]


@pytest.mark.parametrize("held", ["ready", "not ready", "deleting", "gone"])
def test_no_delete_without_the_snapshot(held: str) -> None:
    req = backing_up()
    req = written(req, plan_reset(world(req, home(), snap(req))))
    assert isinstance(plan_reset(world(req, home(), snap(req))), AddFinalizer)
    req = with_status(req, (names.FINALIZER,))
    req = written(req, plan_reset(world(req, home(), snap(req))))
    assert req.phase is Phase.DELETING
    req = with_status(req, (names.FINALIZER,))
    seen = {"ready": [snap(req)], "not ready": [snap(req, ready=False)],
            "deleting": [snap(req, deletionTimestamp=stamp())], "gone": []}[held]  # fmt: skip
    step = plan_reset(world(req, home(), *seen))
    assert isinstance(step, AnnotateClaim) == (held != "ready"), step


# -- undo --------------------------------------------------------------------------------------------------------------


def undo(backup: str = "None") -> Request:
    return reset("home", name="undo", backup=backup, contents={"from": "Backup", "name": source().name})


def source(**more: Any) -> Snapshot:
    return snap(reset("home"), **more)


def test_an_undo_pins_the_snapshot_and_makes_the_claim_from_it() -> None:
    req = undo()
    req = written(req, plan_reset(world(req, home(), source())))
    template = req.status["volumes"][0]["template"]
    assert template["spec"]["dataSource"] == {
        "apiGroup": "snapshot.storage.k8s.io",
        "kind": "VolumeSnapshot",
        "name": source().name,
    }
    answers: dict[str, Refusal | None] = {"try/home-ann": None}
    step = plan_reset(world(req, home(), source(), answers=answers))
    assert step == AnnotateSnapshot(source().name, "snap-1", "5", names.PINNED_BY, "uid-undo")
    later = reset("home", name="later", backup="None")
    restored = home(spec={"dataSource": template["spec"]["dataSource"]})
    assert "dataSource" not in status_of(plan_reset(world(later, restored)))["volumes"][0]["template"]["spec"]


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (snap(reset("home"), ready=False), Reason.BACKUP_MISSING),
        (snap(reset("home"), deletionTimestamp=stamp()), Reason.BACKUP_MISSING),
        (snap(reset("home"), annotations={names.USERNAME: "bob", names.STORAGE_CLASS: "standard"}), Reason.NOT_ALLOWED),
        (snap(reset("home"), annotations={names.USERNAME: "ann", names.STORAGE_CLASS: "slow"}), Reason.BACKUP_MISSING),
        (snap(reset("home"), labels={names.VOLUME: "home"}), Reason.BACKUP_MISSING),
    ],
)
def test_a_snapshot_that_does_not_belong_or_fit_is_refused(seen: Snapshot, reason: Reason) -> None:
    status = status_of(plan_reset(world(undo(), home(), seen)))
    assert (status["phase"], status["reason"]) == (Phase.FAILED, reason)


def restoring() -> tuple[Request, Claim]:
    req = undo()
    req = written(req, plan_reset(world(req, home(), source())))
    rows = [{**req.status["volumes"][0], "outcome": "Deleting"}]
    req = with_status(req, (names.FINALIZER,), phase="Recreating", volumes=rows)
    made = home(
        uid="home-2", spec={"dataSource": rows[0]["template"]["spec"]["dataSource"]}, status={"phase": "Pending"}
    )
    return req, made


def job(req: Request, condition: str) -> Job:
    status = {"conditions": [{"type": condition, "status": "True", "message": "too late"}]} if condition else {}
    return Job({"metadata": {"name": restore_name(req, "home"), "uid": "j"}, "status": status})


def test_the_new_claim_is_mounted_under_the_lock_before_the_end() -> None:
    req, made = restoring()
    step = plan_reset(world(req, made, source()))
    assert isinstance(step, CreateJob)
    pod = step.manifest["spec"]["template"]["spec"]
    assert [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]] == ["home-ann"]
    assert pod["containers"][0]["args"] == ["--look=/source"]
    req = written(req, plan_reset(world(req, made, source(), jobs=(job(req, ""),))))
    assert isinstance(plan_reset(world(req, made, source(), jobs=(job(req, ""),))), Wait)
    said = status_of(plan_reset(world(req, made, source(), jobs=(job(req, "Complete"),))))
    assert said["volumes"][0]["restored"] is True
    assert said["lockedClaims"] == ["home-ann"]


def test_a_snapshot_that_the_storage_cannot_restore_is_told_of_and_stays() -> None:
    req, made = restoring()
    row = status_of(plan_reset(world(req, made, source(), jobs=(job(req, "Failed"),))))["volumes"][0]
    assert (row["outcome"], row["reason"]) == ("Failed", Reason.RESTORE_FAILED)
    assert "Reset the volume" in row["message"]
    assert source().name in row["message"]


def test_a_claim_that_somebody_else_made_first_is_not_taken_for_restored() -> None:
    req, _ = restoring()
    row = status_of(plan_reset(world(req, home(uid="home-2"), source())))["volumes"][0]
    assert (row["outcome"], row["reason"]) == ("Failed", Reason.RESTORE_FAILED)


def test_the_job_goes_before_the_end() -> None:
    req, made = restoring()
    req = written(req, plan_reset(world(req, made, source(), jobs=(job(req, "Complete"),))))
    step = plan_reset(world(req, made, source(), jobs=(job(req, "Complete"),)))
    assert step == DeleteJob(restore_name(req, "home"), "j")


def test_snapshots_and_copies_of_a_volume_are_counted_together() -> None:
    copies = [
        Claim({**home(name=f"copy-{days}", created=NOW - timedelta(days=days)).manifest, "metadata": {
            "name": f"copy-{days}", "uid": f"copy-{days}", "resourceVersion": "1",
            "creationTimestamp": stamp(NOW - timedelta(days=days)),
            "labels": {names.COMPONENT: names.BACKUP_COMPONENT, names.VOLUME: "home"},
            "annotations": {names.USERNAME: "ann", names.BACKUP: '{"bytes": 1}'},
        }})
        for days in (1, 3)
    ]  # fmt: skip
    taken = [
        snap(reset("home"), name=f"snap-{days}", creationTimestamp=stamp(NOW - timedelta(days=days))) for days in (2, 4)
    ]
    old = old_backups([*copies, *taken], [], Copying(keep_last=2), NOW)
    assert sorted(held.name for held in old) == ["copy-3", "snap-4"]
