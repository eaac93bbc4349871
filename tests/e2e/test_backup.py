"""Backups, undo and what happens when parts die, on the real cluster: scenarios A3, A35, A36, A37, A40."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from steward_api import names

from tests.e2e.test_reset import exists, manifest, write
from tests.support.builders import denial
from tests.support.cluster import Kube, Session, wait_for


def finished(kube: Kube, answer: Any) -> Any:
    assert answer.status == 202, answer.text
    return kube.finished("vreset", answer.json["request"]["name"], 180)


@pytest.fixture
def used(user: Session, kube: Kube) -> Session:
    """Somebody whose home has files in it, and whose server is stopped."""
    user.start_and_wait()
    write(kube, user, "/home/jovyan/kept")
    user.stop_and_wait()
    return user


def backups(kube: Kube, user: str) -> list[Any]:
    listed = kube.json("get", "pvc", "-l", f"component={names.BACKUP_COMPONENT}")["items"]
    return [c for c in listed if c["metadata"]["annotations"].get(names.USERNAME) == user]


def test_A37_what_was_erased_comes_back(used: Session, kube: Kube) -> None:
    ended = finished(kube, used.reset(["home"]))
    assert ended["status"]["phase"] == "Succeeded", ended["status"]
    (row,) = ended["status"]["volumes"]
    assert row["backup"]["state"] == "Ready"
    assert row["backup"]["files"] >= 1
    used.start_and_wait()
    assert not exists(kube, used, "/home/jovyan/kept")
    write(kube, used, "/home/jovyan/meanwhile")
    used.stop_and_wait()
    (volume,) = [v for v in used.card()["volumes"] if v["kind"] == "home"]
    (backup,) = volume["backups"]
    assert backup["name"] == row["backup"]["name"]
    undone = finished(kube, used.reset(["home"], putBack=backup["name"]))
    assert (undone["status"]["phase"], undone["status"]["reason"]) == ("Succeeded", "Restored"), undone["status"]
    used.start_and_wait()
    assert exists(kube, used, "/home/jovyan/kept")
    assert not exists(kube, used, "/home/jovyan/meanwhile")
    assert not exists(kube, used, "/home/jovyan/.hub-steward-copying")
    write(kube, used, "/home/jovyan/kept")
    assert len(backups(kube, used.user)) == 2
    mine = f"component={names.COPY_COMPONENT},{names.REQUEST}={undone['metadata']['uid']}"
    assert kube.json("get", "jobs", "-l", mine)["items"] == []


def test_A36_a_backup_that_cannot_be_made_keeps_everything(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    write(kube, user, "/home/jovyan/kept")
    pod = kube.pod(user.user)
    assert pod is not None
    kube.run_in(pod["metadata"]["name"], "sh", "-c", "echo x > ~/locked && chmod 000 ~/locked")
    user.stop_and_wait()
    before = kube.uids(user.user)
    ended = finished(kube, user.reset(["home"]))
    assert (ended["status"]["phase"], ended["status"]["reason"]) == ("Failed", "BackupIncomplete")
    assert "1 file could not be read: locked" in user.card()["last"]["message"]
    assert kube.uids(user.user) == before
    wait_for("no half backup is left", lambda: not backups(kube, user.user), 30)
    user.start_and_wait()
    assert exists(kube, user, "/home/jovyan/kept")


def test_A03_one_success_and_one_failure_are_both_shown(used: Session, kube: Kube) -> None:
    before = kube.claims(used.user)
    name = before["workspace"]["metadata"]["name"]
    message = "this volume is under legal hold"
    kube.apply(*denial("keep-this-one", "DELETE", "persistentvolumeclaims", message, only=name))
    try:

        def is_held() -> bool:
            try:
                kube("delete", "pvc", name, "--dry-run=server")
            except Exception as refused:
                return "legal hold" in str(refused)
            return False

        wait_for("the policy is in force", is_held, 30)
        ended = finished(kube, used.reset(["workspace", "cache"]))
    finally:
        kube("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", "keep-this-one")
    assert (ended["status"]["phase"], ended["status"]["reason"]) == ("Failed", "PartialFailure")
    shown = used.card()["last"]
    assert {row["volume"]: row["outcome"] for row in shown["outcomes"]} == {"workspace": "Failed", "cache": "Reset"}
    assert "legal hold" in shown["message"]
    after = kube.uids(used.user)
    assert after["workspace"] == before["workspace"]["metadata"]["uid"]
    assert after["cache"] != before["cache"]["metadata"]["uid"]


def fill_home(kube: Kube, user: Session, name: str) -> str:
    """A file in the home of a server that is stopped afterwards; UID of the home's claim."""
    user.start_and_wait()
    write(kube, user, f"/home/jovyan/{name}")
    user.stop_and_wait()
    return kube.uids(user.user)["home"]


def is_over(kube: Kube, name: str) -> bool:
    return "completionTime" in kube.request("vreset", name).get("status", {})


