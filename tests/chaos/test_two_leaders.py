"""Random schedules on a real API server with two operators that both believe they lead.

Each schedule is a user of his own: some requests, and what people and machines do meanwhile.
"""

from __future__ import annotations

import concurrent.futures
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos.report import FULL, Tally
from tests.support.control_plane import ControlPlane
from tests.support.control_plane_fixtures import CONFIG, NAMESPACE, Namespace
from tests.support.fake_kubelet import FakeKubelet
from tests.support.fake_snapshots import FakeSnapshots
from tests.support.operator import FakeHub, Operator, Proxy
from tests.support.people import Played, Player, deletes_of_claims, judge, wait_settled
from tests.support.rules import check_rules

Json = dict[str, Any]
SCHEDULES = 500 if FULL else 24
FIRST = int(os.environ.get("FIRST_SCHEDULE", "0"))
AT_ONCE = 8
SEED = 500


@pytest.fixture
def leaders(
    api: ControlPlane, ns: Namespace, hub: FakeHub, kubelet: FakeKubelet, snapshots: FakeSnapshots, tmp_path: Any
) -> Iterator[list[tuple[Operator, Proxy]]]:
    """Two operators, each behind a proxy that keeps its Lease for itself."""
    pair = []
    for identity in ("one", "two"):
        proxy = Proxy(api)
        proxy.keeps_lease = True
        proxy.start()
        directory = tmp_path / identity
        directory.mkdir()
        kubeconfig = api.kubeconfig(identity, ns.token("operator"), f"http://127.0.0.1:{proxy.port}")
        pair.append((Operator(kubeconfig, CONFIG, hub.port, NAMESPACE, directory, identity=identity), proxy))
    for operator, _ in pair:
        operator.start()
    for operator, _ in pair:
        operator.wait_ready()
    yield pair
    for operator, proxy in pair:
        operator.stop()
        proxy.stop()


def test_random_schedules_with_two_leaders_break_no_rule(
    leaders: list[tuple[Operator, Proxy]], ns: Namespace, kubelet: FakeKubelet, tally: Tally
) -> None:

    def one(number: int) -> tuple[Played, list[Json]]:
        chance = random.Random(SEED * 10_000 + number)
        played = Player(ns, f"schedule {number}", f"plan{number}", chance).play()
        return played, wait_settled(ns, played)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(one, range(FIRST, FIRST + SCHEDULES)))
    proxies = [proxy for _, proxy in leaders]
    deletes = deletes_of_claims(proxies)
    check_rules((write for proxy in proxies for write in proxy.writes), ns.users)
    for played, requests in results:
        judge(ns, played, requests, deletes, ended=kubelet.restarts_of[played.user])
    acted = [sum(w.happened for w in proxy.writes) for proxy in proxies]
    assert min(acted) > SCHEDULES / 4, f"both have acted: {acted}"
    ends = [r["status"]["phase"] for _, requests in results for r in requests if r]
    tally.add("schedules on a real API server, two leaders", cases=SCHEDULES, met=len(results), requests=len(ends))
