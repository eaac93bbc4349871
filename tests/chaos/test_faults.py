"""Every kind of fault at every write of a request: it ends, and no rule is broken on the way.

Each case is a user of his own, so that many run at once against one operator; the proxy counts each user's writes apart.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from steward_api import names

from tests.chaos.report import FULL, Tally, batches
from tests.support.cluster import wait_for
from tests.support.control_plane_fixtures import Namespace
from tests.support.fake_kubelet import FakeKubelet
from tests.support.faults import Fault, Injection, Injections
from tests.support.operator import Operator, Proxy, Write

Json = dict[str, Any]
_numbers = itertools.count(1)
SEED = 4
#: How long a request may take after its fault: the longest wait is a hung call, which is given up after ten seconds.
PATIENCE = 60


@dataclass(frozen=True)
class Scenario:
    """A request that undisturbed takes ``writes`` writes, dry runs included."""

    name: str
    kind: str
    writes: int
    prepare: Callable[[Namespace, str], None]
    spec: Json


def used_home(ns: Namespace, user: str) -> None:
    ns.make_claim(user, "home")
    ns.bind(user, "home")


def unused_workspace(ns: Namespace, user: str) -> None:
    ns.make_claim(user, "workspace")


def server(ns: Namespace, user: str) -> None:
    ns.start_server(user)


SCENARIOS = [
    Scenario("reset with backup", names.VOLUME_RESET, 13, used_home, {"volumes": ["home"]}),
    Scenario("restart", names.SERVER_RESTART, 3, server, {}),
    Scenario("reset without backup", names.VOLUME_RESET, 8, unused_workspace, {"volumes": ["workspace"]}),
]


def ask(ns: Namespace, injections: Injections, scenario: Scenario, user: str) -> None:
    body = {
        "apiVersion": names.API_VERSION, "kind": scenario.kind, "metadata": {"name": f"r-{user}"},
        "spec": {"user": user, "requestedBy": {"kind": "KubernetesUser", "name": "test-admin"}, **scenario.spec},
    }  # fmt: skip
    made = ns.api.raw("POST", ns.requests(scenario.kind), body)
    injections.own(made["metadata"]["uid"], user)


def check(ns: Namespace, scenario: Scenario, user: str, before: Json, writes: list[Write], kubelet: FakeKubelet) -> str:
    """The rules, at the end of one request. Returns how it ended."""
    request = ns.request(scenario.kind, f"r-{user}")
    status = request["status"]
    assert status["phase"] in ("Succeeded", "Failed"), (user, status)
    assert "finalizers" not in request["metadata"], user
    if scenario.kind == names.SERVER_RESTART:
        pod = ns.pod(user)
        assert pod is not None, user
        assert pod["metadata"]["uid"] == before["metadata"]["uid"], "the pod is kept"
        assert kubelet.restarts.get(pod["metadata"]["uid"], 0) <= 1, "at most one instance ends"
        assert status["phase"] == "Succeeded", (user, status)
        return str(status["reason"])
    (kind,) = scenario.spec["volumes"]
    assert status["lockedClaims"] == [], user
    claim = ns.claim(user, kind)
    assert claim is not None, (user, "the claim is missing")
    deletes = [w for w in writes if w.method == "DELETE" and w.happened and w.path.endswith(f"/{kind}-{user}")]
    assert len(deletes) <= 1, (user, "at most one delete")
    assert (claim["metadata"]["uid"] == before["metadata"]["uid"]) == (status["phase"] == "Failed"), (user, status)
    assert claim["spec"]["resources"] == before["spec"]["resources"]
    assert claim["metadata"]["labels"] == before["metadata"]["labels"]
    if status["phase"] == "Succeeded" and scenario.name == "reset with backup":
        (row,) = status["volumes"]
        held = [b for b in ns.backups(user) if b["metadata"]["name"] == row["backup"]["name"]]
        assert held, (user, "the backup is there")
        assert names.BACKUP in held[0]["metadata"]["annotations"]
    return str(status["reason"])


def cases() -> list[tuple[Scenario, int, Fault]]:
    every = [(s, n, fault) for s in SCENARIOS[:2] for n in range(1, s.writes + 1) for fault in Fault]
    if FULL:
        return every + [(SCENARIOS[2], n, fault) for n in range(1, SCENARIOS[2].writes + 1) for fault in Fault]
    return random.Random(SEED).sample(every, 60)


def test_every_fault_at_every_write_ends_well(
    running: Operator, ns: Namespace, proxy: Proxy, kubelet: FakeKubelet, tally: Tally
) -> None:
    injections = Injections()
    proxy.injections = injections
    ended: dict[str, int] = {}
    met = 0
    for batch in batches(cases(), 40):
        at_work: list[tuple[Scenario, str, Json, Injection]] = []
        for scenario, number, fault in batch:
            user = f"chaos{next(_numbers)}"
            scenario.prepare(ns, user)
            before = (
                ns.pod(user) if scenario.kind == names.SERVER_RESTART else ns.claim(user, scenario.spec["volumes"][0])
            )
            assert before is not None
            injection = Injection(user, number, fault)
            injections.plan(injection)
            at_work.append((scenario, user, before, injection))
        for scenario, user, _, _ in at_work:
            ask(ns, injections, scenario, user)
        for scenario, user, before, injection in at_work:
            what = f"{scenario.name}, write {injection.number}, {injection.fault.value} ({user})"
            wait_for(what, lambda s=scenario, u=user: is_over(ns, s, u), PATIENCE, every=0.1)
            reason = check(ns, scenario, user, before, proxy.writes, kubelet)
            met += injection.met
            ended[reason] = ended.get(reason, 0) + 1
    tally.add("faults", cases=len(cases()), met=met, kinds=len(Fault), ends=ended)
    assert met >= len(cases()) * 0.8, "most of the planned faults have been met"


def is_over(ns: Namespace, scenario: Scenario, user: str) -> bool:
    found = ns.request(scenario.kind, f"r-{user}")
    return bool(found.get("status", {}).get("completionTime")) and not found["metadata"].get("finalizers")


class Watching:
    """Does one thing to the watches of requests, from the moment it is armed."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.last = b""
        self.hits = 0

    def __call__(self, line: bytes) -> bytes | None:
        if self.what == "silent":
            # Of nothing at all, while the connection stays open.
            self.hits += 1
            return None
        if b'"VolumeReset"' not in line:
            return line
        if self.what == "missed":
            self.hits += 1
            return None
        if self.what == "replayed":
            self.hits += 1
            again, self.last = self.last, line
            return line + again
        if self.what == "gone" and not self.hits:
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
        user = f"chaos{next(_numbers)}"
        unused_workspace(ns, user)
        name = ns.ask(names.VOLUME_RESET, user)
        assert ns.ended(names.VOLUME_RESET, name, 60)["status"]["phase"] == "Succeeded"
    assert watching.hits
    tally.add(f"watch {what}", cases=3, met=watching.hits)
