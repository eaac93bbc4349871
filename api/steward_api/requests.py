"""Builds the manifests that the hub and the tests create."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .names import API_VERSION, PLURALS, SERVER_RESTART, VOLUME_RESET
from .phases import ENDS, ContentsFrom, RequesterKind, Strategy

#: What the hub asks for: finished requests stay readable for a month.
HUB_TTL_SECONDS = 30 * 86_400


def requester(kind: RequesterKind, name: str) -> dict[str, str]:
    return {"kind": str(kind), "name": name}


def volume_reset(
    *, user: str, server: str, expected: Mapping[str, str], requested_by: Mapping[str, str], reason: str = "",
    ttl: int | None = None, put_back: str = "",
) -> dict[str, Any]:  # fmt: skip
    """A reset of the volumes in ``expected`` (kind -> UID of the claim the requester saw).

    ``put_back`` is the name of the backup that the one volume is to hold afterwards; empty for an empty volume.
    """
    spec: dict[str, Any] = {
        "user": user,
        "server": server,
        "volumes": sorted(expected),
        "expected": [{"volume": kind, "uid": uid} for kind, uid in sorted(expected.items())],
        "requestedBy": dict(requested_by),
    }
    if put_back:
        spec["contents"] = {"from": str(ContentsFrom.BACKUP), "name": put_back}
    return _request(VOLUME_RESET, spec, reason, ttl)


def server_restart(
    *, user: str, server: str, strategy: Strategy, requested_by: Mapping[str, str], reason: str = "",
    ttl: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    spec = {"user": user, "server": server, "strategy": str(strategy), "requestedBy": dict(requested_by)}
    return _request(SERVER_RESTART, spec, reason, ttl)


def _request(kind: str, spec: dict[str, Any], reason: str, ttl: int | None) -> dict[str, Any]:
    if reason:
        spec["reason"] = reason
    if ttl is not None:
        spec["ttlSecondsAfterFinished"] = ttl
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"generateName": f"{kind.lower()}-"},
        "spec": spec,
    }


def is_finished(request: Mapping[str, Any]) -> bool:
    return (request.get("status") or {}).get("phase") in ENDS


def locked_claims(requests: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Claim name -> name of the request that locks it. ``requests`` are VolumeResets."""
    locks: dict[str, str] = {}
    for request in requests:
        if is_finished(request):
            continue
        for claim in (request.get("status") or {}).get("lockedClaims") or []:
            locks[claim] = request["metadata"]["name"]
    return locks


__all__ = [
    "HUB_TTL_SECONDS", "PLURALS", "is_finished", "locked_claims", "requester", "server_restart", "volume_reset",
]  # fmt: skip