@pytest.mark.alone
def test_A35_the_operator_may_die_at_any_moment(user: Session, kube: Kube) -> None:
    """Both pods at once, by force, in the middle of it; the reset with its backup ends as if nothing had happened."""
    chance = random.Random(35)
    fill_home(kube, user, "first")
    begun = time.monotonic()
    kube.finished("vreset", kube.create(manifest(names.VOLUME_RESET, user.user, volumes=["home"])), 120)
    undisturbed = time.monotonic() - begun
    kills = 0
    for number in range(8):
        before = fill_home(kube, user, f"round{number}")
        name = kube.create(manifest(names.VOLUME_RESET, user.user, volumes=["home"]))
        moment = time.monotonic() + chance.uniform(0.0, undisturbed)
        wait_for("the moment has come", lambda end=moment: time.monotonic() >= end, 60, every=0.02)
        if not is_over(kube, name):
            kube("delete", "pod", "-l", "component=operator", "--force", "--grace-period=0")
            kills += 1
        ended = kube.finished("vreset", name, 180)
        assert ended["status"]["phase"] == "Succeeded", ended["status"]
        assert kube.uids(user.user)["home"] != before
        assert "finalizers" not in ended["metadata"]
        (row,) = ended["status"]["volumes"]
        assert row["backup"]["state"] == "Ready"
        if kills == 4:
            break
    assert kills == 4, "the resets were over before their moments came"
    assert all(names.BACKUP in c["metadata"]["annotations"] for c in backups(kube, user.user))
    undone = finished(kube, user.reset(["home"], putBack=row["backup"]["name"]))
    assert undone["status"]["reason"] == "Restored", undone["status"]
    user.start_and_wait()
    assert exists(kube, user, f"/home/jovyan/round{number}")


@pytest.mark.alone
def test_A40_the_hub_may_go_while_a_reset_runs(used: Session, kube: Kube) -> None:
    """The page picks the progress up again: something holds the old claim until it has been looked at."""
    claim = kube.claims(used.user)["home"]["metadata"]["name"]
    kube("patch", "pvc", claim, "--type=merge", "-p", '{"metadata": {"finalizers": ["test.example/hold"]}}')
    try:
        answer = used.reset(["home"])
        assert answer.status == 202, answer.text
        name = answer.json["request"]["name"]
        kube("delete", "pod", "-l", "component=hub", "--wait=false")
        wait_for("the delete", lambda: "deletionTimestamp" in kube.claims(used.user)["home"]["metadata"], 120)
        kube("rollout", "status", "deployment/hub", "--timeout=120s")
        wait_for("the hub is back", lambda: used.raw("GET", "/hub/health").status == 200, 60)
        shown = used.card()
        assert shown["state"] in ("resetting", "stalled"), shown
        assert shown["active"]["name"] == name
    finally:
        kube("patch", "pvc", claim, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    ended = kube.finished("vreset", name, 180)
    assert ended["status"]["phase"] == "Succeeded", ended["status"]
    assert used.card()["last"]["name"] == name


def test_stop_and_start_around_a_reset(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    write(kube, user, "/home/jovyan/workspace/lost")
    name = kube.create(manifest(names.VOLUME_RESET, user.user, serverPolicy="StopAndStart"))
    ended = kube.finished("vreset", name, 180)
    conditions = {c["type"]: c["status"] for c in ended["status"]["conditions"]}
    assert (ended["status"]["phase"], conditions.get("ServerStarted")) == ("Succeeded", "True"), ended["status"]
    wait_for("the hub knows", lambda: user.state() == "running", 60)
    assert not exists(kube, user, "/home/jovyan/workspace/lost")


def test_the_backups_of_what_goes_with_a_user_go_too(
    used: Session, login: Callable[[str], Session], kube: Kube
) -> None:
    """The cache goes with its user, home stays: so do their backups."""
    ended = kube.finished(
        "vreset", kube.create(manifest(names.VOLUME_RESET, used.user, volumes=["home", "cache"], backup="Copy"))
    )
    assert ended["status"]["phase"] == "Succeeded", ended["status"]

    def held() -> set[str]:
        return {backup["metadata"]["labels"][names.VOLUME] for backup in backups(kube, used.user)}

    assert held() == {"home", "cache"}
    removed = login("admin").api("DELETE", f"users/{used.user}")
    assert removed.status == 204, removed.text
    wait_for("the cache's backup is gone", lambda: held() == {"home"}, 60)
    assert set(kube.claims(used.user)) == {"home", "workspace"}


def test_a_user_who_is_removed_while_his_reset_runs_holds_nothing_up(
    used: Session, login: Callable[[str], Session], kube: Kube
) -> None:
    """The hub deletes the claims whose entry says so; what the request works on it finishes or lets go."""
    before = kube.uids(used.user)
    name = kube.create(manifest(names.VOLUME_RESET, used.user, volumes=["home", "cache"], backup="Copy"))
    admin = login("admin")
    removed = admin.api("DELETE", f"users/{used.user}")
    assert removed.status == 204, removed.text
    ended = kube.finished("vreset", name, 180)
    assert ended["status"].get("lockedClaims", []) == []
    assert "finalizers" not in ended["metadata"]
    after = kube.claims(used.user)
    assert after["workspace"]["metadata"]["uid"] == before["workspace"]
    assert "home" in after, "kept, or made anew"
    rows = {row["volume"]: row["outcome"] for row in ended["status"]["volumes"]}
    assert (after["home"]["metadata"]["uid"] != before["home"]) == (rows["home"] == "Reset")
