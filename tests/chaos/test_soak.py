"""The same users come back again and again to one operator and its standby: nothing is lost on the way, and nothing grows.

A few writes in a hundred meet a fault. In the first half the leader is killed or told to stop in the middle of every
round; in the second half it is left alone, so that what it holds at the end of a round can be compared.
"""

from __future__ import annotations

import concurrent.futures
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from steward_api import names

from tests.chaos.report import FULL, Tally
from tests.support.cluster import wait_for
from tests.support.control_plane import ControlPlane
from tests.support.control_plane_fixtures import CONFIG, NAMESPACE, Namespace
from tests.support.fake_kubelet import FakeKubelet
from tests.support.fake_snapshots import FakeSnapshots
from tests.support.faults import RandomFaults
from tests.support.operator import FakeHub, Kill, Operator, Proxy
from tests.support.people import Player, deletes_of_claims, judge, wait_settled
from tests.support.rules import check_rules

Json = dict[str, Any]
ROUNDS = int(os.environ.get("SOAK_ROUNDS", "30" if FULL else "4"))
USERS = 8 if FULL else 4
SEED = 24
#: Of a hundred writes.
FAULTS = 3
#: Finished requests that are kept, and backups of a volume.
CAP, KEPT = 40, 3
SETTINGS = {**CONFIG["settings"], "resync_every": 2, "most_finished_requests": CAP}
#: What a process may hold more at the last quiet moment than at an early one: connections that are kept open, memory.
MORE_FILES, MORE_MEMORY = 8, 1.25


@pytest.fixture
def pair(api: ControlPlane, ns: Namespace, hub: FakeHub, proxy: Proxy, tmp_path: Path) -> Iterator[list[Operator]]:
    """A leader and its standby."""
    started = []
    for identity in ("first", "second"):
        directory = tmp_path / identity
        directory.mkdir()
        kubeconfig = api.kubeconfig(identity, ns.token("operator"), f"http://127.0.0.1:{proxy.port}")
        config = {**CONFIG, "settings": SETTINGS}
        started.append(Operator(kubeconfig, config, hub.port, NAMESPACE, directory, identity=identity))
    for operator in started:
        operator.start()
        operator.wait_ready()
    yield started
    for operator in started:
        operator.stop()


class Soak:
    def __init__(self, ns: Namespace, proxy: Proxy, kubelet: FakeKubelet, pair: list[Operator]) -> None:
        self.ns, self.proxy, self.kubelet, self.pair = ns, proxy, kubelet, pair
        self.chance = random.Random(SEED)
        self.requests: set[str] = set()
        self.ends_of_leaders = 0
        #: Names of the backups that were made, by user and volume.
        self.backups: dict[tuple[str, str], set[str]] = defaultdict(set)

    @property
    def leader(self) -> Operator:
        holder = self.ns.lease()["holderIdentity"]
        return next(operator for operator in self.pair if operator.identity == holder)

    def round(self, number: int, *, disturbed: bool) -> None:
        before = self.kubelet.restarts_of.copy()
        self.proxy.arm(None)
        if disturbed:
            self.proxy.arm(Kill(self.chance.randint(5, 40), self.chance.choice(["before", "after"])))
            self.proxy.victim = lambda leader=self.leader: leader.pid
        players = [
            Player(self.ns, f"round {number}", f"soak{user}", random.Random(SEED * 10_000 + number * 100 + user))
            for user in range(USERS)
        ]

        def one(player: Player) -> list[Json]:
            return wait_settled(self.ns, player.play())

        with concurrent.futures.ThreadPoolExecutor(USERS) as pool:
            playing = [pool.submit(one, player) for player in players]
            if disturbed and number % 2:
                # In order, in the middle of whatever is on.
                self.leader.stop()
            results = [future.result() for future in playing]
        self.proxy.kill = None
        deletes = deletes_of_claims([self.proxy])
        check_rules(self.proxy.writes, self.ns.users)
        for player, requests in zip(players, results, strict=True):
            user = player.played.user
            ended = self.kubelet.restarts_of[user] - before[user]
            judge(self.ns, player.played, requests, deletes, keeps_backups=False, ended=ended)
            self.note(user, requests)
        for operator in self.pair:
            if not operator.is_running:
                self.ends_of_leaders += 1
                operator.start()
                operator.wait_ready()

    def note(self, user: str, requests: list[Json]) -> None:
        self.requests |= {request["metadata"]["uid"] for request in requests if request}
        for request in requests:
            for row in request.get("status", {}).get("volumes", []):
                if row.get("backup", {}).get("state") == "Ready":
                    self.backups[user, row["volume"]].add(row["backup"]["name"])

    def check_retention(self) -> None:
        """What is old goes, a volume's last two backups stay, and no half backup is left."""

        def is_swept() -> bool:
            finished = [self.ns.api.raw("GET", self.ns.requests(kind))["items"] for kind in names.PLURALS]
            held = [backup for user in range(USERS) for backup in self.ns.backups(f"soak{user}")]
            return (
                sum(map(len, finished)) <= CAP
                and all(names.BACKUP in backup["metadata"]["annotations"] for backup in held)
                and all(len(self.held(*key)) <= KEPT for key in self.backups)
            )

        wait_for("requests and backups are swept", is_swept, 90, every=1)
        for key, made in self.backups.items():
            assert len(self.held(*key)) >= min(2, len(made)), key

    def held(self, user: str, volume: str) -> list[str]:
        found = [b["metadata"] for b in self.ns.backups(user)]
        return [meta["name"] for meta in found if meta["labels"][names.VOLUME] == volume]


def test_the_same_users_for_a_long_time(
    pair: list[Operator], ns: Namespace, proxy: Proxy, kubelet: FakeKubelet, snapshots: FakeSnapshots, tally: Tally
) -> None:
    soak = Soak(ns, proxy, kubelet, pair)
    proxy.injections = faults = RandomFaults(SEED, FAULTS / 100)
    held: list[tuple[float, float]] = []
    for number in range(ROUNDS):
        disturbed = number < ROUNDS // 2
        soak.round(number, disturbed=disturbed)
        if not disturbed:
            wait_for("nothing is on", lambda: soak.leader.is_idle(), 30, every=0.2)
            metrics = soak.leader.metrics()
            held.append((metrics["process_open_fds"], metrics["process_resident_memory_bytes"]))
    proxy.injections = None
    soak.check_retention()
    assert soak.ends_of_leaders >= ROUNDS // 4
    # A process takes what it needs at most in its first rounds; what comes on top of that later is what counts.
    (files, memory), (files_then, memory_then) = held[-1], held[len(held) // 3]
    assert files <= files_then + MORE_FILES, held
    assert memory <= memory_then * MORE_MEMORY, held
    tally.add(
        "soak, rounds of the same users", cases=ROUNDS, met=ROUNDS, requests=len(soak.requests), faults=faults.met,
        leaders=soak.ends_of_leaders, files=f"{files_then:.0f} to {files:.0f}",
        memory=f"{memory_then / 1e6:.0f} to {memory / 1e6:.0f} MB",
    )  # fmt: skip
