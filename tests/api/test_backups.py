"""Backups and undo against a real API server: the real Job controller, with the copy itself on paper."""

from __future__ import annotations

import json
from typing import Any

import pytest
from steward_api import names

from tests.support.cluster import wait_for
from tests.support.control_plane import Refused
from tests.support.control_plane_fixtures import NAMESPACE, Namespace
from tests.support.fake_kubelet import FakeKubelet, checksum
from tests.support.fake_snapshots import FakeSnapshots
from tests.support.operator import FakeHub, Operator, Proxy

RESET = names.VOLUME_RESET
UNREADABLE = (3, {"unreadable": [f"secret-{n}" for n in range(10)], "count": 14})


@pytest.fixture
def user(ns: Namespace) -> str:
    """Somebody with a home that has been used."""
    user = ns.user()
    ns.make_claim(user, "home")
    ns.bind(user, "home")
    return user


def uid_of(claim: Any) -> str:
    assert claim is not None
    return str(claim["metadata"]["uid"])


def end(ns: Namespace, user: str, **spec: Any) -> Any:
    spec.setdefault("volumes", ["home"])
    return ns.ended(RESET, ns.ask(RESET, user, **spec))["status"]


def jobs(ns: Namespace) -> list[Any]:
    return list(ns.api.raw("GET", "/apis/batch/v1/namespaces/hub/jobs")["items"])


def test_home_is_copied_compared_and_only_then_deleted(
    running: Operator, ns: Namespace, proxy: Proxy, user: str
) -> None:
    old = uid_of(ns.claim(user, "home"))
    status = end(ns, user)
    assert (status["phase"], status["reason"]) == ("Succeeded", "Reset"), status
    assert status["volumes"][0]["backup"]["state"] == "Ready"
    assert uid_of(ns.claim(user, "home")) != old
    (backup,) = ns.backups(user)
    assert json.loads(backup["metadata"]["annotations"][names.BACKUP])["files"] == 3
    assert "ownerReferences" not in backup["metadata"]
    order = [(w.method, w.path.rsplit("/", 1)[-1]) for w in proxy.writes if w.happened]
    assert order.index(("PATCH", backup["metadata"]["name"])) < order.index(("DELETE", f"home-{user}"))
    assert jobs(ns) == []


def test_what_cannot_be_read_stops_the_reset_and_is_named(
    running: Operator, ns: Namespace, kubelet: FakeKubelet, user: str
) -> None:
    kubelet.copies[f"home-{user}"] = UNREADABLE
    old = uid_of(ns.claim(user, "home"))
    status = end(ns, user)
    assert (status["phase"], status["reason"]) == ("Failed", "BackupIncomplete")
    assert "14 files could not be read: secret-0, secret-1" in status["message"]
    assert uid_of(ns.claim(user, "home")) == old
    assert status["lockedClaims"] == []
    wait_for("nothing half-made is left", lambda: not ns.backups(user) and not jobs(ns), 20)


def test_one_volume_without_its_backup_does_not_keep_the_other(
    running: Operator, ns: Namespace, kubelet: FakeKubelet, user: str
) -> None:
    ns.make_claim(user, "cache")
    kubelet.copies[f"home-{user}"] = UNREADABLE
    old = {kind: uid_of(ns.claim(user, kind)) for kind in ("home", "cache")}
    status = end(ns, user, volumes=["home", "cache"])
    assert (status["phase"], status["reason"]) == ("Failed", "PartialFailure")
    assert {row["volume"]: row["outcome"] for row in status["volumes"]} == {"home": "Failed", "cache": "Reset"}
    assert uid_of(ns.claim(user, "home")) == old["home"]
    assert uid_of(ns.claim(user, "cache")) != old["cache"]


def test_a_refused_backup_volume_stops_the_reset(running: Operator, ns: Namespace, user: str) -> None:
    old = uid_of(ns.claim(user, "home"))
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"requests.storage": "1"}}}
    ns.api.raw("POST", ns.core("resourcequotas"), quota)
    try:

        def is_counted() -> bool:
            return "used" in ns.api.raw("GET", ns.core("resourcequotas", "small")).get("status", {})

        wait_for("the quota is in force", is_counted, 20)
        status = end(ns, user)
    finally:
        ns.api.raw("DELETE", ns.core("resourcequotas", "small"))
    assert (status["phase"], status["reason"]) == ("Failed", "BackupFailed")
    assert "exceeded quota" in status["message"]
    assert uid_of(ns.claim(user, "home")) == old


