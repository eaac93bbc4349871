"""`KubeApi` over HTTP with raw JSON (why not a generated client: docs/adr/0002)."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import kopf
from steward_api.names import FIELD_MANAGER, GROUP, PLURALS, SNAPSHOT_GROUP, SNAPSHOT_VERSION, SNAPSHOTS, VERSION
from steward_api.phases import ENDS

from .api import Json, KubeError

TIMEOUT = aiohttp.ClientTimeout(total=10, connect=3)
TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PAGE = 500
UNFINISHED = ",".join(f"status.phase!={phase}" for phase in sorted(ENDS))


def connection() -> kopf.ConnectionInfo:
    """Where the API server is and who we are: the pod's service account, else the kubeconfig."""
    settings = kopf.OperatorSettings()
    found = kopf.login_with_service_account(settings=settings)
    if found is not None:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        # By address: the API server must be reachable when the cluster's DNS is not.
        return dataclasses.replace(found, server=f"https://{host}:{port}") if host else found
    found = kopf.login_with_kubeconfig(settings=settings)
    if found is None:
        raise KubeError(0, "there is neither a service account nor a kubeconfig; is this running in a cluster?")
    return found


def _tls(info: kopf.ConnectionInfo) -> ssl.SSLContext | bool:
    if not info.server.startswith("https"):
        return False
    context = ssl.create_default_context(
        cafile=str(info.ca_path) if info.ca_path else None,
        cadata=base64.b64decode(info.ca_data).decode() if info.ca_data else None,
    )
    if info.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if info.certificate_path and info.private_key_path:
        context.load_cert_chain(str(info.certificate_path), str(info.private_key_path))
    elif info.certificate_data and info.private_key_data:
        # The ssl module loads a key pair from files only; the directory goes as soon as it is loaded.
        with tempfile.TemporaryDirectory() as scratch:
            pair = [Path(scratch) / "cert", Path(scratch) / "key"]
            for path, data in zip(pair, (info.certificate_data, info.private_key_data), strict=True):
                path.write_bytes(base64.b64decode(data))
            context.load_cert_chain(*map(str, pair))
    return context


