"""Whether the watches still deliver: what they have shown is compared with a list, now and then.

A watch that died quietly looks just like a cluster where nothing happens. The list tells them apart: what it holds and
the watch has not shown a few seconds later is proof that the watch is behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: A watch may be this many seconds behind a list that was taken before.
GRACE = 3.0
#: Behind for so many seconds, it will not come back by itself.
DEAD_AFTER = 120.0
REMEMBERED = 60.0


class Watches:
    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._shown: dict[str, dict[str, int]] = {}
        self._fresh_at: dict[str, float] = {}
        self._behind_since: dict[str, float] = {}
        # Lists that were taken before something went still hold it.
        self._gone: dict[str, dict[str, float]] = {}

    def deliver(self, resource: str, manifest: Mapping[str, Any]) -> None:
        meta = manifest["metadata"]
        self._shown.setdefault(resource, {})[meta["uid"]] = int(meta["resourceVersion"])
        self._is_fresh(resource)

    def forget(self, resource: str, uid: str) -> None:
        self._shown.get(resource, {}).pop(uid, None)
        self._gone.setdefault(resource, {})[uid] = self._now()
        self._is_fresh(resource)

    def known(self, resource: str) -> set[str]:
        """UIDs of what has been shown and not taken away."""
        return set(self._shown.get(resource) or ())

    def drop(self, resource: str, uids: Iterable[str]) -> None:
        """What a list did not hold any more that was shown before it: a watch that breaks off may miss its end."""
        for uid in uids:
            self._shown[resource].pop(uid, None)

    def compare(self, resource: str, listed: Iterable[Mapping[str, Any]]) -> bool:
        """Whether everything of a list that is `GRACE` seconds old has been shown since, by the version of the list."""
        shown = self._shown.setdefault(resource, {})
        gone = {uid: at for uid, at in self._gone.get(resource, {}).items() if self._now() - at < REMEMBERED}
        self._gone[resource] = gone
        versions = {m["metadata"]["uid"]: int(m["metadata"]["resourceVersion"]) for m in listed}
        if all(uid in gone or shown.get(uid, -1) >= version for uid, version in versions.items()):
            self._is_fresh(resource)
            return True
        self._behind_since.setdefault(resource, self._now())
        return False

    def _is_fresh(self, resource: str) -> None:
        self._fresh_at[resource] = self._now()
        self._behind_since.pop(resource, None)

    def age(self, resource: str) -> float:
        return self._now() - self._fresh_at.get(resource, self._now())

    def resources(self) -> list[str]:
        return sorted(self._fresh_at)

    def dead(self) -> str:
        """Which watch has been behind for too long; empty when none has."""
        for resource, since in self._behind_since.items():
            if self._now() - since > DEAD_AFTER:
                return resource
        return ""
