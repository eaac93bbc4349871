"""Every state of a reset on paper that a number of disturbances leads to, not a sample of them.

From each of them the request has to come to its end, and no rule may break on the way. States that differ in nothing but
versions, and the time by less than half a minute, count as one.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
from steward_operator.core.model import Request
from steward_operator.core.steps import Done, Wait

from tests.chaos.report import FULL, Tally
from tests.support.builders import NOW
from tests.support.paper import Leader, PaperCluster
from tests.support.schedule import check, happen

DISTURBANCES = [
    "b send", "a late", "b late", "arrival", "start server", "stop server", "copies break off", "forget jobs", "cancel",
    "delete request", "later", "slow", "crash", "quota", "unreadable", "stranger", "delete claim",
]  # fmt: skip


@dataclass
class State:
    cluster: PaperCluster
    leaders: dict[str, Leader]
    left: int
    path: tuple[str, ...] = ()

    def after(self, event: str) -> State:
        """A state of its own; the one it came from stays as it is."""
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
            happen(then.cluster, then.leaders, event)
            then.left -= 1
        return then

    def fingerprint(self) -> str:
        cluster = self.cluster
        known = {name: _plain(leader.request) for name, leader in self.leaders.items()}
        whole = [
            _plain(cluster.request), {n: [v.manifest, v.content, v.mark, v.seal] for n, v in cluster.volumes.items()},
            cluster.pods, cluster.jobs, [[str(step), _plain(seen)] for step, seen in cluster.on_their_way], known,
            [sorted(leader.answers) for leader in self.leaders.values()], [repr(leader.rest) for leader in self.leaders.values()],
            int((cluster.now - NOW).total_seconds()) // 30,
            [cluster.refuse_creation, cluster.unreadable, cluster.slow, sorted(cluster.by_hand)],
        ]  # fmt: skip
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
            end = copy.deepcopy(state)
            check(end.cluster, end.leaders["a"])
            if not isinstance(state.leaders["a"].plan(), Done) or not state.path:
                waiting.append(state.after("turn"))
            if state.leaders["b"].request is None:
                waiting.append(state.after("b reads"))
            if state.left:
                waiting += [state.after(event) for event in DISTURBANCES]
        except AssertionError as broken:
            raise AssertionError(f"{state.path}: {broken}") from broken
    return len(seen)


#: Volumes, policy, and how many disturbances a run may have. What takes minutes is for `make test-chaos-full`.
USUAL = [(("workspace",), "RequireStopped", 1), (("home",), "RequireStopped", 1)]
LONG = [(("workspace",), "RequireStopped", 2), (("home",), "StopAndStart", 1), (("workspace", "cache"), "Stop", 1)]


@pytest.mark.parametrize(("kinds", "policy", "budget"), [*USUAL, *(LONG if FULL else ())])
def test_every_state_that_can_be_reached_comes_to_its_end(kinds: tuple[str, ...], policy: str, budget: int) -> None:
    cluster = PaperCluster(*kinds, running=policy != "RequireStopped", serverPolicy=policy)
    found = explore(State(cluster, {"a": Leader(cluster), "b": Leader(cluster)}, budget))
    if FULL:
        Tally().add(f"states: {', '.join(kinds)}, {policy}, {budget} disturbance(s)", cases=found, met=found)
    assert found > 1000
