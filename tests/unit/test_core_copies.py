"""What a copy is made of, and what is read out of how it ended."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from steward_api import names
from steward_api.phases import Reason
from steward_operator.core import backups, copies, retention
from steward_operator.core.backup_results import Completed, NotAllowed, NotCompleted
from steward_operator.core.copy_job import backup_claim, backup_name, copy_job, look_job, restore_name, snapshot
from steward_operator.core.model import Claim, Job, Pod, Refusal, Request
from steward_operator.core.settings import Copying
from steward_operator.core.steps import CreateJob, Wait

from tests.support.builders import NOW, claim, reset, stamp, with_status, world

Json = dict[str, Any]
COPYING = Copying(
    image="registry/operator:1", pull_policy="Always", pull_secrets=("key",), uid=1001, gid=101, fs_gid=102,
    labels={"app": "jupyterhub"}, node_selector={"pool": "users"}, tolerations=({"key": "user", "operator": "Exists"},),
    resources={"limits": {"memory": "256Mi"}}, deadline=77,
)  # fmt: skip
LABELS = {
    "app": "jupyterhub",
    "component": "volume-copy",
    "hubsteward.io/volume": "home",
    "hubsteward.io/request": "uid-r",
}
OWNER = {"apiVersion": "hubsteward.io/v1alpha1", "kind": "VolumeReset", "name": "r", "uid": "uid-r",
         "controller": False, "blockOwnerDeletion": False}  # fmt: skip


def expected_pod(arguments: list[str], volumes: list[Json], mounts: list[Json]) -> Json:
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 1001, "runAsGroup": 101, "fsGroup": 102,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "copy", "image": "registry/operator:1", "imagePullPolicy": "Always", "command": ["steward-copy"],
            "args": arguments,
            "env": [{"name": "STEWARD_ATTEMPT", "valueFrom": {"fieldRef": {
                "fieldPath": "metadata.labels['batch.kubernetes.io/controller-uid']"}}}],
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]}},
            "resources": {"limits": {"memory": "256Mi"}},
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
        "imagePullSecrets": [{"name": "key"}],
        "nodeSelector": {"pool": "users"},
        "tolerations": [{"key": "user", "operator": "Exists"}],
    }  # fmt: skip


def expected_job(name: str, pod: Json) -> Json:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": LABELS, "ownerReferences": [OWNER]},
        "spec": {
            "backoffLimit": 2, "ttlSecondsAfterFinished": 900, "activeDeadlineSeconds": 77,
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {
                "containerName": "copy", "operator": "In", "values": [3, 4, 5, 6]}}]},
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
        },
    }  # fmt: skip


def test_the_job_that_copies() -> None:
    volumes = [
        {"name": "source", "persistentVolumeClaim": {"claimName": "home-ann", "readOnly": True}},
        {"name": "target", "persistentVolumeClaim": {"claimName": "backup", "readOnly": False}},
    ]
    mounts = [
        {"name": "source", "mountPath": "/source", "readOnly": True},
        {"name": "target", "mountPath": "/target", "readOnly": False},
    ]
    for checksum, last in (("", "--seal"), ("c0ffee", "--expect=c0ffee")):
        made = copy_job(reset("home"), "copy-1", "home", "home-ann", "backup", COPYING, checksum)
        assert made == expected_job("copy-1", expected_pod(["--from=/source", "--to=/target", last], volumes, mounts))


def test_the_job_that_only_looks() -> None:
    volumes = [{"name": "source", "persistentVolumeClaim": {"claimName": "home-ann", "readOnly": True}}]
    mounts = [{"name": "source", "mountPath": "/source", "readOnly": True}]
    made = look_job(reset("home"), "look-1", "home", "home-ann", COPYING)
    assert made == expected_job("look-1", expected_pod(["--look=/source"], volumes, mounts))


def test_what_is_not_configured_is_left_out() -> None:
    pod = look_job(reset("home"), "look-1", "home", "home-ann", Copying())["spec"]["template"]["spec"]
    assert not {"imagePullSecrets", "nodeSelector", "tolerations"} & set(pod)


def test_the_claim_and_the_snapshot_of_a_backup() -> None:
    notes = {names.SERVERNAME: "gpu", "team": "blue"}
    seen = claim("home", annotations=notes, spec={"volumeMode": "Filesystem", "volumeName": "pv"},
                 status={"capacity": {"storage": "3Gi"}})  # fmt: skip
    labels = {**LABELS, "component": "volume-backup"}
    mine = {names.USERNAME: "ann", names.SERVERNAME: "gpu", "hubsteward.io/backup-of": "home-ann"}
    assert backup_claim(reset("home"), seen, "home", COPYING) == {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "backup-home-uid-r", "labels": labels, "annotations": mine},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "standard", "volumeMode": "Filesystem",
                 "resources": {"requests": {"storage": "3Gi"}}},
    }  # fmt: skip
    unbound = backup_claim(reset("home"), claim("home"), "home", COPYING)
    assert unbound["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert snapshot(reset("home"), seen, "home", COPYING, "fast") == {
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"name": "backup-home-uid-r", "labels": labels,
                     "annotations": {**mine, "hubsteward.io/storage-class": "standard"}},
        "spec": {"source": {"persistentVolumeClaimName": "home-ann"}, "volumeSnapshotClassName": "fast"},
    }  # fmt: skip
    assert restore_name(reset("home"), "home") == "restore-home-uid-r"
    assert len(backup_name(reset(), "a" * 16).replace("uid-r", "0" * 36)) <= 60


# -- how a copy ended ----------------------------------------------------------------------------------------------

MANIFEST: Json = {"metadata": {"name": "copy-1"}}


def job(condition: str = "", **more: str) -> Job:
    status = {"conditions": [{"type": condition, "status": "True", **more}]} if condition else {}
    return Job({"metadata": {"name": "copy-1", "uid": "j"}, "status": status})


def copier(message: str, name: str = "copy-1", created: Any = NOW) -> Pod:
    state = {"terminated": {"message": message}}
    return Pod({
        "metadata": {"name": "p", "uid": "p", "labels": {names.JOB_NAME: name}, "creationTimestamp": stamp(created)},
        "spec": {}, "status": {"containerStatuses": [{"name": "copy", "state": state}]},
    })  # fmt: skip


def ran(*pods: Pod, jobs: tuple[Job, ...] = (), **more: Any) -> Any:
    return copies.run_job(world(reset("home"), *pods, jobs=jobs, **more), MANIFEST)


def test_a_job_is_made_once_and_waited_for() -> None:
    assert ran() == CreateJob(MANIFEST)
    assert ran(answers={"job/copy-1": Refusal(403, "exceeded quota")}) == NotAllowed("exceeded quota")
    assert ran(jobs=(job(),)) == Wait("the copy runs", NOW + timedelta(seconds=2))


def test_the_newest_report_of_its_own_pods_counts() -> None:
    old = copier('{"files": 1}', created=NOW - timedelta(minutes=1))
    new = copier('{"files": 2}')
    other = copier('{"files": 3}', name="copy-2", created=NOW + timedelta(minutes=1))
    silent = copier("", created=NOW + timedelta(minutes=2))
    for order in ((old, new, other, silent), (silent, other, new, old)):
        assert ran(*order, jobs=(job("Complete"),)) == Completed({"files": 2})
    assert ran(jobs=(job("Complete"),)) == Completed({})
    assert ran(copier("[1]"), jobs=(job("Complete"),)) == Completed({})
    assert ran(copier("x" * 600), jobs=(job("Complete"),)) == Completed({"error": "x" * 500})


@pytest.mark.parametrize(
    ("report", "condition", "reason", "message"),
    [
        ({"error": "the volume is full"}, {"message": "BackoffLimit"}, Reason.BACKUP_FAILED,
         "The copy failed: the volume is full"),
        ({}, {"message": "Job has reached its limit", "reason": "BackoffLimitExceeded"}, Reason.BACKUP_FAILED,
         "The copy failed: Job has reached its limit"),
        ({}, {"reason": "DeadlineExceeded"}, Reason.BACKUP_FAILED, "The copy failed: DeadlineExceeded"),
        ({}, {}, Reason.BACKUP_FAILED, "The copy failed: "),
        ({"unreadable": ["a"], "count": 1}, {}, Reason.BACKUP_INCOMPLETE, "1 file could not be read: a."),
        ({"unreadable": ["a", "b"]}, {}, Reason.BACKUP_INCOMPLETE, "2 files could not be read: a, b."),
        ({"unreadable": list("abcdefghij"), "count": 10}, {}, Reason.BACKUP_INCOMPLETE,
         "10 files could not be read: a, b, c, d, e, f, g, h, i, j."),
        ({"unreadable": list("abcdefghijk"), "count": 11}, {}, Reason.BACKUP_INCOMPLETE,
         "11 files could not be read: a, b, c, d, e, f, g, h, i, j and 1 more."),
    ],
)  # fmt: skip
def test_why_a_copy_failed(report: Json, condition: dict[str, str], reason: Reason, message: str) -> None:
    pods = (copier(json.dumps(report)),) if report else ()
    assert ran(*pods, jobs=(job("Failed", **condition),)) == NotCompleted(reason, message)


def test_a_long_reason_is_cut() -> None:
    answer = ran(copier(json.dumps({"error": "x" * 2000})), jobs=(job("Failed"),))
    assert isinstance(answer, NotCompleted)
    assert len(answer.message) == 1024


def record() -> Json:
    return {"volume": "home", "claim": "home-ann", "uid": "home-1", "outcome": "Pending",
            "backup": {"provider": "Copy", "name": "backup-home-uid-r", "state": "Pending"}}  # fmt: skip


def held(*, sealed: bool = False) -> Claim:
    manifest = backup_claim(reset("home"), claim("home"), "home", Copying())
    notes = {**manifest["metadata"]["annotations"], **({names.BACKUP: '{"checksum": "c"}'} if sealed else {})}
    meta = {
        **manifest["metadata"],
        "uid": "b",
        "resourceVersion": "1",
        "annotations": notes,
        "creationTimestamp": stamp(),
    }
    return Claim({**manifest, "metadata": meta})


def made(*objects: Any, **more: Any) -> Any:
    return backups.make(world(reset("home"), *objects, **more), record())


def test_every_refusal_on_the_way_to_a_backup_says_what_was_refused() -> None:
    source, name = claim("home"), "backup-home-uid-r"
    refused: dict[str, Refusal | None] = {f"create/{name}": Refusal(403, "exceeded quota")}
    assert made(source, answers=refused) == NotCompleted(
        Reason.BACKUP_FAILED, "The backup's volume was refused: exceeded quota"
    )
    refused = {f"job/{name}": Refusal(403, "no jobs")}
    assert made(source, held(), answers=refused) == NotCompleted(Reason.BACKUP_FAILED, "The copy was refused: no jobs")
    done = Job(
        {"metadata": {"name": name, "uid": "j"}, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    )
    report = copier('{"files": 1, "bytes": 2, "checksum": "c"}', name=name)
    refused = {f"annotate/{name}/{names.BACKUP}": Refusal(403, "no notes")}
    assert made(source, held(), report, jobs=(done,), answers=refused) == NotCompleted(
        Reason.BACKUP_FAILED, "The backup could not be sealed: no notes"
    )
    assert made(source, held(), copier('{"files": 1}', name=name), jobs=(done,)) == NotCompleted(
        Reason.BACKUP_FAILED, "The copy ended without a report."
    )
    for changed in (claim("home", uid="other"), claim("home", deleting=True), claim("workspace")):
        assert made(changed) == NotCompleted(Reason.STALE, "The volume 'home' changed while its backup was made.")


# -- what may be thrown away -----------------------------------------------------------------------------------------


def old(days: float, name: str = "", **notes: str) -> Claim:
    found = held(sealed=True)
    meta = {**found.meta, "name": name or f"b{days}", "creationTimestamp": stamp(NOW - timedelta(days=days)),
            "annotations": {**found.annotations, **notes}}  # fmt: skip
    return Claim({**found.manifest, "metadata": meta})


def test_the_bounds_of_keeping_are_exact() -> None:
    copying = Copying(keep_last=5, keep_days=30)
    young = [old(1), old(2)]
    assert retention.old_backups([*young, old(30)], [], copying, NOW) == []
    assert [h.name for h in retention.old_backups([*young, old(30.1)], [], copying, NOW)] == ["b30.1"]
    going = Claim({**old(99).manifest, "metadata": {**old(99).meta, "deletionTimestamp": stamp()}})
    assert [h.name for h in retention.old_backups([going, claim(), *young, old(31)], [], copying, NOW)] == ["b31"]
    unfinished = held()
    at_ten = Claim(
        {
            **unfinished.manifest,
            "metadata": {**unfinished.meta, "creationTimestamp": stamp(NOW - timedelta(minutes=10))},
        }
    )
    assert retention.old_backups([at_ten], [], copying, NOW) == []


def ended(name: str, ago: float, **spec: Any) -> Request:
    return with_status(reset(name=name, **spec), phase="Succeeded", completionTime=stamp(NOW - timedelta(seconds=ago)))


def test_finished_requests_go_when_their_time_is_over_and_no_sooner() -> None:
    going = ended("going", 100, ttlSecondsAfterFinished=1)
    going = Request({**going.manifest, "metadata": {**going.meta, "deletionTimestamp": stamp()}})
    replayed = ended("replayed", 100, ttlSecondsAfterFinished=1)
    replayed = Request({**replayed.manifest, "metadata": {**replayed.meta, "labels": {"velero.io/restore-name": "x"}}})
    unended = with_status(reset(name="unended", ttlSecondsAfterFinished=1), phase="Succeeded")
    known = [going, replayed, unended, reset(name="active"), ended("kept", 100), ended("due", 10, ttlSecondsAfterFinished=10),
             ended("soon", 9, ttlSecondsAfterFinished=10)]  # fmt: skip
    assert [r.name for r in retention.old_requests(known, 100, NOW)] == ["due"]
    same = [ended(name, 5) for name in ("b", "c", "a")]
    assert [r.name for r in retention.old_requests(same, 1, NOW)] == ["a", "b"]
    assert retention.old_requests(same, 3, NOW) == []
