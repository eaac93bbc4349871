"""What the API server itself refuses: bad fields, changed specs, forged names, and rights that nobody has."""

from __future__ import annotations

from typing import Any

import pytest
from steward_api import names

from tests.support.control_plane import Refused
from tests.support.control_plane_fixtures import NAMESPACE, Namespace

KINDS = [names.VOLUME_RESET, names.SERVER_RESTART]


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        (names.VOLUME_RESET, {"user": "ann/../bob"}, "spec.user"),
        (names.SERVER_RESTART, {"user": "a/b"}, "spec.user"),
        (names.SERVER_RESTART, {"user": ""}, "spec.user"),
        (names.SERVER_RESTART, {"user": "x" * 256}, "spec.user"),
        (names.VOLUME_RESET, {"volumes": []}, "spec.volumes"),
        (names.VOLUME_RESET, {"volumes": ["Work Space"]}, "spec.volumes"),
        (names.VOLUME_RESET, {"volumes": ["workspace", "workspace"]}, "Duplicate"),
        (names.VOLUME_RESET, {"volumes": [f"v{n}" for n in range(17)]}, "spec.volumes"),
        (names.VOLUME_RESET, {"backup": "Tape"}, "spec.backup"),
        (names.VOLUME_RESET, {"serverPolicy": "Wait"}, "spec.serverPolicy"),
        (names.VOLUME_RESET, {"contents": {"from": "Template"}}, "spec.contents.from"),
        (names.SERVER_RESTART, {"strategy": "Harder"}, "spec.strategy"),
        (names.SERVER_RESTART, {"startegy": "Auto"}, "unknown field"),
        (names.SERVER_RESTART, {"ttlSecondsAfterFinished": 60}, "ttlSecondsAfterFinished"),
        (names.SERVER_RESTART, {"startingDeadlineSeconds": 0}, "startingDeadlineSeconds"),
        (names.SERVER_RESTART, {"reason": "x" * 257}, "spec.reason"),
        (names.SERVER_RESTART, {"notBefore": "tomorrow"}, "notBefore"),
        (names.SERVER_RESTART, {"requestedBy": {"kind": "Root", "name": "x"}}, "requestedBy.kind"),
    ],
)
def test_a_bad_field_is_refused_by_name(ns: Namespace, kind: str, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refused:
        ns.ask(kind, spec.pop("user", "ann"), **spec)
    assert refused.value.status in (400, 422)
    assert words in refused.value.message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        {"user": "bob"},
        {"server": "gpu"},
        {"reason": "another"},
        {"notBefore": "2030-01-01T00:00:00Z"},
        {"startingDeadlineSeconds": 5},
        {"requestedBy": {"kind": "KubernetesUser", "name": "eve"}},
    ],
)
def test_a_spec_is_frozen(ns: Namespace, kind: str, change: dict[str, Any]) -> None:
    name = ns.ask(kind, "nobody")
    with pytest.raises(Refused, match="cannot be changed"):
        ns.api.raw("PATCH", ns.requests(kind, name), {"spec": change}, content_type="application/merge-patch+json")


@pytest.mark.parametrize("kind", KINDS)
def test_cancel_and_a_longer_ttl_are_the_only_changes(ns: Namespace, kind: str) -> None:
    name = ns.ask(kind, "nobody", ttlSecondsAfterFinished=86_400)

    def patch(**spec: Any) -> None:
        body = {"spec": spec}
        ns.api.raw("PATCH", ns.requests(kind, name), body, content_type="application/merge-patch+json")

    patch(ttlSecondsAfterFinished=90_000)
    patch(cancel=True)
    with pytest.raises(Refused, match="cannot be taken back"):
        patch(cancel=False)
    with pytest.raises(Refused, match="may only be raised"):
        patch(ttlSecondsAfterFinished=86_400)
    with pytest.raises(Refused, match="may only be raised"):
        patch(ttlSecondsAfterFinished=None)


