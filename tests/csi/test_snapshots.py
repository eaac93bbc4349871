"""Resets and undo with VolumeSnapshots, through the real snapshot controller, sidecars and a CSI driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from steward_api import names

from cluster.shell import Problem, run
from tests.csi import fixture
from tests.csi.target import TARGET
from tests.e2e.test_reset import exists, write
from tests.support.cluster import Kube, Session, wait_for

WHERE = {"home": "/home/jovyan", "workspace": "/home/jovyan/workspace"}
OPERATOR = f"system:serviceaccount:{TARGET.namespace}:operator"


def finished(kube: Kube, answer: Any) -> Any:
    assert answer.status == 202, answer.text
    return kube.finished("vreset", answer.json["request"]["name"], 180)


def snapshots(kube: Kube, user: str) -> list[Any]:
    listed = kube.json("get", "volumesnapshots", "-l", f"component={names.BACKUP_COMPONENT}")["items"]
    return [s for s in listed if s["metadata"]["annotations"].get(names.USERNAME) == user]


@pytest.fixture
def used(user: Session, kube: Kube) -> Session:
    """Somebody with a file in every volume, whose server is stopped."""
    user.start_and_wait()
    for folder in WHERE.values():
        write(kube, user, f"{folder}/kept")
    user.stop_and_wait()
    return user


@pytest.mark.parametrize("kind", ["home", "workspace"])
def test_what_was_erased_comes_back_from_its_snapshot(used: Session, kube: Kube, kind: str) -> None:
    """Home's class binds when a pod comes, the workspace's at once."""
    ended = finished(kube, used.reset([kind]))
    assert ended["status"]["phase"] == "Succeeded", ended["status"]
    (row,) = ended["status"]["volumes"]
    assert (row["backup"]["provider"], row["backup"]["state"]) == ("Snapshot", "Ready")
    (taken,) = snapshots(kube, used.user)
    assert taken["status"]["readyToUse"] is True
    assert "ownerReferences" not in taken["metadata"]
    used.start_and_wait()
    assert not exists(kube, used, f"{WHERE[kind]}/kept")
    write(kube, used, f"{WHERE[kind]}/meanwhile")
    used.stop_and_wait()
    (volume,) = [v for v in used.card()["volumes"] if v["kind"] == kind]
    assert [backup["name"] for backup in volume["backups"]] == [taken["metadata"]["name"]]
    undone = finished(kube, used.reset([kind], putBack=taken["metadata"]["name"]))
    assert (undone["status"]["phase"], undone["status"]["reason"]) == ("Succeeded", "Restored"), undone["status"]
    assert undone["status"].get("lockedClaims", []) == []
    claim = kube.claims(used.user)[kind]
    assert claim["status"]["phase"] == "Bound"
    used.start_and_wait()
    assert exists(kube, used, f"{WHERE[kind]}/kept")
    assert not exists(kube, used, f"{WHERE[kind]}/meanwhile")
    write(kube, used, f"{WHERE[kind]}/kept")
    used.stop_and_wait()
    assert len(snapshots(kube, used.user)) == 2, "what was there before the undo is kept, too"
    assert kube.json("get", "jobs", "-l", f"component={names.COPY_COMPONENT}")["items"] == []
    again = finished(kube, used.reset([kind]))
    assert again["status"]["phase"] == "Succeeded", again["status"]
    assert "dataSource" not in kube.claims(used.user)[kind]["spec"]


def test_a_deleted_request_leaves_its_snapshot(used: Session, kube: Kube) -> None:
    ended = finished(kube, used.reset(["workspace"]))
    kube("delete", "vreset", ended["metadata"]["name"])
    (taken,) = snapshots(kube, used.user)
    assert "deletionTimestamp" not in taken["metadata"]


def test_the_operator_may_die_while_a_snapshot_is_put_back(used: Session, kube: Kube) -> None:
    (row,) = finished(kube, used.reset(["home"]))["status"]["volumes"]
    answer = used.reset(["home"], putBack=row["backup"]["name"])
    assert answer.status == 202, answer.text
    name = answer.json["request"]["name"]

    def is_deleting() -> bool:
        return kube.request("vreset", name).get("status", {}).get("phase") in ("Deleting", "Recreating", "Succeeded")

    wait_for("the claim is being replaced", is_deleting, 60, every=0.02)
    kube("delete", "pod", "-l", "component=operator", "--force", "--grace-period=0")
    ended = kube.finished("vreset", name, 180)
    assert ended["status"]["reason"] == "Restored", ended["status"]
    used.start_and_wait()
    assert exists(kube, used, "/home/jovyan/kept")


@pytest.fixture
def full_storage() -> Iterator[None]:
    node = f"{TARGET.name}-control-plane"
    run(["docker", "exec", node, "touch", f"{fixture.DATA}/refuse-snapshots"])
    yield
    run(["docker", "exec", node, "rm", f"{fixture.DATA}/refuse-snapshots"])


@pytest.mark.usefixtures("full_storage")
def test_storage_that_refuses_keeps_everything(used: Session, kube: Kube) -> None:
    before = kube.uids(used.user)
    ended = finished(kube, used.reset(["home"]))
    assert (ended["status"]["phase"], ended["status"]["reason"]) == ("Failed", "BackupFailed"), ended["status"]
    assert "no room for snapshots" in ended["status"]["message"]
    assert kube.uids(used.user) == before
    # The sidecar takes its time over one that the driver refuses; the operator has let go of it.
    in_vain = [s["metadata"] for s in snapshots(kube, used.user) if not s["status"].get("readyToUse")]
    assert all("deletionTimestamp" in meta for meta in in_vain)
    used.start_and_wait()
    assert exists(kube, used, "/home/jovyan/kept")


def test_the_operator_may_touch_no_other_snapshot(used: Session, kube: Kube) -> None:
    claim = kube.claims(used.user)["workspace"]["metadata"]["name"]
    foreign = {
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "of-the-team"},
        "spec": {"source": {"persistentVolumeClaimName": claim}},
    }  # fmt: skip
    with pytest.raises(Problem, match="snapshots of users' volumes and no others"):
        kube.create(foreign, f"--as={OPERATOR}")
    kube.create(foreign)
    with pytest.raises(Problem, match="snapshots of users' volumes and no others"):
        kube("delete", "volumesnapshot", "of-the-team", f"--as={OPERATOR}")
    kube("delete", "volumesnapshot", "of-the-team")
