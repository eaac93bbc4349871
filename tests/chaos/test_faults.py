"""Every kind of fault at every write of a request: it ends, and no rule is broken on the way.

Each case is a user of his own, so that many run at once against one operator; the proxy counts each user's writes apart.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from steward_api import names

from tests.chaos.report import FULL, Tally, batches
from tests.support.cluster import wait_for
from tests.support.control_plane_fixtures import Namespace
from tests.support.fake_kubelet import FakeKubelet
from tests.support.fake_snapshots import FakeSnapshots
from tests.support.faults import OF_READS, Fault, Injection, Injections, ReadFaults
from tests.support.operator import Operator, Proxy, Write
from tests.support.rules import check_rules, check_same

Json = dict[str, Any]
_numbers = itertools.count(1)
SEED = 4
#: How long a request may take after its fault: the longest wait is a hung call, which is given up after ten seconds.
PATIENCE = 120
#: The same where one read in thirteen fails: a request with many of them may meet a dozen hung calls.
PATIENCE_WITH_READS = 400


@dataclass(frozen=True)
class Scenario:
    """A request of a user of its own. ``prepare`` may add to its spec."""

    name: str
    kind: str
    prepare: Callable[[Namespace, str], Json | None]
    spec: Json
    server: bool = False

    @property
    def volumes(self) -> list[str]:
        return list(self.spec.get("volumes", ["workspace"]))


def used_home(ns: Namespace, user: str) -> None:
    ns.make_claim(user, "home")
    ns.bind(user, "home")


def unused_workspace(ns: Namespace, user: str) -> None:
    ns.make_claim(user, "workspace")


def server(ns: Namespace, user: str) -> None:
    ns.make_claim(user, "workspace")
    ns.start_server(user)


def unused_volumes(ns: Namespace, user: str) -> None:
    for kind in ("workspace", "cache"):
        ns.make_claim(user, kind)


def used_home_and_backup(ns: Namespace, user: str, backup: str = "Default") -> Json:
    used_home(ns, user)
    first = ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user, volumes=["home"], backup=backup), PATIENCE)
    ns.bind(user, "home")
    return {"contents": {"from": "Backup", "name": first["status"]["volumes"][0]["backup"]["name"]}}


SCENARIOS = [
    Scenario("reset with backup", names.VOLUME_RESET, used_home, {"volumes": ["home"]}),
    Scenario("restart", names.SERVER_RESTART, server, {}, True),
    Scenario("reset without backup", names.VOLUME_RESET, unused_workspace, {"volumes": ["workspace"]}),
]
LONGER = [
    Scenario("undo", names.VOLUME_RESET, used_home_and_backup, {"volumes": ["home"]}),
    Scenario("undo of a snapshot", names.VOLUME_RESET, functools.partial(used_home_and_backup, backup="Snapshot"),
             {"volumes": ["home"], "backup": "Snapshot"}),
    Scenario("reset with snapshot", names.VOLUME_RESET, used_home, {"volumes": ["home"], "backup": "Snapshot"}),
    Scenario("reset of two volumes", names.VOLUME_RESET, unused_volumes, {"volumes": ["workspace", "cache"]}),
    Scenario("stop and reset", names.VOLUME_RESET, server, {"volumes": ["workspace"], "serverPolicy": "Stop"}, True),
    Scenario("stop, reset and start", names.VOLUME_RESET, server,
             {"volumes": ["workspace"], "serverPolicy": "StopAndStart"}, True),
    Scenario("stop and start", names.SERVER_RESTART, server, {"strategy": "Recreate"}, True),
]  # fmt: skip


def ask(ns: Namespace, injections: Injections, scenario: Scenario, user: str, more: Json) -> None:
    spec = {"user": user, "requestedBy": {"kind": "KubernetesUser", "name": "test-admin"}, **scenario.spec, **more}
    made = ns.make_request(scenario.kind, {"name": f"r-{user}"}, spec)
    injections.own(made["metadata"]["uid"], user)


@dataclass(frozen=True)
class Before:
    """What a user had when the request was made."""

    claims: dict[str, Json]
    pod: Json | None
    contents: frozenset[str]
    spec: Json


def contents(ns: Namespace, kubelet: FakeKubelet, scenario: Scenario, user: str) -> frozenset[str]:
    """Of the volume, and of what may be relied on as a backup of it."""
    sealed = [b for b in ns.backups(user) if names.BACKUP in b["metadata"]["annotations"]]
    return frozenset(map(kubelet.content, [*(ns.present(user, kind) for kind in scenario.volumes), *sealed]))


def prepared(ns: Namespace, kubelet: FakeKubelet, scenario: Scenario, user: str) -> Before:
    more = scenario.prepare(ns, user) or {}
    claims = {kind: ns.present(user, kind) for kind in scenario.volumes}
    return Before(claims, ns.pod(user), contents(ns, kubelet, scenario, user), more)


def check(
    ns: Namespace, scenario: Scenario, user: str, before: Before, writes: list[Write], kubelet: FakeKubelet
) -> str:
    """The rules, at the end of one request. Returns how it ended."""
    request = ns.request(scenario.kind, f"r-{user}")
    status = request["status"]
    assert status["phase"] in ("Succeeded", "Failed"), (user, status)
    assert "finalizers" not in request["metadata"], user
    if scenario.kind == names.SERVER_RESTART:
        assert status["phase"] == "Succeeded", (user, status)
    if scenario.server:
        check_server(ns.pod(user), scenario, user, before, kubelet, is_reset=status["phase"] == "Succeeded")
    if scenario.kind == names.VOLUME_RESET:
        assert status["lockedClaims"] == [], user
        for kind in scenario.volumes:
            check_volume(ns, kind, user, before, writes, kubelet, status)
        if scenario.volumes == ["home"]:
            after = contents(ns, kubelet, scenario, user)
            assert before.contents <= after, (user, "nothing that was there is lost", status)
    return str(status["reason"])


def check_server(
    pod: Json | None, scenario: Scenario, user: str, before: Before, kubelet: FakeKubelet, *, is_reset: bool
) -> None:
    assert before.pod is not None
    if scenario.spec.get("serverPolicy") == "Stop" and is_reset:
        assert pod is None, (user, "stopped is what was asked for")
        return
    assert pod is not None, (user, "whatever happens, the server is there")
    ended = kubelet.restarts.get(before.pod["metadata"]["uid"], 0)
    if scenario.name == "restart":
        assert pod["metadata"]["uid"] == before.pod["metadata"]["uid"], "the pod is kept"
        assert ended <= 1, "at most one instance ends"
    else:
        assert ended == 0, "what is stopped through the hub is not restarted in place, too"
    if scenario.spec.get("strategy") == "Recreate":
        assert pod["metadata"]["uid"] != before.pod["metadata"]["uid"]


def check_volume(
    ns: Namespace, kind: str, user: str, before: Before, writes: list[Write], kubelet: FakeKubelet, status: Json
) -> None:
    was, claim = before.claims[kind], ns.present(user, kind)
    name = claim["metadata"]["name"]
    deletes = [w for w in writes if w.method == "DELETE" and w.happened and w.path.endswith(f"/{name}")
               and w.body["preconditions"]["uid"] == was["metadata"]["uid"]]  # fmt: skip
    assert len(deletes) <= 1, (user, "at most one delete")
    outcomes = {row["volume"]: row["outcome"] for row in status.get("volumes", ())}
    is_new = claim["metadata"]["uid"] != was["metadata"]["uid"]
    is_due = status["phase"] == "Succeeded" or status["reason"] == "RestoreFailed" or outcomes.get(kind) == "Reset"
    assert is_new == is_due, (user, status)
    check_same(claim, was)
    if status["reason"] == "Restored":
        wanted = before.spec["contents"]["name"]
        assert kubelet.content(claim) == next(
            kubelet.content(b) for b in ns.backups(user) if b["metadata"]["name"] == wanted
        ), (user, "what is back is what was asked for")


Case = tuple[Scenario, int, Fault]


def every(scenarios: list[Scenario], ns: Namespace, proxy: Proxy, kubelet: FakeKubelet) -> list[Case]:
    """Each fault at each of the writes that the requests take undisturbed, dry runs included."""
    counts = [min(writes_of(scenario, ns, proxy, kubelet) for _ in range(2)) for scenario in scenarios]
    return [
        (scenario, number, fault)
        for scenario, count in zip(scenarios, counts, strict=True)
        for number in range(1, count + 1)
        for fault in Fault
    ]


def writes_of(scenario: Scenario, ns: Namespace, proxy: Proxy, kubelet: FakeKubelet) -> int:
    user = f"chaos{next(_numbers)}"
    proxy.injections = counting = Injections()
    before = prepared(ns, kubelet, scenario, user)
    counting.counts.clear()
    ask(ns, counting, scenario, user, before.spec)
    wait_for(f"{scenario.name}, undisturbed", lambda: is_over(ns, scenario, user), PATIENCE, every=0.1)
    check(ns, scenario, user, before, proxy.writes, kubelet)
    return counting.counts[user]


def play(
    cases: list[Case], running: Operator, ns: Namespace, proxy: Proxy, kubelet: FakeKubelet, size: int = 40
) -> tuple[int, dict[str, int]]:
    """Some at once. Returns how many met their fault, and how often they ended how."""
    injections = Injections()
    proxy.injections = injections
    ended: Counter[str] = Counter()
    met = 0
    for batch in batches(cases, size):
        users = [f"chaos{next(_numbers)}" for _ in batch]
        with ThreadPoolExecutor(8) as pool:
            befores = list(
                pool.map(lambda pair: prepared(ns, kubelet, pair[0][0], pair[1]), zip(batch, users, strict=True))
            )
        at_work: list[tuple[Scenario, str, Before, Injection]] = []
        for (scenario, number, fault), user, before in zip(batch, users, befores, strict=True):
            injection = Injection(user, number, fault)
            injections.plan(injection)
            at_work.append((scenario, user, before, injection))
        for scenario, user, before, _ in at_work:
            ask(ns, injections, scenario, user, before.spec)
        for scenario, user, before, injection in at_work:
            what = f"{scenario.name}, write {injection.number}, {injection.fault.value} ({user})"
            wait_for(what, lambda s=scenario, u=user: is_over(ns, s, u), PATIENCE, every=0.1)
            ended[check(ns, scenario, user, before, proxy.writes, kubelet)] += 1
            met += injection.met
        uids = {ns.request(scenario.kind, f"r-{user}")["metadata"]["uid"]: user for scenario, user, _, _ in at_work}
        wait_for("the audit lines", lambda expected=set(uids): expected <= set(running.audit_lines()), 20)
        lines = running.audit_lines()
        assert not [(user, lines[uid]) for uid, user in uids.items() if len(lines[uid]) != 1], "an end is told once"
    check_rules(proxy.writes, ns.users)
    assert met >= len(cases) * (0.97 if FULL else 0.8), "the planned faults have been met"
    return met, dict(ended)


def test_every_fault_at_every_write_ends_well(
    running: Operator, ns: Namespace, proxy: Proxy, kubelet: FakeKubelet, tally: Tally
) -> None:
    cases = every(SCENARIOS if FULL else SCENARIOS[:2], ns, proxy, kubelet)
    cases = cases if FULL else random.Random(SEED).sample(cases, 60)
    begun = time.monotonic()
    met, ended = play(cases, running, ns, proxy, kubelet)
    tally.add("faults", cases=len(cases), met=met, kinds=len(Fault), ends=ended, seconds=since(begun))


@pytest.mark.parametrize("scenario", LONGER, ids=lambda scenario: scenario.name)
def test_every_fault_at_every_write_of_the_longer_requests_ends_well(
    running: Operator, ns: Namespace, proxy: Proxy, kubelet: FakeKubelet, snapshots: FakeSnapshots, tally: Tally,
    scenario: Scenario,
) -> None:  # fmt: skip
    cases = every([scenario], ns, proxy, kubelet)
    cases = cases if FULL else random.Random(SEED).sample(cases, 8)
    begun = time.monotonic()
    met, ended = play(cases, running, ns, proxy, kubelet, 16)
    tally.add(f"faults: {scenario.name}", cases=len(cases), met=met, kinds=len(Fault), ends=ended, seconds=since(begun))


def since(begun: float) -> int:
    return round(time.monotonic() - begun)


@pytest.mark.parametrize("fault", OF_READS if FULL else [Fault.UNAVAILABLE, Fault.TRUNCATED, Fault.RESET], ids=str)
def test_reads_that_fail_are_read_again(
    running: Operator, ns: Namespace, proxy: Proxy, kubelet: FakeKubelet, snapshots: FakeSnapshots, tally: Tally,
    fault: Fault,
) -> None:  # fmt: skip
    """One in thirteen of all that the operator reads, requests, claims, pages of pods, Jobs: a look takes up to ten."""
    reads = ReadFaults(fault, every=13)
    asked = []
    for scenario in [*SCENARIOS, *LONGER]:
        user = f"chaos{next(_numbers)}"
        asked.append((scenario, user, prepared(ns, kubelet, scenario, user)))
    proxy.injections = reads
    for scenario, user, before in asked:
        ask(ns, reads, scenario, user, before.spec)
    for scenario, user, before in asked:
        wait_for(
            f"{scenario.name}, {fault} ({user})",
            lambda s=scenario, u=user: is_over(ns, s, u),
            PATIENCE_WITH_READS,
            every=0.1,
        )
        check(ns, scenario, user, before, proxy.writes, kubelet)
        assert ns.request(scenario.kind, f"r-{user}")["status"]["phase"] == "Succeeded"
    assert reads.met
    check_rules(proxy.writes, ns.users)
    tally.add(f"faults of reads: {fault.value}", cases=len(asked), met=reads.met, reads=reads.reads)


def is_over(ns: Namespace, scenario: Scenario, user: str) -> bool:
    found = ns.request(scenario.kind, f"r-{user}")
    return bool(found.get("status", {}).get("completionTime")) and not found["metadata"].get("finalizers")


class Watching:
    """Does one thing to all watches, from the moment it is armed."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.last = b""
        self.hits = 0
        #: Kinds whose watch has been told that it is too old, each once.
        self.gone: set[str] = set()

    def __call__(self, line: bytes) -> bytes | None:
        if self.what == "silent":
            # Of nothing at all, while the connection stays open.
            self.hits += 1
            return None
        if b'"BOOKMARK"' in line:
            return line
        if self.what == "missed":
            self.hits += 1
            return None
        if self.what == "replayed":
            self.hits += 1
            again, self.last = self.last, line
            return line + again
        if self.what == "gone" and (kind := json.loads(line)["object"]["kind"]) not in self.gone:
            self.gone.add(kind)
            self.hits += 1
            return b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'
        return line


@pytest.mark.parametrize("what", ["missed", "replayed", "gone", "silent"])
def test_a_watch_that_lies_is_made_good_by_the_list(
    running: Operator, ns: Namespace, proxy: Proxy, what: str, tally: Tally
) -> None:
    watching = Watching(what)
    proxy.watch_filter = watching
    # The watches that are open already were opened without the filter: new ones come when the operator starts anew.
    running.stop()
    running.start()
    running.wait_ready()
    for _ in range(3):
        user, other = f"chaos{next(_numbers)}", f"chaos{next(_numbers)}"
        unused_workspace(ns, user)
        ns.start_server(other)
        asked = [(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user)),
                 (names.SERVER_RESTART, ns.ask(names.SERVER_RESTART, other))]  # fmt: skip
        for kind, name in asked:
            assert ns.ended(kind, name, 60)["status"]["phase"] == "Succeeded"
    assert watching.hits
    assert what != "gone" or {*names.PLURALS, "Pod"} <= watching.gone, "each of the operator's watches was one of them"
    check_rules(proxy.writes, ns.users)
    tally.add(f"watch {what}", cases=6, met=watching.hits)
