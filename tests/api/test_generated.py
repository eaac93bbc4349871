"""Requests made from the CRDs, sent to a real API server with a real operator behind it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from steward_api import names

from tests.support.cluster import wait_for
from tests.support.control_plane import Refused
from tests.support.control_plane_fixtures import Namespace
from tests.support.generated import specs
from tests.support.operator import Operator

KINDS = ("home", "workspace", "cache")


@pytest.mark.parametrize("kind", list(names.PLURALS))
def test_whatever_the_api_server_takes_comes_to_an_end_or_waits_for_its_time(
    running: Operator, ns: Namespace, kind: str
) -> None:
    user = ns.user()
    for volume in KINDS:
        ns.make_claim(user, volume)
    taken: list[str] = []
    refusals: list[int] = []

    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(specs(kind, user, ["home", "workspace"]))
    def send(spec: dict[str, Any]) -> None:
        # The policy on who asked has tests of its own.
        spec["requestedBy"] = {"kind": "KubernetesUser", "name": "test-admin"}
        body = {
            "apiVersion": names.API_VERSION,
            "kind": kind,
            "metadata": {"generateName": "any-"},
            "spec": spec,
        }
        try:
            made = ns.api.raw("POST", ns.requests(kind) + "?fieldValidation=Strict", body)
        except Refused as refused:
            refusals.append(refused.status)
            return
        taken.append(made["metadata"]["name"])

        def is_at_rest() -> bool:
            status = ns.request(kind, made["metadata"]["name"]).get("status", {})
            return bool(status.get("completionTime")) or status.get("reason") == "Scheduled"

        wait_for(f"it ends or waits: {spec}", is_at_rest, 60, every=0.05)

    send()
    assert running.is_running
    assert len(taken) >= 10
    assert set(refusals) <= {400, 422}, "a rule of the schema, and no failure of the API server"
    for volume in KINDS:
        claim = ns.claim(user, volume)
        assert claim is not None
        assert "deletionTimestamp" not in claim["metadata"]