def test_a_volume_that_was_never_used_needs_no_backup(running: Operator, ns: Namespace) -> None:
    user = ns.user()
    ns.make_claim(user, "home")
    status = end(ns, user)
    assert status["phase"] == "Succeeded"
    assert status["volumes"][0]["backup"]["state"] == "NothingToBackUp"
    assert ns.backups(user) == []


def test_undo_puts_the_backup_back_and_keeps_what_was_there_meanwhile(
    running: Operator, ns: Namespace, proxy: Proxy, kubelet: FakeKubelet, user: str
) -> None:
    before = kubelet.content(ns.present(user, "home"))
    end(ns, user)
    (first,) = ns.backups(user)
    meanwhile = kubelet.content(ns.bind(user, "home"))
    proxy.arm(None)
    status = end(ns, user, contents={"from": "Backup", "name": first["metadata"]["name"]})
    assert (status["phase"], status["reason"]) == ("Succeeded", "Restored"), status
    assert status["volumes"][0]["restored"] is True
    assert len(ns.backups(user)) == 2
    assert all(names.PINNED_BY not in b["metadata"]["annotations"] for b in ns.backups(user))
    fills = [w for w in proxy.writes if w.path.endswith("/jobs") and "restore-" in w.body["metadata"]["name"]]
    assert fills[0].body["spec"]["template"]["spec"]["containers"][0]["args"][-1] == f"--expect={checksum(before)}"
    assert kubelet.content(ns.present(user, "home")) == before
    assert sorted(map(kubelet.content, ns.backups(user))) == sorted([before, meanwhile])
    locks = [w.body["status"].get("lockedClaims") for w in proxy.writes if w.path.endswith("/status")]
    assert [lock for lock in locks if lock is not None] == [[f"home-{user}"], []]


def test_a_backup_that_cannot_be_put_back_is_kept(
    running: Operator, ns: Namespace, kubelet: FakeKubelet, user: str
) -> None:
    end(ns, user)
    (backup,) = ns.backups(user)
    name = backup["metadata"]["name"]
    kubelet.copies[name] = (5, {"error": "the backup is not what was written into it"})
    status = end(ns, user, contents={"from": "Backup", "name": name})
    assert (status["phase"], status["reason"]) == ("Failed", "RestoreFailed")
    assert "not what was written" in status["message"]
    (kept,) = [b for b in ns.backups(user) if b["metadata"]["name"] == name]
    assert names.PINNED_BY in kept["metadata"]["annotations"], "further attempts do not push it out"
    assert ns.claim(user, "home") is not None
    assert status["lockedClaims"] == []


def test_a_backup_is_for_its_user_and_volume_only(running: Operator, ns: Namespace, user: str) -> None:
    end(ns, user)
    (backup,) = ns.backups(user)
    other = ns.user()
    for kind in ("home", "cache"):
        ns.make_claim(other, kind)
    ns.make_claim(user, "cache")
    source = {"from": "Backup", "name": backup["metadata"]["name"]}
    for who, kind in ((other, "home"), (user, "cache")):
        old = uid_of(ns.claim(who, kind))
        status = end(ns, who, volumes=[kind], contents=source)
        assert (status["phase"], status["reason"]) == ("Failed", "NotAllowed")
        assert uid_of(ns.claim(who, kind)) == old
    assert end(ns, user, contents={"from": "Backup", "name": f"home-{other}"})["reason"] == "BackupMissing"


def test_somebodys_snapshot_of_the_same_name_does_not_hide_the_claim(
    running: Operator, ns: Namespace, snapshots: FakeSnapshots, user: str
) -> None:
    body = {
        "apiVersion": f"{names.SNAPSHOT_GROUP}/v1", "kind": "VolumeSnapshot", "metadata": {"name": f"home-{user}"},
        "spec": {"source": {"persistentVolumeClaimName": f"home-{user}"}},
    }  # fmt: skip
    ns.api.raw("POST", f"/apis/{names.SNAPSHOT_GROUP}/v1/namespaces/{NAMESPACE}/volumesnapshots", body)
    old = uid_of(ns.claim(user, "home"))
    status = end(ns, user, backup="Snapshot")
    assert (status["phase"], status["reason"]) == ("Succeeded", "Reset"), status
    new = uid_of(ns.bind(user, "home"))
    assert new != old
    source = {"from": "Backup", "name": status["volumes"][0]["backup"]["name"]}
    assert end(ns, user, backup="Snapshot", contents=source)["reason"] == "Restored"
    assert uid_of(ns.claim(user, "home")) not in (old, new)


