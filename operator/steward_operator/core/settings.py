"""What an administrator may tune, from the chart's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Copying:
    """How volumes are copied: the image, who the lab's files belong to, and the limits. Durations in seconds."""

    image: str = ""
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    uid: int = 1000
    gid: int = 100
    fs_gid: int = 100
    labels: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    deadline: int = 3600
    keep_last: int = 3
    keep_days: int = 30


@dataclass(frozen=True)
class Snapshots:
    """Whether VolumeSnapshots may be taken, of which class (empty: the driver's default), and how long one may take."""

    enabled: bool = False
    class_name: str = ""
    deadline: int = 3600


@dataclass(frozen=True)
class Settings:
    """What an administrator may tune. Durations in seconds."""

    min_restart_interval: float = 30
    restart_window: float = 600
    restarts_per_window: int = 3
    answer_timeout: float = 300
    kill_timeout: float = 15
    stop_timeout: float = 120
    start_failure_timeout: float = 60
    stalled_after: float = 60
    resync_every: float = 60
    most_finished_requests: int = 5000
    writes_per_second: float = 200
    write_burst: int = 400
    copying: Copying = field(default_factory=Copying)
    snapshots: Snapshots = field(default_factory=Snapshots)
