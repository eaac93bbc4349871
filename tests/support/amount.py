"""How many random schedules are played: the same ones every time, or more of them."""

from __future__ import annotations

import os

#: A multiple of what `make test` plays.
TIMES = float(os.environ.get("SCHEDULES", "1"))


def examples(count: int) -> int:
    return max(10, int(count * TIMES))
