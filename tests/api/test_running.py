"""Running the operator: health and metrics over HTTP, the end of a release, and a hundred users at once."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from steward_api import names
from steward_operator.kube.client import UNFINISHED

from tests.support.cluster import wait_for
from tests.support.control_plane_fixtures import NAMESPACE, Namespace
from tests.support.fake_kubelet import FakeKubelet
from tests.support.operator import Operator, Proxy


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
    assert after["hubsteward_leading"] == 1
    assert after["hubsteward_queue_depth"] == 0
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
            assert all(status.get("message") for status in mine if status), "every request says where it stands"
            return all(status.get("completionTime") for status in mine)

        wait_for("all requests have ended", all_over, 90)
    ends = [ns.request(names.SERVER_RESTART, name)["status"] for name in asked.values()]
    assert {(end["phase"], end["reason"]) for end in ends} == {("Succeeded", "Restarted")}
    assert pods() == before
    assert [kubelet.restarts[before[user]] for user in users] == [1] * 100