def create_as(ns: Namespace, account: str, kind: str, requested_by: dict[str, str] | None) -> None:
    spec: dict[str, Any] = {"user": "ann"}
    if kind == names.VOLUME_RESET:
        spec["volumes"] = ["workspace"]
    if requested_by:
        spec["requestedBy"] = requested_by
    body = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": {"generateName": "p-"}, "spec": spec}
    ns.api.raw("POST", ns.requests(kind) + "?dryRun=All", body, token=ns.token(account))


@pytest.mark.parametrize("kind", KINDS)
def test_the_hub_speaks_for_its_users_and_for_nobody_else(ns: Namespace, kind: str) -> None:
    create_as(ns, "hub", kind, {"kind": "HubUser", "name": "ann"})
    create_as(ns, "hub", kind, {"kind": "HubService", "name": "culler"})
    with pytest.raises(Refused, match="requestedBy must be the sender"):
        create_as(ns, "hub", kind, {"kind": "KubernetesUser", "name": "test-admin"})


@pytest.mark.parametrize("kind", KINDS)
def test_an_administrator_signs_with_his_own_name(ns: Namespace, kind: str) -> None:
    with pytest.raises(Refused, match="requestedBy must be the sender"):
        ns.ask(kind, "ann", requestedBy={"kind": "HubUser", "name": "ann"})
    with pytest.raises(Refused, match="requestedBy must be the sender"):
        ns.ask(kind, "ann", requestedBy={"kind": "KubernetesUser", "name": "somebody-else"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_signature_is_refused_with_the_line_to_add(ns: Namespace, kind: str) -> None:
    spec: dict[str, Any] = {"user": "ann", "volumes": ["workspace"]} if kind == names.VOLUME_RESET else {"user": "ann"}
    body = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": {"generateName": "p-"}, "spec": spec}
    with pytest.raises(Refused, match='requestedBy: {kind: KubernetesUser, name: "test-admin"}'):
        ns.api.raw("POST", ns.requests(kind), body)


LOOK = "get list watch"
REQUESTS = ("volumeresets.hubsteward.io", "serverrestarts.hubsteward.io")
#: What each service account of the chart may do, by resource; everything else it may not.
MAY: dict[str, dict[str, str]] = {
    "operator": {
        "pods": LOOK,
        "pods/resize": "patch",
        "persistentvolumeclaims": f"{LOOK} create delete patch",
        "persistentvolumes": "get",
        "jobs.batch": f"{LOOK} create delete",
        "events.events.k8s.io": "create",
        "leases.coordination.k8s.io": "create",
        "volumesnapshots.snapshot.storage.k8s.io": "list create delete patch",
        **dict.fromkeys(REQUESTS, f"{LOOK} patch delete"),
        **{kind.replace(".", "/status.", 1): "patch" for kind in REQUESTS},
    },
    "hub": {
        "pods": f"{LOOK} create delete",
        "persistentvolumeclaims": f"{LOOK} create delete",
        "events": LOOK,
        "volumesnapshots.snapshot.storage.k8s.io": "list delete",
        **dict.fromkeys(REQUESTS, f"{LOOK} create patch"),
    },
    "hubsteward-uninstall": dict.fromkeys(REQUESTS, "get list patch"),
    "hubsteward-secrets": {"secrets": "create"},
    "stranger": {},
}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
RESOURCES = (
    "pods", "pods/resize", "pods/exec", "pods/log", "pods/ephemeralcontainers", "persistentvolumeclaims", "secrets",
    "services", "configmaps", "events", "nodes", "persistentvolumes", "serviceaccounts/token", "jobs.batch",
    "events.events.k8s.io", "leases.coordination.k8s.io", "roles.rbac.authorization.k8s.io",
    "volumesnapshots.snapshot.storage.k8s.io", *REQUESTS, *(kind.replace(".", "/status.", 1) for kind in REQUESTS),
)  # fmt: skip


def attributes(resource: str, verb: str) -> dict[str, str]:
    """Of ``resource[/subresource][.group]``."""
    main, _, group = resource.partition(".")
    main, _, subresource = main.partition("/")
    return {"namespace": NAMESPACE, "verb": verb, "group": group, "resource": main, "subresource": subresource}


@pytest.mark.parametrize("account", MAY)
def test_a_service_account_may_do_its_work_and_nothing_else(ns: Namespace, account: str) -> None:
    token = ns.token(account)
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    def may(resource: str, verb: str) -> bool:
        review = {
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes(resource, verb)},
        }  # fmt: skip
        return bool(ns.api.raw("POST", path, review, token=token)["status"].get("allowed"))

    found = {resource: {verb for verb in VERBS if may(resource, verb)} for resource in RESOURCES}
    assert {resource: verbs for resource, verbs in found.items() if verbs} == {
        resource: set(verbs.split()) for resource, verbs in MAY[account].items()
    }


@pytest.mark.parametrize(
    ("account", "lease", "may"),
    [
        ("operator", names.LEASE, {"get", "update", "create"}),
        ("operator", "another", {"create"}),
        ("hub", names.LEASE, {"get"}),
        ("hub", "another", set()),
    ],
)
def test_the_lease_is_read_and_renewed_by_its_name(ns: Namespace, account: str, lease: str, may: set[str]) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    found = set()
    for verb in VERBS:
        asked = {**attributes("leases.coordination.k8s.io", verb), "name": lease}
        review = {"spec": {"resourceAttributes": asked}}
        if ns.api.raw("POST", path, review, token=ns.token(account))["status"].get("allowed"):
            found.add(verb)
    assert found == may


def test_rights_are_felt_by_real_requests(ns: Namespace) -> None:
    body = {"apiVersion": names.API_VERSION, "kind": names.SERVER_RESTART, "metadata": {"generateName": "x-"},
            "spec": {"user": "ann", "requestedBy": {"kind": "KubernetesUser", "name": "x"}}}  # fmt: skip
    for account, method, path, payload in [
        ("operator", "POST", ns.requests(names.SERVER_RESTART), body),
        ("operator", "GET", ns.core("secrets"), None),
        ("operator", "GET", "/api/v1/pods", None),
        ("hub", "GET", ns.core("secrets"), None),
        ("hub", "PATCH", ns.requests(names.SERVER_RESTART, "x") + "/status", {"status": {"phase": "Succeeded"}}),
        ("hub", "DELETE", ns.requests(names.VOLUME_RESET, "x"), None),
        ("stranger", "POST", ns.requests(names.SERVER_RESTART), body),
        ("stranger", "GET", ns.requests(names.VOLUME_RESET), None),
    ]:
        with pytest.raises(Refused) as refused:
            ns.api.raw(method, path, payload, token=ns.token(account), content_type="application/merge-patch+json"
                       if method == "PATCH" else "application/json")  # fmt: skip
        assert refused.value.status == 403, (account, method, path)


def test_preconditions_protect_another_claim_of_the_same_name(ns: Namespace) -> None:
    user = ns.user()
    claim = ns.make_claim(user, "workspace")
    path = ns.core("persistentvolumeclaims", f"workspace-{user}")
    for preconditions in ({"uid": "another"}, {"uid": claim["metadata"]["uid"], "resourceVersion": "1"}):
        with pytest.raises(Refused) as refused:
            ns.api.raw("DELETE", path, {"preconditions": preconditions}, token=ns.token("operator"))
        assert refused.value.status == 409
    assert ns.claim(user, "workspace") is not None


def test_requests_can_be_selected_by_phase_and_user(ns: Namespace) -> None:
    name = ns.ask(names.SERVER_RESTART, "selected-one")
    listed = ns.api.raw("GET", ns.requests(names.SERVER_RESTART) + "?fieldSelector=spec.user%3Dselected-one")
    assert [item["metadata"]["name"] for item in listed["items"]] == [name]


def test_kubectl_shows_the_columns_and_refuses_malformed_yaml(ns: Namespace) -> None:
    ns.ask(names.VOLUME_RESET, "column-user")
    head = ns.api.kubectl("-n", NAMESPACE, "get", "vreset").splitlines()[0].split()
    assert head == ["NAME", "USER", "PHASE", "REASON", "AGE"]
    with pytest.raises(Exception, match="error"):
        ns.api.kubectl("-n", NAMESPACE, "create", "-f", "-", input_text="kind: VolumeReset\n  spec: [")
