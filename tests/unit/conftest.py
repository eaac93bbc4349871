"""Whatever a plan answers in these tests is one that can be read and that comes to something."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from steward_api.phases import Reason
from steward_operator.core import backup_results, server
from steward_operator.core.steps import Wait, WriteStatus

from tests.support.amount import played
from tests.support.builders import NOW

#: A capital, a digit or a name first; no shouting.
SENTENCE = re.compile(r"^[A-Z0-9'].*[a-z].*", re.DOTALL)


def is_readable(told: str) -> None:
    assert SENTENCE.match(told), f"no sentence: {told!r}"
    assert "XX" not in told, told
    assert not re.search(r"[A-Z]{3,} [A-Z]{2,} [A-Z]", told), f"shouted: {told}"


def check_status(status: Any) -> None:
    rows = status.get("volumes") or ()
    for told in (status["message"], *(row["message"] for row in rows if "message" in row)):
        is_readable(told)
    assert status["reason"] in {str(reason) for reason in Reason}
    for row in rows:
        assert row.get("reason") is None or row["reason"] in {str(reason) for reason in Reason}


def check_wait(why: str, until: datetime | None = None) -> None:
    assert re.match(r"^[A-Za-z].*[a-z]", why), why
    assert "XX" not in why
    assert until is not None, "nothing is waited for without another look"
    assert until >= NOW, "a look in the past is a loop"


def check_failure(reason: Reason, message: str = "", *_: Any, **__: Any) -> None:
    assert isinstance(reason, Reason), reason
    if message:
        is_readable(message)


CHECKS: list[tuple[type, Callable[..., None]]] = [
    (WriteStatus, check_status),
    (Wait, check_wait),
    (backup_results.NotCompleted, check_failure),
    (server.NotStopped, check_failure),
    (server.NotStarted, check_failure),
]


@pytest.fixture(autouse=True, scope="session")
def sound_answers() -> Iterator[None]:
    plain = {kind: kind.__init__ for kind, _ in CHECKS}  # type: ignore[misc]

    def checked(kind: type, check: Callable[..., None]) -> Callable[..., None]:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            check(*args, **kwargs)
            plain[kind](self, *args, **kwargs)

        return init

    for kind, check in CHECKS:
        kind.__init__ = checked(kind, check)  # type: ignore[misc]
    yield
    for kind, init in plain.items():
        kind.__init__ = init  # type: ignore[misc]


@pytest.fixture(autouse=True, scope="session")
def told_of_schedules(request: pytest.FixtureRequest) -> Iterator[None]:
    """What was played goes into the report of `make test-chaos-full`, when nothing was broken."""
    yield
    if os.environ.get("CHAOS") == "full" and not request.session.testsfailed:
        from tests.chaos.report import Tally

        tally = Tally()
        for what, count in played().items():
            tally.add(f"schedules on paper, two leaders: {what}", cases=count, met=count)
