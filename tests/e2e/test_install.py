"""The installation itself: helm test, no account to claim, secrets that stay, an operator that is away, any login."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from steward_api import names

from cluster import images, local
from cluster.local import Target
from tests.e2e.test_reset import manifest
from tests.support.cluster import Kube, Session, wait_for

pytestmark = pytest.mark.alone
#: JupyterHub's dummy authenticator, which takes any password, and names as they are typed.
KEEPS_CASE = """
from jupyterhub.auth import DummyAuthenticator

class KeepsCase(DummyAuthenticator):
    def normalize_username(self, username):
        return username

c.JupyterHub.authenticator_class = KeepsCase
"""


def test_helm_test_passes(target: Target) -> None:
    target.helm("test", target.release, "--namespace", target.namespace, "--timeout", "60s")


def test_no_account_can_be_claimed(target: Target, secrets: dict[str, str]) -> None:
    for name, password in (
        ("admin", secrets["*"]), ("admin", ""), ("admin", "admin"), ("eve", ""), ("eve", "eve"),
        ("eve", secrets["admin"]),
    ):  # fmt: skip
        with pytest.raises(PermissionError):
            Session(target.url, name, password)
    assert Session(target.url, "admin", secrets["admin"]).api("GET", "users").status == 200
    assert len(secrets["admin"]) >= 32


def test_there_is_no_way_to_sign_up(target: Target, secrets: dict[str, str]) -> None:
    session = Session(target.url, "admin", secrets["admin"])
    assert session.raw("GET", "/hub/signup").status == 404


def test_a_second_up_changes_nothing(target: Target, kube: Kube) -> None:
    before = {p["metadata"]["uid"] for p in kube.json("get", "pods", "-l", "app=jupyterhub")["items"]}
    revision = target.helm("list", "--namespace", target.namespace, "--output", "json")
    local.up(target)
    assert {p["metadata"]["uid"] for p in kube.json("get", "pods", "-l", "app=jupyterhub")["items"]} == before
    assert target.helm("list", "--namespace", target.namespace, "--output", "json") == revision


def test_the_operator_shows_its_lease(kube: Kube, target: Target) -> None:
    lease = kube.json("get", "lease", "hubsteward-operator")
    assert lease["metadata"]["annotations"]["hubsteward.io/release"] == target.release
    operators = [p["metadata"]["name"] for p in kube.json("get", "pods", "-l", "component=operator")["items"]]
    assert lease["spec"]["holderIdentity"] in operators


def test_buttons_are_off_while_the_operator_is_away_and_accepted_requests_go_on(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    kube("scale", "deployment/operator", "--replicas=0")
    try:
        kube("wait", "--for=delete", "pod", "-l", "component=operator", "--timeout=60s")
        accepted = kube.create(manifest(names.SERVER_RESTART, user.user))
        name = user.user

        def is_away() -> bool:
            card = user.card()
            return not card["buttons"]["restart"]["allowed"] and card["active"] is not None

        wait_for("the accepted request is shown", is_away, 60)
        other = Session(user.url, f"{name}-b", _password(kube))
        try:
            wait_for("the page knows", lambda: other.state() == "operator-away", 60)
            card = other.card()
            assert card["buttons"]["start"]["allowed"]
            assert not card["buttons"]["volumes"]["allowed"]
            assert "operator" in card["sentence"]
        finally:
            other.stop()
    finally:
        kube("scale", "deployment/operator", "--replicas=2")
    assert kube.finished("srestart", accepted)["status"]["phase"] == "Succeeded"
    wait_for("the buttons are back", lambda: user.card()["buttons"]["restart"]["allowed"], 60)


def _password(kube: Kube) -> str:
    return local.secret(kube.target, "hubsteward-user-password")


def test_uninstall_keeps_what_users_made_and_any_authenticator_works(
    target: Target, kube: Kube, login: Callable[[str], Session]
) -> None:
    """The same release comes back over its kept database, secrets and claims, with another way to log in.

    It goes in the middle of a reset, which is waited for.
    """
    owner = login("keeper")
    owner.start_and_wait()
    owner.stop_and_wait()
    before, password = kube.uids("keeper"), _password(kube)
    begun = kube.create(manifest(names.VOLUME_RESET, "keeper", volumes=["home"], backup="Copy"))

    def is_at_work() -> bool:
        return bool(kube.request("vreset", begun).get("status", {}).get("phase", "Pending") != "Pending")

    wait_for("the reset has begun", is_at_work, 30, every=0.05)
    target.helm("uninstall", target.release, "--namespace", target.namespace, "--wait")
    ended = kube.request("vreset", begun)
    assert ended["status"]["phase"] == "Succeeded", ended["status"]
    assert "finalizers" not in ended["metadata"]
    claims = kube.uids("keeper")
    assert {kind for kind in claims if claims[kind] != before[kind]} == {"home"}
    kept = {c["metadata"]["name"] for c in kube.json("get", "pvc")["items"]}
    assert "hub-db-dir" in kept
    assert kube.uids("keeper") == claims
    assert kube("get", "crd", "volumeresets.hubsteward.io")
    dummy: dict[str, Any] = {"hub": {"extraConfig": {"login": KEEPS_CASE}}}
    file = local.cache.root() / "values-dummy.json"
    file.write_text(json.dumps(dummy))
    built = images.build_all()
    other = Target(**{**target.__dict__, "values": (*target.values, file)})
    try:
        local.install(other, built)
        session = Session.when_up(target.url, "keeper", "anything")
        session.start_and_wait()
        assert kube.uids("keeper") == claims
        answer = session.restart()
        assert answer.status == 202, answer.text
        assert kube.finished("srestart", answer.json["request"]["name"])["status"]["phase"] == "Succeeded"
        session.stop_and_wait()
        namesake = Session(target.url, "Keeper", "anything")
        namesake.start_and_wait()
        namesake.stop_and_wait()
        answer = namesake.reset(["workspace", "cache"])
        assert answer.status == 202, answer.text
        assert kube.finished("vreset", answer.json["request"]["name"])["status"]["phase"] == "Succeeded"
        assert kube.uids("keeper") == claims, "Keeper is somebody else here"
    finally:
        local.install(target, built)
    assert _password(kube) == password
    Session.when_up(target.url, "keeper", password)
