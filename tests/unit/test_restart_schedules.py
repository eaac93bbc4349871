"""Random schedules over the pure core of a restart: two leaders, late writes, a moody node, crashes, people."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steward_api.phases import Phase
from steward_operator.core.steps import Wait

from tests.support.amount import examples, note_played
from tests.support.paper_server import PaperServer, Restarter
from tests.support.server_schedule import check, go_on, happen

EVENTS = [
    *["a request", "a rest", "a send"] * 3,
    *["a turn"] * 8,
    *["b request", "b rest", "b send", "b turn"],
    *["a late", "b late", "arrival"],
    *["kubelet", "answer", "pods go"] * 4,
    *["crash", "operator crash", "user stops", "user starts", "cancel", "later", "much later"],
    *["Infeasible", "Deferred", "slow", "willing", "dies hard"],
    *["quota", "minimum", "all refused", "hub", "hub forgets"],
]
Schedule = tuple[int, list[tuple[str, int]]]
SCHEDULES = st.tuples(st.integers(0, 12), st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 7)), max_size=30))
SPECS = st.lists(
    st.fixed_dictionaries({"strategy": st.sampled_from(["Auto", "Auto", "InPlace", "Recreate"])}),
    min_size=1,
    max_size=3,
)


def play(server: PaperServer, schedule: Schedule) -> Restarter:
    leaders = {"a": Restarter(server), "b": Restarter(server)}
    known = list(server.requests)
    undisturbed, events = schedule
    for number in range(undisturbed):
        if isinstance(leaders["a"].turn(known[number % len(known)]), Wait):
            go_on(server)
    for event, number in events:
        happen(server, leaders, event, number)
    return leaders["a"]


@settings(max_examples=examples(3000), deadline=None, derandomize=True)
@given(SPECS, st.booleans(), st.booleans(), SCHEDULES)
def test_no_schedule_breaks_a_rule_and_every_restart_ends(
    specs: list[dict[str, Any]], gpu: bool, guaranteed: bool, schedule: Schedule
) -> None:
    note_played("restarts")
    server = PaperServer(specs, gpu=gpu, guaranteed=guaranteed)
    check(server, play(server, schedule))


def test_undisturbed_a_hundred_requests_end_one_instance() -> None:
    server = PaperServer([{"strategy": "Auto"}] * 100)
    server.settle(Restarter(server))
    assert {request.phase for request in server.requests.values()} == {Phase.SUCCEEDED}
    assert sum(map(len, server.killed.values())) == 1


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("strategy", ["Auto", "InPlace"])
def test_restarts_at_leisure_meet_the_back_off_and_lose_no_server(strategy: str, gpu: bool) -> None:
    """Never three within ten minutes, and no ten minutes without one: the back-off doubles until it outlasts the pause."""
    server = PaperServer([], gpu=gpu)
    restarter = Restarter(server)
    mechanisms = set()
    for _ in range(14):
        name = server.ask({"strategy": strategy})
        server.settle(restarter)
        mechanisms.add(server.requests[name].status["mechanism"])
        assert server.runs()
        server.later(215)
    server.judge()
    assert mechanisms == {"InPlace", "Recreate"}, "the back-off was met"
