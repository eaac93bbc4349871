"""What holds the operator's writes against the rules says so when one is broken."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from steward_api import names

from tests.support.operator import Write
from tests.support.rules import check_rules

Json = dict[str, Any]
REQUEST = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/hub/volumeresets/r"
CLAIMS = "/api/v1/namespaces/hub/persistentvolumeclaims"
USERS = {REQUEST: "ann"}
TEMPLATE: Json = {"metadata": {"name": "home-ann", "annotations": {names.USERNAME: "ann"}}, "spec": {}}
ROW: Json = {
    "volume": "home",
    "uid": "u1",
    "template": TEMPLATE,
    "backup": {"state": "Ready", "name": "backup-home-r"},
}


def history() -> list[Write]:
    """Of a reset with its backup, as it should be; the moments are the places in the list."""
    bodies: list[tuple[str, str, Json]] = [
        ("PATCH", f"{REQUEST}/status", {"status": {"phase": "Preparing", "volumes": [{**ROW, "backup": {"state": "Pending"}}]}}),
        ("PATCH", f"{CLAIMS}/backup-home-r", {"metadata": {"annotations": {names.BACKUP: "{}"}}}),
        ("PATCH", REQUEST, {"metadata": {"finalizers": [names.FINALIZER]}}),
        ("PATCH", f"{REQUEST}/status", {"status": {"phase": "Deleting", "volumes": [ROW]}}),
        ("DELETE", f"{CLAIMS}/home-ann", {"preconditions": {"uid": "u1", "resourceVersion": "7"}}),
        ("PATCH", f"{REQUEST}/status", {"status": {"phase": "Recreating"}}),
        ("POST", CLAIMS, TEMPLATE),
        ("PATCH", REQUEST, {"metadata": {"finalizers": []}}),
        ("PATCH", f"{REQUEST}/status", {"status": {"phase": "Succeeded"}}),
    ]  # fmt: skip
    for number, (_, path, body) in enumerate(bodies):
        if path.startswith(REQUEST):
            body.setdefault("metadata", {})["resourceVersion"] = str(number)
    return [
        Write(method, path, body, 200, began=float(number), at=number + 0.5)
        for number, (method, path, body) in enumerate(bodies)
    ]


def restarted() -> list[Write]:
    """A restart in place."""
    planned = {"status": {"phase": "Restarting", "podUID": "p1"}, "metadata": {"resourceVersion": "1"}}
    resize = {"metadata": {"uid": "p1", "resourceVersion": "7"}, "spec": {}}
    return [
        Write("PATCH", f"{REQUEST}/status", planned, 200, began=0.0, at=0.5),
        Write("PATCH", "/api/v1/namespaces/hub/pods/jupyter-ann/resize", resize, 200, began=1.0, at=1.5),
    ]


def renumbered(writes: list[Write]) -> list[Write]:
    """In another order: sent, and made from versions, as they stand."""
    found = []
    for number, write in zip(itertools.count(), writes):
        body = {**write.body}
        if write.path.startswith(REQUEST):
            body["metadata"] = {**body["metadata"], "resourceVersion": str(number)}
        found.append(Write(write.method, write.path, body, write.status, began=float(number), at=number + 0.5))
    return found


def without(number: int) -> Callable[[list[Write]], list[Write]]:
    return lambda writes: renumbered([*writes[:number], *writes[number + 1 :]])


def moved(number: int, to: int) -> Callable[[list[Write]], list[Write]]:
    def change(writes: list[Write]) -> list[Write]:
        rest = [*writes[:number], *writes[number + 1 :]]
        return renumbered([*rest[:to], writes[number], *rest[to:]])

    return change


def bare(name: str) -> Callable[[list[Write]], list[Write]]:
    def change(writes: list[Write]) -> list[Write]:
        writes[4].body["preconditions"].pop(name)
        return writes

    return change


def of_another_kind(writes: list[Write]) -> list[Write]:
    made = replace(writes[6], body={**TEMPLATE, "spec": {"storageClassName": "slow"}})
    return [*writes[:6], made, *writes[7:]]


def test_what_keeps_the_rules_passes_and_what_was_refused_does_not_count() -> None:
    check_rules(history(), USERS)
    check_rules(restarted(), USERS)
    refused = Write("DELETE", f"{CLAIMS}/cache-ann", {"preconditions": {"uid": "u9"}}, 409, began=0.0, at=0.1)
    check_rules([*history(), refused], USERS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (moved(4, 0), "was not on record"),
        (moved(3, 4), "the backup was Pending"),
        (without(1), "was not sealed"),
        (moved(1, 6), "was not sealed"),
        (bare("uid"), "whatever bears the name"),
        (bare("resourceVersion"), "whatever became of the claim"),
        (without(7), "an end with the finalizer on"),
        (of_another_kind, "was not on record as it was made"),
        (moved(6, 0), "was not on record as it was made"),
        (moved(5, 8), "a status after the end"),
        (moved(5, 3), "Recreating to Deleting"),
    ],
)
def test_what_breaks_a_rule_is_told(change: Callable[[list[Write]], list[Write]], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_rules(change(history()), USERS)


def test_what_is_another_users_is_told() -> None:
    bob = {REQUEST: "bob"}
    with pytest.raises(AssertionError, match="belongs to another user"):
        check_rules(history(), bob)
    made = [write for write in history() if write.method != "DELETE"]
    with pytest.raises(AssertionError, match="belongs to another user"):
        check_rules(made, bob)
    with pytest.raises(AssertionError, match="the server of another user"):
        check_rules(restarted(), bob)
    with pytest.raises(AssertionError, match="p1 was not on record"):
        check_rules(restarted()[1:], USERS)
