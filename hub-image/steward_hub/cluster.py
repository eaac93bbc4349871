"""The hub's calls to Kubernetes beyond KubeSpawner's own: requests, claims, the operator's Lease.

Uses the client that KubeSpawner shares in this process; every call is bounded by `TIMEOUT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from kubernetes_asyncio.client.exceptions import ApiException
from kubespawner.clients import shared_client
from steward_api import names

TIMEOUT_SECONDS = 5
#: The operator renews its Lease every 3 s; unchanged for this long by our own clock, it is away.
OPERATOR_AWAY_AFTER = 30.0
NEWEST_FIRST_LIMIT = 500


class ClusterAway(Exception):
    """The API server did not answer, or answered with an error of its own."""


class ClusterRefused(Exception):
    """The API server refused; the message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


async def _bounded(call: Any) -> Any:
    try:
        return await asyncio.wait_for(call, TIMEOUT_SECONDS)
    except ApiException as error:
        if error.status and 400 <= error.status < 500 and error.status != 429:
            raise ClusterRefused(error.status, _message(error)) from error
        raise ClusterAway(str(error)) from error
    except (TimeoutError, OSError) as error:
        raise ClusterAway(repr(error)) from error
    except Exception as error:
        # aiohttp's client errors: there is no connection to the API server.
        if type(error).__module__.startswith("aiohttp"):
            raise ClusterAway(repr(error)) from error
        raise


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or b"")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


class Requests:
    """VolumeReset and ServerRestart objects of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def _where(self, kind: str) -> tuple[str, str, str, str]:
        return names.GROUP, names.VERSION, self.namespace, names.PLURALS[kind]

    async def of_user(self, user: str, kinds: tuple[str, ...] = tuple(names.PLURALS)) -> list[dict[str, Any]]:
        """Live, newest first."""
        api = shared_client("CustomObjectsApi")
        listed = await asyncio.gather(
            *(
                _bounded(
                    api.list_namespaced_custom_object(
                        *self._where(kind), field_selector=f"spec.user={_selector_value(user)}"
                    )
                )
                for kind in kinds
            )
        )
        found = [{"kind": kind, **item} for kind, page in zip(kinds, listed, strict=True) for item in page["items"]]
        return sorted(found, key=lambda item: item["metadata"]["creationTimestamp"], reverse=True)

    async def locks(self) -> list[dict[str, Any]]:
        """Every VolumeReset that may lock a claim, live."""
        api = shared_client("CustomObjectsApi")
        ended = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Cancelled"
        page = await _bounded(api.list_namespaced_custom_object(*self._where(names.VOLUME_RESET), field_selector=ended))
        return [{"kind": names.VOLUME_RESET, **item} for item in page["items"]]

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        api = shared_client("CustomObjectsApi")
        kind = manifest["kind"]
        created = await _bounded(
            api.create_namespaced_custom_object(*self._where(kind), dict(manifest), field_validation="Strict")
        )
        return {"kind": kind, **created}

    async def get(self, kind: str, name: str) -> dict[str, Any]:
        api = shared_client("CustomObjectsApi")
        return {"kind": kind, **await _bounded(api.get_namespaced_custom_object(*self._where(kind), name))}

    async def cancel(self, kind: str, name: str) -> dict[str, Any]:
        api = shared_client("CustomObjectsApi")
        patched = await _bounded(
            api.patch_namespaced_custom_object(
                *self._where(kind), name, {"spec": {"cancel": True}}, _content_type="application/merge-patch+json"
            )
        )
        return {"kind": kind, **patched}


def _selector_value(text: str) -> str:
    """Escaped as ``apimachinery/pkg/fields`` does it."""
    return text.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")


class OperatorWatch:
    """Whether the operator's Lease moves. ``away()`` answers why it is thought to be away, or nothing."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._renewal = ""
        self._seen_at = time.monotonic()

    async def away(self) -> str:
        api = shared_client("CoordinationV1Api")
        try:
            lease = await _bounded(api.read_namespaced_lease(names.LEASE, self.namespace))
        except ClusterRefused as refused:
            if refused.status == 404:
                return "The operator has never run here."
            return f"The operator's Lease cannot be read: {refused.message}"
        renewal = f"{lease.spec.holder_identity} {lease.spec.renew_time}"
        now = time.monotonic()
        if renewal != self._renewal:
            self._renewal, self._seen_at = renewal, now
        if not lease.spec.holder_identity:
            return "The operator has been stopped." if now - self._seen_at > OPERATOR_AWAY_AFTER else ""
        if now - self._seen_at > OPERATOR_AWAY_AFTER:
            return (
                f"The operator has not been heard of for {now - self._seen_at:.0f} seconds. "
                "Requests that were accepted will continue when it is back."
            )
        return ""


async def pod_and_lab(namespace: str, name: str) -> tuple[str, str]:
    """UID of a pod and ID of its notebook container, live; empty when there is none of that name, or none yet."""
    try:
        pod = await _bounded(shared_client("CoreV1Api").read_namespaced_pod(name, namespace))
    except ClusterRefused as refused:
        if refused.status == 404:
            return "", ""
        raise
    statuses = pod.status.container_statuses or []
    labs = [status.container_id or "" for status in statuses if status.name == names.NOTEBOOK_CONTAINER]
    return str(pod.metadata.uid), "".join(labs)


async def delete_pod(namespace: str, name: str, uid: str, grace_seconds: int) -> None:
    """That very pod; one that is gone, or another of its name, is left."""
    body = {"gracePeriodSeconds": grace_seconds, "preconditions": {"uid": uid}}
    try:
        await _bounded(shared_client("CoreV1Api").delete_namespaced_pod(name, namespace, body=body))
    except ClusterRefused as refused:
        if refused.status not in (404, 409):
            raise


async def snapshots_of(namespace: str, user: str) -> list[dict[str, Any]]:
    """VolumeSnapshots that back the user's volumes up, as plain dicts; none where the cluster does not know them."""
    api = shared_client("CustomObjectsApi")
    try:
        page = await _bounded(
            api.list_namespaced_custom_object(
                names.SNAPSHOT_GROUP, names.SNAPSHOT_VERSION, namespace, names.SNAPSHOTS,
                label_selector=f"{names.COMPONENT}={names.BACKUP_COMPONENT}",
            )
        )  # fmt: skip
    except ClusterRefused as refused:
        # Without the right to see them everything else still works.
        if refused.status in (403, 404):
            return []
        raise
    return [s for s in page["items"] if (s["metadata"].get("annotations") or {}).get(names.USERNAME) == user]


async def delete_snapshot(namespace: str, name: str, uid: str) -> None:
    """That very snapshot; one that is gone, or another of its name, is left."""
    api = shared_client("CustomObjectsApi")
    body = {"preconditions": {"uid": uid}}
    try:
        await _bounded(
            api.delete_namespaced_custom_object(
                names.SNAPSHOT_GROUP, names.SNAPSHOT_VERSION, namespace, names.SNAPSHOTS, name, body=body
            )
        )
    except ClusterRefused as refused:
        if refused.status not in (404, 409):
            raise


async def claims_of(namespace: str, user: str, component: str = names.STORAGE_COMPONENT) -> list[Any]:
    """The user's claims (V1PersistentVolumeClaim), or with another component his backups, by the raw name in their
    annotation."""
    api = shared_client("CoreV1Api")
    page = await _bounded(
        api.list_namespaced_persistent_volume_claim(namespace, label_selector=f"{names.COMPONENT}={component}")
    )
    return [c for c in page.items if (c.metadata.annotations or {}).get(names.USERNAME) == user]
