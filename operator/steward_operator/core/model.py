"""What the core knows of the cluster: requests, claims, pods, and the world they stand in.

Frozen views over the plain dicts of the API. A view reads names from the raw annotations, never from the slugs in
labels: two users may share a slug.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from steward_api import names
from steward_api.phases import ENDS, ContentsFrom, Phase
from steward_api.volumes import Volume

from .clock import parse_time
from .quantities import quantity
from .settings import Settings

Json = Mapping[str, Any]

#: Times beyond are nonsense, and leave no room for a deadline after them.
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
TERMINAL_POD_PHASES = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class Resource:
    """What every object of the API has."""

    manifest: Json

    @property
    def meta(self) -> Json:
        return self.manifest["metadata"]  # type: ignore[no-any-return]

    @property
    def spec(self) -> Json:
        return self.manifest.get("spec") or {}

    @property
    def status(self) -> Json:
        return self.manifest.get("status") or {}

    @property
    def name(self) -> str:
        return str(self.meta["name"])

    @property
    def uid(self) -> str:
        return str(self.meta["uid"])

    @property
    def resource_version(self) -> str:
        return str(self.meta["resourceVersion"])

    @property
    def labels(self) -> Json:
        return self.meta.get("labels") or {}

    @property
    def annotations(self) -> Json:
        return self.meta.get("annotations") or {}

    @property
    def is_deleting(self) -> bool:
        return "deletionTimestamp" in self.meta

    @property
    def created(self) -> datetime:
        created = parse_time(self.meta.get("creationTimestamp"))
        assert created is not None, "the API server stamps every object"
        return created

    def condition(self, kind: str) -> Json | None:
        """The status condition of this type, if it is true."""
        for condition in self.status.get("conditions") or ():
            if condition["type"] == kind and condition.get("status") == "True":
                return condition  # type: ignore[no-any-return]
        return None


@dataclass(frozen=True)
class Request(Resource):
    """A VolumeReset or ServerRestart."""

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def user(self) -> str:
        return str(self.spec.get("user", ""))

    @property
    def server(self) -> str:
        return str(self.spec.get("server") or "")

    @property
    def phase(self) -> Phase:
        try:
            return Phase(self.status.get("phase") or Phase.PENDING)
        except ValueError:
            return Phase.UNKNOWN

    @property
    def is_finished(self) -> bool:
        return self.phase in ENDS or bool(self.status.get("completionTime"))

    @property
    def has_finalizer(self) -> bool:
        return names.FINALIZER in (self.meta.get("finalizers") or ())

    @property
    def not_before(self) -> datetime | None:
        """None, too, for what the API server takes for a time and nobody can read (`has_unreadable_time`)."""
        return None if self.has_unreadable_time else parse_time(self.spec.get("notBefore"))

    @property
    def has_unreadable_time(self) -> bool:
        """The API server takes the year 0, an offset of 99 hours, and what comes after the Z."""
        try:
            moment = parse_time(self.spec.get("notBefore"))
            return moment is not None and moment.astimezone(UTC) > LATEST
        except (ValueError, OverflowError):
            return True

    @property
    def due(self) -> datetime:
        """What it asks for is asked for at this time; what happened before does not answer it."""
        return max(self.created, self.not_before or self.created)

    @property
    def is_undo(self) -> bool:
        """Whether a backup is to be put back."""
        return bool((self.spec.get("contents") or {}).get("from") == ContentsFrom.BACKUP)

    @property
    def backup_to_restore(self) -> str:
        """Name of the backup that an undo puts back, or empty."""
        return str(self.spec["contents"].get("name", "")) if self.is_undo else ""


@dataclass(frozen=True)
class Owned(Resource):
    """Made by the spawner for a user's server. The names are the raw ones of the annotations."""

    @property
    def user(self) -> str:
        return str(self.annotations.get(names.USERNAME, ""))

    @property
    def server(self) -> str:
        return str(self.annotations.get(names.SERVERNAME, ""))


