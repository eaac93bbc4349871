"""One control plane for the tier, with the chart's roles and policies on it, and one operator behind the proxy."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import yaml
from steward_api import names

from cluster import cache, local, tools
from cluster.shell import run
from tests.csi.fixture import definitions
from tests.support.cluster import wait_for
from tests.support.control_plane import ControlPlane, Refused
from tests.support.fake_kubelet import FakeKubelet
from tests.support.fake_snapshots import FakeSnapshots
from tests.support.operator import FakeHub, Operator, Proxy

Json = dict[str, Any]
NAMESPACE = "hub"
#: As the chart's configuration gives them to release hub.
COPY_LABELS = {"app": "jupyterhub", "release": "hub"}
CONFIG = {
    "storage": {
        "volumes": {
            "home": {"reset": {"allowed": True, "backup": "Copy"}},
            "workspace": {"mountPath": "/w", "capacity": "1Gi", "reset": {"allowed": True}},
            "cache": {"mountPath": "/c", "capacity": "1Gi", "reset": {"allowed": True}},
        }
    },
    "settings": {
        "min_restart_interval": 0,
        "resync_every": 5,
        "start_failure_timeout": 8,
        "stop_timeout": 16,
        "copying": {"image": "hub-steward/operator:test", "labels": COPY_LABELS},
        "snapshots": {"enabled": True},
    },
}


def install(plane: ControlPlane) -> None:
    """The chart's definitions, rights and policies. The parts that would run do not."""
    tools.bin_directory()
    local.chart_dependencies()
    rendered = run([cache.root() / "bin/helm", "template", "hub", local.CHART, "--namespace", NAMESPACE,
                    "--set", "operator.image.tag=test",
                    "--set", "operator.backups.snapshots.enabled=true"])  # fmt: skip
    kept = {"CustomResourceDefinition", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding",
            "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}  # fmt: skip
    objects = [o for o in yaml.safe_load_all(rendered) if o and o["kind"] in kept] + definitions()
    plane.kubectl("create", "namespace", NAMESPACE)
    for chosen in ({"CustomResourceDefinition"}, kept - {"CustomResourceDefinition"}):
        items = [o for o in objects if o["kind"] in chosen]
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        plane.kubectl("apply", "-n", NAMESPACE, "-f", "-", input_text=body)
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for group, version, plural in (
        (names.SNAPSHOT_GROUP, "v1", "volumesnapshots"),
        *((names.GROUP, names.VERSION, plural) for plural in names.PLURALS.values()),
    ):
        path = f"/apis/{group}/{version}/namespaces/{NAMESPACE}/{plural}"
        wait_for(f"{plural} are served", partial(is_served, plane, path), 30, every=0.1)
    plane.kubectl("-n", NAMESPACE, "create", "serviceaccount", "stranger")


def is_served(plane: ControlPlane, path: str) -> bool:
    """A definition is Established a moment before the API server has made its store ready."""
    try:
        plane.raw("GET", path)
    except Refused as refused:
        if refused.status not in (404, 429, 503):
            raise
        return False
    return True


@contextmanager
def installed() -> Iterator[ControlPlane]:
    """A control plane of its own with the chart's objects on it."""
    plane = ControlPlane()
    try:
        plane.start()
        install(plane)
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def api() -> Iterator[ControlPlane]:
    with installed() as plane:
        yield plane


class Namespace:
    """The test's view of the hub's namespace: makes users, asks for things, looks at what is there."""

    def __init__(self, api: ControlPlane) -> None:
        self.api = api
        self._numbers = itertools.count(1)
        self._tokens: dict[str, str] = {}
        #: Users of the requests that were made, by the requests' paths.
        self.users: dict[str, str] = {}

    def core(self, resource: str, name: str = "") -> str:
        return f"/api/v1/namespaces/{NAMESPACE}/{resource}" + (f"/{name}" if name else "")

    def requests(self, kind: str, name: str = "") -> str:
        path = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{NAMESPACE}/{names.PLURALS[kind]}"
        return path + (f"/{name}" if name else "")

    def token(self, account: str) -> str:
        """A token of a service account of the namespace, as the cluster gives it to the pod."""
        if account not in self._tokens:
            body = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 86400},
            }
            path = f"{self.core('serviceaccounts', account)}/token"
            self._tokens[account] = self.api.raw("POST", path, body)["status"]["token"]
        return self._tokens[account]

    def user(self) -> str:
        return f"user{next(self._numbers)}"

    def make_claim(self, user: str, kind: str, **spec: Any) -> Json:
        body = {
            "metadata": {
                "name": f"{kind}-{user}",
                "labels": {names.COMPONENT: names.STORAGE_COMPONENT, names.VOLUME: kind, "team": "blue"},
                "annotations": {names.USERNAME: user},
            },
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "standard",
                     "resources": {"requests": {"storage": "1Gi"}}, **spec},
        }  # fmt: skip
        self.api.raw("POST", self.core("persistentvolumeclaims"), body)

        def protected() -> Json | None:
            found = self.claim(user, kind)
            return found if found and found["metadata"].get("finalizers") else None

        return wait_for("the claim is protected", protected, 20, every=0.05)

    def lease(self) -> Json:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{names.LEASE}"
        return dict(self.api.raw("GET", path)["spec"])

    def bind(self, user: str, kind: str, size: str = "1Gi") -> Json:
        """Say of the claim that it has been used, as the volume controller does."""
        path = self.core("persistentvolumeclaims", f"{kind}-{user}")
        body = {"status": {"phase": "Bound", "capacity": {"storage": size}}}
        return dict(self.api.raw("PATCH", f"{path}/status", body, content_type="application/merge-patch+json"))

    def backups(self, user: str) -> list[Json]:
        """The user's backups, copies and snapshots, ready or not."""
        selector = f"?labelSelector={names.COMPONENT}%3D{names.BACKUP_COMPONENT}"
        snapshots = f"/apis/{names.SNAPSHOT_GROUP}/v1/namespaces/{NAMESPACE}/volumesnapshots"
        paths = (self.core("persistentvolumeclaims"), snapshots)
        listed = [held for path in paths for held in self.api.raw("GET", path + selector)["items"]]
        return [held for held in listed if held["metadata"]["annotations"].get(names.USERNAME) == user]

    def claim(self, user: str, kind: str) -> Json | None:
        return self._find("persistentvolumeclaims", f"{kind}-{user}")

    def present(self, user: str, kind: str) -> Json:
        """The claim, which has to be there."""
        found = self.claim(user, kind)
        assert found is not None, f"{user} has no {kind}"
        return found

    def pod(self, user: str) -> Json | None:
        return self._find("pods", f"jupyter-{user}")

    def _find(self, resource: str, name: str) -> Json | None:
        try:
            return dict(self.api.raw("GET", self.core(resource, name)))
        except Refused as refused:
            if refused.status != 404:
                raise
            return None

    def make_pod(
        self, user: str, *, is_server: bool = True, dry_run: bool = False, sidecar: bool = False,
        resources: Json | None = None, server: str = "",
    ) -> None:  # fmt: skip
        """A pod that has the user's workspace open; with ``server`` that named server of his."""
        resources = resources or {"requests": {"cpu": "50m"}}
        body: Json = {
            "metadata": {
                "name": f"jupyter-{user}",
                "labels": {names.COMPONENT: names.SERVER_COMPONENT} if is_server else {},
                "annotations": {names.USERNAME: user, names.RESOURCES: json.dumps(resources)} if is_server else {},
            },
            "spec": {
                "restartPolicy": "OnFailure",
                "containers": [{
                    "name": "notebook", "image": "paper", "resources": resources,
                    "resizePolicy": [{"resourceName": r, "restartPolicy": "RestartContainer"} for r in ("cpu", "memory")],
                }],
                "volumes": [{"name": "w", "persistentVolumeClaim": {"claimName": f"workspace-{user}"}}],
            },
        }  # fmt: skip
        if server:
            body["metadata"]["name"] += f"--{server}"
            body["metadata"]["annotations"][names.SERVERNAME] = server
        if sidecar:
            body["spec"]["containers"].append({"name": "side", "image": "paper", "resources": resources})
            native = {"name": "native", "image": "paper", "resources": resources, "restartPolicy": "Always"}
            body["spec"]["initContainers"] = [native]
        self.api.raw("POST", self.core("pods") + ("?dryRun=All" if dry_run else ""), body)

    def start_server(self, user: str) -> Json:
        """A server that has run for a second: of one that was made in the second of a request nobody can mean the old."""
        self.make_pod(user)

        def runs() -> Json | None:
            found = self.pod(user)
            if not found or found["status"]["phase"] != "Running":
                return None
            made = datetime.fromisoformat(found["metadata"]["creationTimestamp"])
            return found if (datetime.now(UTC) - made).total_seconds() >= 1 else None

        return wait_for("the paper server runs", runs, 20, every=0.05)

    def ask(self, kind: str, user: str, **spec: Any) -> str:
        if kind == names.VOLUME_RESET:
            spec.setdefault("volumes", ["workspace"])
        spec.setdefault("requestedBy", {"kind": "KubernetesUser", "name": "test-admin"})
        return str(self.make_request(kind, {"generateName": "t-"}, {"user": user, **spec})["metadata"]["name"])

    def make_request(self, kind: str, metadata: Json, spec: Json) -> Json:
        body = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
        made = dict(self.api.raw("POST", self.requests(kind) + "?fieldValidation=Strict", body))
        self.users[self.requests(kind, made["metadata"]["name"])] = spec["user"]
        return made

    def request(self, kind: str, name: str) -> Json:
        return dict(self.api.raw("GET", self.requests(kind, name)))

    def is_gone(self, path: str) -> bool:
        try:
            self.api.raw("GET", path)
        except Refused as refused:
            return refused.status == 404
        return False

    def ended(self, kind: str, name: str, seconds: float = 30) -> Json:
        def finished() -> Json | None:
            found = self.request(kind, name)
            return found if found.get("status", {}).get("completionTime") else None

        return wait_for(f"{kind} {name} ends", finished, seconds, every=0.05)


