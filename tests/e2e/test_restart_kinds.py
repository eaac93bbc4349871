"""Restarts in place of every kind of server that a team may configure, on the real kubelet.

What kind a server is follows from its user's name (``tests/support/values.yaml``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from steward_api import names
from steward_operator.core.quantities import quantity

from tests.e2e.test_reset import manifest
from tests.support.builders import denial
from tests.support.cluster import Kube, Session, wait_for

Login = Callable[[str], Session]
DEVICE = "example.com/device"


def restarted(kube: Kube, user: Session, **spec: Any) -> dict[str, Any]:
    name = kube.create(manifest(names.SERVER_RESTART, user.user, **spec))
    return dict(kube.finished("srestart", name, 180)["status"])


def pod_of(kube: Kube, user: Session) -> dict[str, Any]:
    pod = kube.pod(user.user)
    assert pod is not None
    return pod


def container(pod: dict[str, Any], name: str = "notebook") -> dict[str, Any]:
    (found,) = [c for c in pod["status"]["containerStatuses"] if c["name"] == name]
    return dict(found)


@pytest.mark.parametrize(("kind", "quality"), [("guaranteed", "Guaranteed"), ("limited", "Burstable")])
def test_there_and_back_in_one_pod(login: Login, kube: Kube, kind: str, quality: str) -> None:
    """The second restart returns to the size that was asked for; nothing of the pod but its container is new."""
    user = login(f"{kind}-ann")
    user.start_and_wait()
    before = pod_of(kube, user)
    assert before["status"]["qosClass"] == quality
    sizes = [before["spec"]["containers"][0]["resources"]]
    for _ in range(2):
        ended = restarted(kube, user)
        assert (ended["phase"], ended["mechanism"]) == ("Succeeded", "InPlace"), ended
        sizes.append(pod_of(kube, user)["spec"]["containers"][0]["resources"])
    after = pod_of(kube, user)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert after["status"]["qosClass"] == quality
    assert container(after)["restartCount"] == 2
    assert sizes[0] == sizes[2] != sizes[1]


def test_a_sidecar_runs_on(login: Login, kube: Kube) -> None:
    user = login("sidecar-ann")
    user.start_and_wait()
    before = container(pod_of(kube, user), "side")
    ended = restarted(kube, user)
    assert (ended["phase"], ended["mechanism"]) == ("Succeeded", "InPlace"), ended
    after = pod_of(kube, user)
    assert container(after, "side")["containerID"] == before["containerID"]
    assert container(after)["restartCount"] == 1


@pytest.fixture
def device(kube: Kube) -> Iterator[None]:
    """One device on the node, as a device plugin would report it."""
    node = f"{kube.target.name}-control-plane"
    path = "/status/capacity/" + DEVICE.replace("/", "~1")

    def patch(operation: dict[str, str]) -> None:
        kube("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps([operation]))

    patch({"op": "add", "path": path, "value": "1"})

    def is_there() -> bool:
        return DEVICE in kube.json("get", "node", node)["status"]["allocatable"]

    wait_for("the node offers the device", is_there, 60)
    yield
    patch({"op": "remove", "path": path})


@pytest.mark.usefixtures("device")
def test_a_device_is_kept_and_not_given_away_even_when_no_restart_in_place_is_left(login: Login, kube: Kube) -> None:
    user = login("device-ann")
    user.start_and_wait()
    before = pod_of(kube, user)
    ends = [restarted(kube, user) for _ in range(4)]
    assert [(end["phase"], end["reason"]) for end in ends] == [
        ("Succeeded", "Restarted"),
        ("Succeeded", "Restarted"),
        ("Succeeded", "Restarted"),
        ("Failed", "TooManyRestarts"),
    ]
    assert "device" in ends[3]["message"]
    after = pod_of(kube, user)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert container(after)["restartCount"] == 3
    assert user.state() == "running"
    anew = restarted(kube, user, strategy="Recreate")
    assert (anew["phase"], anew["mechanism"]) == ("Succeeded", "Recreate"), anew


@pytest.fixture
def no_smaller(kube: Kube) -> Iterator[None]:
    """A LimitRange that refuses the step down from 50m of CPU."""
    limit = {
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "no-smaller"},
        "spec": {"limits": [{"type": "Container", "min": {"cpu": "50m"}}]},
    }  # fmt: skip
    kube.apply(limit)
    yield
    kube("delete", "limitrange", "no-smaller")


@pytest.mark.alone
@pytest.mark.usefixtures("no_smaller")
def test_a_refused_direction_is_followed_by_the_other(user: Session, kube: Kube) -> None:
    user.start_and_wait()
    before = pod_of(kube, user)
    ended = restarted(kube, user)
    assert (ended["phase"], ended["mechanism"]) == ("Succeeded", "InPlace"), ended
    after = pod_of(kube, user)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "51m"


@pytest.fixture
def full_node(kube: Kube, user: Session) -> Iterator[None]:
    """A pod that asks for all the CPU that is left on the node, once the user's server is there."""
    user.start_and_wait()
    node = kube.json("get", "node", f"{kube.target.name}-control-plane")
    pods = kube.json("get", "pods", "-A", "--field-selector=status.phase!=Succeeded,status.phase!=Failed")["items"]
    taken = sum(
        quantity(c.get("resources", {}).get("requests", {}).get("cpu", "0"))
        for pod in pods
        for c in pod["spec"]["containers"]
    )
    left = round((quantity(node["status"]["allocatable"]["cpu"]) - taken) * 1000)
    body = {
        "name": "everything", "image": pod_of(kube, user)["spec"]["containers"][0]["image"],
        "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
        "resources": {"requests": {"cpu": f"{left}m"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    kube.apply({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "everything"},
        "spec": {"containers": [body], "securityContext": security, "terminationGracePeriodSeconds": 0},
    })  # fmt: skip
    kube("wait", "--for=condition=Ready", "pod/everything", "--timeout=60s")
    yield
    kube("delete", "pod", "everything", "--wait=true")


@pytest.mark.alone
@pytest.mark.usefixtures("no_smaller", "full_node")
def test_a_resize_that_the_node_puts_off_is_taken_back_and_the_server_starts_anew(user: Session, kube: Kube) -> None:
    """No way down by the LimitRange, and none up on a node that is full: the kubelet says Deferred."""
    before = pod_of(kube, user)
    name = kube.create(manifest(names.SERVER_RESTART, user.user))

    def is_deferred() -> bool:
        conditions = pod_of(kube, user)["status"].get("conditions", [])
        return ("PodResizePending", "Deferred") in [(c["type"], c.get("reason")) for c in conditions]

    wait_for("the kubelet puts the resize off", is_deferred, 60, every=0.1)
    ended = kube.finished("srestart", name, 180)["status"]
    assert (ended["phase"], ended["mechanism"]) == ("Succeeded", "Recreate"), ended
    after = pod_of(kube, user)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["spec"]["containers"][0]["resources"] == before["spec"]["containers"][0]["resources"]


@pytest.fixture
def no_resize(kube: Kube, user: Session) -> Iterator[None]:
    """A policy against any resize, as a team may have: both directions are refused."""
    user.start_and_wait()
    message = "nothing is resized here"
    kube.apply(*denial("no-resize", "UPDATE", "pods/resize", message))
    pod = pod_of(kube, user)["metadata"]["name"]
    change = json.dumps({"spec": {"containers": [{"name": "notebook", "resources": {"requests": {"cpu": "49m"}}}]}})

    def is_held() -> bool:
        try:
            kube("patch", "pod", pod, "--subresource=resize", "--dry-run=server", "-p", change)
        except Exception as refused:
            return message in str(refused)
        return False

    wait_for("the policy is in force", is_held, 30)
    yield
    kube("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", "no-resize")


@pytest.mark.alone
@pytest.mark.usefixtures("no_resize")
def test_where_nothing_may_be_resized_the_server_is_stopped_and_started(user: Session, kube: Kube) -> None:
    before = pod_of(kube, user)
    ended = restarted(kube, user)
    assert (ended["phase"], ended["mechanism"]) == ("Succeeded", "Recreate"), ended
    assert pod_of(kube, user)["metadata"]["uid"] == ended["newPodUID"] != before["metadata"]["uid"]
