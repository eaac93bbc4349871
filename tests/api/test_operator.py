"""The operator against a real API server: races that are forced, duplicates, refusals, and who it obeys."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from steward_api import names

from tests.support.builders import denial
from tests.support.cluster import wait_for
from tests.support.control_plane import Refused
from tests.support.control_plane_fixtures import CONFIG, NAMESPACE, Namespace
from tests.support.fake_kubelet import FakeKubelet
from tests.support.operator import FakeHub, Operator, Proxy
from tests.support.rules import check_rules


def test_a_request_that_is_deleted_half_way_makes_the_claim_again_and_is_audited(
    running: Operator, ns: Namespace, proxy: Proxy
) -> None:
    user = ns.user()
    old = ns.make_claim(user, "workspace")
    erased, go = proxy.hold_creation()
    name = ns.ask(names.VOLUME_RESET, user)
    assert erased.wait(30)
    uid = ns.request(names.VOLUME_RESET, name)["metadata"]["uid"]
    ns.api.raw("DELETE", ns.requests(names.VOLUME_RESET, name))
    go.set()
    (line,) = wait_for("the line", lambda: running.audit_lines()[uid], 20)
    assert line["deleted"] is True
    assert [row["uid"] for row in line["volumes"]] == [old["metadata"]["uid"]]
    claim = ns.claim(user, "workspace")
    assert claim is not None
    assert claim["metadata"]["uid"] != old["metadata"]["uid"]
    wait_for("the request goes", lambda: ns.is_gone(ns.requests(names.VOLUME_RESET, name)), 20)


def test_a_reset_touches_one_claim_and_is_audited(running: Operator, ns: Namespace, proxy: Proxy) -> None:
    user = ns.user()
    ns.make_claim(user, "workspace")
    home = ns.make_claim(user, "home")
    ended = ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user, reason="broken environment"))
    assert ended["status"]["phase"] == "Succeeded"
    kept = ns.claim(user, "home")
    assert kept is not None
    assert kept["metadata"]["uid"] == home["metadata"]["uid"]
    (line,) = running.audit_lines()[ended["metadata"]["uid"]]
    assert line["actor"] == {"kind": "KubernetesUser", "name": "test-admin"}
    assert (line["owner"], line["why"], line["phase"]) == (user, "broken environment", "Succeeded")
    assert [row["volume"] for row in line["volumes"]] == ["workspace"]
    touched = {w.path.rsplit("/", 1)[-1] for w in proxy.writes if w.method == "DELETE" and w.happened}
    assert touched == {f"workspace-{user}"}


@pytest.fixture
def without_the_second_line(ns: Namespace) -> Iterator[None]:
    """No policy on locked claims: what is forced here is what slips through while the policy has not heard of a lock."""
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
    name = "hubsteward-hub-hub-locked-claims"
    binding = ns.api.raw("GET", f"{path}/{name}")
    ns.api.raw("DELETE", f"{path}/{name}")
    yield
    body = {**binding, "metadata": {"name": name}}
    ns.api.raw("POST", path, body)


@pytest.mark.usefixtures("without_the_second_line")
def test_the_bad_order_of_spawn_and_reset_ends_without_a_pod_on_a_vanishing_claim(
    running: Operator, ns: Namespace, proxy: Proxy
) -> None:
    """The hub looked before the lock, and its pod arrives while the operator is between lock and list."""
    user = ns.user()
    claim = ns.make_claim(user, "workspace")
    locked, arrived = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> threading.Event | None:
        if method == "GET" and "/pods?" in path and "labelSelector" not in path and ns_locked():
            locked.set()
            return arrived
        return None

    def ns_locked() -> bool:
        return any(w.path.endswith("/status") and w.body["status"].get("lockedClaims") for w in proxy.writes)

    proxy.hold = hold
    name = ns.ask(names.VOLUME_RESET, user)
    assert locked.wait(20)

    def pod_came() -> bool:
        try:
            ns.make_pod(user)
        except Refused:
            return False
        return True

    wait_for("the pod slips through", pod_came, 20)
    arrived.set()
    ended = ns.ended(names.VOLUME_RESET, name)
    assert (ended["status"]["phase"], ended["status"]["reason"]) == ("Failed", "ServerRunning")
    assert ended["status"]["lockedClaims"] == []
    kept = ns.claim(user, "workspace")
    assert kept is not None
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]
    assert "deletionTimestamp" not in kept["metadata"]


def test_a_running_server_and_a_strangers_pod_are_told_apart(running: Operator, ns: Namespace) -> None:
    user, other = ns.user(), ns.user()
    for name in (user, other):
        ns.make_claim(name, "workspace")
    ns.start_server(user)
    ns.make_pod(other, is_server=False)
    for name, reason in ((user, "ServerRunning"), (other, "ClaimInUse")):
        ended = ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, name))
        assert (ended["status"]["phase"], ended["status"]["reason"]) == ("Failed", reason)


def test_a_volume_that_another_server_of_the_same_user_has_open_is_not_reset(running: Operator, ns: Namespace) -> None:
    user = ns.user()
    claim = ns.make_claim(user, "workspace")
    ns.make_pod(user, server="second")
    ended = ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user))["status"]
    assert (ended["phase"], ended["reason"]) == ("Failed", "InUseByOtherServer")
    assert "'second'" in ended["message"]
    assert ns.present(user, "workspace")["metadata"]["uid"] == claim["metadata"]["uid"]


def test_a_volume_that_was_tied_to_its_claim_by_hand_is_not_reset(running: Operator, ns: Namespace) -> None:
    user = ns.user()
    claim = ns.make_claim(user, "workspace", storageClassName="", volumeName=f"by-hand-{user}")
    ended = ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user))["status"]
    assert (ended["phase"], ended["reason"]) == ("Failed", "StaticallyProvisioned")
    assert ns.present(user, "workspace")["metadata"]["uid"] == claim["metadata"]["uid"]


def test_ten_identical_restarts_at_once_are_one_restart(running: Operator, ns: Namespace, kubelet: FakeKubelet) -> None:
    user = ns.user()
    pod = ns.start_server(user)
    asked = [ns.ask(names.SERVER_RESTART, user) for _ in range(10)]
    ends = [ns.ended(names.SERVER_RESTART, name)["status"] for name in asked]
    assert {end["phase"] for end in ends} == {"Succeeded"}
    assert kubelet.restarts[pod["metadata"]["uid"]] <= 2, "only what was asked for after the swap is a new restart"
    assert sum(end["reason"] == "Restarted" for end in ends) == kubelet.restarts[pod["metadata"]["uid"]]


def test_a_hundred_identical_resets_at_once_are_one_reset(running: Operator, ns: Namespace, proxy: Proxy) -> None:
    """As the hub sends them, with what the user was looking at: one has an effect, and all of them end."""
    user = ns.user()
    claim = ns.make_claim(user, "workspace")
    expected = [{"volume": "workspace", "uid": claim["metadata"]["uid"]}]
    with ThreadPoolExecutor(8) as pool:
        ask = functools.partial(ns.ask, names.VOLUME_RESET, user, expected=expected)
        asked = [future.result() for future in [pool.submit(ask) for _ in range(100)]]
    ends = [ns.ended(names.VOLUME_RESET, name, 60)["status"] for name in asked]
    # Whoever asked in a later second, when the new volume was there, was looking at the old one.
    assert {(end["phase"], end["reason"]) for end in ends} <= {("Succeeded", "Reset"), ("Failed", "Stale")}
    deletes = [w for w in proxy.writes if w.method == "DELETE" and "persistentvolumeclaims" in w.path]
    assert [w.body["preconditions"]["uid"] for w in deletes] == [claim["metadata"]["uid"]]
    check_rules(proxy.writes, ns.users)


def next_second(ns: Namespace, user: str) -> None:
    """A request of the second in which an instance was started is taken for one that meant the instance before."""

    def is_over() -> bool:
        pod = ns.pod(user)
        assert pod is not None
        started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        return bool((datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds() >= 1)

    wait_for("the second is over", is_over, 10, every=0.05)


def test_the_fourth_restart_in_a_row_goes_through_the_hub(
    running: Operator, ns: Namespace, hub: FakeHub, kubelet: FakeKubelet
) -> None:
    user = ns.user()
    pod = ns.start_server(user)
    mechanisms = []
    for _ in range(4):
        next_second(ns, user)
        mechanisms.append(ns.ended(names.SERVER_RESTART, ns.ask(names.SERVER_RESTART, user))["status"]["mechanism"])
    assert mechanisms == ["InPlace", "InPlace", "InPlace", "Recreate"]
    assert kubelet.restarts[pod["metadata"]["uid"]] == 3
    assert [call for call in hub.calls if call[1] == user] == [("DELETE", user), ("POST", user)]


def test_a_restart_goes_its_way_where_others_have_used_the_quota_up(
    running: Operator, ns: Namespace, hub: FakeHub, kubelet: FakeKubelet
) -> None:
    """Its first restart made the server a step smaller, and somebody has taken that step."""
    user = ns.user()
    uid = ns.start_server(user)["metadata"]["uid"]
    ns.ended(names.SERVER_RESTART, ns.ask(names.SERVER_RESTART, user))
    ns.api.raw(
        "POST", ns.core("resourcequotas"), {"metadata": {"name": "full"}, "spec": {"hard": {"requests.cpu": "0"}}}
    )

    def is_counted() -> bool:
        return "used" in ns.api.raw("GET", ns.core("resourcequotas", "full")).get("status", {})

    wait_for("the quota is in force", is_counted, 20)
    ends = []
    for _ in range(2):
        next_second(ns, user)
        ends.append(ns.ended(names.SERVER_RESTART, ns.ask(names.SERVER_RESTART, user))["status"])
    ns.api.raw("DELETE", ns.core("resourcequotas", "full"))
    assert [(status["phase"], status["mechanism"]) for status in ends] == [
        ("Succeeded", "InPlace"), ("Failed", "InPlace"),
    ]  # fmt: skip
    assert "exceeded quota" in ends[1]["message"]
    assert ends[1]["message"].endswith(
        "Others have used the quota up, and a new start might be refused, so it was left alone."
    )
    after = ns.pod(user)
    assert after is not None
    assert after["metadata"]["uid"] == uid
    assert after["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "48m"
    assert not [call for call in hub.calls if call[1] == user]
    assert kubelet.restarts[uid] == 2


def test_prefixes_are_different_people(running: Operator, ns: Namespace) -> None:
    user = ns.user()
    longer = f"{user}-x"
    for name in (user, longer):
        ns.make_claim(name, "workspace")
    kept = ns.claim(longer, "workspace")
    assert kept is not None
    assert ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user))["status"]["phase"] == "Succeeded"
    after = ns.claim(longer, "workspace")
    assert after is not None
    assert after["metadata"]["uid"] == kept["metadata"]["uid"]


def test_a_policy_against_the_new_claim_stops_the_reset_before_the_delete(running: Operator, ns: Namespace) -> None:
    user = ns.user()
    claim = ns.make_claim(user, "workspace")
    message = "no such claim any more"
    policy, binding = denial("no-claims", "CREATE", "persistentvolumeclaims", message, only=f"workspace-{user}")
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
    ns.api.raw("POST", f"{path}ies", policy)
    ns.api.raw("POST", f"{path}ybindings", binding)
    try:

        def is_denied() -> bool:
            try:
                body = {"metadata": {"name": f"workspace-{user}"}, "spec": claim["spec"]}
                ns.api.raw("POST", ns.core("persistentvolumeclaims") + "?dryRun=All", body)
            except Exception as refused:
                return message in str(refused)
            return False

        wait_for("the policy is in force", is_denied, 20)
        ended = ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user))
    finally:
        ns.api.raw("DELETE", f"{path}ybindings/no-claims")
        ns.api.raw("DELETE", f"{path}ies/no-claims")
    assert (ended["status"]["phase"], ended["status"]["reason"]) == ("Failed", "CannotRecreate")
    assert "finalizers" not in ended["metadata"]
    kept = ns.claim(user, "workspace")
    assert kept is not None
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]


def test_a_quota_that_fills_up_in_between_is_waited_for_and_shown(
    running: Operator, ns: Namespace, proxy: Proxy
) -> None:
    user = ns.user()
    ns.make_claim(user, "workspace")
    deleted, go = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> threading.Event | None:
        if method == "POST" and "persistentvolumeclaims" in path and "dryRun" not in path:
            deleted.set()
            return go
        return None

    proxy.hold = hold
    name = ns.ask(names.VOLUME_RESET, user)
    assert deleted.wait(20)
    quota = {"metadata": {"name": "full"}, "spec": {"hard": {"persistentvolumeclaims": "0"}}}
    ns.api.raw("POST", ns.core("resourcequotas"), quota)

    def is_counted() -> bool:
        return "used" in ns.api.raw("GET", ns.core("resourcequotas", "full")).get("status", {})

    wait_for("the quota is in force", is_counted, 20)
    go.set()

    def is_stalled() -> bool:
        status = ns.request(names.VOLUME_RESET, name).get("status", {})
        conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
        return conditions.get("Stalled") == "True" and "exceeded quota" in status["message"]

    wait_for("the request says that it is held up", is_stalled, 20)
    assert ns.claim(user, "workspace") is None
    ns.api.raw("DELETE", ns.core("resourcequotas", "full"))
    assert ns.ended(names.VOLUME_RESET, name)["status"]["phase"] == "Succeeded"
    assert ns.claim(user, "workspace") is not None


def test_cancel_before_anything_is_done(running: Operator, ns: Namespace) -> None:
    user = ns.user()
    claim = ns.make_claim(user, "workspace")
    name = ns.ask(names.VOLUME_RESET, user, notBefore="2100-01-01T00:00:00Z")

    def waits() -> bool:
        return ns.request(names.VOLUME_RESET, name).get("status", {}).get("reason") == "Scheduled"

    wait_for("it waits for its time", waits, 20)
    ns.api.raw("PATCH", ns.requests(names.VOLUME_RESET, name), {"spec": {"cancel": True}},
               content_type="application/merge-patch+json")  # fmt: skip
    ended = ns.ended(names.VOLUME_RESET, name)
    assert ended["status"]["phase"] == "Cancelled"
    kept = ns.claim(user, "workspace")
    assert kept is not None
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]


def test_an_idle_operator_writes_nothing_but_its_lease(running: Operator, ns: Namespace, proxy: Proxy) -> None:
    proxy.arm(None)
    renewals = []

    def hold(method: str, path: str) -> None:
        if method == "PUT" and "leases" in path:
            renewals.append(path)

    proxy.hold = hold
    wait_for("two renewals", lambda: len(renewals) >= 2, 30)
    assert proxy.writes == []


def test_a_second_release_in_the_namespace_refuses_to_act(
    running: Operator, ns: Namespace, tmp_path: Any, api: Any, hub: FakeHub
) -> None:
    kubeconfig = api.kubeconfig("second", ns.token("operator"), api.url)
    second = Operator(kubeconfig, CONFIG, hub.port, NAMESPACE, tmp_path)
    second.start("--release=other", "--identity=other")
    assert second.wait_end() == 1
    assert "The release 'hub' already runs in this namespace" in second.log.read_text()


def test_a_missing_right_is_said_at_start(ns: Namespace, tmp_path: Any, api: Any, hub: FakeHub) -> None:
    powerless = Operator(
        api.kubeconfig("powerless", ns.token("stranger"), api.url), CONFIG, hub.port, NAMESPACE, tmp_path
    )
    powerless.start()
    assert powerless.wait_end() == 1
    assert "may not get volumeresets; its Role is not complete" in powerless.log.read_text()
