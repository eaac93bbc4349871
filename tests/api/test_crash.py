"""SIGKILL of the operator before and after every write it makes: the request ends as if nothing had happened."""

from __future__ import annotations

from typing import Any

import pytest
from steward_api import names

from tests.support.cluster import wait_for
from tests.support.control_plane_fixtures import Namespace
from tests.support.fake_kubelet import FakeKubelet
from tests.support.operator import Kill, Operator, Proxy, Write

#: More than any of these requests takes; a boundary beyond the last write is one that does not exist.
MOST_WRITES = 14
#: Written without backup: see the budgets in docs/benchmarks.md.
RESET_WRITES = 8
RESTART_WRITES = 3


def crash_at_every_boundary(
    operator: Operator, proxy: Proxy, prepare: Any, check: Any, ns: Namespace, kind: str
) -> int:
    """Run the request once for each boundary; the number of writes it takes undisturbed."""
    undisturbed = 0
    for number in range(1, MOST_WRITES + 1):
        for when in ("before", "after"):
            user = prepare()
            kill = Kill(number, when)
            if not operator.is_running:
                operator.start()
                operator.wait_ready()
            proxy.arm(kill)
            name = ns.ask(kind, user)

            def struck_or_ended(kill: Kill = kill, name: str = name) -> bool:
                return kill.done.is_set() or "completionTime" in ns.request(kind, name).get("status", {})

            wait_for(f"{when} write {number}: killed, or at the end", struck_or_ended, 30, every=0.02)
            if not kill.done.is_set():
                undisturbed = len([w for w in proxy.writes if not w.dry_run])
                check(user, ns.ended(kind, name), list(proxy.writes))
                return undisturbed
            operator.wait_end()
            operator.start()
            ended = ns.ended(kind, name, 30)
            check(user, ended, list(proxy.writes))
    raise AssertionError(f"more than {MOST_WRITES} writes")


def deletes_of(writes: list[Write], uid: str) -> int:
    return sum(w.method == "DELETE" and w.happened and w.body["preconditions"]["uid"] == uid for w in writes)


def test_a_crash_anywhere_in_a_reset_still_recreates_the_claim_once(
    operator: Operator, proxy: Proxy, ns: Namespace
) -> None:
    before: dict[str, Any] = {}

    def prepare() -> str:
        user = ns.user()
        before[user] = ns.make_claim(user, "workspace")
        ns.make_claim(user, "home")
        return user

    def check(user: str, ended: Any, writes: list[Write]) -> None:
        old, new = before[user], ns.claim(user, "workspace")
        assert ended["status"]["phase"] == "Succeeded", ended["status"]
        assert "finalizers" not in ended["metadata"]
        assert ended["status"]["lockedClaims"] == []
        assert new is not None
        assert new["metadata"]["uid"] == ended["status"]["volumes"][0]["newUID"] != old["metadata"]["uid"]
        assert deletes_of(writes, old["metadata"]["uid"]) <= 1
        assert new["metadata"]["labels"] == old["metadata"]["labels"]
        assert new["metadata"]["annotations"][names.USERNAME] == user
        assert new["spec"]["resources"] == old["spec"]["resources"]
        assert ns.claim(user, "home") is not None

    assert crash_at_every_boundary(operator, proxy, prepare, check, ns, names.VOLUME_RESET) <= RESET_WRITES


def test_a_crash_anywhere_in_a_restart_ends_one_instance(
    operator: Operator, proxy: Proxy, ns: Namespace, kubelet: FakeKubelet
) -> None:
    before: dict[str, Any] = {}

    def prepare() -> str:
        user = ns.user()
        before[user] = ns.start_server(user)
        return user

    def check(user: str, ended: Any, writes: list[Write]) -> None:
        pod = ns.pod(user)
        assert ended["status"]["phase"] == "Succeeded", ended["status"]
        assert pod is not None
        assert pod["metadata"]["uid"] == before[user]["metadata"]["uid"]
        assert kubelet.restarts[pod["metadata"]["uid"]] == 1

    assert crash_at_every_boundary(operator, proxy, prepare, check, ns, names.SERVER_RESTART) <= RESTART_WRITES


def test_a_crash_anywhere_in_a_recreate_ends_with_a_running_server(
    operator: Operator, proxy: Proxy, ns: Namespace
) -> None:
    before: dict[str, Any] = {}

    class Asking(Namespace):
        def ask(self, kind: str, user: str, **spec: Any) -> str:
            return super().ask(kind, user, strategy="Recreate", **spec)

    asking = Asking(ns.api)

    def prepare() -> str:
        user = ns.user()
        before[user] = ns.start_server(user)
        return user

    def check(user: str, ended: Any, writes: list[Write]) -> None:
        pod = ns.pod(user)
        assert ended["status"]["phase"] == "Succeeded", ended["status"]
        assert pod is not None
        assert pod["metadata"]["uid"] == ended["status"]["newPodUID"] != before[user]["metadata"]["uid"]

    crash_at_every_boundary(operator, proxy, prepare, check, asking, names.SERVER_RESTART)


@pytest.mark.parametrize("number", [1, 4, 6])
def test_two_volumes_survive_a_crash(operator: Operator, proxy: Proxy, ns: Namespace, number: int) -> None:
    user = ns.user()
    old = {kind: ns.make_claim(user, kind)["metadata"]["uid"] for kind in ("workspace", "cache")}
    operator.start()
    operator.wait_ready()
    proxy.arm(Kill(number, "after"))
    name = ns.ask(names.VOLUME_RESET, user, volumes=["workspace", "cache"])
    operator.wait_end()
    operator.start()
    assert ns.ended(names.VOLUME_RESET, name)["status"]["phase"] == "Succeeded"
    for kind, uid in old.items():
        new = ns.claim(user, kind)
        assert new is not None
        assert new["metadata"]["uid"] != uid
        assert deletes_of(proxy.writes, uid) <= 1