class HttpKubeApi:
    """One namespace of one API server."""

    def __init__(
        self, info: kopf.ConnectionInfo, namespace: str, before_write: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """``before_write`` is awaited before every write except those to the Lease."""
        self._before_write = before_write
        self._info = info
        self._namespace = namespace
        connector = aiohttp.TCPConnector(ssl=_tls(info), limit=32)
        self._session = aiohttp.ClientSession(
            base_url=info.server.rstrip("/") + "/",
            connector=connector,
            timeout=TIMEOUT,
            json_serialize=json.dumps,
            headers={"User-Agent": FIELD_MANAGER},
        )

    def _authorization(self) -> dict[str, str]:
        token = self._info.token
        # The kubelet renews a projected token in its file long before the old one ends.
        if TOKEN_FILE.exists():
            token = TOKEN_FILE.read_text().strip()
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def _call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None,
        content_type: str = "application/json",
    ) -> Json:  # fmt: skip
        if self._before_write and method != "GET" and "/leases" not in path:
            await self._before_write()
        headers = self._authorization()
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body)
        try:
            async with self._session.request(
                method, path.lstrip("/"), params=dict(query or {}), data=data, headers=headers
            ) as response:
                payload = await response.read()
                if response.status < 400:
                    return json.loads(payload)  # type: ignore[no-any-return]
                after = response.headers.get("Retry-After")
                raise _error(response.status, payload, float(after) if after and after.isdigit() else None)
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, json.JSONDecodeError) as problem:
            raise KubeError(0, f"the API server could not be reached: {problem!r}") from problem

    def _core(self, resource: str) -> str:
        return f"/api/v1/namespaces/{self._namespace}/{resource}"

    def _requests(self, kind: str) -> str:
        return f"/apis/{GROUP}/{VERSION}/namespaces/{self._namespace}/{PLURALS[kind]}"

    def _leases(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases"

    async def _list(self, path: str, label_selector: str = "", field_selector: str = "") -> list[Json]:
        return [item async for page in self._pages(path, label_selector, field_selector) for item in page]

    async def _pages(self, path: str, label_selector: str = "", field_selector: str = "") -> AsyncIterator[list[Json]]:
        query = {"limit": str(PAGE)}
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        while True:
            page = await self._call("GET", path, query=query)
            items, following = page["items"], page["metadata"].get("continue")
            del page
            yield items
            # Whoever goes through the pages holds this one until the next is there.
            items.clear()
            if not following:
                return
            query["continue"] = following

    async def get_request(self, kind: str, name: str) -> Json:
        return await self._call("GET", f"{self._requests(kind)}/{name}")

    async def list_requests(self, kind: str, *, unfinished: bool = False) -> list[Json]:
        selector = UNFINISHED if unfinished else ""
        return [{"kind": kind, **item} for item in await self._list(self._requests(kind), field_selector=selector)]

    async def pages_of_requests(self, kind: str) -> AsyncIterator[list[Json]]:
        async for page in self._pages(self._requests(kind)):
            for item in page:
                item["kind"] = kind
            yield page

    def pages_of_pods(self, label_selector: str) -> AsyncIterator[list[Json]]:
        return self._pages(self._core("pods"), label_selector)

    def pages_of_claims(self, label_selector: str) -> AsyncIterator[list[Json]]:
        return self._pages(self._core("persistentvolumeclaims"), label_selector)

    async def served_schemas(self) -> Json:
        document = await self._call("GET", f"/openapi/v3/apis/{GROUP}/{VERSION}")
        return dict(document.get("components", {}).get("schemas") or {})

    async def get_pod(self, name: str) -> Json:
        return await self._call("GET", f"{self._core('pods')}/{name}")

    async def patch_request_status(self, kind: str, name: str, resource_version: str, patch: Mapping[str, Any]) -> Json:
        body = {"metadata": {"resourceVersion": resource_version}, "status": dict(patch)}
        return await self._call(
            "PATCH",
            f"{self._requests(kind)}/{name}/status",
            query={"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"},
            body=body,
            content_type="application/merge-patch+json",
        )

    async def set_finalizers(
        self, kind: str, name: str, uid: str, resource_version: str, finalizers: list[str]
    ) -> Json:
        body = {"metadata": {"uid": uid, "resourceVersion": resource_version, "finalizers": finalizers}}
        return await self._call(
            "PATCH",
            f"{self._requests(kind)}/{name}",
            query={"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"},
            body=body,
            content_type="application/merge-patch+json",
        )

    async def delete_request(self, kind: str, name: str, uid: str, resource_version: str) -> None:
        await self._call("DELETE", f"{self._requests(kind)}/{name}", body=_preconditions(uid, resource_version))

    async def get_claim(self, name: str) -> Json:
        return await self._call("GET", f"{self._core('persistentvolumeclaims')}/{name}")

    async def create_claim(self, claim: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return await self._call("POST", self._core("persistentvolumeclaims"), query=query, body=dict(claim))

    async def delete_claim(self, name: str, uid: str, resource_version: str) -> None:
        path = f"{self._core('persistentvolumeclaims')}/{name}"
        await self._call("DELETE", path, body=_preconditions(uid, resource_version))

    async def annotate_claim(
        self, name: str, uid: str, resource_version: str, annotations: Mapping[str, str | None]
    ) -> Json:
        return await self._annotate(
            f"{self._core('persistentvolumeclaims')}/{name}", uid, resource_version, annotations
        )

    async def _annotate(
        self, path: str, uid: str, resource_version: str, annotations: Mapping[str, str | None]
    ) -> Json:
        metadata = {"uid": uid, "resourceVersion": resource_version, "annotations": dict(annotations)}
        return await self._call(
            "PATCH",
            path,
            query={"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"},
            body={"metadata": metadata},
            content_type="application/merge-patch+json",
        )

    def _snapshots(self) -> str:
        return f"/apis/{SNAPSHOT_GROUP}/{SNAPSHOT_VERSION}/namespaces/{self._namespace}/{SNAPSHOTS}"

    async def pages_of_snapshots(self) -> AsyncIterator[list[Json]]:
        try:
            async for page in self._pages(self._snapshots()):
                yield page
        except KubeError as error:
            if not error.is_gone:
                raise

    async def create_snapshot(self, snapshot: Mapping[str, Any]) -> Json:
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        try:
            return await self._call("POST", self._snapshots(), query=query, body=dict(snapshot))
        except KubeError as error:
            if not error.is_gone:
                raise
            raise KubeError(422, f"this cluster has no {SNAPSHOT_GROUP}/{SNAPSHOT_VERSION}", "Invalid") from error

    async def annotate_snapshot(
        self, name: str, uid: str, resource_version: str, annotations: Mapping[str, str | None]
    ) -> Json:
        return await self._annotate(f"{self._snapshots()}/{name}", uid, resource_version, annotations)

    async def delete_snapshot(self, name: str, uid: str, resource_version: str) -> None:
        await self._call("DELETE", f"{self._snapshots()}/{name}", body=_preconditions(uid, resource_version))

    def _jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self._namespace}/jobs"

    async def list_jobs(self, label_selector: str) -> list[Json]:
        return await self._list(self._jobs(), label_selector)

    async def create_job(self, job: Mapping[str, Any]) -> Json:
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return await self._call("POST", self._jobs(), query=query, body=dict(job))

    async def delete_job(self, name: str, uid: str) -> None:
        options = {
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }  # fmt: skip
        await self._call("DELETE", f"{self._jobs()}/{name}", body=options)

    async def get_volume(self, name: str) -> Json:
        return await self._call("GET", f"/api/v1/persistentvolumes/{name}")

    async def resize_pod(
        self, name: str, uid: str, resource_version: str, container: str, resources: Mapping[str, Any]
    ) -> Json:
        body = {
            "metadata": {"uid": uid, "resourceVersion": resource_version},
            "spec": {"containers": [{"name": container, "resources": dict(resources)}]},
        }
        return await self._call(
            "PATCH",
            f"{self._core('pods')}/{name}/resize",
            query={"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"},
            body=body,
            # A JSON merge patch would replace the list of containers.
            content_type="application/strategic-merge-patch+json",
        )

    async def get_lease(self, name: str) -> Json:
        return await self._call("GET", f"{self._leases()}/{name}")

    async def create_lease(self, lease: Mapping[str, Any]) -> Json:
        return await self._call("POST", self._leases(), body=dict(lease))

    async def replace_lease(self, name: str, lease: Mapping[str, Any]) -> Json:
        return await self._call("PUT", f"{self._leases()}/{name}", body=dict(lease))

    async def create_event(self, event: Mapping[str, Any]) -> None:
        path = f"/apis/events.k8s.io/v1/namespaces/{self._namespace}/events"
        try:
            await self._call("POST", path, body=dict(event))
        except KubeError as error:
            if not error.is_already_there:
                raise

    async def create_secret(self, secret: Mapping[str, Any]) -> None:
        """For the install-time Job only; the operator itself has no right to it."""
        await self._call("POST", self._core("secrets"), body=dict(secret))

    async def may(self, verb: str, group: str, resource: str, subresource: str = "", name: str = "") -> bool:
        attributes = {
            "namespace": self._namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "name": name,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
        return bool(answer["status"].get("allowed"))

    async def close(self) -> None:
        await self._session.close()


def _preconditions(uid: str, resource_version: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid, "resourceVersion": resource_version},
    }


def _error(status: int, payload: bytes, retry_after: float | None) -> KubeError:
    message, reason = payload.decode(errors="replace")[:500], ""
    with suppress(ValueError):
        parsed = json.loads(payload)
        if isinstance(parsed, dict):
            message, reason = parsed.get("message", message), parsed.get("reason", "")
    return KubeError(status, message, reason, retry_after)
