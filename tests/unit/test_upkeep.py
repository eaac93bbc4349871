"""Finished requests go when their time is over, unless a tool would apply them again; and status patches say it all."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from steward_operator.core.model import Request
from steward_operator.engine.driver import difference
from steward_operator.engine.store import Requests
from steward_operator.engine.upkeep import delete_expired

from tests.support.builders import NOW, reset, stamp, with_status

DAY = 86_400


class Deletions:
    """Records what would be deleted, with the preconditions it was asked with."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, str]] = []

    async def delete_request(self, kind: str, name: str, uid: str, resource_version: str) -> None:
        self.made.append((name, uid, resource_version))


def finished(name: str, ago: float, **spec: Any) -> Request:
    ended = stamp(NOW - timedelta(seconds=ago))
    return with_status(reset(name=name, **spec), phase="Succeeded", completionTime=ended)


def test_only_what_is_over_and_whose_time_is_over_is_deleted() -> None:
    replayed = finished("replayed", 2 * DAY, ttlSecondsAfterFinished=DAY)
    replayed = Request(
        {**replayed.manifest, "metadata": {**replayed.meta, "labels": {"argocd.argoproj.io/instance": "hub"}}}
    )
    known = Requests()
    for request in (
        finished("old", 2 * DAY, ttlSecondsAfterFinished=DAY),
        finished("young", 100, ttlSecondsAfterFinished=DAY),
        finished("kept", 400 * DAY),
        reset(name="running", ttlSecondsAfterFinished=DAY),
        replayed,
    ):
        known.put(dict(request.manifest))
    deletions = Deletions()
    asyncio.run(delete_expired(deletions, known, NOW))  # type: ignore[arg-type]
    assert deletions.made == [("old", "uid-old", "1")]


VALUES = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, as the API server does it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@settings(max_examples=300, deadline=None, derandomize=True)
@given(OBJECTS, OBJECTS)
def test_a_status_patch_turns_one_status_into_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert merged(before, difference(before, after)) == after
