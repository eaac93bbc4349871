"""Volume resets on the real cluster: scenarios A1, A2, A34, A38, A41, A42 and what must not go wrong around them."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from steward_api import names

from tests.support.cluster import Kube, Session, wait_for

Login = Callable[[str], Session]


def manifest(kind: str, user: str, **spec: Any) -> dict[str, Any]:
    spec.setdefault("requestedBy", {"kind": "KubernetesUser", "name": "kubernetes-admin"})
    if kind == names.VOLUME_RESET:
        spec.setdefault("volumes", ["workspace"])
    return {
        "apiVersion": names.API_VERSION, "kind": kind, "metadata": {"generateName": "e2e-"},
        "spec": {"user": user, **spec},
    }  # fmt: skip


def press_start(user: Session) -> str:
    """What the user reads after a start that is refused."""
    navigate = {"Sec-Fetch-Mode": "navigate"}
    user.raw("GET", f"/hub/spawn/{user.user}", headers=navigate)

    def refused() -> str:
        page = user.raw("GET", f"/hub/spawn-pending/{user.user}", headers=navigate)
        return page.text if page.status == 409 else ""

    return wait_for("the start is refused", refused, 30)


def write(kube: Kube, user: Session, path: str) -> None:
    pod = kube.pod(user.user)
    assert pod is not None
    kube.run_in(pod["metadata"]["name"], "sh", "-c", f"echo mine > {path}")


def exists(kube: Kube, user: Session, path: str) -> bool:
    pod = kube.pod(user.user)
    assert pod is not None
    return kube.run_in(pod["metadata"]["name"], "sh", "-c", f"test -e {path} && echo yes || echo no").strip() == "yes"


def test_A01_a_running_server_is_refused_and_nothing_is_touched(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    before = kube.uids(user.user)
    answer = user.reset(["workspace"])
    assert answer.status == 409
    assert "Stop the server first" in answer.json["message"]
    name = kube.create(manifest(names.VOLUME_RESET, user.user))
    assert kube.finished("vreset", name)["status"]["reason"] == "ServerRunning"
    assert kube.uids(user.user) == before


def test_A02_one_volume_is_new_and_the_others_keep_their_files(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    for path in ("/home/jovyan/kept", "/home/jovyan/workspace/lost", "/home/jovyan/.cache/kept"):
        write(kube, user, path)
    before = kube.uids(user.user)
    user.stop_and_wait()
    answer = user.reset(["workspace"], reason="broken environment")
    assert answer.status == 202, answer.text
    name = answer.json["request"]["name"]
    ended = kube.finished("vreset", name)
    assert ended["status"]["phase"] == "Succeeded", ended["status"]
    after = kube.uids(user.user)
    assert after["workspace"] != before["workspace"]
    assert {k: v for k, v in after.items() if k != "workspace"} == {k: v for k, v in before.items() if k != "workspace"}
    user.start_and_wait()
    assert not exists(kube, user, "/home/jovyan/workspace/lost")
    assert exists(kube, user, "/home/jovyan/kept")
    assert exists(kube, user, "/home/jovyan/.cache/kept")
    lines = [
        json.loads(line)
        for line in kube("logs", "-l", "component=operator", "--tail=-1").splitlines()
        if '"audit"' in line
    ]
    (line,) = [one for one in lines if one["name"] == name]
    assert line["actor"] == {"kind": "HubUser", "name": user.user}
    assert (line["owner"], line["why"]) == (user.user, "broken environment")
    assert [row["volume"] for row in line["volumes"]] == ["workspace"]


def test_A34_kubectl_does_what_the_button_does(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    user.stop_and_wait()
    before = kube.uids(user.user)
    name = kube.create(manifest(names.VOLUME_RESET, user.user, reason="by hand"))
    ended = kube.finished("vreset", name)
    assert ended["status"]["phase"] == "Succeeded"
    assert ended["spec"]["requestedBy"] == {"kind": "KubernetesUser", "name": "kubernetes-admin"}
    assert kube.uids(user.user)["workspace"] != before["workspace"]
    assert name in kube("get", "vreset,srestart")
    events = kube.json("get", "events", "--field-selector", f"involvedObject.name={name}")["items"]
    assert {"Reset"} <= {event["reason"] for event in events}
    card = user.card()
    assert card["last"]["name"] == name
    assert card["last"]["requestedBy"]["name"] == "kubernetes-admin"


def bystander(kube: Kube, name: str) -> dict[str, str]:
    """Claims of somebody who does nothing; their UIDs. Other tests may be at work on other people's."""
    kinds = ("home", "workspace", "cache")
    kube.apply(
        *(
            {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": f"{kind}-{name}",
                    "labels": {names.COMPONENT: names.STORAGE_COMPONENT, names.VOLUME: kind},
                    "annotations": {names.USERNAME: name},
                },
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }
            for kind in kinds
        )
    )  # fmt: skip
    return kube.uids(name)


