"""The small parts of the core: amounts, times, templates, what is found and what is in use."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from steward_api import names
from steward_api.phases import Reason
from steward_operator.core import claims
from steward_operator.core.clock import format_time, parse_time
from steward_operator.core.quantities import quantity

from tests.support.builders import NOW, TABLE, claim, pod, reset, world


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0.0), ("5", 5.0), (5, 5.0), (0.5, 0.5), ("1.5", 1.5), ("100m", 0.1), ("2k", 2e3), ("2M", 2e6), ("2G", 2e9),
        ("2T", 2e12), ("2P", 2e15), ("2E", 2e18), ("2Ki", 2.0**11), ("2Mi", 2.0**21), ("2Gi", 2.0**31),
        ("2Ti", 2.0**41), ("2Pi", 2.0**51), ("2Ei", 2.0**61), (" 1Gi ", 2.0**30), ("1e3", 1e3),
    ],
)  # fmt: skip
def test_amounts_are_read_as_kubernetes_writes_them(text: str | float, amount: float) -> None:
    assert quantity(text) == pytest.approx(amount)


def test_what_is_no_amount_is_refused() -> None:
    for text in ("", "Gi", "one", "1KiB"):
        with pytest.raises(ValueError, match=r".*"):
            quantity(text)


def test_times_are_whole_seconds_of_utc() -> None:
    moment = datetime(2026, 11, 21, 12, 0, 1, 900_000, tzinfo=UTC)
    assert format_time(moment) == "2026-11-21T12:00:01Z"
    assert parse_time("2026-11-21T12:00:01Z") == moment.replace(microsecond=0)
    assert parse_time(None) is None
    assert parse_time("") is None


def test_the_newest_of_two_claims_is_meant() -> None:
    old = claim(uid="old", name="a", created=NOW - timedelta(days=2))
    new = claim(uid="new", name="b", created=NOW - timedelta(days=1))
    for order in ((old, new), (new, old)):
        found = claims.find(world(reset(), *order), "workspace")
        assert found is not None
        assert found.uid == "new"


def test_a_shared_volume_is_found_from_every_server_and_a_servers_own_from_no_other() -> None:
    table = {**TABLE, "cache": replace(TABLE["cache"], name_template="cache-{username}")}
    shared, own = claim("cache"), claim("workspace", server="gpu")
    of_gpu, of_default = reset("cache", server="gpu"), reset("workspace")
    assert claims.find(world(of_gpu, shared, own, table=table), "cache") is shared
    assert claims.find(world(of_default, shared, own, table=table), "workspace") is None
    assert claims.find(world(of_gpu, shared, own, table=table), "workspace") is own
    assert claims.find(world(reset("cache"), claim("cache", user="bob"), table=table), "cache") is None


def test_what_uses_a_claim_is_named() -> None:
    req = reset()
    mine = ("workspace-ann",)
    assert claims.refuse_user_of(world(req), "workspace-ann") is None
    assert claims.refuse_user_of(world(req, pod(claims=("home-ann",))), "workspace-ann") is None
    assert claims.refuse_user_of(world(req, pod(claims=mine, phase="Failed")), "workspace-ann") is None
    assert claims.refuse_user_of(world(req, pod(claims=mine)), "workspace-ann", ignore_own=True) is None
    other = pod(server="gpu", claims=mine)
    for found, reason, said in (
        (pod(claims=mine), Reason.SERVER_RUNNING, "The server is running. Stop it first, then reset the volume."),
        (pod(claims=mine, deleting=True), Reason.SERVER_RUNNING, "The server is still stopping."),
        (other, Reason.IN_USE_BY_OTHER_SERVER, "Your server 'gpu' has this volume open."),
        (pod(user="bob", claims=mine), Reason.CLAIM_IN_USE, "The pod jupyter-bob has this volume open"),
        (pod(claims=mine, is_server=False), Reason.CLAIM_IN_USE, "it is not one of this user's servers"),
    ):
        refused = claims.refuse_user_of(world(req, found), "workspace-ann")
        assert refused is not None
        assert refused[0] is reason
        assert said in refused[1]
    assert claims.refuse_user_of(world(req, other), "workspace-ann", ignore_own=True) is not None
    from_gpu = reset(server="gpu")
    refused = claims.refuse_user_of(world(from_gpu, pod(claims=mine)), "workspace-ann")
    assert refused is not None
    assert "Your server 'default'" in refused[1]


def test_a_stopped_server_is_one_without_a_pod_that_can_run() -> None:
    for objects, refused in (
        ((), False),
        ((pod(),), True),
        ((pod(deleting=True),), True),
        ((pod(phase="Succeeded"),), False),
        ((pod(server="gpu"),), False),
        ((pod(user="bob"),), False),
        ((pod(is_server=False),), False),
    ):
        assert (claims.refuse_server_pod(world(reset(), *objects)) is not None) is refused


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, ""),
        ({"spec": {"volumeName": "pv"}, "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}, ""),
        ({"spec": {"selector": {"matchLabels": {"a": "b"}}}}, "it selects a volume that was made by hand"),
        ({"spec": {"volumeName": "pv"}}, "it is tied to one volume that was made by hand"),
        ({"spec": {"storageClassName": ""}}, "it has no storage class that could make a new volume"),
    ],
)
def test_a_claim_that_would_not_bind_again_is_told_from_one_that_would(more: dict[str, object], said: str) -> None:
    assert claims.refuse_static(claim(**more)) == said


def test_a_template_is_the_claim_without_what_ties_it_to_its_volume() -> None:
    annotations = {
        "team": "blue", "pv.kubernetes.io/bind-completed": "yes", "volume.kubernetes.io/storage-provisioner": "x",
        "volume.beta.kubernetes.io/storage-provisioner": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}",
        names.KEPT_BY: "r", names.RESTORED_FROM: "b", names.RESET_BY: "before",
    }  # fmt: skip
    spec = {"volumeName": "pv", "volumeMode": "Filesystem", "volumeAttributesClassName": "fast", "dataSource": {"a": 1}}
    seen = claim(annotations=annotations, spec=spec, status={"capacity": {"storage": "3Gi"}})
    made = claims.template(seen, reset(), TABLE["workspace"], {})
    assert made["apiVersion"] == "v1"
    assert made["kind"] == "PersistentVolumeClaim"
    assert made["metadata"]["name"] == "workspace-ann"
    assert made["metadata"]["annotations"] == {names.USERNAME: "ann", "team": "blue", names.RESET_BY: "uid-r"}
    assert made["metadata"]["labels"] == {**seen.labels, names.VOLUME: "workspace"}
    assert made["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "standard",
        "resources": {"requests": {"storage": "3Gi"}},
        "volumeMode": "Filesystem",
        "volumeAttributesClassName": "fast",
    }
    smaller = claims.template(claim(status={"capacity": {"storage": "1Gi"}}), reset(), TABLE["workspace"], {})
    assert smaller["spec"]["resources"]["requests"]["storage"] == "2Gi"
    source = {"dataSource": {"kind": "VolumeSnapshot", "name": "s"}}
    assert claims.template(seen, reset(), TABLE["workspace"], source)["spec"]["dataSource"] == source["dataSource"]


def test_a_claim_that_somebody_else_made_keeps_the_promise_or_not() -> None:
    wanted = claims.template(claim(), reset(), TABLE["workspace"], {})
    for more, kept in (
        ({}, True),
        ({"spec": {"resources": {"requests": {"storage": "3Gi"}}}}, True),
        ({"spec": {"resources": {"requests": {"storage": "1Gi"}}}}, False),
        ({"spec": {"storageClassName": "slow"}}, False),
        ({"spec": {"accessModes": ["ReadWriteMany"]}}, False),
        ({"spec": {"resources": {}}}, False),
    ):
        assert claims.same_promise(claim(**more), wanted) is kept
