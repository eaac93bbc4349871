"""What the chaos tier has run, for docs/reliability.md; and which part of it is run."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any, TypeVar

from benchmarks.tables import machine, replace_section, section
from cluster import cache

T = TypeVar("T")
#: Everything, or the seeded sample of it that `make test` runs.
FULL = os.environ.get("CHAOS") == "full"
FILE = cache.REPOSITORY / "test-report" / "chaos.json"
DOCUMENT = cache.REPOSITORY / "docs" / "reliability.md"


def batches(items: list[T], size: int) -> Iterator[list[T]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


@dataclass
class Tally:
    """Figures by the name of what was tried."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, what: str, **figures: Any) -> None:
        """Written down at once: a run of hours that is cut off has done what it has done."""
        self.rows[what] = {**figures, "day": f"{date.today()}"}
        print(f"chaos: {what}: {json.dumps(figures)}")
        self._write()

    def _write(self) -> None:
        FILE.parent.mkdir(exist_ok=True)
        with FILE.with_suffix(".lock").open("w") as lock:
            # Several processes of one run write here.
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = json.loads(FILE.read_text()) if FILE.exists() else {}
            FILE.write_text(json.dumps({**known, **self.rows}, indent=2) + "\n")
            if FULL:
                replace_section(DOCUMENT, "chaos", table({**lines(section(DOCUMENT, "chaos")), **self.lines()}))

    def lines(self) -> dict[str, str]:
        return {what: line(what, figures) for what, figures in self.rows.items()}


def line(what: str, figures: dict[str, Any]) -> str:
    """``met`` is how many of the cases reached the moment that was planned; all of them ended within the rules."""
    more = ", ".join(f"{k}: {v}" for k, v in figures.items() if k not in ("cases", "met", "ends", "day"))
    return f"| {what} | {figures['cases']} | {figures['met']} | {more} | {figures['day']} |"


def lines(table: str) -> dict[str, str]:
    """The rows of a table by what they are about, so that those that a run does not renew stay."""
    rows = [text for text in table.splitlines() if text.startswith("| ")][1:]
    return {text.split(" | ")[0].removeprefix("| "): text for text in rows}


def table(rows: dict[str, str]) -> str:
    head = ["| what | cases | met | | day |", "|---|---|---|---|---|"]
    end = f"No rule was broken in any of them. The table as of {machine()}"
    return "\n".join([*head, *(rows[what] for what in sorted(rows)), "", end])
