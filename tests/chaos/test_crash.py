"""SIGKILL of the operator before and after every request it sends, reads included, for the longer kinds of request."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from steward_api import names

from tests.chaos.report import FULL, Tally
from tests.support.cluster import wait_for
from tests.support.control_plane_fixtures import CONFIG, NAMESPACE, Namespace
from tests.support.fake_kubelet import FakeKubelet
from tests.support.fake_snapshots import FakeSnapshots
from tests.support.operator import FakeHub, Kill, Operator, Proxy
from tests.support.rules import check_rules, check_same

Json = dict[str, Any]
#: A request of ours that takes more runs in circles. An undo, whose looks read three claims one by one, takes 110 to 145:
#: it looks again at every event of its copies.
MOST_REQUESTS = 180
SEED = 35
#: Seconds from the start of the process that takes over, where nothing else runs on the machine.
CONVERGES_IN = 10
#: At a boundary that a run did not reach.
ATTEMPTS = 3 if FULL else 1


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    spec: Json
    server: bool = False
    backup: bool = False
    undo: bool = False


CASES = [
    Case("reset with backup", names.VOLUME_RESET, {"volumes": ["home"]}, backup=True),
    Case("stop, reset and start", names.VOLUME_RESET, {"volumes": ["workspace"], "serverPolicy": "StopAndStart"}, True),
    Case("stop and reset", names.VOLUME_RESET, {"volumes": ["workspace"], "serverPolicy": "Stop"}, True),
    Case("undo", names.VOLUME_RESET, {"volumes": ["home"], "backup": "Copy"}, backup=True, undo=True),
    Case("reset with snapshot", names.VOLUME_RESET, {"volumes": ["home"], "backup": "Snapshot"}, backup=True),
    Case("undo of a snapshot", names.VOLUME_RESET, {"volumes": ["home"], "backup": "Snapshot"}, backup=True, undo=True),
    Case("reset without backup", names.VOLUME_RESET, {"volumes": ["workspace", "cache"]}),
    Case("restart", names.SERVER_RESTART, {}, True),
    Case("restart in place", names.SERVER_RESTART, {"strategy": "InPlace"}, True),
    Case("stop and start", names.SERVER_RESTART, {"strategy": "Recreate"}, True),
]


def prepare(ns: Namespace, case: Case) -> tuple[str, Json]:
    """A user for one run, and what the request is to say."""
    user = ns.user()
    spec = dict(case.spec)
    for kind in ("home", "workspace", "cache"):
        ns.make_claim(user, kind)
    if case.backup:
        ns.bind(user, "home")
    if case.undo:
        first = ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user, **case.spec))
        ns.bind(user, "home")
        spec["contents"] = {"from": "Backup", "name": first["status"]["volumes"][0]["backup"]["name"]}
    if case.server:
        ns.start_server(user)
    return user, spec


def claims(ns: Namespace, user: str) -> dict[str, Json]:
    found = {kind: ns.claim(user, kind) for kind in ("home", "workspace", "cache")}
    return {kind: claim for kind, claim in found.items() if claim}


def uid(claim: Json) -> str:
    return str(claim["metadata"]["uid"])


def check_server(ns: Namespace, kubelet: FakeKubelet, case: Case, user: str, before: Json | None) -> None:
    """Whether the server is the one it should be, and how many of its instances were ended."""
    pod = ns.pod(user)
    assert (pod is not None) == (case.server and case.spec.get("serverPolicy") != "Stop")
    if pod is None or before is None:
        return
    is_in_place = case.kind == names.SERVER_RESTART and case.spec.get("strategy") != "Recreate"
    assert (pod["metadata"]["uid"] == before["metadata"]["uid"]) == is_in_place
    assert kubelet.restarts.get(before["metadata"]["uid"], 0) == int(is_in_place), "one instance ended, and no other"


def contents(ns: Namespace, kubelet: FakeKubelet, user: str) -> list[str]:
    """Of the user's home and of everything that is kept of it, in order."""
    return sorted(map(kubelet.content, [ns.present(user, "home"), *ns.backups(user)]))


def check(
    ns: Namespace, kubelet: FakeKubelet, case: Case, user: str, before: dict[str, Json], had: list[str], name: str,
    deletes: list[str],
) -> None:  # fmt: skip
    request = ns.request(case.kind, name)
    status = request["status"]
    assert status["phase"] == "Succeeded", status
    assert "finalizers" not in request["metadata"]
    after = claims(ns, user)
    reset = set(case.spec.get("volumes", ()))
    assert {kind for kind in after if uid(after[kind]) != uid(before[kind])} == reset
    assert set(after) == set(before)
    assert all(deletes.count(uid(before[kind])) <= 1 for kind in reset)
    assert status.get("lockedClaims", []) == []
    for kind in reset:
        check_same(after[kind], before[kind])
    if case.backup:
        ready = [b for b in ns.backups(user) if names.BACKUP in b["metadata"]["annotations"]]
        assert len(ready) == len(ns.backups(user)) == (2 if case.undo else 1)
        if case.undo:
            # The backup has been put back and is there still; what was there meanwhile is kept.
            wanted = request["spec"]["contents"]["name"]
            (old,) = (kubelet.content(b) for b in ns.backups(user) if b["metadata"]["name"] == wanted)
            assert kubelet.content(ns.present(user, "home")) == old
            assert contents(ns, kubelet, user) == sorted([*had, old])
        else:
            assert contents(ns, kubelet, user) == sorted([*had, ""])


