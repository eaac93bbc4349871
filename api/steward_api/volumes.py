"""The volume table: which volumes a server has, what they are called, and which may be reset.

Read from the chart's values by the hub (which creates claims) and by the operator (which resets them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .names import HOME

KIND_PATTERN = re.compile(r"^[a-z][a-z0-9]{0,15}$")


class BackupPolicy(StrEnum):
    """What ``backup: Default`` of a request means for a volume."""

    NONE = "None"
    COPY = "Copy"
    SNAPSHOT = "Snapshot"


class OnUserDelete(StrEnum):
    RETAIN = "Retain"
    DELETE = "Delete"


@dataclass(frozen=True)
class Volume:
    """One row of the table. ``capacity`` is a Kubernetes quantity; ``mount_path`` is inside the server."""

    kind: str
    title: str
    mount_path: str
    capacity: str
    name_template: str
    reset_allowed: bool = False
    reset_refusal: str = ""
    backup: BackupPolicy = BackupPolicy.NONE
    on_user_delete: OnUserDelete = OnUserDelete.RETAIN
    storage_class: str | None = None
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_per_server(self) -> bool:
        """Whether each of a user's servers has its own claim."""
        return "{user_server}" in self.name_template or "{servername}" in self.name_template

    @property
    def refusal(self) -> str:
        """Why the volume cannot be reset; empty when it can."""
        if not self.reset_allowed:
            return self.reset_refusal or f"{self.title} cannot be reset on this hub."
        return ""


class BadVolumeTable(ValueError):
    """The table in the values cannot be used; the message names the key."""


def read_table(storage: Mapping[str, Any]) -> dict[str, Volume]:
    """Read ``singleuser.storage`` of the chart's values. A kind set to null is left out.

    Raises `BadVolumeTable`.
    """
    table: dict[str, Volume] = {}
    mounts: dict[str, str] = {}
    dynamic = storage.get("dynamic") or {}
    for kind, row in (storage.get("volumes") or {}).items():
        if row is None:
            continue
        where = f"singleuser.storage.volumes.{kind}"
        if not KIND_PATTERN.match(kind):
            raise BadVolumeTable(f"{where}: a kind is one lower-case letter and up to 15 letters or digits")
        if kind == HOME:
            row = {
                "mountPath": storage.get("homeMountPath", "/home/jovyan"),
                "capacity": storage.get("capacity", "10Gi"),
                "storageClass": dynamic.get("storageClass"),
                "accessModes": dynamic.get("storageAccessModes") or ["ReadWriteOnce"],
                "nameTemplate": dynamic.get("pvcNameTemplate") or "claim-{user_server}",
                "labels": storage.get("extraLabels") or {},
                **row,
            }
        for key in ("mountPath", "capacity"):
            if not row.get(key):
                raise BadVolumeTable(f"{where}.{key} is missing")
        if other := mounts.get(row["mountPath"]):
            raise BadVolumeTable(f"{where}.mountPath is also the mountPath of {other}")
        mounts[row["mountPath"]] = kind
        reset = row.get("reset") or {}
        table[kind] = Volume(
            kind=kind,
            title=row.get("title") or kind.capitalize(),
            mount_path=row["mountPath"],
            capacity=str(row["capacity"]),
            name_template=row.get("nameTemplate") or f"{kind}-{{user_server}}",
            reset_allowed=bool(reset.get("allowed", False)),
            reset_refusal=reset.get("refusal") or "",
            backup=BackupPolicy(reset.get("backup") or "None"),
            on_user_delete=OnUserDelete(row.get("onUserDelete") or "Retain"),
            storage_class=row.get("storageClass"),
            access_modes=tuple(row.get("accessModes") or ("ReadWriteOnce",)),
            description=row.get("description") or "",
            labels=row.get("labels") or {},
        )
    return table
