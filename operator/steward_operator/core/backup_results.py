"""What a provider of backups may answer beside a step to do and a wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steward_api.phases import Reason

#: Bound of ``status.volumes[].message`` in the CRD.
LONGEST_TOLD = 1024


@dataclass(frozen=True)
class Completed:
    """The backup may be relied on, or the content is back. ``report`` is what is known of it."""

    report: Mapping[str, Any]


@dataclass(frozen=True)
class NotAllowed:
    """The cluster would not have it. It may have it later."""

    message: str


@dataclass(frozen=True)
class NotCompleted:
    """It cannot be done."""

    reason: Reason
    message: str
