"""What a plan may answer: one write, a wait, or nothing left to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class WriteStatus:
    """Replace the request's status (the driver sends the difference, with the resourceVersion it read)."""

    status: Mapping[str, Any]


@dataclass(frozen=True)
class AddFinalizer:
    pass


@dataclass(frozen=True)
class RemoveFinalizer:
    pass


@dataclass(frozen=True)
class TryCreateClaim:
    """Dry-run the creation of a claim that still exists; AlreadyExists is the pass."""

    template: Mapping[str, Any]

    @property
    def key(self) -> str:
        return f"try/{self.template['metadata']['name']}"


@dataclass(frozen=True)
class Deletion:
    """Of the very object that was looked at: the version keeps a late one from doing harm."""

    name: str
    uid: str
    resource_version: str


class DeleteClaim(Deletion):
    """The claim and everything in it is gone after this."""

    @property
    def key(self) -> str:
        return f"delete/{self.name}"


class DeleteSnapshot(Deletion):
    @property
    def key(self) -> str:
        return f"delete-snapshot/{self.name}"


@dataclass(frozen=True)
class Annotation:
    """Set, or with None take away, an annotation of the very object that was looked at."""

    name: str
    uid: str
    resource_version: str
    annotation: str
    value: str | None


class AnnotateClaim(Annotation):
    @property
    def key(self) -> str:
        return f"annotate/{self.name}/{self.annotation}"


class AnnotateSnapshot(Annotation):
    @property
    def key(self) -> str:
        return f"annotate-snapshot/{self.name}/{self.annotation}"


@dataclass(frozen=True)
class CreateClaim:
    template: Mapping[str, Any]

    @property
    def key(self) -> str:
        return f"create/{self.template['metadata']['name']}"


@dataclass(frozen=True)
class CreateSnapshot:
    manifest: Mapping[str, Any]

    @property
    def key(self) -> str:
        return f"snapshot/{self.manifest['metadata']['name']}"


@dataclass(frozen=True)
class CreateJob:
    manifest: Mapping[str, Any]

    @property
    def key(self) -> str:
        return f"job/{self.manifest['metadata']['name']}"


@dataclass(frozen=True)
class DeleteJob:
    """Its pods go with it."""

    name: str
    uid: str


@dataclass(frozen=True)
class ResizePod:
    """Change the notebook container's resources; the kubelet restarts it for that."""

    name: str
    uid: str
    resource_version: str
    resources: Mapping[str, Any]

    @property
    def key(self) -> str:
        return f"resize/{self.uid}/{self.resources}"


@dataclass(frozen=True)
class StopServer:
    """Stop the server, if its pod is still this one, and its container, where one is named."""

    user: str
    server: str
    pod_uid: str
    container_id: str = ""

    @property
    def key(self) -> str:
        return "stop"


@dataclass(frozen=True)
class StartServer:
    user: str
    server: str

    @property
    def key(self) -> str:
        return "start"


Step = (
    WriteStatus | AddFinalizer | RemoveFinalizer | TryCreateClaim | DeleteClaim | CreateClaim | AnnotateClaim
    | CreateSnapshot | AnnotateSnapshot | DeleteSnapshot | CreateJob | DeleteJob | ResizePod | StopServer | StartServer
)  # fmt: skip


@dataclass(frozen=True)
class Wait:
    """Nothing to do until something changes, or until a time."""

    why: str
    until: datetime | None = None


@dataclass(frozen=True)
class Done:
    """Nothing will ever be left to do for this request."""


Plan = Step | Wait | Done
