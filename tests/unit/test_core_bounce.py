"""The sizes that a restart in place goes to, to the last millicore and byte."""

from __future__ import annotations

from typing import Any

import pytest
from steward_operator.core import bounce
from steward_operator.core.model import Pod

from tests.support.builders import pod

Json = dict[str, Any]
MI = 2**20


@pytest.mark.parametrize(
    ("requests", "limits", "qos", "steps"),
    [
        ({"cpu": "50m"}, None, "Burstable", [{"requests": {"cpu": "49m"}}, {"requests": {"cpu": "51m"}}]),
        ({"cpu": "3m"}, None, "Burstable", [{"requests": {"cpu": "4m"}}]),
        ({"cpu": "4m"}, None, "Burstable", [{"requests": {"cpu": "3m"}}, {"requests": {"cpu": "5m"}}]),
        ({"cpu": "50m"}, {"cpu": "2"}, "Burstable",
         [{"requests": {"cpu": "50m"}, "limits": {"cpu": "1999m"}}, {"requests": {"cpu": "50m"}, "limits": {"cpu": "2001m"}}]),
        ({"cpu": "1m"}, {"cpu": "11m"}, "Burstable", [{"requests": {"cpu": "1m"}, "limits": {"cpu": "12m"}}]),
        ({"cpu": "1m"}, {"cpu": "12m"}, "Burstable",
         [{"requests": {"cpu": "1m"}, "limits": {"cpu": "11m"}}, {"requests": {"cpu": "1m"}, "limits": {"cpu": "13m"}}]),
        ({"cpu": "1"}, {"cpu": "1"}, "Burstable", [{"requests": {"cpu": "1"}, "limits": {"cpu": "1001m"}}]),
        ({"cpu": "1", "memory": "1Gi"}, {"cpu": "1", "memory": "1Gi"}, "Guaranteed",
         [{part: {"cpu": "1", "memory": str(1024 * MI + sign * MI)} for part in ("requests", "limits")} for sign in (-1, 1)]),
        ({"cpu": "500m"}, {"cpu": "500m"}, "Guaranteed",
         [{part: {"cpu": size} for part in ("requests", "limits")} for size in ("499m", "501m")]),
        ({}, {"cpu": "1", "memory": "1Gi"}, "Guaranteed",
         [{part: {"cpu": "1", "memory": str(1024 * MI + sign * MI)} for part in ("requests", "limits")} for sign in (-1, 1)]),
        ({"memory": "1Gi"}, None, "Burstable", []),
        ({}, None, "BestEffort", []),
    ],
)  # fmt: skip
def test_the_steps_of_every_kind_of_server(requests: Json, limits: Json | None, qos: str, steps: list[Json]) -> None:
    found = bounce.candidates(pod(requests=requests, limits=limits, qos=qos))
    assert [{part: values for part, values in step.items() if values} for step in found] == steps


def test_what_is_no_size_is_not_touched() -> None:
    server = pod(requests={"cpu": "50m", "ephemeral-storage": "1Gi"}, limits={"nvidia.com/gpu": "1"})
    assert bounce.candidates(server) == [{"requests": {"cpu": "49m"}}, {"requests": {"cpu": "51m"}}]


@pytest.mark.parametrize(
    ("present", "back"),
    [
        ({"cpu": "49m", "memory": "256Mi"}, True),
        ({"cpu": "48m", "memory": "256Mi"}, True),
        ({"cpu": "47m", "memory": "256Mi"}, False),
        ({"cpu": "52m", "memory": "256Mi"}, True),
        ({"cpu": "53m", "memory": "256Mi"}, False),
        ({"cpu": "50m", "memory": "254Mi"}, True),
        ({"cpu": "50m", "memory": "253Mi"}, False),
        ({"cpu": "50m", "memory": str(256 * MI + 2 * MI)}, True),
        ({"cpu": "50m", "memory": str(256 * MI + 2 * MI + 1)}, False),
    ],
)
def test_what_lies_a_step_away_goes_back_and_anything_else_is_an_autoscalers(present: Json, back: bool) -> None:
    original = {"requests": {"cpu": "50m", "memory": "256Mi"}}
    found = bounce.candidates(pod(present={"requests": present}))
    assert (found[0] == original) is back
    if not back:
        cpu = int(present["cpu"].removesuffix("m"))
        assert found[0]["requests"] == {"cpu": f"{cpu - 1}m", "memory": present["memory"]}


