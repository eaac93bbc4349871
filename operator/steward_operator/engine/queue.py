"""A keyed work queue: of a group one is in work at a time, additions coalesce, failures back off with jitter."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

from steward_operator.obs import metrics
from steward_operator.obs.log import log

K = TypeVar("K", bound=Hashable)

FIRST_BACK_OFF = 0.1
LONGEST_BACK_OFF = 30.0
#: Overtaken timers that are not worth the tidying.
FEW = 64


class Due(NamedTuple, Generic[K]):
    key: K
    group: Hashable
    #: By the monotonic clock.
    since: float


class KeyedQueue(Generic[K]):
    """Calls ``work(key)``, which answers in how many seconds it wants to see the key again, or None.

    ``name`` says for the log what a key stands for, ``group`` what it is not worked at beside: those that wait for
    their group keep no worker from the others.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[float | None]],
        name: Callable[[K], Mapping[str, str]] = lambda key: {"key": str(key)},
        group: Callable[[K], Hashable] = lambda key: key,
        *,
        workers: int = 32,
    ) -> None:
        self._work = work
        self._name = name
        self._group = group
        self._workers = workers
        self._ready: asyncio.Queue[Due[K]] = asyncio.Queue()
        self._groups_in_work: set[Hashable] = set()
        self._waiting: defaultdict[Hashable, deque[Due[K]]] = defaultdict(deque)
        self._queued: set[K] = set()
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._timers: list[tuple[float, int, K]] = []
        self._next_look: dict[K, float] = {}
        self._timer_changed = asyncio.Event()
        self._failures: dict[K, int] = {}
        self._order = itertools.count()
        self._random = random.Random()  # noqa: S311

    def add(self, key: K) -> None:
        """Look at the key as soon as possible."""
        self._next_look.pop(key, None)
        if key in self._busy:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(Due(key, self._group(key), time.monotonic()))

    def add_after(self, key: K, seconds: float) -> None:
        """Look at the key after a while, unless something makes it be looked at before."""
        moment = asyncio.get_running_loop().time() + max(seconds, 0.0)
        self._next_look[key] = moment
        heapq.heappush(self._timers, (moment, next(self._order), key))
        if len(self._timers) > 2 * len(self._next_look) + FEW:
            # Overtaken entries for a far moment would stay until then: what waits for days is looked at every minute.
            self._timers = [entry for entry in self._timers if self._next_look.get(entry[2]) == entry[0]]
            heapq.heapify(self._timers)
        self._timer_changed.set()

    def timers(self) -> int:
        """Entries that wait for their moment, overtaken ones among them."""
        return len(self._timers)

    def depth(self) -> int:
        """Keys that are due and not yet in work."""
        return len(self._queued)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fire_timers())
            for _ in range(self._workers):
                group.create_task(self._worker())

    async def _fire_timers(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._timer_changed.clear()
            now = loop.time()
            while self._timers and self._timers[0][0] <= now:
                moment, _, key = heapq.heappop(self._timers)
                # An entry that is not the key's newest has been overtaken.
                if self._next_look.get(key) == moment:
                    self.add(key)
            timeout = self._timers[0][0] - now if self._timers else None
            try:
                async with asyncio.timeout(timeout):
                    await self._timer_changed.wait()
            except TimeoutError:
                continue

    async def _worker(self) -> None:
        while True:
            due = await self._ready.get()
            key, group, since = due
            if group in self._groups_in_work:
                self._waiting[group].append(due)
                continue
            self._groups_in_work.add(group)
            metrics.queue_wait.observe(time.monotonic() - since)
            self._queued.discard(key)
            self._busy.add(key)
            delay: float | None
            try:
                delay = await self._work(key)
                self._failures.pop(key, None)
            except Exception as problem:
                # The queue is where every unforeseen failure of one request ends: it is told and tried again.
                delay = self._back_off(key) + asked_to_wait(problem)
                log(logging.WARNING, "retrying", **self._name(key), problem=str(problem) or repr(problem),
                    seconds=round(delay, 2))  # fmt: skip
            finally:
                self._busy.discard(key)
                self._give_way(group)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            elif delay is not None:
                self.add_after(key, delay)

    def _give_way(self, group: Hashable) -> None:
        """To the one of the group that has waited longest."""
        self._groups_in_work.discard(group)
        if waiting := self._waiting.get(group):
            self._ready.put_nowait(waiting.popleft())
        if not waiting:
            self._waiting.pop(group, None)

    def _back_off(self, key: K) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return float(min(FIRST_BACK_OFF * 2 ** min(failures, 16), LONGEST_BACK_OFF) * self._random.uniform(0.5, 1.0))


def asked_to_wait(problem: Exception) -> float:
    """Seconds, as whoever refused the work has asked for (``Retry-After``), within reason."""
    return min(getattr(problem, "retry_after", None) or 0.0, LONGEST_BACK_OFF)