@dataclass(frozen=True)
class Holder(Owned):
    """What holds a user's content, or a backup of it."""

    @property
    def kind(self) -> str:
        return str(self.labels.get(names.VOLUME, names.HOME))

    @property
    def is_backup(self) -> bool:
        """Whether it holds, or is going to hold, the backup of a claim."""
        return self.labels.get(names.COMPONENT) == names.BACKUP_COMPONENT and self.user != ""

    @property
    def backup(self) -> Json | None:
        """What is in the backup (``bytes``; of a copy also ``files``, ``checksum``), written when it was verified."""
        try:
            value = json.loads(self.annotations.get(names.BACKUP, ""))
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    @property
    def is_usable(self) -> bool:
        """Whether what is in it can be had now."""
        return True

    @property
    def pinned_by(self) -> str:
        return str(self.annotations.get(names.PINNED_BY, ""))


@dataclass(frozen=True)
class Claim(Holder):
    """A PersistentVolumeClaim made for a server, or for a copy of it."""

    @property
    def is_ours(self) -> bool:
        return self.labels.get(names.COMPONENT) == names.STORAGE_COMPONENT and self.user != ""

    @property
    def reset_by(self) -> str:
        return str(self.annotations.get(names.RESET_BY, ""))

    @property
    def restored_from(self) -> str:
        return str(self.annotations.get(names.RESTORED_FROM, ""))

    @property
    def kept_by(self) -> str:
        return str(self.annotations.get(names.KEPT_BY, ""))

    @property
    def is_unused(self) -> bool:
        """Never bound to a volume, so there is nothing in it. One whose volume is lost is not unused."""
        return self.status.get("phase") in (None, "Pending") and not self.spec.get("volumeName")

    @property
    def storage_class(self) -> str:
        return str(self.spec.get("storageClassName") or "")

    @property
    def size(self) -> str:
        """The larger of what was asked for and what is there."""
        asked = str(((self.spec.get("resources") or {}).get("requests") or {}).get("storage", "0"))
        there = str((self.status.get("capacity") or {}).get("storage") or "0")
        return there if quantity(there) > quantity(asked) else asked


@dataclass(frozen=True)
class Snapshot(Holder):
    """A VolumeSnapshot (``snapshot.storage.k8s.io/v1``) of a server's claim."""

    @property
    def is_usable(self) -> bool:
        """The driver's word of this moment that a volume can be made from it."""
        return bool(self.status.get("readyToUse"))

    @property
    def restore_size(self) -> int:
        """Bytes that a volume made from it has at least."""
        return int(quantity(self.status.get("restoreSize") or "0"))

    @property
    def error(self) -> str:
        """What the driver said last of why it is not ready; it goes on trying."""
        return str((self.status.get("error") or {}).get("message") or "")

    @property
    def storage_class(self) -> str:
        """Of the claim that it was taken of."""
        return str(self.annotations.get(names.STORAGE_CLASS, ""))


@dataclass(frozen=True)
class Job(Resource):
    """A Job that copies a volume."""


@dataclass(frozen=True)
class Pod(Owned):
    """Any pod of the namespace; only a server has a user."""

    @property
    def is_server(self) -> bool:
        return self.labels.get(names.COMPONENT) == names.SERVER_COMPONENT and self.user != ""

    @property
    def is_over(self) -> bool:
        """Succeeded or Failed: none of its containers will run again."""
        return self.status.get("phase") in TERMINAL_POD_PHASES

    @property
    def claims(self) -> frozenset[str]:
        """Names of the claims it mounts, those of generic ephemeral volumes included."""
        found = set()
        for volume in self.spec.get("volumes") or ():
            if source := volume.get("persistentVolumeClaim"):
                found.add(source["claimName"])
            elif "ephemeral" in volume:
                found.add(f"{self.name}-{volume['name']}")
        return frozenset(found)

    @property
    def job(self) -> str:
        """Name of the Job it belongs to, or empty."""
        return str(self.labels.get(names.JOB_NAME, ""))

    @property
    def unscheduled(self) -> str:
        """Why the scheduler has found no node for it; empty when it has, or has not looked."""
        for condition in self.status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition.get("status") == "False":
                return str(condition.get("message") or condition.get("reason") or "")
        return ""

    @property
    def last_message(self) -> str:
        """What its first container left as its termination message."""
        for status in self.status.get("containerStatuses") or ():
            return str(((status.get("state") or {}).get("terminated") or {}).get("message") or "")
        return ""

    @property
    def notebook(self) -> Container | None:
        for spec in self.spec.get("containers") or ():
            if spec["name"] == names.NOTEBOOK_CONTAINER:
                for status in self.status.get("containerStatuses") or ():
                    if status["name"] == names.NOTEBOOK_CONTAINER:
                        return Container(spec, status)
                return Container(spec, {})
        return None

    @property
    def restart_policy(self) -> str:
        return str(self.spec.get("restartPolicy") or "Always")

    @property
    def original_resources(self) -> dict[str, Any] | None:
        """What the spawner asked for, from its annotation; None on a pod it did not annotate."""
        text = self.annotations.get(names.RESOURCES)
        if not text:
            return None
        try:
            value = json.loads(text)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    @property
    def probe_url(self) -> str:
        """Where the startup probe of the notebook container asks, with the pod's address; empty without one."""
        container = self.notebook
        address = self.status.get("podIP")
        asked = ((container.spec.get("startupProbe") or {}) if container else {}).get("httpGet")
        if container is None or not asked or not address:
            return ""
        port = asked["port"]
        if isinstance(port, str):
            named = [p["containerPort"] for p in container.spec.get("ports") or () if p.get("name") == port]
            if not named:
                return ""
            port = named[0]
        host = f"[{address}]" if ":" in address else address
        return f"{str(asked.get('scheme', 'HTTP')).lower()}://{host}:{port}{asked.get('path', '/')}"


