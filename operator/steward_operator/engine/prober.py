"""Asks a restarted server itself whether it answers.

The kubelet's first status after an in-place restart still carries the old instance's ``started`` and ``ready``
(docs/adr/0003), so the only witness is the server. Asks where its startup probe asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from steward_operator.core.model import Pod

EVERY = 0.1
TIMEOUT = aiohttp.ClientTimeout(total=3)
#: Any answer of the server's own will do; these come from something in between, or from a server not ready yet.
NOT_YET = 500


class Prober:
    """Knows which container instances have answered; tells when one does."""

    def __init__(self, patience: float, on_answer: Callable[[str], None]) -> None:
        self._patience = patience
        self._on_answer = on_answer
        self._tasks: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._answered: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None

    def watch(self, pod: Pod) -> None:
        """Ask the pod's present instance until it answers or another takes its place."""
        container, url = pod.notebook, pod.probe_url
        if container is None or container.state != "running" or not url or self.has_answered(pod):
            return
        known = self._tasks.get(pod.uid)
        if known and known[0] == container.id and not known[1].done():
            return
        if known:
            known[1].cancel()
        task = asyncio.create_task(self._ask(pod.uid, container.id, pod.user, url), name=f"probe {pod.name}")
        self._tasks[pod.uid] = (container.id, task)

    def has_answered(self, pod: Pod) -> bool:
        container = pod.notebook
        return container is not None and self._answered.get(pod.uid) == container.id

    def forget(self, pod_uid: str) -> None:
        self._answered.pop(pod_uid, None)
        if known := self._tasks.pop(pod_uid, None):
            known[1].cancel()

    async def _ask(self, pod_uid: str, container_id: str, user: str, url: str) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._patience
        while loop.time() < end:
            try:
                async with self._session.get(url, allow_redirects=False, ssl=False) as response:
                    if response.status < NOT_YET:
                        self._answered[pod_uid] = container_id
                        self._on_answer(user)
                        return
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(EVERY)

    async def close(self) -> None:
        for _, task in self._tasks.values():
            task.cancel()
        if self._session:
            await self._session.close()
