"""Every state of a request on paper that a number of disturbances leads to, not a sample of them.

From each of them every request has to come to its end, and no rule may break on the way. States that differ in nothing
but versions, and little in time, count as one.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self

import pytest
from steward_operator.core.model import Request
from steward_operator.core.steps import Done, Wait

from tests.chaos.report import FULL, Tally
from tests.support import schedule, server_schedule
from tests.support.builders import NOW
from tests.support.paper import Leader, PaperCluster
from tests.support.paper_server import PaperServer, Restarter

RESET = [
    "b send", "a late", "b late", "arrival", "start server", "stop server", "copies break off", "forget jobs", "cancel",
    "delete request", "later", "slow", "crash", "quota", "unreadable", "stranger", "delete claim",
]  # fmt: skip
RESTART = [
    "b send", "a late", "b late", "arrival", "kubelet", "answer", "pods go", "crash", "operator crash", "user stops",
    "user starts", "cancel", "later", "much later", "Infeasible", "Deferred", "slow", "willing", "dies hard", "quota", "minimum", "all refused",
    "hub", "hub forgets",
]  # fmt: skip

UNWILLING = ["kubelet", "crash", "Deferred", "slow", "willing", "dies hard", "all refused", "hub", "hub forgets"]

#: In seconds: by then everything is over that is waited for with a limit.
LONG_AGO = 660


class State(Protocol):
    """A point that can be reached. ``left`` is how many disturbances may still come, ``path`` how it was reached."""

    left: int
    path: tuple[str, ...]

    def events(self) -> list[str]:
        """What may happen next, disturbances included."""

    def after(self, event: str) -> Self:
        """A state of its own; the one it came from stays as it is."""

    def fingerprint(self) -> str:
        """The same for states that count as one."""

    def check(self) -> None:
        """Raises AssertionError when a request does not come to its end from here, or breaks a rule. Changes it."""


@dataclass
class Reset:
    """Of one VolumeReset, at which operator a is at work; b has read something, and sends late."""

    cluster: PaperCluster
    leaders: dict[str, Leader]
    left: int
    path: tuple[str, ...] = ()

    def events(self) -> list[str]:
        is_over = isinstance(self.leaders["a"].plan(), Done) and bool(self.path)
        reads = ["b reads"] if self.leaders["b"].request is None else []
        return [*([] if is_over else ["turn"]), *reads, *(RESET if self.left else [])]

    def after(self, event: str) -> Self:
        then = copy.deepcopy(self)
        then.path += (event,)
        if event == "turn":
            if isinstance(then.leaders["a"].turn(), Wait):
                then.cluster.pods_go()
                then.cluster.copies_end()
                then.cluster.reap()
                then.cluster.later(5)
        elif event == "b reads":
            then.leaders["b"].read_request()
            then.leaders["b"].read_rest()
        else:
            schedule.happen(then.cluster, then.leaders, event)
            then.left -= 1
        return then

    def fingerprint(self) -> str:
        cluster = self.cluster
        known = {name: _plain(leader.request) for name, leader in self.leaders.items()}
        return _told([
            _plain(cluster.request), {n: [v.manifest, v.content, v.mark, v.seal] for n, v in cluster.volumes.items()},
            cluster.pods, cluster.jobs, [[str(step), _plain(seen)] for step, seen in cluster.on_their_way], known,
            [sorted(leader.answers) for leader in self.leaders.values()], [repr(leader.rest) for leader in self.leaders.values()],
            int((cluster.now - NOW).total_seconds()) // 30,
            [cluster.refuse_creation, cluster.unreadable, cluster.slow, sorted(cluster.by_hand)],
        ])  # fmt: skip

    def check(self) -> None:
        schedule.check(self.cluster, self.leaders["a"])


@dataclass
class Restarts:
    """Of a server and its ServerRestarts, whose turns come in any order."""

    server: PaperServer
    leaders: dict[str, Restarter]
    left: int
    path: tuple[str, ...] = ()
    #: How long an operator waits when it waits, in seconds.
    pace: int = 2

    def events(self) -> list[str]:
        open_ = [name for name, request in self.server.requests.items() if not request.is_finished]
        turns = [f"turn {name}" for name in open_]
        reads = [f"b reads {name}" for name in open_] if self.left and self.leaders["b"].request is None else []
        return [*turns, *reads, *(RESTART if self.left else [])]

    def after(self, event: str) -> Self:
        then = copy.deepcopy(self)
        then.path += (event,)
        match event.split():
            case ["turn", name]:
                if isinstance(then.leaders["a"].turn(name), Wait):
                    server_schedule.go_on(then.server, then.pace)
            case ["b", "reads", name]:
                then.leaders["b"].read_request(name)
                then.leaders["b"].read_rest()
            case _:
                server_schedule.happen(then.server, then.leaders, event)
                then.left -= 1
        return then

    def fingerprint(self) -> str:
        server = self.server
        return _told([
            [_plain(request) for request in server.requests.values()], server.killed, server.pod, sorted(server.answering),
            [min(int((server.now - end).total_seconds()), LONG_AGO) // 60 for end in server.ends], server.resized_by,
            [server.node, server.refuses_down, server.refuses_all, server.is_full, server.hub_refuses, server.hub_forgets],
            [server.dies_hard, server.under_way, server.taken_from],
            server.gone_for_a_reason,
            [[str(step), _plain(seen)] for step, seen in server.on_their_way],
            self._known(),
            self._when(server.now),
        ])  # fmt: skip

    def _when(self, moment: datetime) -> int:
        return min(int((moment - NOW).total_seconds()), LONG_AGO) // self.pace

    def _known(self) -> list[Any]:
        """Whoever takes a turn looks first: what was seen before, and b at all, is of use to a disturbance only."""
        a = self.leaders["a"]
        if not self.left:
            return [a.name, sorted(a.answers)]
        return [
            [x.name, _plain(x.request), sorted(x.answers), repr(x.rest), self._when(x.seen)]
            for x in self.leaders.values()
        ]

    def check(self) -> None:
        server_schedule.check(self.server, self.leaders["a"])


@dataclass
class Unwilling(Restarts):
    """What a node, a hub and a cluster that refuse or are slow lead to, and a lab that dies meanwhile: more of it at a time.

    The time in the states is coarse, and nothing is late.
    """

    pace: int = 30

    def events(self) -> list[str]:
        found = [event for event in super().events() if event.startswith("turn ")]
        return [*found, *(UNWILLING if self.left else [])]


@dataclass
class Queue(Restarts):
    """Several requests and one operator, which may be slow with any of them: their turns come in every order.

    There are many states, so that the time in them is coarse. All of them are gone through to the end, with the node and
    the hub as they are: what is left to check is the end.
    """

    pace: int = 30

    def events(self) -> list[str]:
        return [event for event in super().events() if not event.startswith("b ")]

    def check(self) -> None:
        if all(request.is_finished for request in self.server.requests.values()):
            super().check()


def _told(whole: list[Any]) -> str:
    text = json.dumps(whole, default=str, sort_keys=True)
    return re.sub(r"(resourceVersion\W+)\d+|\d{4}-\d\d-\d\dT[\d:]+Z", r"\1", text)


def _plain(request: Request | None) -> Any:
    return dict(request.manifest) if request else None


def explore(start: State) -> int:
    """All states that can be reached; how many they are."""
    seen: dict[str, int] = {}
    waiting = [start]
    while waiting:
        state = waiting.pop()
        key = state.fingerprint()
        if seen.get(key, -1) >= state.left:
            continue
        seen[key] = state.left
        try:
            copy.deepcopy(state).check()
            waiting += [state.after(event) for event in state.events()]
        except AssertionError as broken:
            raise AssertionError(f"{state.path}: {broken}") from broken
    return len(seen)


def tell(what: str, found: int) -> None:
    if FULL:
        Tally().add(f"states: {what}", cases=found, met=found)


#: Volumes, policy, and how many disturbances a run may have. What takes minutes is for `make test-chaos-full`.
RESETS = [(("workspace",), "RequireStopped", 1), (("home",), "RequireStopped", 1)]
LONG_RESETS = [
    (("workspace",), "RequireStopped", 2),
    (("home",), "StopAndStart", 1),
    (("workspace", "cache"), "Stop", 1),
]


@pytest.mark.parametrize(("kinds", "policy", "budget"), [*RESETS, *(LONG_RESETS if FULL else ())])
def test_every_state_of_a_reset_comes_to_its_end(kinds: tuple[str, ...], policy: str, budget: int) -> None:
    cluster = PaperCluster(*kinds, running=policy != "RequireStopped", serverPolicy=policy)
    found = explore(Reset(cluster, {"a": Leader(cluster), "b": Leader(cluster)}, budget))
    tell(f"{', '.join(kinds)}, {policy}, {budget} disturbance(s)", found)
    assert found > 1000


#: Strategies, whether the server holds a device, and how many disturbances.
RESTARTS = [(("Auto",), False, 1), (("InPlace",), True, 1)]
LONG_RESTARTS = [
    (("Auto",), False, 2),
    (("Auto",), True, 1),
    (("Recreate",), True, 1),
    (("Auto", "Recreate"), False, 1),
]


@pytest.mark.parametrize(("strategies", "gpu", "budget"), [*RESTARTS, *(LONG_RESTARTS if FULL else ())])
def test_every_state_of_a_restart_comes_to_its_end(strategies: tuple[str, ...], gpu: bool, budget: int) -> None:
    server = PaperServer([{"strategy": strategy} for strategy in strategies], gpu=gpu)
    kind = Restarts if len(strategies) == 1 else Queue
    found = explore(kind(server, {"a": Restarter(server), "b": Restarter(server)}, budget))
    tell(f"{', '.join(strategies)}{', a device' if gpu else ''}, {budget} disturbance(s)", found)
    assert found > 100


@pytest.mark.parametrize("strategy", ["Auto", "InPlace"])
def test_every_state_that_an_unwilling_node_and_hub_lead_to_comes_to_its_end(strategy: str) -> None:
    server = PaperServer([{"strategy": strategy}])
    budget = 4 if FULL else 3
    found = explore(Unwilling(server, {"a": Restarter(server), "b": Restarter(server)}, budget))
    tell(f"{strategy}, node and hub unwilling, {budget} disturbance(s)", found)
    assert found > 2000
