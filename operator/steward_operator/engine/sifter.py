"""One pass through everybody's objects for all who want something of them.

A namespace may hold thousands of pods, and twenty requests may look for theirs at once: each pass holds a page at a
time, and serves everybody who asked before it began. What was written before the question is in the answer, so a
look after a lock sees whatever came before the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from steward_operator.kube.api import Json

Keep = Callable[[Json], bool]


@dataclass(frozen=True)
class _Asker:
    keep: Keep
    answer: asyncio.Future[list[Json]]


class Sifter:
    def __init__(self, pages: Callable[[], AsyncIterator[list[Json]]]) -> None:
        """``pages`` begins a new list."""
        self._pages = pages
        self._waiting: list[_Asker] = []
        self._passes: asyncio.Task[None] | None = None

    async def sift(self, keep: Keep) -> list[Json]:
        """The objects that ``keep`` says yes to, of a list that begins after the call. Raises what the list raises."""
        asker = _Asker(keep, asyncio.get_running_loop().create_future())
        self._waiting.append(asker)
        if self._passes is None or self._passes.done():
            self._passes = asyncio.create_task(self._pass_by_pass())
        return await asker.answer

    async def _pass_by_pass(self) -> None:
        while self._waiting:
            askers, self._waiting = self._waiting, []
            try:
                await self._pass(askers)
            except Exception as problem:
                for asker in askers:
                    if not asker.answer.done():
                        asker.answer.set_exception(problem)

    async def _pass(self, askers: list[_Asker]) -> None:
        found: list[list[Json]] = [[] for _ in askers]
        async for page in self._pages():
            for manifest in page:
                for asker, kept in zip(askers, found, strict=True):
                    if asker.keep(manifest):
                        kept.append(manifest)
        for asker, kept in zip(askers, found, strict=True):
            if not asker.answer.done():
                asker.answer.set_result(kept)
