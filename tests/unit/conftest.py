"""Every status that a plan writes in these tests is one that a person can read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from steward_operator.core.steps import WriteStatus

#: A capital, a digit or a name first; no shouting.
SENTENCE = re.compile(r"^[A-Z0-9'].*[a-z].*", re.DOTALL)


@pytest.fixture(autouse=True, scope="session")
def readable_statuses() -> Iterator[None]:
    plain = WriteStatus.__init__

    def checked(self: WriteStatus, status: Any) -> None:
        rows = status.get("volumes") or ()
        for told in (status["message"], *(row["message"] for row in rows if "message" in row)):
            assert SENTENCE.match(told), f"no sentence: {told!r}"
            assert "XX" not in told, told
            assert not told.isupper(), told
        plain(self, status)

    WriteStatus.__init__ = checked  # type: ignore[method-assign]
    yield
    WriteStatus.__init__ = plain  # type: ignore[method-assign]
