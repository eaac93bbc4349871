"""What the chaos tier has run, for docs/reliability.md; and which part of it is run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cluster import cache

T = TypeVar("T")
#: Everything, or the seeded three minutes of it that `make test` runs.
FULL = os.environ.get("CHAOS") == "full"
FILE = cache.REPOSITORY / "test-report" / "chaos.json"


def batches(items: list[T], size: int) -> Iterator[list[T]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


@dataclass
class Tally:
    """Figures by the name of what was tried."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, what: str, **figures: Any) -> None:
        self.rows[what] = figures
        print(f"chaos: {what}: {json.dumps(figures)}")

    def write(self) -> None:
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps({**known, **self.rows}, indent=2) + "\n")
