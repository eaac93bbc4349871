"""Running the operator: health and metrics over HTTP, the end of a release, and a hundred users at once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from steward_api import names
from steward_operator.adapters import startup
from steward_operator.hubapi.client import HttpHubApi
from steward_operator.kube.client import UNFINISHED

from tests.support.cluster import wait_for
from tests.support.control_plane_fixtures import NAMESPACE, Namespace
from tests.support.fake_kubelet import FakeKubelet
from tests.support.operator import FakeHub, Operator, Proxy


def test_a_running_operator_says_so_and_counts_what_it_does(running: Operator, ns: Namespace) -> None:
    user = ns.user()
    ns.make_claim(user, "workspace")
    before = running.metrics()
    ended = ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user))
    assert ended["status"]["phase"] == "Succeeded"
    assert running.ask("/livez") == (200, "ok\n")
    assert running.ask("/readyz") == (200, "ok\n")
    after = running.metrics()
    finished = 'hubsteward_requests_finished_total{kind="VolumeReset",phase="Succeeded",reason="Reset"}'
    assert after[finished] == before.get(finished, 0) + 1
    assert after['hubsteward_request_to_action_seconds_count{kind="VolumeReset"}'] >= 1
    assert after['hubsteward_step_duration_seconds_count{step="DeleteClaim"}'] >= 1
    assert after["hubsteward_queue_wait_seconds_count"] > before["hubsteward_queue_wait_seconds_count"]
    assert 0 <= after["hubsteward_loop_lag_seconds"] < 60
    assert after["hubsteward_leading"] == 1
    wait_for("all that was due is looked at", lambda: running.metrics()["hubsteward_queue_depth"] == 0, 20)
    assert after["process_resident_memory_bytes"] > 10_000_000
    unfinished = 'hubsteward_requests_unfinished{kind="VolumeReset"}'

    def is_counted() -> bool:
        path = f"{ns.requests(names.VOLUME_RESET)}?fieldSelector={urllib.parse.quote(UNFINISHED)}"
        return bool(running.metrics()[unfinished] == len(ns.api.raw("GET", path)["items"]))

    wait_for("the end is seen", is_counted, 10)
    later = ns.ask(names.VOLUME_RESET, user, notBefore="2199-01-01T00:00:00Z")
    wait_for("the one that waits is counted", lambda: is_counted() and running.metrics()[unfinished] > 0, 10)
    ns.api.raw("DELETE", ns.requests(names.VOLUME_RESET, later))
    assert after['hubsteward_watch_age_seconds{resource="volumeresets"}'] < 60


def test_every_phase_is_one_event_whose_name_follows_from_it(running: Operator, ns: Namespace) -> None:
    user = ns.user()
    ns.make_claim(user, "workspace")
    ended = ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user))
    meta = ended["metadata"]

    def events() -> list[Any] | None:
        found = ns.api.raw("GET", f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events?limit=5000")["items"]
        mine = [event for event in found if event["regarding"].get("uid") == meta["uid"]]
        return mine if any(event["action"] == "Succeeded" for event in mine) else None

    found = wait_for("the last event", events, 20)
    phases = ["preparing", "deleting", "recreating", "succeeded"]
    assert sorted(e["metadata"]["name"] for e in found) == sorted(
        f"{meta['name']}.{meta['uid'][:8]}.{p}" for p in phases
    )
    (last,) = [event for event in found if event["action"] == "Succeeded"]
    assert (last["type"], last["reason"], last["note"]) == ("Normal", "Reset", ended["status"]["message"])


def test_an_old_volume_that_its_class_keeps_is_named(running: Operator, ns: Namespace) -> None:
    kept, thrown = ns.user(), ns.user()
    for user, policy in ((kept, "Retain"), (thrown, "Delete")):
        claim = ns.make_claim(user, "workspace")
        ns.api.raw("POST", "/api/v1/persistentvolumes", {
            "metadata": {"name": f"pv-{user}"},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "standard",
                "persistentVolumeReclaimPolicy": policy, "hostPath": {"path": "/nowhere"},
                "claimRef": {"namespace": NAMESPACE, "name": claim["metadata"]["name"], "uid": claim["metadata"]["uid"]},
            },
        })  # fmt: skip
        bound = {"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
                 "spec": {"volumeName": f"pv-{user}"}}  # fmt: skip
        path = ns.core("persistentvolumeclaims", claim["metadata"]["name"])
        ns.api.raw("PATCH", path, bound, content_type="application/merge-patch+json")
    rows = [
        ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user))["status"]["volumes"][0]
        for user in (kept, thrown)
    ]
    assert [row.get("retainedVolume") for row in rows] == [f"pv-{kept}", None]
    for user in (kept, thrown):
        ns.api.raw("DELETE", f"/api/v1/persistentvolumes/pv-{user}")


def test_a_restart_that_is_deleted_at_work_is_audited_once(
    running: Operator, ns: Namespace, hub: FakeHub, kubelet: FakeKubelet
) -> None:
    user = ns.user()
    ns.start_server(user)
    hub.dead_starts.add(user)
    name = ns.ask(names.SERVER_RESTART, user, strategy="Recreate")
    wait_for(
        "it is at work", lambda: ns.request(names.SERVER_RESTART, name).get("status", {}).get("step") == "Awaiting"
    )
    uid = ns.request(names.SERVER_RESTART, name)["metadata"]["uid"]
    ns.api.raw("DELETE", ns.requests(names.SERVER_RESTART, name))
    (line,) = wait_for("the line", lambda: running.audit_lines()[uid], 20)
    assert (line["deleted"], line["phase"], line["mechanism"]) == (True, "Restarting", "Recreate")


def test_a_hub_that_refuses_the_token_ends_the_operator_with_what_to_do(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "TOKEN_PATIENCE", 0.3)
    monkeypatch.setattr(startup, "TOKEN_AGAIN", 0.1)
    hub.refuses_token = True

    async def ask() -> None:
        client = HttpHubApi(f"http://127.0.0.1:{hub.port}/hub/api", "of another release")
        try:
            await startup.check_hub(client)
        finally:
            await client.close()

    with pytest.raises(startup.StartUpError, match="The hub refuses the operator's token.* Restart the hub"):
        asyncio.run(ask())


def uninstall(api: Any, ns: Namespace, patience: float) -> subprocess.Popen[str]:
    """What the chart's pre-delete hook runs, with its rights."""
    kubeconfig = api.kubeconfig("uninstall", ns.token("hubsteward-uninstall"), api.url)
    code = "import sys; from steward_operator.uninstall_job import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, f"--namespace={NAMESPACE}", f"--patience={patience}"],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_end_of_the_release_waits_for_a_request_at_work(
    running: Operator, api: Any, ns: Namespace, kubelet: FakeKubelet
) -> None:
    user = ns.user()
    ns.make_claim(user, "home")
    ns.bind(user, "home")
    source = f"home-{user}"
    kubelet.stuck.add(source)
    name = ns.ask(names.VOLUME_RESET, user, volumes=["home"])

    def is_backing_up() -> bool:
        return bool(ns.request(names.VOLUME_RESET, name).get("status", {}).get("phase") == "BackingUp")

    wait_for("the backup is being made", is_backing_up)
    leaving = uninstall(api, ns, 40.0)
    assert leaving.stdout is not None
    assert leaving.stdout.readline() == f"waiting for VolumeReset {name} of {user}: BackingUp\n"
    kubelet.stuck.discard(source)
    said, _ = leaving.communicate(timeout=60)
    assert (leaving.returncode, said) == (0, "nothing is at work any more\n")
    assert ns.request(names.VOLUME_RESET, name)["status"]["phase"] == "Succeeded"


