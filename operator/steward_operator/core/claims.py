"""Which claims a reset means, who uses them, and what a claim is created again from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from steward_api import names
from steward_api.phases import Reason
from steward_api.volumes import Volume

from .model import Claim, Pod, Request, World
from .quantities import quantity

#: Written by Kubernetes or a tool, not by the user: they would tie the new claim to the old volume.
DROPPED_ANNOTATIONS = (
    "pv.kubernetes.io/",
    "volume.kubernetes.io/",
    "volume.beta.kubernetes.io/",
    "kubectl.kubernetes.io/",
    names.KEPT_BY,
    names.RESTORED_FROM,
)
KEPT_SPEC = ("accessModes", "resources", "storageClassName", "volumeMode", "volumeAttributesClassName")


def find(world: World, kind: str) -> Claim | None:
    """The claim of a volume of the request's server, by its annotations. The newest, should there be two."""
    request, volume = world.request, world.table[kind]
    found = [
        claim
        for claim in world.claims
        if claim.is_ours
        and claim.user == request.user
        and claim.kind == kind
        and (claim.server == request.server or (not volume.is_per_server and claim.server == ""))
    ]
    return max(found, key=lambda claim: claim.created, default=None)


def by_name(world: World, name: str) -> Claim | None:
    return next((claim for claim in world.claims if claim.name == name), None)


def refuse_user_of(world: World, claim_name: str, *, ignore_own: bool = False) -> tuple[Reason, str] | None:
    """Why the claim may not go now: some pod that can still run mounts it. The request's own server may not count."""
    request = world.request
    for pod in world.pods:
        if pod.is_over or claim_name not in pod.claims:
            continue
        if ignore_own and pod.is_server and (pod.user, pod.server) == (request.user, request.server):
            continue
        return _user_of(world.request, pod)
    return None


def _user_of(request: Request, pod: Pod) -> tuple[Reason, str]:
    if pod.is_server and pod.user == request.user:
        if pod.server == request.server:
            if pod.is_deleting:
                return Reason.SERVER_RUNNING, "The server is still stopping. Try again when it has stopped."
            return Reason.SERVER_RUNNING, "The server is running. Stop it first, then reset the volume."
        return (
            Reason.IN_USE_BY_OTHER_SERVER,
            f"Your server '{pod.server or 'default'}' has this volume open. Stop it first.",
        )
    return Reason.CLAIM_IN_USE, f"The pod {pod.name} has this volume open; it is not one of this user's servers."


def refuse_server_pod(world: World) -> tuple[Reason, str] | None:
    """RequireStopped means stopped, whether or not the server has this very volume open."""
    for pod in world.pods:
        if pod.is_server and not pod.is_over and (pod.user, pod.server) == (world.request.user, world.request.server):
            return _user_of(world.request, pod)
    return None


def refuse_static(claim: Claim) -> str:
    """Why a claim would not bind again by itself; empty when it would."""
    spec = claim.manifest.get("spec") or {}
    if spec.get("selector"):
        return "it selects a volume that was made by hand"
    if spec.get("volumeName") and "pv.kubernetes.io/bound-by-controller" not in claim.annotations:
        return "it is tied to one volume that was made by hand"
    if spec.get("storageClassName") == "":
        return "it has no storage class that could make a new volume"
    return ""


def template(claim: Claim, request: Request, volume: Volume, contents: Mapping[str, Any]) -> dict[str, Any]:
    """The claim as it will be created again: same name, class, size, modes, labels and annotations.

    ``contents`` is what the spec says of its content. The size is the larger of what was asked for and what is there,
    so that an expanded volume stays large.
    """
    manifest = copy.deepcopy(dict(claim.manifest))
    spec = {key: value for key, value in (manifest.get("spec") or {}).items() if key in KEPT_SPEC}
    spec.setdefault("resources", {}).setdefault("requests", {})["storage"] = claim.size
    annotations = {key: value for key, value in claim.annotations.items() if not key.startswith(DROPPED_ANNOTATIONS)}
    annotations[names.RESET_BY] = request.uid
    if request.is_undo:
        annotations[names.RESTORED_FROM] = request.backup_to_restore
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim.name,
            "labels": {**claim.labels, names.VOLUME: volume.kind},
            "annotations": annotations,
        },
        "spec": {**spec, **contents},
    }


def same_promise(claim: Claim, wanted: Mapping[str, Any]) -> bool:
    """Whether a claim that somebody else made in the meantime keeps what the template promises."""
    spec, asked = claim.manifest.get("spec") or {}, wanted["spec"]
    size = quantity(((spec.get("resources") or {}).get("requests") or {}).get("storage", "0"))
    return (
        spec.get("storageClassName") == asked.get("storageClassName")
        and sorted(spec.get("accessModes") or ()) == sorted(asked.get("accessModes") or ())
        and size >= quantity(asked["resources"]["requests"]["storage"])
    )