def test_only_an_administrator_may_do_without(running: Operator, ns: Namespace, user: str) -> None:
    hub = ns.token("hub")
    body = {
        "apiVersion": names.API_VERSION, "kind": RESET, "metadata": {"generateName": "t-"},
        "spec": {"user": user, "volumes": ["home"], "backup": "None", "requestedBy": {"kind": "HubUser", "name": user}},
    }  # fmt: skip
    name = ns.api.raw("POST", ns.requests(RESET), body, token=hub)["metadata"]["name"]
    assert ns.ended(RESET, name)["status"]["reason"] == "NotAllowed"
    assert end(ns, user, backup="None")["phase"] == "Succeeded"
    assert ns.backups(user) == []


def test_a_cancelled_backup_leaves_everything_as_it_was(
    running: Operator, ns: Namespace, kubelet: FakeKubelet, user: str
) -> None:
    kubelet.stuck.add(f"home-{user}")
    old = uid_of(ns.claim(user, "home"))
    name = ns.ask(RESET, user, volumes=["home"])
    wait_for("the copy is on", lambda: jobs(ns), 20)
    ns.api.raw(
        "PATCH", ns.requests(RESET, name), {"spec": {"cancel": True}}, content_type="application/merge-patch+json"
    )
    assert ns.ended(RESET, name)["status"]["phase"] == "Cancelled"
    assert uid_of(ns.claim(user, "home")) == old
    # A claim goes when the controller has seen that no pod uses it any more.
    wait_for("the copy and the claim it was written to are gone", lambda: not jobs(ns) and not ns.backups(user), 20)


def test_stop_and_start(running: Operator, ns: Namespace, hub: FakeHub, user: str) -> None:
    ns.make_claim(user, "workspace")
    pod = ns.start_server(user)
    status = end(ns, user, volumes=["workspace"], serverPolicy="StopAndStart")
    assert status["phase"] == "Succeeded", status
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    assert conditions["ServerStarted"] == "True"
    assert "ending" not in status
    after = ns.pod(user)
    assert after is not None
    assert after["metadata"]["uid"] != pod["metadata"]["uid"]
    assert [call for call in hub.calls if call[1] == user] == [("DELETE", user), ("POST", user)]


def test_stop_leaves_the_server_stopped(running: Operator, ns: Namespace, user: str) -> None:
    ns.make_claim(user, "workspace")
    ns.start_server(user)
    status = end(ns, user, volumes=["workspace"], serverPolicy="Stop")
    assert status["phase"] == "Succeeded"
    assert ns.pod(user) is None


def test_a_reset_that_fails_before_the_delete_starts_the_server_it_stopped(
    running: Operator, ns: Namespace, kubelet: FakeKubelet, user: str
) -> None:
    ns.make_claim(user, "workspace")
    kubelet.copies[f"home-{user}"] = UNREADABLE
    pod = ns.start_server(user)
    status = end(ns, user, serverPolicy="Stop")
    assert (status["phase"], status["reason"]) == ("Failed", "BackupIncomplete")
    assert "running again" in status["message"]
    after = ns.pod(user)
    assert after is not None
    assert after["metadata"]["uid"] != pod["metadata"]["uid"]


def test_a_hub_that_does_not_start_the_server_does_not_make_the_reset_fail(
    running: Operator, ns: Namespace, hub: FakeHub, user: str
) -> None:
    ns.make_claim(user, "workspace")
    ns.start_server(user)
    hub.dead_starts.add(user)
    status = end(ns, user, volumes=["workspace"], serverPolicy="StopAndStart")
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    assert (status["phase"], conditions["ServerStarted"]) == ("Succeeded", "False")
    assert "did not start again" in status["message"]


def test_contents_need_a_name_and_one_volume(ns: Namespace) -> None:
    for spec, why in (
        ({"contents": {"from": "Backup"}}, "name is needed"),
        ({"contents": {"from": "Empty", "name": "b"}}, "name is needed"),
        ({"volumes": ["home", "cache"], "contents": {"from": "Backup", "name": "b"}}, "exactly one volume"),
    ):
        with pytest.raises(Refused, match=why):
            ns.ask(RESET, "anybody", **spec)
