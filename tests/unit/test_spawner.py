"""The spawner's side of the promises: no pod on a locked volume, no pod thrown away that is about to come back."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException
from steward_api import names
from steward_api.volumes import read_table
from steward_hub import spawner
from steward_hub.cluster import ClusterAway, ClusterRefused
from steward_hub.spawner import Refused, StewardMixin

Json = dict[str, Any]
TABLE = read_table({"volumes": {"home": None, "workspace": {"mountPath": "/w", "capacity": "1Gi"}}})
LOCK = {"metadata": {"name": "vreset-1"}, "status": {"phase": "Preparing", "lockedClaims": ["workspace-ann"]}}


class Cluster:
    """Pods, claims and requests; what happens is written down in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.locks: list[Json] = []
        #: The lock that comes when the spawner's pod is there.
        self.lock_after_pod: list[Json] = []
        self.claims: dict[str, Any] = {}
        self.restarts: list[Json] = []
        self.problem: Exception | None = None

    async def create_pod(self) -> None:
        self.done.append("pod")
        self.locks += self.lock_after_pod

    async def delete_namespaced_pod(self, name: str, namespace: str, **_: Any) -> None:
        self.done.append(f"take {name} back")

    async def read_namespaced_persistent_volume_claim(self, name: str, namespace: str) -> Any:
        if name not in self.claims:
            raise ApiException(404)
        return self.claims[name]

    async def create_namespaced_persistent_volume_claim(self, namespace: str, claim: Any) -> None:
        self.done.append(f"claim {claim.metadata.name}")
        self.claims[claim.metadata.name] = claim


class Base:
    """What the mixin asks of KubeSpawner."""

    namespace, pod_name, port, name = "hub", "jupyter-ann", 8888, ""
    component_label = "singleuser-storage"
    server = None
    delete_grace_period = 10
    _pvc_exists = True

    def __init__(self, cluster: Cluster, pods: Json) -> None:
        super().__init__()
        self.api = self.cluster = cluster
        self.storage_extra_labels, self.storage_extra_annotations = {}, {}  # type: Json, Json
        self.user = SimpleNamespace(name="ann")
        self.log = logging.getLogger("spawner")
        self.pod_reflector = SimpleNamespace(pods=pods)

    async def _make_create_pod_request(self, pod: Any, request_timeout: float) -> bool:
        await self.cluster.create_pod()
        return True

    async def _start_watching_pods(self) -> None: ...

    async def poll(self) -> int | None:
        """KubeSpawner's: whoever polls a terminated container is told so, and the hub throws the pod away."""
        return 1

    def _expand_user_properties(self, template: str, scheme: str | None = None) -> str:
        return template.replace("{user_server}", "ann")

    def _expand_all(self, source: Json) -> Json:
        return source

    def _build_common_labels(self, extra: Json) -> Json:
        return extra

    def _build_common_annotations(self, extra: Json) -> Json:
        return {names.USERNAME: "ann", names.SERVERNAME: "", **extra}


class Spawner(StewardMixin, Base):
    steward_volumes = TABLE

    def __init__(self, cluster: Cluster, pods: Json | None = None) -> None:
        Base.__init__(self, cluster, pods or {})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()

    class Requests:
        def __init__(self, namespace: str) -> None: ...

        async def locks(self) -> list[Json]:
            cluster.done.append("look")
            if cluster.problem:
                raise cluster.problem
            return cluster.locks

        async def of_user(self, user: str, kinds: tuple[str, ...]) -> list[Json]:
            if cluster.problem:
                raise cluster.problem
            return cluster.restarts

    monkeypatch.setattr(spawner, "Requests", Requests)
    return cluster


def pod() -> Any:
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name="jupyter-ann"),
        spec=client.V1PodSpec(
            containers=[client.V1Container(name=names.NOTEBOOK_CONTAINER)],
            volumes=[
                client.V1Volume(
                    name="w",
                    persistent_volume_claim=client.V1PersistentVolumeClaimVolumeSource(claim_name="workspace-ann"),
                )
            ],
        ),
    )


def create(cluster: Cluster) -> Any:
    return asyncio.run(Spawner(cluster)._make_create_pod_request(pod(), 3))


def test_the_pod_comes_first_then_the_look_for_locks_then_the_claims(cluster: Cluster) -> None:
    assert create(cluster)
    assert cluster.done == ["look", "pod", "look", "claim workspace-ann"]
    assert cluster.claims["workspace-ann"].metadata.labels[names.VOLUME] == "workspace"


@pytest.mark.parametrize(("given", "at_a_stop", "had"), [(None, 10, 10), (60, 10, 60), (None, 0, 1)])
def test_a_server_has_as_long_to_end_in_place_as_at_a_stop(
    cluster: Cluster, given: int | None, at_a_stop: int, had: int
) -> None:
    """Unless the team has given its pods another time. What has no time at all is gone before its processes are."""
    made, spawner = pod(), Spawner(cluster)
    spawner.delete_grace_period = at_a_stop
    made.spec.termination_grace_period_seconds = given
    assert asyncio.run(spawner._make_create_pod_request(made, 3))
    assert made.spec.termination_grace_period_seconds == had


def test_a_lock_that_comes_while_the_pod_is_made_takes_the_pod_back(cluster: Cluster) -> None:
    """The operator, whose look at the pods came before this pod, relies on it."""
    cluster.lock_after_pod = [LOCK]
    with pytest.raises(Refused) as refused:
        create(cluster)
    assert refused.value.status_code == 409
    assert "vreset-1" in refused.value.jupyterhub_message
    assert cluster.done == ["look", "pod", "look", "take jupyter-ann back"]
    assert not cluster.claims, "what is being reset is not made by the hub"