def test_the_end_of_the_release_lets_a_namespace_go_without_an_operator(
    operator: Operator, proxy: Proxy, api: Any, ns: Namespace
) -> None:
    """Killed after the delete: its finalizer would keep the request, and with it the namespace, for ever."""
    user = ns.user()
    ns.make_claim(user, "workspace")
    operator.start()
    operator.wait_ready()
    holder: dict[str, Any] = {}

    def hold(method: str, path: str) -> None:
        if method == "POST" and "persistentvolumeclaims" in path and "dryRun" not in path:
            operator.kill()
            holder["killed"] = True

    proxy.hold = hold
    name = ns.ask(names.VOLUME_RESET, user)
    wait_for("the operator is gone", lambda: holder.get("killed"), 30)
    assert ns.request(names.VOLUME_RESET, name)["metadata"]["finalizers"]
    leaving = uninstall(api, ns, 1.0)
    said, _ = leaving.communicate(timeout=60)
    assert leaving.returncode == 0
    assert "1 requests did not end" in said
    assert "finalizers" not in ns.request(names.VOLUME_RESET, name)["metadata"]
    ns.api.raw("DELETE", ns.requests(names.VOLUME_RESET, name))


def test_a_hundred_users_restart_at_once_and_no_server_is_lost(
    running: Operator, ns: Namespace, kubelet: FakeKubelet
) -> None:
    """A43: every request says where it stands, and every server is restarted once, in its pod."""
    users = [ns.user() for _ in range(100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ns.make_pod, users))

        def pods() -> dict[str, str]:
            found = {p["metadata"]["name"]: p for p in ns.api.raw("GET", ns.core("pods"))["items"]}
            mine = {user: found.get(f"jupyter-{user}") for user in users}
            return {u: p["metadata"]["uid"] for u, p in mine.items() if p and p["status"]["phase"] == "Running"}

        wait_for("the paper servers run", lambda: len(pods()) == 100, 60)
        before = pods()
        asked = dict(zip(users, pool.map(lambda user: ns.ask(names.SERVER_RESTART, user), users), strict=True))

        def all_over() -> bool:
            found = {r["metadata"]["name"]: r for r in ns.api.raw("GET", ns.requests(names.SERVER_RESTART))["items"]}
            mine = [found[name].get("status", {}) for name in asked.values()]
            # One that the operator has not taken up yet has no status: the page calls it waiting.
            assert all(status.get("message") for status in mine if status), "every request says where it stands"
            return all(status.get("completionTime") for status in mine)

        wait_for("all requests have ended", all_over, 90)
    ends = [ns.request(names.SERVER_RESTART, name)["status"] for name in asked.values()]
    assert {(end["phase"], end["reason"]) for end in ends} == {("Succeeded", "Restarted")}
    assert pods() == before
    assert [kubelet.restarts[before[user]] for user in users] == [1] * 100
