"""The calls to Kubernetes that the operator makes, and no others: plain dicts in, plain dicts out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

Json = dict[str, Any]


class KubeError(Exception):
    """The API server refused, or could not be reached (``status`` 0)."""

    def __init__(self, status: int, message: str, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after = retry_after

    @property
    def is_conflict(self) -> bool:
        """A precondition no longer held: read again and think again."""
        return self.status == 409 and self.reason != "AlreadyExists"

    @property
    def is_already_there(self) -> bool:
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def is_gone(self) -> bool:
        return self.status == 404

    @property
    def is_transient(self) -> bool:
        """The same call may well pass in a moment."""
        return self.status in (0, 429) or self.status >= 500

    @property
    def is_refusal(self) -> bool:
        """An answer that the same call would get again: forbidden or invalid."""
        return self.status in (400, 403, 422)


class KubeApi(Protocol):
    """Raises `KubeError`."""

    async def get_request(self, kind: str, name: str) -> Json: ...

    async def list_requests(self, kind: str, *, unfinished: bool = False) -> list[Json]: ...

    async def served_schemas(self) -> Json:
        """What the API server knows of our kinds: OpenAPI v3, schemas by name."""
        ...

    async def get_pod(self, name: str) -> Json: ...

    async def patch_request_status(self, kind: str, name: str, resource_version: str, patch: Mapping[str, Any]) -> Json:
        """Merge patch on ``/status``; 409 when the resourceVersion is not the present one."""
        ...

    async def set_finalizers(
        self, kind: str, name: str, uid: str, resource_version: str, finalizers: list[str]
    ) -> Json: ...

    async def delete_request(self, kind: str, name: str, uid: str, resource_version: str) -> None: ...

    async def get_claim(self, name: str) -> Json: ...

    def pages_of_requests(self, kind: str) -> AsyncIterator[list[Json]]:
        """Some hundred at a time: ten thousand of anything take more memory than all else.

        Consistent: what was acknowledged before the first call is in them, and all are of one moment.
        """
        ...

    def pages_of_pods(self, label_selector: str) -> AsyncIterator[list[Json]]: ...

    def pages_of_claims(self, label_selector: str) -> AsyncIterator[list[Json]]: ...

    async def create_claim(self, claim: Mapping[str, Any], *, dry_run: bool = False) -> Json: ...

    async def delete_claim(self, name: str, uid: str, resource_version: str) -> None: ...

    async def annotate_claim(
        self, name: str, uid: str, resource_version: str, annotations: Mapping[str, str | None]
    ) -> Json: ...

    async def list_jobs(self, label_selector: str) -> list[Json]: ...

    async def create_job(self, job: Mapping[str, Any]) -> Json: ...

    async def delete_job(self, name: str, uid: str) -> None:
        """Its pods are deleted after it."""
        ...

    def pages_of_snapshots(self) -> AsyncIterator[list[Json]]:
        """None where the cluster does not know them."""
        ...

    async def create_snapshot(self, snapshot: Mapping[str, Any]) -> Json:
        """422 where the cluster does not know them: the same call would get the same answer again."""
        ...

    async def annotate_snapshot(
        self, name: str, uid: str, resource_version: str, annotations: Mapping[str, str | None]
    ) -> Json: ...

    async def delete_snapshot(self, name: str, uid: str, resource_version: str) -> None: ...

    async def get_volume(self, name: str) -> Json:
        """A PersistentVolume; needs a right outside the namespace."""
        ...

    async def resize_pod(
        self, name: str, uid: str, resource_version: str, container: str, resources: Mapping[str, Any]
    ) -> Json: ...

    async def get_lease(self, name: str) -> Json: ...

    async def create_lease(self, lease: Mapping[str, Any]) -> Json: ...

    async def replace_lease(self, name: str, lease: Mapping[str, Any]) -> Json: ...

    async def create_event(self, event: Mapping[str, Any]) -> None:
        """An Event of this name that is already there is as good."""
        ...

    async def may(self, verb: str, group: str, resource: str, subresource: str = "", name: str = "") -> bool: ...

    async def close(self) -> None: ...
