"""The one state the home page shows for a server: what is going on, what may be pressed, what to do next.

Pure. The handler collects the `Facts`; the page only draws what `derive` answers. ``logged out`` is the browser's own
state: the server has nobody to tell it to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from steward_api.names import SERVER_RESTART
from steward_api.phases import ENDS, Phase


class State(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    NOT_ANSWERING = "not-answering"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    RESETTING = "resetting"
    STALLED = "stalled"
    WAITING = "waiting"
    OPERATOR_AWAY = "operator-away"
    CLUSTER_AWAY = "cluster-away"


class Button(StrEnum):
    START = "start"
    OPEN = "open"
    STOP = "stop"
    RESTART = "restart"
    VOLUMES = "volumes"


@dataclass(frozen=True)
class Facts:
    """What is known of one server. ``pending`` is the hub's: spawn, stop, check or empty."""

    is_ready: bool
    pending: str
    container_answers: bool = True
    active: Mapping[str, Any] | None = None
    cluster_answers: bool = True
    operator_away: str = ""
    actions_off: str = ""


@dataclass(frozen=True)
class Row:
    """One row of the table: the sentence, what to do next, the buttons that may be pressed."""

    title: str
    sentence: str
    following: str
    buttons: frozenset[Button]


TABLE: dict[State, Row] = {
    State.STOPPED: Row(
        "Stopped",
        "Your server is not running. Your files are kept.",
        "Start it to work, or manage its volumes now.",
        frozenset({Button.START, Button.VOLUMES}),
    ),
    State.STARTING: Row(
        "Starting",
        "Your server is starting.",
        "Open it to watch it start.",
        frozenset({Button.OPEN, Button.STOP}),
    ),
    State.RUNNING: Row(
        "Running",
        "Your server is running.",
        "Open it to work. If it misbehaves, restart it.",
        frozenset({Button.OPEN, Button.STOP, Button.RESTART}),
    ),
    State.NOT_ANSWERING: Row(
        "Not answering",
        "Your server is running but does not answer.",
        "Wait a moment. If it stays like this, restart it.",
        frozenset({Button.OPEN, Button.STOP, Button.RESTART}),
    ),
    State.STOPPING: Row("Stopping", "Your server is stopping.", "Wait until it has stopped.", frozenset()),
    State.RESTARTING: Row(
        "Restarting",
        "Your server is being restarted. Your volumes are kept; running notebooks and terminals end.",
        "Wait until it answers.",
        frozenset(),
    ),
    State.RESETTING: Row(
        "Resetting volumes",
        "Volumes of your server are being erased and created anew.",
        "Wait until that is done, then start the server.",
        frozenset(),
    ),
    State.STALLED: Row(
        "Held up",
        "A request cannot go on at the moment and is tried again by itself.",
        "If it stays like this, show the message below to an administrator.",
        frozenset(),
    ),
    State.WAITING: Row(
        "Waiting",
        "A request waits for its turn.",
        "It begins by itself; you can still call it off.",
        frozenset({Button.OPEN}),
    ),
    State.OPERATOR_AWAY: Row(
        "Service away",
        "The service that restarts servers and resets volumes does not answer.",
        "You can start, open and stop your server. Try again later, or tell an administrator.",
        frozenset({Button.START, Button.OPEN, Button.STOP}),
    ),
    State.CLUSTER_AWAY: Row(
        "Cluster away",
        "The cluster does not answer, so it is not known what is going on there.",
        "Try again in a moment.",
        frozenset({Button.OPEN}),
    ),
}

WHY_NOT: dict[Button, str] = {
    Button.RESTART: "Only a running server can be restarted.",
    Button.VOLUMES: "Stop the server first: a volume can only be reset while nothing uses it.",
    Button.START: "The server is already running.",
    Button.OPEN: "The server is not running.",
    Button.STOP: "The server is not running.",
}


@dataclass(frozen=True)
class Card:
    """What the page draws. ``refusals`` says of each button that may not be pressed why."""

    state: State
    sentence: str
    following: str
    title: str
    buttons: frozenset[Button]
    refusals: Mapping[Button, str] = field(default_factory=dict)


def server_state(facts: Facts) -> State:
    """The server's own state, requests apart."""
    if facts.pending == "spawn":
        return State.STARTING
    if facts.pending == "stop":
        return State.STOPPING
    if not facts.is_ready:
        return State.STOPPED
    return State.RUNNING if facts.container_answers else State.NOT_ANSWERING


def _request_state(active: Mapping[str, Any]) -> State:
    status = active.get("status") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    if conditions.get("Stalled") == "True":
        return State.STALLED
    phase = status.get("phase") or Phase.PENDING
    if phase == Phase.PENDING and status.get("reason"):
        return State.WAITING
    return State.RESTARTING if active["kind"] == SERVER_RESTART else State.RESETTING


def derive(facts: Facts) -> Card:
    base = server_state(facts)
    state = base
    if not facts.cluster_answers:
        state = State.CLUSTER_AWAY
    elif facts.active and (facts.active.get("status") or {}).get("phase") not in ENDS:
        state = _request_state(facts.active)
    elif facts.operator_away and base in (State.STOPPED, State.RUNNING, State.NOT_ANSWERING):
        state = State.OPERATOR_AWAY
    row = TABLE[state]
    # Nothing takes away that a stopped server cannot be opened, nor that a running one is not started again.
    possible = TABLE[base].buttons
    buttons = row.buttons & possible if state is not base else row.buttons
    if facts.actions_off:
        buttons -= {Button.RESTART, Button.VOLUMES}
    sentence = row.sentence
    if state is State.OPERATOR_AWAY:
        sentence = f"{TABLE[base].sentence} {facts.operator_away}"
    refusals = {button: _why_not(button, state, base, facts) for button in Button if button not in buttons}
    return Card(state, sentence, row.following, row.title, buttons, refusals)


def _why_not(button: Button, state: State, base: State, facts: Facts) -> str:
    if facts.actions_off and button in (Button.RESTART, Button.VOLUMES):
        return facts.actions_off
    if button not in TABLE[base].buttons:
        return WHY_NOT[button]
    if state is State.OPERATOR_AWAY:
        return facts.operator_away
    return TABLE[state].sentence