@dataclass(frozen=True)
class Container:
    """The notebook container of a server: what was asked for and what the kubelet reports."""

    spec: Json
    status: Json

    @property
    def id(self) -> str:
        return str(self.status.get("containerID") or "")

    @property
    def restart_count(self) -> int:
        return int(self.status.get("restartCount") or 0)

    @property
    def state(self) -> str:
        """``running``, ``waiting``, ``terminated``, or empty when nothing is reported yet."""
        return next(iter(self.status.get("state") or {}), "")

    def comes_back(self, restart_policy: str) -> bool:
        """Whether the kubelet starts a container that has ended again, sooner or later."""
        if self.state == "waiting":
            return True
        exit_code = self.last_ended.get("exitCode")
        return restart_policy == "Always" or (restart_policy == "OnFailure" and bool(exit_code))

    @property
    def started_at(self) -> datetime | None:
        return parse_time(((self.status.get("state") or {}).get("running") or {}).get("startedAt"))

    @property
    def answers(self) -> bool:
        """Running, past its startup probe, and ready."""
        return self.state == "running" and bool(self.status.get("started")) and bool(self.status.get("ready"))

    @property
    def last_finished(self) -> datetime | None:
        for state in (self.status.get("state") or {}, self.status.get("lastState") or {}):
            if ended := state.get("terminated"):
                return parse_time(ended.get("finishedAt"))
        return None

    @property
    def last_ended(self) -> Json:
        """The newest ended instance, empty when none is known."""
        for state in (self.status.get("state") or {}, self.status.get("lastState") or {}):
            if ended := state.get("terminated"):
                return ended  # type: ignore[no-any-return]
        return {}

    @property
    def resources(self) -> Json:
        return self.spec.get("resources") or {}


@dataclass(frozen=True)
class Refusal:
    """What the cluster or the hub answered to a step that it did not carry out."""

    status: int
    message: str

    @property
    def is_namespace_terminating(self) -> bool:
        return self.status == 403 and "because it is being terminated" in self.message

    @property
    def is_quota(self) -> bool:
        """What is asked for is right, and there is no room for it now."""
        return self.status == 403 and "exceeded quota" in self.message

    @property
    def is_for_now(self) -> bool:
        """Whoever was asked is away, or has no time: nothing is said of what was asked for."""
        return self.status in (0, 429, 502, 503, 504)


@dataclass(frozen=True)
class World:
    """What was seen when the step is planned.

    ``pods`` and ``claims`` are live lists, read after the request itself. ``answers`` holds what earlier attempts of
    this operator process were told, by step key: None for a step that passed. ``answering`` are the IDs of container
    instances that were asked and have answered; ``retained`` are released PersistentVolumes that their class keeps.
    """

    now: datetime
    request: Request
    pods: tuple[Pod, ...] = ()
    claims: tuple[Claim, ...] = ()
    jobs: tuple[Job, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    others: tuple[Request, ...] = ()
    table: Mapping[str, Volume] = field(default_factory=dict)
    answers: Mapping[str, Refusal | None] = field(default_factory=dict)
    recent_restarts: Mapping[str, int] = field(default_factory=dict)
    answering: frozenset[str] = frozenset()
    retained: frozenset[str] = frozenset()
    settings: Settings = field(default_factory=Settings)