def test_a_lock_that_is_there_already_refuses_the_start_without_a_pod(cluster: Cluster) -> None:
    cluster.locks = [LOCK]
    with pytest.raises(Refused):
        create(cluster)
    assert cluster.done == ["look"]


@pytest.mark.parametrize(
    ("problem", "status"), [(ClusterAway("late"), 503), (ClusterRefused(403, "may not list volumeresets"), 409)]
)
def test_no_server_starts_where_locks_cannot_be_seen(cluster: Cluster, problem: Exception, status: int) -> None:
    cluster.problem = problem
    with pytest.raises(Refused) as refused:
        create(cluster)
    assert refused.value.status_code == status
    assert "pod" not in cluster.done


def test_where_the_definitions_are_not_installed_nothing_can_be_locked(cluster: Cluster) -> None:
    cluster.problem = ClusterRefused(404, "no such resource")
    assert create(cluster)


def test_a_claim_that_is_going_is_not_started_on(cluster: Cluster) -> None:
    going = client.V1ObjectMeta(
        name="workspace-ann", annotations={names.USERNAME: "ann"}, deletion_timestamp=datetime.now(UTC)
    )
    cluster.claims["workspace-ann"] = client.V1PersistentVolumeClaim(metadata=going)
    with pytest.raises(Refused, match="not gone yet"):
        create(cluster)
    assert cluster.done[-1] == "take jupyter-ann back"


def test_a_claim_of_somebody_else_is_not_started_on(cluster: Cluster) -> None:
    foreign = client.V1ObjectMeta(name="workspace-ann", annotations={names.USERNAME: "bob"})
    cluster.claims["workspace-ann"] = client.V1PersistentVolumeClaim(metadata=foreign)
    with pytest.raises(Refused) as refused:
        create(cluster)
    assert "somebody else" in refused.value.jupyterhub_message
    assert cluster.done[-1] == "take jupyter-ann back"


def seen(code: int = 137, ended_ago: float = 5, policy: str = "OnFailure", phase: str = "Running", **meta: str) -> Json:
    """The pod as the hub's reflector shows it: its lab has ended, and the kubelet has not started it again yet."""
    finished = (datetime.now(UTC) - timedelta(seconds=ended_ago)).isoformat(timespec="seconds").replace("+00:00", "Z")
    ended = {"terminated": {"exitCode": code, "finishedAt": finished}}
    return {
        "metadata": {"uid": "pod-1", "name": "jupyter-ann", **meta},
        "spec": {"restartPolicy": policy},
        "status": {"phase": phase, "containerStatuses": [{"name": names.NOTEBOOK_CONTAINER, "state": ended}]},
    }


def restart(phase: str = "Restarting", pod_uid: str = "pod-1") -> Json:
    return {"metadata": {"name": "srestart-1"}, "status": {"phase": phase, "podUID": pod_uid}}


def polled(cluster: Cluster, shown: Json) -> int | None:
    return asyncio.run(Spawner(cluster, {"hub/jupyter-ann": shown}).poll())


@pytest.mark.parametrize(
    "ended",
    [{}, {"policy": "Always", "code": 0}, {"ended_ago": 300}],
    ids=["killed", "always started again", "held back by the longest back-off"],
)
def test_a_lab_that_the_kubelet_is_about_to_start_again_is_running(cluster: Cluster, ended: Json) -> None:
    assert polled(cluster, seen(**ended)) is None


@pytest.mark.parametrize(
    "ended",
    [{"code": 0}, {"policy": "Never"}, {"ended_ago": 340}, {"phase": "Failed"}, {"deletionTimestamp": "now"}],
    ids=["ended in order", "never started again", "held back for too long", "a pod that is over", "a pod that goes"],
)
def test_what_does_not_come_back_has_ended(cluster: Cluster, ended: Json) -> None:
    assert polled(cluster, seen(**ended)) == 1


@pytest.mark.parametrize("phase", ["Running", "Succeeded"])
def test_a_restart_of_that_very_pod_keeps_it_running(cluster: Cluster, phase: str) -> None:
    """With exit code 0 the kubelet says of it that it has ended for good, and of a pod without another container that
    it is over; the operator starts it again."""
    cluster.restarts = [restart()]
    assert polled(cluster, seen(code=0, phase=phase)) is None
    going = seen(code=0, phase=phase, deletionTimestamp="now")
    assert polled(cluster, going) == 1, "it is the operator's stop"


@pytest.mark.parametrize("other", [restart(phase="Succeeded"), restart(pod_uid="pod-0"), {"metadata": {"name": "new"}}])
def test_a_restart_that_is_over_or_of_another_pod_does_not(cluster: Cluster, other: Json) -> None:
    cluster.restarts = [other]
    assert polled(cluster, seen(code=0)) == 1


def test_while_the_cluster_does_not_say_whether_a_restart_is_on_nothing_is_thrown_away(cluster: Cluster) -> None:
    cluster.problem = ClusterAway("late")
    assert polled(cluster, seen(code=0)) is None


def test_a_lab_that_runs_is_kubespawners_to_judge(cluster: Cluster) -> None:
    running = seen()
    running["status"]["containerStatuses"][0]["state"] = {"running": {}}
    assert polled(cluster, running) == 1
