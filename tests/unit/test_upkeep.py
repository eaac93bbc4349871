"""Finished requests go when their time is over, unless a tool would apply them again; and status patches say it all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steward_api import names
from steward_operator.core.model import Claim, Request
from steward_operator.core.retention import old_backups, old_requests
from steward_operator.core.settings import Copying, Settings
from steward_operator.engine.driver import difference
from steward_operator.engine.upkeep import delete_old_backups, delete_old_requests
from steward_operator.kube.api import KubeError

from tests.support.builders import NOW, claim, reset, stamp, with_status

DAY = 86_400


class Deletions:
    """Records what would be deleted, with the preconditions it was asked with."""

    def __init__(self, known: list[Request]) -> None:
        self.known = known
        self.made: list[tuple[str, str, str]] = []

    async def pages_of_requests(self, kind: str) -> AsyncIterator[list[Any]]:
        for request in self.known:
            if request.kind == kind:
                yield [request.manifest]

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
    known = [
        finished("old", 2 * DAY, ttlSecondsAfterFinished=DAY),
        finished("young", 100, ttlSecondsAfterFinished=DAY),
        finished("kept", 400 * DAY),
        reset(name="running", ttlSecondsAfterFinished=DAY),
        replayed,
    ]
    deletions = Deletions(known)
    asyncio.run(delete_old_requests(deletions, Settings(), NOW))  # type: ignore[arg-type]
    assert deletions.made == [("old", "uid-old", "1")]


def test_beyond_their_number_the_oldest_finished_requests_go() -> None:
    requests = [finished(f"r{age}", age) for age in (10, 40, 20, 30)] + [reset(name="running")]
    assert [request.name for request in old_requests(requests, 2, NOW)] == ["r40", "r30"]


def backup(
    days: float, user: str = "ann", kind: str = "workspace", *, ready: bool = True, files: int = 1, **more: str
) -> Claim:
    found = claim(kind, user, uid=f"{user}-{days}", name=f"backup-{user}-{days}", created=NOW - timedelta(days=days))
    labels = {names.COMPONENT: names.BACKUP_COMPONENT, names.VOLUME: kind, names.REQUEST: "gone"}
    content = {names.BACKUP: json.dumps({"files": files, "bytes": 2, "checksum": "x"})} if ready else {}
    meta = {**found.meta, "labels": labels, "annotations": {names.USERNAME: user, **content, **more}}
    return Claim({**found.manifest, "metadata": meta})


def names_of(claims: list[Claim]) -> list[str]:
    return sorted(claim.name for claim in claims)


def test_backups_go_by_number_and_by_age_and_never_a_volumes_last_two() -> None:
    ann = [backup(days) for days in (1, 2, 3, 4)]
    bob = [backup(days, "bob") for days in (400, 500, 600)]
    old = old_backups([*ann, *bob, claim()], [], Copying(keep_last=3, keep_days=30), NOW)
    assert names_of(old) == ["backup-ann-4", "backup-bob-600"]
    assert old_backups(bob[:2], [], Copying(keep_last=0, keep_days=0), NOW) == []


def test_backups_of_an_empty_volume_take_the_place_of_none_that_has_a_file() -> None:
    empty = [backup(days, files=0) for days in (1, 2, 3, 4)]
    old = old_backups([*empty, backup(5), backup(6)], [], Copying(keep_last=3, keep_days=30), NOW)
    assert names_of(old) == ["backup-ann-4"]


def test_a_backup_that_could_not_be_put_back_is_not_pushed_out_by_further_attempts() -> None:
    wanted = backup(9, **{names.PINNED_BY: "uid-of-one-that-has-ended"})
    attempts = [backup(days) for days in (1, 2, 3)]
    assert old_backups([*attempts, wanted], [], Copying(keep_last=3, keep_days=9), NOW) == []
    assert names_of(old_backups([*attempts, wanted], [], Copying(keep_last=3, keep_days=8), NOW)) == ["backup-ann-9"]


def test_a_backup_that_a_request_wants_stays_and_an_unfinished_one_of_a_request_at_work_too() -> None:
    copying = Copying(keep_last=2, keep_days=1)
    undo = reset(contents={"from": "Backup", "name": "backup-ann-9"}, name="undo")
    pinned = backup(8, **{names.PINNED_BY: "uid-undo"})
    known = [backup(1), backup(2), pinned, backup(9), backup(7)]
    assert names_of(old_backups(known, [undo], copying, NOW)) == ["backup-ann-7"]
    half = backup(3, ready=False)
    assert names_of(old_backups([half], [], copying, NOW)) == ["backup-ann-3"]
    assert old_backups([backup(0.001, ready=False)], [], copying, NOW) == []
    at_work = Claim({**half.manifest, "metadata": {**half.meta, "labels": {**half.labels, names.REQUEST: "uid-undo"}}})
    assert old_backups([at_work], [undo], copying, NOW) == []


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


class Stubborn:
    """Refuses to delete one backup; counts the others."""

    def __init__(self, claims: list[Claim], status: int) -> None:
        self.claims, self.status = claims, status
        self.deleted: list[str] = []

    async def pages_of_claims(self, label_selector: str) -> AsyncIterator[list[Any]]:
        assert label_selector == f"{names.COMPONENT}={names.BACKUP_COMPONENT}"
        yield [claim.manifest for claim in self.claims]

    async def list_requests(self, kind: str, *, unfinished: bool) -> list[Any]:
        assert unfinished
        return []

    async def delete_claim(self, name: str, uid: str, resource_version: str) -> None:
        if name.endswith("-4"):
            raise KubeError(self.status, "legal hold")
        self.deleted.append(name)


def test_one_backup_that_may_not_be_deleted_does_not_keep_the_others() -> None:
    known = [backup(days) for days in (1, 2, 4, 5)]
    stubborn = Stubborn(known, 403)
    copying = Copying(keep_last=2)
    asyncio.run(delete_old_backups(stubborn, Settings(copying=copying), NOW))  # type: ignore[arg-type]
    assert stubborn.deleted == ["backup-ann-5"]
    with pytest.raises(KubeError):
        asyncio.run(delete_old_backups(Stubborn(known, 503), Settings(copying=copying), NOW))  # type: ignore[arg-type]
