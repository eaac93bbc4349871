"""How many random schedules are played: the same ones every time, or more of them; and how many it were."""

from __future__ import annotations

import os
from collections import Counter

#: A multiple of what `make test` plays.
TIMES = float(os.environ.get("SCHEDULES", "1"))
_played: Counter[str] = Counter()


def examples(count: int) -> int:
    return max(10, int(count * TIMES))


def note_played(what: str) -> None:
    _played[what] += 1


def played() -> Counter[str]:
    """Schedules by what they were about, in this process."""
    return _played
