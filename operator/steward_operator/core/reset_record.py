"""What a VolumeReset has on record about its volumes (``status.volumes``), and how it reads against the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from . import claims
from .clock import parse_time
from .model import Claim, World

Record = dict[str, Any]
#: How often a claim that does not go away, or cannot be made, is looked at again without an event.
LOOK_AGAIN = timedelta(seconds=5)


def records_of(world: World) -> list[Record]:
    found = [dict(record) for record in world.request.status.get("volumes") or ()]
    for record in found:
        if "backup" in record:
            record["backup"] = dict(record["backup"])
    return found


def titles(world: World, records: list[Record]) -> str:
    return ", ".join(world.table[r["volume"]].title if r["volume"] in world.table else r["volume"] for r in records)


def intact(world: World, record: Mapping[str, Any]) -> Claim | None:
    """The claim that is to go, if no delete has reached it yet."""
    claim = claims.by_name(world, record["claim"])
    return claim if claim and claim.uid == record["uid"] and not claim.is_deleting else None


def is_slow(world: World) -> bool:
    started = parse_time(world.request.status.get("startTime"))
    return started is not None and world.now - started > timedelta(seconds=world.settings.stalled_after)


def vanishing(claim: Claim) -> str:
    return f"The claim {claim.name} is being deleted and is not gone yet; the storage system or a pod still holds it."