@pytest.fixture(scope="session")
def ns(api: ControlPlane) -> Namespace:
    """With the policies in force: the API server takes new ones up within a second."""
    namespace = Namespace(api)
    body = {"metadata": {"name": "probe"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1"}}}}  # fmt: skip

    def is_in_force() -> bool:
        try:
            path = namespace.core("persistentvolumeclaims") + "?dryRun=All"
            api.raw("POST", path, body, token=namespace.token("operator"))
        except Refused as refused:
            return "users' volumes" in refused.message
        return False

    wait_for("the policies are in force", is_in_force, 30)
    return namespace


@pytest.fixture(scope="session")
def snapshots(api: ControlPlane, ns: Namespace, kubelet: FakeKubelet) -> Iterator[FakeSnapshots]:
    snapshots = FakeSnapshots(api, NAMESPACE, kubelet)
    snapshots.start()
    yield snapshots
    snapshots.stop()
    assert not snapshots.problems, snapshots.problems


@pytest.fixture(scope="session")
def kubelet(api: ControlPlane, ns: Namespace) -> Iterator[FakeKubelet]:
    kubelet = FakeKubelet(api, NAMESPACE)
    kubelet.start()
    yield kubelet
    kubelet.stop()
    assert not kubelet.problems, kubelet.problems


def instance(pod: Json) -> str:
    """The ID of the server's container, or "" when it has none yet."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return next((str(s.get("containerID", "")) for s in statuses if s["name"] == names.NOTEBOOK_CONTAINER), "")


@pytest.fixture(scope="session")
def hub(ns: Namespace, kubelet: FakeKubelet) -> Iterator[FakeHub]:
    def stop(user: str, uid: str, container_id: str) -> bool:
        found = ns.pod(user)
        if found is None:
            return True
        if found["metadata"]["uid"] != uid or container_id not in ("", instance(found)):
            return False
        ns.api.raw("DELETE", ns.core("pods", f"jupyter-{user}"), {"preconditions": {"uid": uid}})
        return True

    hub = FakeHub(stop, lambda user: ns.make_pod(user))
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture(scope="session")
def proxy(api: ControlPlane) -> Iterator[Proxy]:
    proxy = Proxy(api)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def operator(api: ControlPlane, ns: Namespace, kubelet: FakeKubelet, proxy: Proxy, hub: FakeHub) -> Iterator[Operator]:
    """Not started yet. Runs with the rights of the chart's service account."""
    kubeconfig = api.kubeconfig("operator", ns.token("operator"), f"http://127.0.0.1:{proxy.port}")
    operator = Operator(kubeconfig, CONFIG, hub.port, NAMESPACE, api.directory)
    proxy.victim = lambda: operator.pid
    proxy.arm(None)
    hub.counted_by = None
    proxy.hold = proxy.injections = proxy.watch_filter = None
    yield operator
    operator.stop()


@pytest.fixture
def running(operator: Operator, proxy: Proxy) -> Operator:
    """Ready, and nothing counted yet."""
    operator.start()
    operator.wait_ready()
    proxy.arm(None)
    return operator