@pytest.mark.parametrize(
    "name",
    ["ann.o'hara@example.org", "zoë.ångström", "n" * 60, "under_score-and-dash", "x--y"],
)
def test_A41_any_name_works_and_touches_only_its_own(login: Login, kube: Kube, name: str) -> None:
    user = login(name)
    user.start_and_wait()
    beside = f"bystander{os.environ.get('PYTEST_XDIST_WORKER', '')}"
    others = bystander(kube, beside)
    restarted = user.restart()
    assert restarted.status == 202, restarted.text
    assert kube.finished("srestart", restarted.json["request"]["name"])["status"]["phase"] == "Succeeded"
    user.stop_and_wait()
    before = kube.uids(name)
    assert set(before) == {"home", "workspace", "cache"}
    answer = user.reset(["workspace", "cache"])
    assert answer.status == 202, answer.text
    assert kube.finished("vreset", answer.json["request"]["name"])["status"]["phase"] == "Succeeded"
    after = kube.uids(name)
    assert {kind for kind in after if after[kind] != before[kind]} == {"workspace", "cache"}
    assert kube.uids(beside) == others


def test_A41_capitals_are_folded_at_login_and_asked_about_in_a_resource(login: Login, kube: Kube) -> None:
    user = login("Folded")
    user.user = "folded"
    user.start_and_wait()
    name = kube.create(manifest(names.SERVER_RESTART, "Folded"))
    status = kube.finished("srestart", name)["status"]
    assert status["reason"] == "UnknownUser"
    assert "Did you mean 'folded'?" in status["message"]


def test_A42_a_prefix_of_a_name_is_somebody_else(login: Login, kube: Kube) -> None:
    short, longer = login("pre"), login("pre-x")
    for session in (short, longer):
        session.start_and_wait()
    short.stop_and_wait()
    kept, pod = kube.uids("pre-x"), kube.pod("pre-x")
    answer = short.reset(["workspace", "cache"])
    assert answer.status == 202, answer.text
    assert kube.finished("vreset", answer.json["request"]["name"])["status"]["phase"] == "Succeeded"
    assert kube.uids("pre-x") == kept
    still = kube.pod("pre-x")
    assert pod is not None
    assert still is not None
    assert still["metadata"]["uid"] == pod["metadata"]["uid"]


