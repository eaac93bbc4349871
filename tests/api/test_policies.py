"""What the API server lets the operator do with its rights: each policy by a request it allows and ones it denies."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from steward_api import names
from steward_operator.core.copy_job import backup_claim, copy_job
from steward_operator.core.model import Claim, Request
from steward_operator.core.settings import Copying

from tests.support.builders import reset
from tests.support.cluster import wait_for
from tests.support.control_plane import Refused
from tests.support.control_plane_fixtures import COPY_LABELS, Namespace
from tests.support.fake_kubelet import FakeKubelet

Json = dict[str, Any]
Change = Callable[[Json], None]
COPYING = Copying(image="hub-steward/operator:test", labels=COPY_LABELS)
STRATEGIC, MERGE = "application/strategic-merge-patch+json", "application/merge-patch+json"
_names = itertools.count(1)


def send(ns: Namespace, method: str, path: str, body: Any, content_type: str = "application/json") -> None:
    """As the operator, without effect."""
    ns.api.raw(method, f"{path}?dryRun=All", body, token=ns.token("operator"), content_type=content_type)


def denied(ns: Namespace, *call: Any, match: str, **more: Any) -> None:
    with pytest.raises(Refused, match=match) as refused:
        send(ns, *call, **more)
    assert refused.value.status in (403, 422)


@pytest.fixture
def server(ns: Namespace, kubelet: FakeKubelet) -> Json:
    user = ns.user()
    ns.make_claim(user, "workspace")
    return ns.start_server(user)


def resize(resources: Json, container: str = "notebook") -> Json:
    return {"spec": {"containers": [{"name": container, "resources": resources}]}}


def resize_path(ns: Namespace, pod: Json) -> str:
    return ns.core("pods", pod["metadata"]["name"]) + "/resize"


def test_a_small_step_of_a_server_may_be_resized(ns: Namespace, server: Json) -> None:
    for cpu in ("49m", "51m", "52m"):
        send(ns, "PATCH", resize_path(ns, server), resize({"requests": {"cpu": cpu}}), STRATEGIC)


@pytest.mark.parametrize("cpu", ["1", "53m", "47m", "1m"])
def test_a_server_is_not_made_larger_or_smaller(ns: Namespace, server: Json, cpu: str) -> None:
    denied(
        ns, "PATCH", resize_path(ns, server), resize({"requests": {"cpu": cpu}}), STRATEGIC, match="at most 2m of CPU"
    )


MEBIBYTE = 2**20


def test_a_servers_memory_moves_by_a_small_step_too(ns: Namespace, kubelet: FakeKubelet) -> None:
    user = ns.user()
    ns.make_claim(user, "workspace")
    ns.make_pod(user, resources={"requests": {"cpu": "50m", "memory": "256Mi"}})
    path = ns.core("pods", f"jupyter-{user}") + "/resize"
    for mebibytes in (255, 257, 258):
        amount = f"{mebibytes * MEBIBYTE}"
        send(ns, "PATCH", path, resize({"requests": {"cpu": "50m", "memory": amount}}), STRATEGIC)
    for amount in ("253Mi", "259Mi", "1Gi", f"{258 * MEBIBYTE + 1}"):
        body = resize({"requests": {"cpu": "50m", "memory": amount}})
        denied(ns, "PATCH", path, body, STRATEGIC, match="at most 2m of CPU")


def test_a_limit_is_not_added(ns: Namespace, server: Json) -> None:
    body = resize({"requests": {"cpu": "50m"}, "limits": {"memory": "1Gi"}})
    denied(ns, "PATCH", resize_path(ns, server), body, STRATEGIC, match="at most")


def test_a_pod_that_is_no_server_is_not_resized(ns: Namespace, kubelet: FakeKubelet) -> None:
    user = ns.user()
    ns.make_claim(user, "workspace")
    ns.make_pod(user, is_server=False)
    path = ns.core("pods", f"jupyter-{user}") + "/resize"
    denied(
        ns, "PATCH", path, resize({"requests": {"cpu": "51m"}}), STRATEGIC, match="servers of users and nothing else"
    )


def test_no_other_container_is_resized(ns: Namespace, kubelet: FakeKubelet) -> None:
    user = ns.user()
    ns.make_claim(user, "workspace")
    ns.make_pod(user, sidecar=True)
    path = ns.core("pods", f"jupyter-{user}") + "/resize"
    denied(ns, "PATCH", path, resize({"requests": {"cpu": "51m"}}, "side"), STRATEGIC, match="and no other")
    change = resize({"requests": {"cpu": "51m"}}, "native")
    change["spec"]["initContainers"] = change["spec"].pop("containers")
    denied(ns, "PATCH", path, change, STRATEGIC, match="and no other")


#: Of an object that is there; it would go with its new owner.
OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt", "uid": "not-that-one"}


def claim_body(**labels: str) -> Json:
    return {
        "metadata": {
            "name": f"policy-{next(_names)}",
            "labels": {names.COMPONENT: names.STORAGE_COMPONENT, **labels},
            "annotations": {names.USERNAME: "ann"},
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


def test_claims_of_users_and_their_backups_may_be_made(ns: Namespace) -> None:
    path = ns.core("persistentvolumeclaims")
    send(ns, "POST", path, claim_body())
    send(ns, "POST", path, claim_body(**{names.COMPONENT: names.BACKUP_COMPONENT}))
    denied(ns, "POST", path, claim_body(**{names.COMPONENT: "database"}), match="users' volumes and their backups")
    nobody = claim_body()
    nobody["metadata"]["annotations"] = {}
    denied(ns, "POST", path, nobody, match="users of the hub")


def test_other_claims_are_neither_changed_nor_deleted(ns: Namespace) -> None:
    body = claim_body(**{names.COMPONENT: "database"})
    ns.api.raw("POST", ns.core("persistentvolumeclaims"), body)
    path = ns.core("persistentvolumeclaims", body["metadata"]["name"])
    denied(ns, "DELETE", path, None, match="users' volumes and their backups")
    change = {"metadata": {"annotations": {names.PINNED_BY: "x"}}}
    denied(ns, "PATCH", path, change, MERGE, match="users' volumes and their backups")


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"team": "red"}}},
        {"metadata": {"annotations": {names.USERNAME: "eve"}}},
        {"metadata": {"annotations": {names.USERNAME: None}}},
        {"metadata": {"annotations": {"example.com/x": "y"}}},
        {"metadata": {"finalizers": []}},
        {"metadata": {"ownerReferences": [OWNER]}},
        {"spec": {"resources": {"requests": {"storage": "9Gi"}}}},
    ],
)
def test_of_a_users_claim_only_our_own_annotations_may_change(ns: Namespace, change: Json) -> None:
    user = ns.user()
    ns.make_claim(user, "workspace")
    path = ns.core("persistentvolumeclaims", f"workspace-{user}")
    send(ns, "PATCH", path, {"metadata": {"annotations": {names.KEPT_BY: "x"}}}, MERGE)
    with pytest.raises(Refused):
        send(ns, "PATCH", path, change, MERGE)


@pytest.fixture
def job(ns: Namespace) -> Json:
    user = ns.user()
    source = Claim(ns.make_claim(user, "home"))
    request: Request = reset("home", user=user, name=f"j-{user}")
    backup = backup_claim(request, source, "home", COPYING)
    send(ns, "POST", ns.core("persistentvolumeclaims"), backup)
    return copy_job(request, backup["metadata"]["name"], "home", source.name, backup["metadata"]["name"], COPYING)


JOBS = "/apis/batch/v1/namespaces/hub/jobs"
HOOK = {"exec": {"command": ["sh", "-c", "id"]}}


def test_a_copy_may_run(ns: Namespace, job: Json) -> None:
    send(ns, "POST", JOBS, job)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda pod: pod["containers"][0].update(image="evil"), "its own copy"),
        (lambda pod: pod["containers"][0].update(command=["sh", "-c", "id"]), "its own copy"),
        (lambda pod: pod["containers"].append({"name": "more", "image": "evil"}), "its own copy"),
        (lambda pod: pod.update(initContainers=[{"name": "first", "image": "evil"}]), "its own copy"),
        (lambda pod: pod.pop("automountServiceAccountToken"), "have no token"),
        (lambda pod: pod.update(serviceAccountName="hub"), "have no token"),
        (lambda pod: pod["volumes"].append({"name": "s", "secret": {"secretName": "hub"}}), "no Secrets"),
        (lambda pod: pod["volumes"].append({"name": "h", "hostPath": {"path": "/"}}), "nothing else"),
        (lambda pod: pod["containers"][0].update(envFrom=[{"secretRef": {"name": "hub"}}]), "no Secrets"),
        (lambda pod: pod["containers"][0].update(env=[{"name": "A", "value": "b"}]), "nothing else"),
        (lambda pod: pod["volumes"][0]["persistentVolumeClaim"].update(claimName="hub-db-dir"), "nothing else"),
        (lambda pod: pod.update(hostNetwork=True), "restricted standard"),
        (lambda pod: pod.update(hostPID=True), "restricted standard"),
        (lambda pod: pod.update(hostIPC=True), "restricted standard"),
        (lambda pod: pod["securityContext"].update(seccompProfile={"type": "Unconfined"}), "restricted standard"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "restricted standard"),
        (lambda pod: pod["containers"][0]["securityContext"].update(allowPrivilegeEscalation=True), "restricted"),
        (lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"), "restricted"),
        (lambda pod: pod["containers"][0]["securityContext"]["capabilities"].update(drop=["CHOWN"]), "restricted"),
        (lambda pod: pod["securityContext"].update(runAsNonRoot=False), "restricted standard"),
        (lambda pod: pod["containers"][0]["securityContext"].update(privileged=True), "restricted standard|Invalid"),
        (lambda pod: pod["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]), "restricted"),
        (lambda pod: pod["containers"][0]["securityContext"].update(runAsNonRoot=False), "restricted standard"),
        (lambda pod: pod["containers"][0]["securityContext"].update(runAsUser=0), "restricted standard"),
        (lambda pod: pod["securityContext"].update(runAsUser=0), "restricted standard"),
        (
            lambda pod: pod["containers"][0]["securityContext"].update(seccompProfile={"type": "Unconfined"}),
            "restricted",
        ),
        (lambda pod: pod["containers"][0].update(lifecycle={"postStart": HOOK}), "its own copy"),
        (lambda pod: pod["containers"][0].update(livenessProbe=HOOK), "its own copy"),
        (lambda pod: pod["containers"][0].update(readinessProbe=HOOK), "its own copy"),
        (lambda pod: pod["containers"][0].update(startupProbe=HOOK), "its own copy"),
    ],
)
def test_nothing_else_may_run_as_a_job(ns: Namespace, job: Json, change: Change, match: str) -> None:
    changed = copy.deepcopy(job)
    change(changed["spec"]["template"]["spec"])
    denied(ns, "POST", JOBS, changed, match=match)


@pytest.mark.parametrize("label", ["app", "component", "release"])
def test_a_job_without_the_labels_that_keep_it_off_the_network_may_not_run(
    ns: Namespace, job: Json, label: str
) -> None:
    for labels in ({label: "other"}, {}):
        changed = copy.deepcopy(job)
        present = changed["spec"]["template"]["metadata"]["labels"]
        changed["spec"]["template"]["metadata"]["labels"] = {
            **{k: v for k, v in present.items() if k != label},
            **labels,
        }
        denied(ns, "POST", JOBS, changed, match="labels of copies")


@pytest.mark.parametrize("kind", [names.VOLUME_RESET, names.SERVER_RESTART])
def test_of_a_request_only_the_finalizer_may_change(ns: Namespace, kind: str) -> None:
    path = ns.requests(kind, ns.ask(kind, "nobody"))
    send(ns, "PATCH", path, {"metadata": {"finalizers": [names.FINALIZER]}}, MERGE)
    for change in (
        {"spec": {"cancel": True}},
        {"spec": {"ttlSecondsAfterFinished": 100_000}},
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"annotations": {"a": "b"}}},
        {"metadata": {"ownerReferences": [OWNER]}},
        {"metadata": {"finalizers": ["example.com/kept"]}},
    ):
        denied(ns, "PATCH", path, change, MERGE, match="nothing of a request but its finalizer")


@pytest.mark.parametrize("kind", [names.VOLUME_RESET, names.SERVER_RESTART])
def test_the_hub_calls_a_request_off_and_changes_nothing_else(ns: Namespace, kind: str) -> None:
    path = ns.requests(kind, ns.ask(kind, "nobody"))

    def patch(change: Json) -> None:
        ns.api.raw("PATCH", f"{path}?dryRun=All", change, token=ns.token("hub"), content_type=MERGE)

    patch({"spec": {"cancel": True}})
    for change in (
        {"spec": {"ttlSecondsAfterFinished": 100_000}},
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"annotations": {"a": "b"}}},
        {"metadata": {"ownerReferences": [OWNER]}},
        {"metadata": {"finalizers": [names.FINALIZER]}},
    ):
        with pytest.raises(Refused, match="calls requests off and changes nothing else"):
            patch(change)


def test_no_pod_comes_on_a_locked_claim_but_others_may(ns: Namespace, kubelet: FakeKubelet) -> None:
    user, other = ns.user(), ns.user()
    for who in (user, other):
        ns.make_claim(who, "workspace")
    name = ns.ask(names.VOLUME_RESET, user, notBefore="2100-01-01T00:00:00Z")
    status = {"status": {"phase": "Preparing", "lockedClaims": [f"workspace-{user}"]}}
    ns.api.raw("PATCH", ns.requests(names.VOLUME_RESET, name) + "/status", status, content_type=MERGE)

    def is_refused() -> bool:
        try:
            ns.make_pod(user, dry_run=True)
        except Refused as refused:
            return name in refused.message and "wait until that is done" in refused.message
        return False

    wait_for("the policy knows the lock", is_refused, 20)
    ns.make_pod(other, dry_run=True)
    ns.api.raw("DELETE", ns.requests(names.VOLUME_RESET, name))


@pytest.mark.parametrize(("role", "may"), [("view", {"get", "list", "watch"}),
                                           ("edit", {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"})])  # fmt: skip
def test_the_namespaces_viewers_see_requests_and_its_editors_make_them(ns: Namespace, role: str, may: set[str]) -> None:
    """The chart's ClusterRoles are made to be aggregated; here they are bound as they are."""
    account = f"a-{role}"
    ns.api.raw("POST", ns.core("serviceaccounts"), {"metadata": {"name": account}})
    for part in {"view", role}:
        binding = {
            "metadata": {"name": f"{account}-{part}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"hubsteward-hub-hub-{part}"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "hub"}],
        }  # fmt: skip
        ns.api.raw("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/hub/rolebindings", binding)
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    for plural in names.PLURALS.values():
        found = set()
        for verb in ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"):
            attributes = {"namespace": "hub", "verb": verb, "group": names.GROUP, "resource": plural}
            review = {"spec": {"resourceAttributes": attributes}}
            if ns.api.raw("POST", path, review, token=ns.token(account))["status"]["allowed"]:
                found.add(verb)
        assert found == may, plural
