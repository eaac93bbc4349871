"""The queue: one at a time for a key, additions coalesce, and no failure ends it."""

from __future__ import annotations

import asyncio

import pytest
from steward_operator.engine.queue import LONGEST_BACK_OFF, KeyedQueue


def test_a_key_that_always_fails_backs_off_and_never_ends_the_queue() -> None:
    async def work(key: str) -> None:
        raise AssertionError

    queue: KeyedQueue[str] = KeyedQueue(work)
    delays = [queue._back_off("k") for _ in range(2000)]
    assert max(delays) <= LONGEST_BACK_OFF
    assert delays[0] < 0.2 < delays[-1]


def test_additions_during_the_work_are_one_more_look() -> None:
    seen: list[str] = []

    async def scenario() -> None:
        gate, begun, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def work(key: str) -> None:
            seen.append(key)
            if len(seen) == 1:
                begun.set()
                await gate.wait()
            if len(seen) == 2:
                done.set()

        queue: KeyedQueue[str] = KeyedQueue(work)
        runner = asyncio.create_task(queue.run())
        queue.add("a")
        await begun.wait()
        for _ in range(10):
            queue.add("a")
        gate.set()
        async with asyncio.timeout(5):
            await done.wait()
        runner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await runner

    asyncio.run(scenario())
    assert seen == ["a", "a"]


def test_what_waits_for_days_and_is_looked_at_every_minute_takes_no_more_room() -> None:
    async def scenario() -> None:
        async def work(key: str) -> float | None:
            return None

        queue = KeyedQueue(work)
        for _ in range(10_000):
            queue.add_after("scheduled", 86_400)
            queue.add_after("soon", 3600)
        assert queue.timers() < 200

    asyncio.run(scenario())