def test_a_claim_deleted_behind_the_hubs_back_is_made_again(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    user.stop_and_wait()
    for kind in ("home", "workspace"):
        kube("delete", "pvc", kube.claims(user.user)[kind]["metadata"]["name"], "--wait")
    user.start_and_wait()
    assert set(kube.uids(user.user)) == {"home", "workspace", "cache"}


def test_a_vanishing_claim_gives_a_clean_message_and_no_pod(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    user.stop_and_wait()
    claim = kube.claims(user.user)["workspace"]["metadata"]["name"]
    kube("patch", "pvc", claim, "--type=merge", "-p", '{"metadata": {"finalizers": ["test.example/hold"]}}')
    try:
        kube("delete", "pvc", claim, "--wait=false")
        told = press_start(user)
        assert "is being removed from the cluster" in told
        assert "Traceback" not in told
        assert kube.pod(user.user) is None
    finally:
        kube("patch", "pvc", claim, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    wait_for("the claim is gone", lambda: "workspace" not in kube.claims(user.user), 30)
    user.start_and_wait()


def test_A38_start_during_a_reset_is_told_to_wait_and_works_afterwards(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    user.stop_and_wait()
    claim = kube.claims(user.user)["workspace"]["metadata"]["name"]
    # Something holds the old claim for a while, so that the reset takes long enough to press Start in it.
    kube("patch", "pvc", claim, "--type=merge", "-p", '{"metadata": {"finalizers": ["test.example/hold"]}}')
    answer = user.reset(["workspace"])
    assert answer.status == 202, answer.text
    name = answer.json["request"]["name"]
    try:
        wait_for("the delete", lambda: "deletionTimestamp" in kube.claims(user.user)["workspace"]["metadata"], 30)
        hub = kube.json("get", "pods", "-l", "component=hub")["items"][0]
        for _ in range(10):
            assert "is being reset" in press_start(user)
        (still,) = kube.json("get", "pods", "-l", "component=hub")["items"]
        assert still["metadata"]["uid"] == hub["metadata"]["uid"]
        assert still["status"]["containerStatuses"][0]["restartCount"] == 0, "refusals do not bring the hub down"
        assert kube.pod(user.user) is None
        assert user.card()["state"] in ("resetting", "stalled")
    finally:
        kube("patch", "pvc", claim, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    assert kube.finished("vreset", name)["status"]["phase"] == "Succeeded"
    user.start_and_wait()


def test_reset_and_start_at_random_moments_never_meet(user: Session, kube: Kube) -> None:
    """Whoever comes second gives way; in the end the server runs and nothing hangs on a vanishing claim."""
    moments = random.Random(20261121)
    user.start_and_wait()
    for _ in range(5):
        user.stop_and_wait()
        name = kube.create(manifest(names.VOLUME_RESET, user.user))
        if moments.random() < 0.5:
            kube("get", "vreset", name)
        user.start()
        ended = kube.finished("vreset", name, 60)["status"]
        assert (ended["phase"], ended["reason"]) in (("Succeeded", "Reset"), ("Failed", "ServerRunning")), ended
        wait_for("the start is over", lambda: user.state() in ("running", "stopped"), 60)
        if user.state() == "stopped":
            user.start_and_wait()
        pod = kube.pod(user.user)
        assert pod is not None
        assert all("deletionTimestamp" not in c["metadata"] for c in kube.claims(user.user).values())


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"volumes": ["models"]}, 400, "There is no volume 'models'"),
        ({"volumes": ["workspace", "cache"], "putBack": "b"}, 400, "of exactly one volume"),
        ({"volumes": ["workspace"], "putBack": 1}, 400, "name of a backup"),
        ({"volumes": []}, 400, "at least one volume"),
        ({"volumes": "workspace"}, 400, "must be a list"),
        ({"volumes": ["workspace"], "force": True}, 400, "Unknown: force"),
        ({"volumes": ["workspace"], "expected": {"workspace": 1}}, 400, "expected must map"),
        ({"volumes": ["workspace"], "reason": "x" * 257}, 400, "at most 256"),
    ],
)
def test_bad_input_is_refused_where_it_enters(
    user: Session, kube: Kube, body: dict[str, Any], status: int, words: str
) -> None:
    answer = user.api("POST", f"steward/v1/users/{user.user}/server/reset", body)
    assert answer.status == status
    assert words in answer.json["message"]
    assert kube.json("get", "vreset", "--field-selector", f"spec.user={user.user}")["items"] == []


def test_nobody_reaches_another_persons_server(user: Session, login: Login, kube: Kube) -> None:
    other = login("victim")
    other.start_and_wait()
    for answer in (
        user.restart(user="victim"),
        user.reset(["workspace"], user="victim"),
        user.restart(user="nobody-at-all"),
        user.api("GET", "steward/v1/users/victim/server"),
        user.api("POST", "steward/v1/users/victim%2F..%2Fx/server/restart", {}),
    ):
        assert answer.status == 404, answer.text
    assert kube.json("get", "srestart", "--field-selector", "spec.user=victim")["items"] == []


def test_a_change_without_the_pages_token_is_refused(user: Session) -> None:
    for headers in ({}, {"X-XSRFToken": "guess"}):
        answer = user.raw("POST", f"/hub/api/steward/v1/users/{user.user}/server/restart", b"{}",
                          {"Content-Type": "application/json", **headers})  # fmt: skip
        assert answer.status == 403


def test_a_name_with_a_slash_is_nobody(login: Login) -> None:
    with pytest.raises(PermissionError):
        login("ann/../bob")


def test_what_the_user_saw_is_what_is_erased(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    user.stop_and_wait()
    before = kube.uids(user.user)
    answer = user.reset(["workspace"], expected={"workspace": "an-older-one"})
    assert answer.status == 202
    assert kube.finished("vreset", answer.json["request"]["name"])["status"]["reason"] == "Stale"
    assert kube.uids(user.user) == before


def test_an_admin_acts_for_a_user_and_is_named(user: Session, login: Login, kube: Kube) -> None:
    user.start_and_wait()
    admin = login("admin")
    answer = admin.restart(user=user.user)
    assert answer.status == 202, answer.text
    ended = kube.finished("srestart", answer.json["request"]["name"])
    assert ended["spec"]["requestedBy"] == {"kind": "HubUser", "name": "admin"}
    assert ended["status"]["phase"] == "Succeeded"