@pytest.mark.parametrize(
    ("requests", "limits", "qos", "present", "second"),
    [
        ({"cpu": "50m"}, {}, "Burstable", {"requests": {"cpu": "49m"}}, [{"requests": {"cpu": "48m"}}]),
        ({"cpu": "50m"}, {}, "Burstable", {"requests": {"cpu": "51m"}}, [{"requests": {"cpu": "52m"}}]),
        ({"cpu": "50m"}, {}, "Burstable", {"requests": {"cpu": "48m"}}, [{"requests": {"cpu": "49m"}}]),
        (
            {}, {"cpu": "1", "memory": "1Gi"}, "Guaranteed",
            {part: {"cpu": "1", "memory": str(1024 * MI - MI)} for part in ("limits", "requests")},
            [{part: {"cpu": "1", "memory": str(1024 * MI - 2 * MI)} for part in ("limits", "requests")}],
        ),
    ],
)  # fmt: skip
def test_where_the_way_back_is_full_there_is_one_more_step_and_no_further(
    requests: Json, limits: Json, qos: str, present: Json, second: list[Json]
) -> None:
    original = {part: values for part, values in (("requests", requests), ("limits", limits)) if values}
    stepped = pod(requests=requests, limits=limits, qos=qos, present=present)
    assert bounce.candidates(stepped) == [original, *second]


def test_a_size_that_something_took_away_is_not_a_step_away() -> None:
    found = bounce.candidates(pod(present={"requests": {"cpu": "49m"}}))
    assert found == [{"requests": {"cpu": "48m"}}, {"requests": {"cpu": "50m"}}]


@pytest.mark.parametrize(
    ("resources", "held"),
    [
        ({"limits": {"nvidia.com/gpu": "1"}}, True),
        ({"requests": {"example.com/device": "1"}}, True),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1"}}, False),
        ({"limits": {"kubernetes.io/batch-cpu": "1"}}, False),
        ({}, False),
    ],
)
def test_a_device_is_told_by_its_name(resources: Json, held: bool) -> None:
    seen = pod(present=resources or None)
    assert bounce.holds_extended_resources(seen) is held
    side = pod()
    side.manifest["spec"]["containers"].append({"name": "side", "resources": resources})  # type: ignore[index]
    assert bounce.holds_extended_resources(side) is held


@pytest.mark.parametrize(
    ("spec", "planned", "applied"),
    [
        ({"requests": {"cpu": "0.05"}}, {"requests": {"cpu": "50m"}}, True),
        ({"requests": {"cpu": "50m", "memory": "1Gi"}}, {"requests": {"cpu": "50m"}}, True),
        ({"requests": {"cpu": "51m"}}, {"requests": {"cpu": "50m"}}, False),
        ({"limits": {"cpu": "50m"}}, {"requests": {"cpu": "50m"}}, False),
        ({}, {"requests": {"cpu": "50m"}}, False),
    ],
)
def test_what_is_applied(spec: Json, planned: Json, applied: bool) -> None:
    container = pod(present=spec or {"requests": {}}).notebook
    assert container is not None
    assert bounce.is_applied(container, planned) is applied


def reported(seen: Pod, resources: Json | None, *conditions: Json) -> Pod:
    seen.manifest["status"]["conditions"] = list(conditions)  # type: ignore[index]
    if resources is not None:
        seen.manifest["status"]["containerStatuses"][0]["resources"] = resources  # type: ignore[index]
    return seen


def test_what_is_in_flight() -> None:
    size = {"requests": {"cpu": "50m", "memory": "256Mi"}}
    assert not bounce.is_in_flight(reported(pod(), size))
    assert not bounce.is_in_flight(reported(pod(), None))
    assert bounce.is_in_flight(reported(pod(), {"requests": {"cpu": "49m", "memory": "256Mi"}}))
    for kind in ("PodResizePending", "PodResizeInProgress"):
        assert bounce.is_in_flight(reported(pod(), size, {"type": kind, "status": "True"}))
        assert not bounce.is_in_flight(reported(pod(), size, {"type": kind, "status": "False"}))
    assert bounce.pending_reason(pod()) == ""
    pending = reported(pod(), size, {"type": "PodResizePending", "status": "True", "reason": "Deferred"})
    assert bounce.pending_reason(pending) == "Deferred"


@pytest.mark.parametrize(
    ("of_pod", "why"),
    [
        ({}, ""),
        ({"policy": "Always"}, ""),
        ({"policy": "Never"}, "its restart policy is Never"),
        ({"resize": False}, "it was started without the resize policy that a restart in place needs"),
        ({"requests": {}, "qos": "BestEffort"}, "it has neither a CPU nor a memory request"),
    ],
)
def test_what_can_be_restarted_in_place(of_pod: Json, why: str) -> None:
    assert bounce.refuse_in_place(pod(**of_pod)) == why


def test_what_was_not_made_by_this_spawner_is_left_alone() -> None:
    bare = pod()
    bare.manifest["metadata"]["annotations"].pop("hubsteward.io/resources")  # type: ignore[index]
    assert bounce.refuse_in_place(bare) == "it does not record the resources it was started with"
    assert bounce.candidates(bare) == []
    half = pod()
    half.manifest["spec"]["containers"][0]["resizePolicy"][1]["restartPolicy"] = "NotRequired"  # type: ignore[index]
    assert "without the resize policy" in bounce.refuse_in_place(half)
    other = pod()
    other.manifest["spec"]["containers"][0]["name"] = "other"  # type: ignore[index]
    assert bounce.refuse_in_place(other) == "it has no notebook container"
    assert bounce.candidates(other) == []
    assert not bounce.is_in_flight(other)