def strikes(run: Callable[[Kill], object], kill: Kill) -> bool:
    run(kill)
    return kill.done.is_set()


def boundaries(sent: dict[str, int]) -> list[tuple[str, int, str]]:
    """Before and after every one of the writes and reads."""
    every = [
        (what, number, when)
        for what, most in sent.items()
        for number in range(1, most + 1)
        for when in ("before", "after")
    ]
    return every if FULL else random.Random(SEED).sample(every, 2)


def told(missed: list[tuple[str, int, str]]) -> str:
    return "; ".join(f"{when} {what} {number}" for what, number, when in missed) or "none"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_crash_at_any_request_ends_as_if_nothing_had_happened(
    case: Case, operator: Operator, proxy: Proxy, ns: Namespace, kubelet: FakeKubelet, snapshots: FakeSnapshots,
    hub: FakeHub, tally: Tally,
) -> None:  # fmt: skip
    hub.counted_by = proxy

    slowest = 0.0

    def run(kill: Kill | None) -> Counter[str]:
        nonlocal slowest
        if not operator.is_running:
            operator.start()
            operator.wait_ready()
        user, spec = prepare(ns, case)
        before, had, pod = claims(ns, user), contents(ns, kubelet, user), ns.pod(user)
        proxy.arm(kill)
        name = ns.ask(case.kind, user, **spec)

        def struck_or_ended() -> bool:
            ended = "completionTime" in ns.request(case.kind, name).get("status", {})
            return ended or (kill is not None and kill.done.is_set())

        wait_for(f"killed, or at the end ({case.name}, {user}, {kill})", struck_or_ended, 40, every=0.02)
        # Nobody is killed between two runs, by the list that is taken now and then.
        proxy.kill = None
        if kill is not None and kill.done.is_set():
            operator.wait_end()
            operator.start()
            back = time.monotonic()
            ns.ended(case.kind, name, 40)
            slowest = max(slowest, time.monotonic() - back)
        ns.ended(case.kind, name, 40)
        deletes = [w.body["preconditions"]["uid"] for w in proxy.writes if w.method == "DELETE" and w.happened
                   and w.body and "preconditions" in w.body]  # fmt: skip
        check_rules(proxy.writes, ns.users)
        check(ns, kubelet, case, user, before, had, name, deletes)
        check_server(ns, kubelet, case, user, pod)
        return proxy.sent.copy()

    # The list that is taken now and then may fall into a run; its reads belong to no request.
    counted = [run(None) for _ in range(ATTEMPTS)]
    sent = {what: min(counts[what] for counts in counted) for what in ("write", "read")}
    assert sum(sent.values()) <= MOST_REQUESTS
    planned = boundaries(sent)
    missed = list(planned)
    for _ in range(ATTEMPTS):
        # Reads may be fewer in another run, so that the last of them are not reached: those are tried again.
        missed = [(what, number, when) for what, number, when in missed if not strikes(run, Kill(number, when, what))]
    met = len(planned) - len(missed)
    # A missed one is a read that three runs in a row ended without: what the undisturbed ones read more often by chance.
    # Those may be few, and no write. Of a sample one is enough.
    few = max(2, len(planned) // 20)
    assert met
    assert not FULL or (len(missed) <= few and all(what == "read" for what, *_ in missed)), f"{missed} of {sent}"
    assert not FULL or slowest <= CONVERGES_IN
    # From the start of the process, its imports included.
    tally.add(
        f"crash: {case.name}", writes=sent["write"], reads=sent["read"], cases=len(planned), met=met,
        slowest=f"ended {slowest:.1f} s after the start", missed=told(missed),
    )  # fmt: skip


def test_two_operators_hand_over_and_the_next_one_goes_on(
    api: Any, operator: Operator, proxy: Proxy, ns: Namespace, hub: Any, tmp_path: Any, tally: Tally
) -> None:
    """In order by SIGTERM, and by SIGKILL in the middle of a request: the standby has the Lease and ends the request."""
    kubeconfig = api.kubeconfig("standby", ns.token("operator"), f"http://127.0.0.1:{proxy.port}")
    pair = [operator, Operator(kubeconfig, CONFIG, hub.port, NAMESPACE, tmp_path, identity="standby")]
    try:
        for one in pair:
            one.start()
            one.wait_ready()
        for how, turn in zip(("in order", "killed"), itertools.count()):
            leader = next(one for one in pair if one.identity == ns.lease()["holderIdentity"])
            other = next(one for one in pair if one is not leader)
            user = ns.user()
            ns.make_claim(user, "workspace")
            if how == "in order":
                leader.stop()
            else:
                proxy.victim = lambda leader=leader: leader.pid
                proxy.arm(Kill(3, "after"))
            name = ns.ask(names.VOLUME_RESET, user)
            assert ns.ended(names.VOLUME_RESET, name, 40)["status"]["phase"] == "Succeeded"
            assert ns.lease()["holderIdentity"] == other.identity, (how, turn)
            if not leader.is_running:
                leader.start()
                leader.wait_ready()
    finally:
        for one in pair:
            one.stop()
    tally.add("hand-over", cases=2, met=2)
