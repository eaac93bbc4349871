"""Kubernetes Events, one a phase change, with a name that a repeated write meets again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from steward_api.names import API_VERSION, FIELD_MANAGER
from steward_api.phases import Phase

LONGEST_NOTE = 1024


def phase_event(request: dict[str, Any], namespace: str, now: datetime) -> dict[str, Any]:
    meta, status = request["metadata"], request["status"]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{meta['uid'][:8]}.{status['phase'].lower()}", "namespace": namespace},
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": "Warning" if status["phase"] == Phase.FAILED else "Normal",
        "reason": status["reason"],
        "action": status["phase"],
        "note": status["message"][:LONGEST_NOTE],
        "reportingController": FIELD_MANAGER,
        "reportingInstance": FIELD_MANAGER,
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": request["kind"],
            "name": meta["name"],
            "namespace": namespace,
            "uid": meta["uid"],
        },
    }
