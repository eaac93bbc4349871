"""The resize that makes the kubelet restart a container in place (KEP-1287), and when it must not be used.

With ``resizePolicy: RestartContainer`` a change of CPU or memory stops the container gracefully and starts it again
in the same pod. One patch a restart: a step away from the original values, and back to them at the next restart.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from .model import Container, Pod
from .quantities import quantity

Resources = dict[str, Any]

#: The kernel's minimum CPU quota is 10 ms of a second, its minimum weight that of 2m: below, a step changes nothing.
SMALLEST_CPU_LIMIT = 0.011
SMALLEST_CPU_REQUEST = 0.003
CPU_STEP = 0.001
MEMORY_STEP = 2**20


def refuse_in_place(pod: Pod) -> str:
    """Why the pod cannot be restarted in place; empty when it can."""
    container = pod.notebook
    if container is None:
        return "it has no notebook container"
    if pod.restart_policy == "Never":
        return "its restart policy is Never"
    policies = {p["resourceName"]: p["restartPolicy"] for p in container.spec.get("resizePolicy") or ()}
    if policies.get("cpu") != "RestartContainer" or policies.get("memory") != "RestartContainer":
        return "it was started without the resize policy that a restart in place needs"
    if pod.original_resources is None:
        return "it does not record the resources it was started with"
    if not candidates(pod):
        return "it has neither a CPU nor a memory request"
    return ""


def holds_extended_resources(pod: Pod) -> bool:
    """Whether the pod holds a device, for example a GPU, that somebody else may get once the pod is gone."""
    for container in pod.spec.get("containers") or ():
        resources = container.get("resources") or {}
        for listed in (resources.get("limits") or {}, resources.get("requests") or {}):
            if any("/" in name and not name.startswith("kubernetes.io/") for name in listed):
                return True
    return False


def candidates(pod: Pod) -> list[Resources]:
    """What the notebook container may be resized to, best first: away from the original, or back to it.

    A quota may be used up by the time of the way back. One more step away is the second choice then, and the last one:
    what lies further from the original is somebody else's size.
    """
    container, original = pod.notebook, pod.original_resources
    if container is None or original is None:
        return []
    present = _sized(container.resources)
    # The API server adds defaults to what the spawner asked for; only what was asked for is compared and changed.
    base = _sized(original)
    guaranteed = _is_guaranteed(pod)
    if is_applied(container, base):
        return _steps(_filled(base), guaranteed=guaranteed)
    kept = {part: {k: v for k, v in present.get(part, {}).items() if k in base.get(part, {})} for part in base}
    further = _steps(_filled(kept), guaranteed=guaranteed)
    if _is_near(present, base):
        return [base, *(step for step in further if _is_near(step, base) and _differs(step, _filled(base)))]
    # Something else has resized the server meanwhile (an autoscaler): its values are the ones to step from.
    return further


def _is_near(present: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether only restarts of ours lie between the two. The same bound stands in the chart's policy."""
    before, after = _amounts(present), _amounts(base)
    bound = {"cpu": 2 * CPU_STEP * 1000, "memory": 2 * MEMORY_STEP * 1000}
    return all(key in before and abs(before[key] - amount) <= bound[key[1]] for key, amount in after.items())


def is_a_step_of_ours(pod: Pod) -> bool:
    """Whether what the pod's spec asks for is the original size or a step or two of restarts away from it."""
    container, original = pod.notebook, pod.original_resources
    return bool(container and original is not None and _is_near(_sized(container.resources), _sized(original)))


def _is_guaranteed(pod: Pod) -> bool:
    return pod.status.get("qosClass") == "Guaranteed"


def _filled(resources: Resources) -> Resources:
    """Requests that are not given are the limits (the API server's defaulting of pods)."""
    requests = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {**resources, "requests": requests}


def _steps(base: Resources, *, guaranteed: bool) -> list[Resources]:
    """The original one step down and, should that be refused, one step up."""
    limits, requests = base.get("limits") or {}, base["requests"]
    found = []
    for sign in (-1, 1):
        changed = copy.deepcopy(base)
        if guaranteed and "memory" in limits:
            amount = f"{int(quantity(limits['memory']) + sign * MEMORY_STEP)}"
            changed["limits"]["memory"] = changed["requests"]["memory"] = amount
        elif guaranteed and "cpu" in limits:
            changed["limits"]["cpu"] = changed["requests"]["cpu"] = _millis(limits["cpu"], sign)
        elif "cpu" in limits and quantity(limits["cpu"]) > quantity(requests["cpu"]):
            if sign < 0 and quantity(limits["cpu"]) <= SMALLEST_CPU_LIMIT:
                continue
            changed["limits"]["cpu"] = _millis(limits["cpu"], sign)
        elif "cpu" in limits:
            # Request and limit are the same: only the limit can move away from the other, and only up.
            changed["limits"]["cpu"] = _millis(limits["cpu"], 1)
        elif "cpu" in requests:
            if sign < 0 and quantity(requests["cpu"]) <= SMALLEST_CPU_REQUEST:
                continue
            changed["requests"]["cpu"] = _millis(requests["cpu"], sign)
        else:
            continue
        if changed not in found:
            found.append(changed)
    return found


def _millis(cpu: str | int | float, sign: int) -> str:
    return f"{round((quantity(cpu) + sign * CPU_STEP) * 1000)}m"


def _sized(resources: Mapping[str, Any]) -> Resources:
    """Only what a resize may change: CPU and memory."""
    return {
        part: {name: str(value) for name, value in (resources.get(part) or {}).items() if name in ("cpu", "memory")}
        for part in ("limits", "requests")
        if any(name in ("cpu", "memory") for name in resources.get(part) or ())
    }


def _amounts(resources: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """In thousandths, so that 0.7 and 700m are the same."""
    return {
        (part, name): round(quantity(value) * 1000)
        for part, values in resources.items()
        for name, value in values.items()
    }


def _differs(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return _amounts(left) != _amounts(right)


def is_applied(container: Container, planned: Mapping[str, Any]) -> bool:
    """Whether the pod's spec already asks for the planned resources; what the plan does not name does not count."""
    present, wanted = _amounts(_sized(container.resources)), _amounts(_sized(planned))
    return all(present.get(key) == amount for key, amount in wanted.items())


def is_in_flight(pod: Pod) -> bool:
    """Whether the kubelet still has a resize to carry out, ours or another's."""
    if pod.condition("PodResizePending") or pod.condition("PodResizeInProgress"):
        return True
    return pod.notebook is not None and is_to_be_resized(pod.notebook)


def is_to_be_resized(container: Container) -> bool:
    """Whether the container has another size than the pod asks for, as far as the kubelet tells."""
    present: Resources = container.status.get("resources") or {}
    return bool(present) and _differs(_sized(present), _sized(container.resources))


def is_under_way(pod: Pod) -> bool:
    """Whether the kubelet is carrying a resize out: the container is about to end. Not one that it fails at."""
    condition = pod.condition("PodResizeInProgress")
    return condition is not None and condition.get("reason") != "Error" and not pending_reason(pod)


def pending_reason(pod: Pod) -> str:
    """``Infeasible`` or ``Deferred`` when the kubelet will not carry the resize out now; else empty."""
    condition = pod.condition("PodResizePending")
    return str(condition.get("reason", "")) if condition else ""
