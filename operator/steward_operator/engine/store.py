"""What the watches have shown: requests, and how often each server's container has restarted.

Only hints. Whatever is irreversible is decided on a live read.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from steward_operator.core.model import Pod, Request

Json = dict[str, Any]
Key = tuple[str, str]


class Requests:
    """Requests by (kind, name), without managedFields."""

    def __init__(self) -> None:
        self._known: dict[Key, Request] = {}
        # Asked for at every event of every server.
        self._of_user: defaultdict[str, dict[Key, Request]] = defaultdict(dict)

    def put(self, manifest: Json) -> None:
        meta = {k: v for k, v in manifest["metadata"].items() if k != "managedFields"}
        request = Request({**manifest, "metadata": meta})
        self.drop(request.kind, request.name)
        self._known[(request.kind, request.name)] = request
        self._of_user[request.user][(request.kind, request.name)] = request

    def drop(self, kind: str, name: str) -> None:
        known = self._known.pop((kind, name), None)
        if known is not None:
            of_user = self._of_user[known.user]
            of_user.pop((kind, name))
            if not of_user:
                del self._of_user[known.user]

    def get(self, kind: str, name: str) -> Request | None:
        return self._known.get((kind, name))

    def of_user(self, user: str, excluding: Key) -> tuple[Request, ...]:
        """Unfinished requests that share a user's objects."""
        of_user = self._of_user.get(user) or {}
        return tuple(request for key, request in of_user.items() if key != excluding and not request.is_finished)

    def unfinished(self, kind: str) -> int:
        return sum(request.kind == kind and not request.is_finished for request in self._known.values())

    def all(self) -> Iterable[Request]:
        return tuple(self._known.values())


class Servers:
    """Pods of servers, and the restarts of their notebook containers, whatever caused them."""

    def __init__(self, window: timedelta) -> None:
        self._window = window
        self._owners: dict[str, str] = {}
        self._names: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._seen_since: dict[str, datetime] = {}
        self._counts: dict[str, int] = {}
        self._increases: dict[str, deque[datetime]] = defaultdict(deque)

    def put(self, pod: Pod, now: datetime) -> None:
        self._owners[pod.uid] = pod.user
        self._names[pod.user][pod.uid] = pod.name
        container = pod.notebook
        if container is None:
            return
        count = container.restart_count
        if pod.uid not in self._counts:
            self._seen_since[pod.uid] = now
        elif count > self._counts[pod.uid]:
            self._increases[pod.uid].extend([now] * (count - self._counts[pod.uid]))
        self._counts[pod.uid] = max(count, self._counts.get(pod.uid, 0))

    def drop(self, uid: str) -> None:
        if owner := self._owners.pop(uid, None):
            self._names[owner].pop(uid, None)
            if not self._names[owner]:
                del self._names[owner]
        for known in (self._seen_since, self._counts, self._increases):
            known.pop(uid, None)

    def uids(self) -> set[str]:
        return set(self._owners)

    def names_of(self, user: str) -> list[str]:
        """Names of the user's pods, as far as the watch has shown them."""
        return sorted(set((self._names.get(user) or {}).values()))

    def recent_restarts(self, pod: Pod, now: datetime) -> int:
        """Restarts within the window: those seen here, or all of them where this process has not watched so long."""
        self.put(pod, now)
        increases = self._increases.get(pod.uid) or deque()
        while increases and now - increases[0] > self._window:
            increases.popleft()
        seen = len(increases)
        if now - self._seen_since.get(pod.uid, now) >= self._window:
            return seen
        container = pod.notebook
        ended = container.last_finished if container else None
        if container and ended and now - ended <= self._window:
            return max(seen, container.restart_count)
        return seen
