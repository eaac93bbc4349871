"""Random schedules over the pure core, with two leaders and late writes: whatever happens, the rules of a reset hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steward_api.phases import Phase
from steward_operator.core.steps import Wait

from tests.support.amount import examples, note_played
from tests.support.paper import Leader, PaperCluster
from tests.support.schedule import EVENTS, check, happen


def play(cluster: PaperCluster, schedule: Schedule) -> Leader:
    leaders = {"a": Leader(cluster), "b": Leader(cluster)}
    undisturbed, events = schedule
    for _ in range(undisturbed):
        if isinstance(leaders["a"].turn(), Wait):
            cluster.pods_go()
            cluster.copies_end()
    leaders["b"].read_request()
    leaders["b"].read_rest()
    for event, number in events:
        happen(cluster, leaders, event, number)
    return leaders["a"]


#: So many undisturbed turns first, so that the deep states are reached as often as the first; then anything goes.
SCHEDULES = st.tuples(st.integers(0, 24), st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 7)), max_size=24))
Schedule = tuple[int, list[tuple[str, int]]]
SPECS = st.fixed_dictionaries(
    {
        "serverPolicy": st.sampled_from(["RequireStopped", "Stop", "StopAndStart"]),
        "backup": st.sampled_from(["Default", "None", "Copy"]),
    }
)
KINDS = st.sampled_from([("workspace",), ("home",), ("home", "cache")])


@settings(max_examples=examples(3000), deadline=None, derandomize=True)
@given(KINDS, SPECS, st.booleans(), st.booleans(), SCHEDULES)
def test_no_schedule_breaks_a_rule_and_every_one_ends_with_a_claim(
    kinds: tuple[str, ...], spec: dict[str, str], used: bool, running: bool, schedule: Schedule
) -> None:
    note_played("resets")
    cluster = PaperCluster(*kinds, used=used, running=running, **spec)
    before = {kind: cluster.volumes[f"{kind}-ann"].content for kind in kinds}
    check(cluster, play(cluster, schedule))
    due = {kind: spec["backup"] == "Copy" or (kind == "home" and spec["backup"] == "Default") for kind in kinds}
    for kind in kinds:
        if due[kind] and not cluster.by_hand:
            assert cluster.is_anywhere(before[kind]), f"{kind} was deleted and is in no backup"
    if cluster.request and cluster.request.phase is Phase.SUCCEEDED and cluster.request.status["reason"] == "Reset":
        assert all(row["outcome"] == "Reset" for row in cluster.request.status["volumes"])


@settings(max_examples=examples(1500), deadline=None, derandomize=True)
@given(st.sampled_from(["Default", "None"]), st.booleans(), SCHEDULES)
def test_no_schedule_of_an_undo_loses_either_content(backup: str, running: bool, schedule: Schedule) -> None:
    note_played("undos")
    cluster = with_backup()
    contents = {"from": "Backup", "name": cluster.backup_name}
    undo = PaperCluster("home", name="undo", running=running, backup=backup, contents=contents, serverPolicy="Stop")
    undo.volumes[cluster.backup_name] = cluster.volumes[cluster.backup_name]
    present = undo.volumes["home-ann"].content
    check(undo, play(undo, schedule))
    assert undo.volumes[cluster.backup_name].content == "home of old"
    if backup == "Default" and not undo.by_hand:
        assert undo.is_anywhere(present)
    if undo.request and undo.request.phase is Phase.SUCCEEDED:
        (row,) = undo.request.status["volumes"]
        if row["newUID"] in undo.by_hand:
            return
        assert undo.volumes["home-ann"].content.startswith("home of old")


class WithBackup(PaperCluster):
    backup_name = ""


def with_backup() -> WithBackup:
    cluster = WithBackup("home")
    cluster.settle(Leader(cluster))
    (cluster.backup_name,) = [name for name, volume in cluster.volumes.items() if volume.view.is_backup]
    return cluster


@pytest.mark.parametrize("policy", ["RequireStopped", "Stop", "StopAndStart"])
@pytest.mark.parametrize("kinds", [("workspace",), ("home",), ("home", "cache")])
def test_undisturbed_it_succeeds(kinds: tuple[str, ...], policy: str) -> None:
    cluster = PaperCluster(*kinds, running=policy != "RequireStopped", serverPolicy=policy)
    cluster.settle(Leader(cluster))
    assert cluster.request is not None
    assert cluster.request.phase is Phase.SUCCEEDED, cluster.request.status
    assert len(cluster.deleted) == len(kinds)
    assert ("jupyter-ann" in cluster.pods) == (policy == "StopAndStart")
