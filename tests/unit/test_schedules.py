"""Random schedules over the pure core: whatever happens between two steps, the rules of a reset hold."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from steward_api import names
from steward_api.phases import Phase
from steward_operator.core.model import Claim, Pod, Request
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.steps import (
    AddFinalizer,
    CreateClaim,
    DeleteClaim,
    Done,
    RemoveFinalizer,
    TryCreateClaim,
    Wait,
    WriteStatus,
)

from tests.support.builders import NOW, claim, pod, reset, world

ORDER = [Phase.PENDING, Phase.PREPARING, Phase.DELETING, Phase.RECREATING, Phase.SUCCEEDED]
EVENTS = st.sampled_from(
    ["step", "step", "step", "crash", "start server", "stop server", "cancel", "later", "slow delete"]
)


class Cluster:
    """As much of a cluster as a reset can see; it refuses what a real one would."""

    def __init__(self) -> None:
        self.request = reset("workspace")
        self.claim: Claim | None = claim()
        self.pod: Pod | None = None
        self.now = NOW
        self.answers: dict[str, Any] = {}
        self.deletes: list[str] = []
        self.created = 0
        self.slow = False

    def plan(self) -> Any:
        objects: list[Any] = [claim("home"), *(o for o in (self.claim, self.pod) if o)]
        return plan_reset(world(self.request, *objects, now=self.now, answers=dict(self.answers)))

    def do(self, step: Any) -> None:
        match step:
            case WriteStatus():
                before, after = self.request.phase, Phase(step.status["phase"])
                if after in ORDER and before in ORDER:
                    assert ORDER.index(after) >= ORDER.index(before), "phases never go back"
                assert not self.request.is_finished, "a finished request writes nothing"
                if after in (Phase.FAILED, Phase.CANCELLED, Phase.SUCCEEDED):
                    assert self.claim is not None, "no end while a claim is missing"
                    assert not self.request.has_finalizer, "the finalizer goes first"
                self.request = Request({**self.request.manifest, "status": dict(step.status)})
            case AddFinalizer():
                self._finalizers([names.FINALIZER])
            case RemoveFinalizer():
                self._finalizers([])
            case TryCreateClaim():
                self.answers[step.key] = None
            case DeleteClaim():
                recorded = [row["uid"] for row in self.request.status["volumes"]]
                assert step.uid in recorded, "no delete of what is not on record"
                assert step.uid not in self.deletes, "at most one delete"
                assert self.pod is None, "no delete under a pod that was there at the look"
                self.deletes.append(step.uid)
                self.claim = claim(deleting=True) if self.slow else None
            case CreateClaim():
                assert self.claim is None
                self.created += 1
                self.claim = claim(uid=f"new-{self.created}", annotations={names.RESET_BY: self.request.uid},
                                   spec=step.template["spec"])  # fmt: skip

    def _finalizers(self, finalizers: list[str]) -> None:
        meta = {**self.request.meta, "finalizers": finalizers}
        self.request = Request({**self.request.manifest, "metadata": meta})

    def happen(self, event: str) -> None:
        locked = self.request.status.get("lockedClaims") or []
        match event:
            case "crash":
                self.answers = {}
            case "start server" if self.claim and "workspace-ann" not in locked:
                self.pod = pod(claims=("workspace-ann",))
            case "stop server":
                self.pod = None
            case "cancel":
                self.request = Request({**self.request.manifest, "spec": {**self.request.spec, "cancel": True}})
            case "later":
                self.now += timedelta(seconds=400)
            case "slow delete":
                self.slow = not self.slow
                if self.claim and self.claim.is_deleting:
                    self.claim = None
            case "step":
                step = self.plan()
                if not isinstance(step, Wait | Done):
                    self.do(step)


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(st.lists(EVENTS, max_size=40))
def test_no_schedule_breaks_a_rule_and_every_one_ends_with_a_claim(events: list[str]) -> None:
    cluster = Cluster()
    for event in events:
        cluster.happen(event)
    # Nothing more happens: the request must now come to an end by itself.
    cluster.pod, cluster.slow, cluster.answers = None, False, {}
    if cluster.claim and cluster.claim.is_deleting:
        cluster.claim = None
    for _ in range(30):
        step = cluster.plan()
        if isinstance(step, Done):
            break
        assert not isinstance(step, Wait), step
        cluster.do(step)
    assert cluster.request.is_finished
    assert cluster.claim is not None
    assert not cluster.claim.is_deleting
    assert (cluster.request.phase is Phase.SUCCEEDED) == bool(cluster.deletes)
