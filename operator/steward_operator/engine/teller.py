"""Tells what has become of requests: a line in the log, an Event, and of every end the audit line and the metric."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from steward_api.phases import Phase

from steward_operator.core.model import Request
from steward_operator.kube.api import Json, KubeApi, KubeError
from steward_operator.obs import events, metrics
from steward_operator.obs.log import audit, log

#: Events that wait to be sent; beyond it the newest are dropped, because they are news and not record.
MOST_EVENTS = 2000
#: Seconds between two Events, so that a crowd of requests is not held up by the news of it.
EVENT_EVERY = 0.05
#: Requests that were deleted and told of, until their watch has said so, too.
MOST_REMEMBERED = 10_000


class Teller:
    """Once each, also where the answer to the write that made it true was lost."""

    def __init__(self, kube: KubeApi, namespace: str, now: Callable[[], datetime]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._now = now
        self._events: asyncio.Queue[Json] = asyncio.Queue(MOST_EVENTS)
        # By UID: the request as it was, and the status that was sent.
        self._sent: dict[str, tuple[Request, Mapping[str, Any]]] = {}
        self._told_gone: dict[str, None] = {}

    def sends(self, request: Request, status: Mapping[str, Any]) -> None:
        """A status is on its way."""
        self._sent[request.uid] = (request, status)

    def waits_for(self, uid: str) -> bool:
        """Whether it is not known yet what became of a status that was sent."""
        return uid in self._sent

    def is_news(self, request: Request) -> bool:
        """Whether there is something to tell if it is gone now."""
        return self.waits_for(request.uid) or _is_at_work(request)

    def sees(self, present: Request) -> None:
        """The request as the API server has it; it may be what a status of ours has made of it."""
        if present.uid not in self._sent:
            return
        before, status = self._sent[present.uid]
        if present.resource_version == before.resource_version:
            return
        del self._sent[present.uid]
        if all(present.status.get(key) == status.get(key) for key in ("phase", "reason", "message")):
            self._tell(before, present)

    def is_gone(self, request: Request) -> None:
        """Deleted. One that was at work goes without an end of its own, and has done what it has done."""
        self._sent.pop(request.uid, None)
        if request.uid in self._told_gone or not _is_at_work(request):
            self._told_gone.pop(request.uid, None)
            return
        audit(dict(request.manifest), deleted=True)
        self._told_gone[request.uid] = None
        if len(self._told_gone) > MOST_REMEMBERED:
            self._told_gone.pop(next(iter(self._told_gone)))

    def _tell(self, before: Request, present: Request) -> None:
        manifest = dict(present.manifest)
        if present.phase is not before.phase:
            log(logging.INFO, "phase", request=present.name, uid=present.uid, phase=str(present.phase),
                reason=present.status["reason"])  # fmt: skip
            self._announce(manifest)
        if present.is_finished:
            audit(manifest)
            metrics.finished.labels(present.kind, str(present.phase), present.status["reason"]).inc()

    def _announce(self, manifest: Json) -> None:
        try:
            self._events.put_nowait(events.phase_event(manifest, self._namespace, self._now()))
        except asyncio.QueueFull:
            meta = manifest["metadata"]
            log(logging.WARNING, "event dropped", request=meta["name"], uid=meta["uid"])

    async def send_events(self) -> None:
        """Runs for as long as the operator does. An Event is news: nothing waits for it, the status already says it."""
        while True:
            event = await self._events.get()
            await asyncio.sleep(EVENT_EVERY)
            try:
                await self._kube.create_event(event)
            except KubeError as error:
                regarding = event["regarding"]
                log(logging.WARNING, "event not written", event=event["metadata"]["name"], request=regarding["name"],
                    uid=regarding["uid"], problem=str(error))  # fmt: skip


def _is_at_work(request: Request) -> bool:
    return not request.is_finished and request.phase not in (Phase.PENDING, Phase.UNKNOWN)
