"""Whatever the schema lets through: the plan answers, begins with nothing that cannot be taken back, and ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from steward_api import names
from steward_operator.core.model import Request
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.plan_restart import plan_restart
from steward_operator.core.steps import Done, Wait, WriteStatus

from tests.support.amount import examples
from tests.support.builders import claim, pod, request, world
from tests.support.generated import specs
from tests.support.paper import Leader, PaperCluster

PLANS = {names.VOLUME_RESET: plan_reset, names.SERVER_RESTART: plan_restart}
FEW = settings(max_examples=examples(150), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def given_request(kind: str, spec: dict[str, Any]) -> Request:
    plain = request(kind)
    return Request({**plain.manifest, "spec": spec})


@pytest.mark.parametrize("kind", list(PLANS))
def test_any_request_is_answered_and_begins_with_its_status(kind: str) -> None:
    @FEW
    @given(specs(kind, "ann", ["home", "workspace"]), st.booleans())
    def check(spec: dict[str, Any], runs: bool) -> None:
        objects = [claim("home"), claim("workspace"), *([pod(claims=("home-ann",))] if runs else [])]
        step = PLANS[kind](world(given_request(kind, spec), *objects))
        assert isinstance(step, WriteStatus | Wait | Done), step
        if isinstance(step, WriteStatus):
            assert step.status["message"]

    check()


@FEW
@given(specs(names.VOLUME_RESET, "ann", ["home", "workspace"]), st.booleans())
def test_any_reset_comes_to_an_end_within_the_rules(spec: dict[str, Any], runs: bool) -> None:
    assume("notBefore" not in spec and spec.get("startingDeadlineSeconds", 0) < 900)
    cluster = PaperCluster("home", "workspace", running=runs)
    assert cluster.request is not None
    cluster.request = Request({**cluster.request.manifest, "spec": spec})
    cluster.settle(Leader(cluster))
