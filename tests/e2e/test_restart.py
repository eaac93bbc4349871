"""Restarts on the real kubelet: scenarios A4 and A33, and the sequences that lose a server elsewhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from steward_api import names

from cluster.shell import run
from tests.e2e.test_reset import exists, manifest, write
from tests.support.cluster import Kube, Session, wait_for


class HubWatcher(threading.Thread):
    """Asks the hub again and again what it thinks of a server, as a client of its own API."""

    def __init__(self, session: Session) -> None:
        super().__init__(daemon=True)
        self._session = session
        self._over = threading.Event()
        self.seen: list[dict[str, Any]] = []

    def run(self) -> None:
        while not self._over.wait(0.1):
            model = self._session.api("GET", f"users/{self._session.user}").json
            self.seen.append(model["servers"].get("", {"ready": False, "stopped": True}))

    def stop(self) -> list[dict[str, Any]]:
        self._over.set()
        self.join(10)
        return self.seen


def answers(session: Session) -> bool:
    return session.raw("GET", f"/user/{session.user}/api").status == 200


def test_A04_restart_keeps_files_pod_and_address(user: Session, login: Callable[[str], Session], kube: Kube) -> None:
    neighbour = login("neighbour")
    for session in (user, neighbour):
        session.start_and_wait()
    write(kube, user, "/home/jovyan/kept")
    write(kube, user, "/tmp/in-the-container")
    before, beside = kube.pod(user.user), kube.pod("neighbour")
    assert before is not None
    assert beside is not None
    watcher = HubWatcher(user)
    watcher.start()
    answer = user.restart()
    assert answer.status == 202, answer.text
    ended = kube.finished("srestart", answer.json["request"]["name"])
    assert answers(user), "done is said only when the server answers"
    seen = watcher.stop()
    assert (ended["status"]["phase"], ended["status"]["mechanism"]) == ("Succeeded", "InPlace")
    assert seen
    assert all(model["ready"] and not model.get("stopped") for model in seen)
    after = kube.pod(user.user)
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert after["spec"]["nodeName"] == before["spec"]["nodeName"]
    container = after["status"]["containerStatuses"][0]
    assert container["restartCount"] == 1
    assert container["lastState"]["terminated"]["exitCode"] == 0, "the lab ends in order on SIGTERM"
    assert exists(kube, user, "/home/jovyan/kept")
    assert not exists(kube, user, "/tmp/in-the-container"), "the container is a new one"
    untouched = kube.pod("neighbour")
    assert untouched is not None
    assert untouched["status"]["containerStatuses"] == beside["status"]["containerStatuses"]


def test_A33_two_presses_within_a_second_are_one_restart(user: Session, kube: Kube, login: Any) -> None:
    user.start_and_wait()
    second = login(user.user)
    got: list[Any] = []
    threads = [threading.Thread(target=lambda s=session: got.append(s.restart())) for session in (user, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in got] == [202, 202]
    assert len({answer.json["request"]["name"] for answer in got}) == 1
    kube.finished("srestart", got[0].json["request"]["name"])
    pod = kube.pod(user.user)
    assert pod is not None
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1
    assert user.card()["last"]["name"] == second.card()["last"]["name"]


def test_eight_restarts_fifteen_seconds_apart_lose_nothing(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    write(kube, user, "/home/jovyan/kept")
    asked = []
    begin = time.monotonic()
    for number in range(8):
        wait_for("its turn", lambda n=number: time.monotonic() - begin >= 15 * n, 20)
        asked.append(kube.create(manifest(names.SERVER_RESTART, user.user)))
    ends = [kube.finished("srestart", name, 180)["status"] for name in asked]
    assert {end["phase"] for end in ends} == {"Succeeded"}, [(end["phase"], end["reason"]) for end in ends]
    wait_for("the hub says running", lambda: user.state() == "running", 60)
    assert answers(user)
    assert exists(kube, user, "/home/jovyan/kept")


def test_three_restarts_within_ten_seconds_lose_nothing(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    asked = []
    begin = time.monotonic()
    for number in range(3):
        wait_for("its turn", lambda n=number: time.monotonic() - begin >= 4 * n, 20)
        asked.append(kube.create(manifest(names.SERVER_RESTART, user.user)))
    ends = [kube.finished("srestart", name, 180)["status"] for name in asked]
    assert {end["phase"] for end in ends} == {"Succeeded"}, [(end["phase"], end["reason"]) for end in ends]
    assert user.state() == "running"
    assert answers(user)


def test_recreate_keeps_the_files_and_gives_a_new_pod(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    write(kube, user, "/home/jovyan/kept")
    before = kube.pod(user.user)
    name = kube.create(manifest(names.SERVER_RESTART, user.user, strategy="Recreate"))
    ended = kube.finished("srestart", name)
    assert (ended["status"]["phase"], ended["status"]["mechanism"]) == ("Succeeded", "Recreate")
    after = kube.pod(user.user)
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] == ended["status"]["newPodUID"] != before["metadata"]["uid"]
    wait_for("the hub says running", lambda: user.state() == "running", 60)
    assert exists(kube, user, "/home/jovyan/kept")


def test_a_stop_is_of_one_pod_and_of_one_instance_where_it_names_one(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    pod = kube.pod(user.user)
    assert pod is not None
    uid, lab = pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["containerID"]

    def stop(**body: Any) -> int:
        return user.api("POST", f"steward/v1/users/{user.user}/server/stop", body).status

    assert stop(podUID="another") == 409
    assert stop(podUID=uid, containerID="containerd://another") == 409
    assert stop(podUID=uid, containerID=None) == 400
    assert stop(containerID=lab) == 400
    assert answers(user)
    assert stop(podUID=uid, containerID=lab) < 300
    wait_for("the pod has gone", lambda: kube.pod(user.user) is None, 60)
    assert stop(podUID=uid) == 204, "there is nothing to stop any more"


@pytest.fixture
def hub_may_not_delete_pods(kube: Kube) -> Iterator[Callable[[], None]]:
    """Until the function that this gives is called: what an API server that is away for a moment is to the hub."""
    role = kube.json("get", "role", "hub")
    rules = [{**rule, "verbs": [v for v in rule["verbs"] if v != "delete" or "pods" not in rule["resources"]]}
             for rule in role["rules"]]  # fmt: skip

    def set_rules(wanted: list[dict[str, Any]]) -> None:
        kube("patch", "role", "hub", "--type=merge", f"--patch={json.dumps({'rules': wanted})}")

    set_rules(rules)
    yield lambda: set_rules(role["rules"])
    set_rules(role["rules"])


@pytest.mark.alone
def test_a_server_that_the_hub_has_forgotten_is_restarted_all_the_same(
    user: Session, kube: Kube, hub_may_not_delete_pods: Callable[[], None]
) -> None:
    """A stop that fails in the middle: the hub says stopped, nobody can reach the server, and its pod runs on."""
    user.start_and_wait()
    before = kube.pod(user.user)
    assert before is not None
    user.stop()
    wait_for(
        "the hub takes the server for stopped", lambda: not user.api("GET", f"users/{user.user}").json["servers"], 60
    )
    left = kube.pod(user.user)
    assert left is not None
    assert "deletionTimestamp" not in left["metadata"]
    hub_may_not_delete_pods()
    ended = kube.finished("srestart", kube.create(manifest(names.SERVER_RESTART, user.user, strategy="Recreate")))
    assert ended["status"]["phase"] == "Succeeded", ended["status"]
    after = kube.pod(user.user)
    assert after is not None
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    wait_for("the server answers", lambda: answers(user), 60)


def signal_lab(kube: Kube, user: Session, signal: str) -> dict[str, Any]:
    """From outside the container, whose first process gets no other. The pod, as it was before."""
    pod = kube.pod(user.user)
    assert pod is not None
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    node = f"{kube.target.name}-control-plane"
    run(["docker", "exec", node, "ctr", "-n", "k8s.io", "tasks", "kill", "--signal", signal, container])
    return pod


def test_a_server_that_hangs_is_restarted_in_place(user: Session, kube: Kube) -> None:
    """It neither answers nor hears that it is to end, so that it is killed: after as long as at a stop."""
    user.start_and_wait()
    write(kube, user, "/home/jovyan/kept")
    before = signal_lab(kube, user, "SIGSTOP")
    assert before["spec"]["terminationGracePeriodSeconds"] == 10
    answer = user.restart()
    assert answer.status == 202, answer.text
    ended = kube.finished("srestart", answer.json["request"]["name"], 120)
    assert (ended["status"]["phase"], ended["status"]["mechanism"]) == ("Succeeded", "InPlace")
    assert answers(user)
    after = kube.pod(user.user)
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137
    assert exists(kube, user, "/home/jovyan/kept")


def test_a_crashed_server_comes_back_and_the_hub_keeps_it(user: Session, kube: Kube) -> None:
    """Stock KubeSpawner would delete the pod of a container that it happens to find terminated."""
    user.start_and_wait()
    # As the kernel's out-of-memory killer would: with no chance to say goodbye.
    pod = signal_lab(kube, user, "SIGKILL")

    def came_back() -> bool:
        found = kube.pod(user.user)
        return bool(found and found["status"]["containerStatuses"][0]["restartCount"] == 1 and answers(user))

    wait_for("the kubelet brings it back", came_back, 60)
    after = kube.pod(user.user)
    assert after is not None
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert user.state() == "running"


def test_a_stopped_server_is_not_restarted(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    user.stop_and_wait()
    answer = user.restart()
    assert answer.status == 409
    assert "Only a running server" in answer.json["message"]
    name = kube.create(manifest(names.SERVER_RESTART, user.user))
    assert kube.finished("srestart", name)["status"]["reason"] == "ServerNotRunning"


def test_a_named_server_is_restarted_alone(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    user.start_and_wait("second")
    default, named = kube.pod(user.user), kube.pod(user.user, "second")
    assert default is not None
    assert named is not None
    answer = user.restart(server="second")
    assert answer.status == 202, answer.text
    assert kube.finished("srestart", answer.json["request"]["name"])["status"]["podName"] == named["metadata"]["name"]
    untouched, restarted = kube.pod(user.user), kube.pod(user.user, "second")
    assert untouched is not None
    assert restarted is not None
    assert untouched["status"]["containerStatuses"][0]["restartCount"] == 0
    assert restarted["status"]["containerStatuses"][0]["restartCount"] == 1
    user.stop_and_wait("second")


@pytest.mark.alone
def test_A43_many_at_once_and_no_server_is_lost(login: Callable[[str], Session], kube: Kube) -> None:
    people = [login(f"crowd{number}") for number in range(8)]
    for session in people:
        session.start()
    for session in people:
        wait_for(f"{session.user} runs", lambda s=session: s.state() == "running", 180)
    before = {session.user: (kube.pod(session.user) or {})["metadata"]["uid"] for session in people}
    asked = {session.user: session.restart() for session in people}
    assert {answer.status for answer in asked.values()} == {202}
    shown = {session.user: session.card() for session in people}
    for user, card in shown.items():
        mine = asked[user].json["request"]["name"]
        told = card["active"] or card["last"]
        assert (told["name"], bool(told["message"])) == (mine, True), "the page says where each stands"
    assert "restarting" in {card["state"] for card in shown.values()}
    for session in people:
        answer = asked[session.user]
        ended = kube.finished("srestart", answer.json["request"]["name"], 180)
        assert ended["status"]["phase"] == "Succeeded", ended["status"]
        assert session.card()["last"]["name"] == ended["metadata"]["name"]
    after = {session.user: (kube.pod(session.user) or {})["metadata"]["uid"] for session in people}
    assert after == before
    assert all(answers(session) for session in people)
