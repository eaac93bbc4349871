"""Resets that are under way: as they stand in the status at a phase."""

from __future__ import annotations

from typing import Any

from steward_api import names
from steward_operator.core.model import Refusal, Request
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.steps import WriteStatus

from .builders import claim, reset, with_status, world, written

Json = dict[str, Any]
AT = "2026-11-21T12:00:00Z"
FINAL = (names.FINALIZER,)
BOUND = {"phase": "Bound", "capacity": {"storage": "2Gi"}}
OK: dict[str, Refusal | None] = {"try/workspace-ann": None, "try/home-ann": None, "try/cache-ann": None}


def is_stalled(step: object) -> bool:
    assert isinstance(step, WriteStatus), step
    return {c["type"]: c["status"] for c in step.status["conditions"]}["Stalled"] == "True"


def begun(*kinds: str, **spec: Any) -> Request:
    req = reset(*kinds, **spec)
    return written(req, plan_reset(world(req, *(claim(kind) for kind in req.spec["volumes"]))))


def at(phase: str, *kinds: str, outcome: str = "Deleting", **more: Any) -> Request:
    req = begun(*kinds, **more.pop("spec", {}))
    rows = [{**row, "outcome": outcome} for row in req.status["volumes"]]
    return with_status(req, more.pop("finalizers", FINAL), phase=phase, **{"volumes": rows, **more})
