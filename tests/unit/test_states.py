"""The state table of the home page: each state from its facts, and what may be pressed in it."""

from __future__ import annotations

from typing import Any

import pytest
from steward_api.names import SERVER_RESTART, VOLUME_RESET
from steward_hub.states import TABLE, Button, Facts, State, derive

RUNNING: dict[str, Any] = {"is_ready": True, "pending": ""}
STOPPED: dict[str, Any] = {"is_ready": False, "pending": ""}
AWAY = "The operator has not been heard of for 31 seconds."


def active(kind: str, phase: str = "", reason: str = "", **conditions: str) -> dict[str, Any]:
    listed = [{"type": key, "status": value} for key, value in conditions.items()]
    return {"kind": kind, "status": {"phase": phase, "reason": reason, "conditions": listed}}


@pytest.mark.parametrize(
    ("facts", "state", "buttons"),
    [
        (STOPPED, State.STOPPED, {Button.START, Button.VOLUMES}),
        ({"is_ready": False, "pending": "spawn"}, State.STARTING, {Button.OPEN, Button.STOP}),
        (RUNNING, State.RUNNING, {Button.OPEN, Button.STOP, Button.RESTART}),
        ({**RUNNING, "container_answers": False}, State.NOT_ANSWERING, {Button.OPEN, Button.STOP, Button.RESTART}),
        ({"is_ready": True, "pending": "stop"}, State.STOPPING, set()),
        ({**RUNNING, "active": active(SERVER_RESTART)}, State.RESTARTING, set()),
        ({**RUNNING, "active": active(SERVER_RESTART, "Restarting", "InProgress")}, State.RESTARTING, set()),
        ({**STOPPED, "active": active(VOLUME_RESET, "Deleting", "InProgress")}, State.RESETTING, set()),
        ({**STOPPED, "active": active(VOLUME_RESET, "Deleting", "Retrying", Stalled="True")}, State.STALLED, set()),
        ({**RUNNING, "active": active(SERVER_RESTART, "Pending", "WaitingForServer")}, State.WAITING, {Button.OPEN}),
        ({**STOPPED, "active": active(VOLUME_RESET, "Pending", "Scheduled")}, State.WAITING, set()),
        ({**STOPPED, "operator_away": AWAY}, State.OPERATOR_AWAY, {Button.START}),
        ({**RUNNING, "operator_away": AWAY}, State.OPERATOR_AWAY, {Button.OPEN, Button.STOP}),
        ({**RUNNING, "cluster_answers": False}, State.CLUSTER_AWAY, {Button.OPEN}),
    ],
)
def test_a_state_follows_from_the_facts(facts: dict[str, Any], state: State, buttons: set[Button]) -> None:
    card = derive(Facts(**facts))
    assert card.state is state
    assert card.buttons == buttons
    assert card.sentence
    assert card.following
    assert set(card.refusals) == set(Button) - buttons
    assert all(card.refusals.values()), "a button that is off says why"


def test_every_state_of_the_table_is_complete() -> None:
    assert set(TABLE) == set(State)


def test_a_restart_and_a_reset_are_never_allowed_at_the_same_time() -> None:
    assert not any({Button.RESTART, Button.VOLUMES} <= row.buttons for row in TABLE.values())


def test_a_foreign_spawner_takes_our_buttons_away_and_says_why() -> None:
    card = derive(Facts(**RUNNING, actions_off="This hub starts servers with Other."))
    assert card.buttons == {Button.OPEN, Button.STOP}
    assert card.refusals[Button.RESTART] == "This hub starts servers with Other."
