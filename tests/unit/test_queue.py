"""The queue: one at a time for a key, additions coalesce, and no failure ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from steward_operator.engine.queue import LONGEST_BACK_OFF, KeyedQueue, asked_to_wait
from steward_operator.kube.api import KubeError


@asynccontextmanager
async def running(queue: KeyedQueue[str]) -> AsyncIterator[None]:
    runner = asyncio.create_task(queue.run())
    async with asyncio.timeout(5):
        yield
    runner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await runner


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
        async with running(queue):
            queue.add("a")
            await begun.wait()
            for _ in range(10):
                queue.add("a")
            gate.set()
            await done.wait()

    asyncio.run(scenario())
    assert seen == ["a", "a"]


def test_of_a_group_one_is_in_work_and_those_that_wait_for_it_keep_no_worker_from_the_others() -> None:
    """A user with more requests than there are workers, one of which hangs, is nobody else's trouble."""
    seen: list[str] = []
    at_work: list[int] = []

    async def scenario() -> None:
        gate, other, all_done = asyncio.Event(), asyncio.Event(), asyncio.Event()
        now = 0

        async def work(key: str) -> None:
            nonlocal now
            if key == "bob":
                other.set()
                return
            now += 1
            at_work.append(now)
            await gate.wait()
            await asyncio.sleep(0)
            now -= 1
            seen.append(key)
            if len(seen) == 5:
                all_done.set()

        queue: KeyedQueue[str] = KeyedQueue(work, group=lambda key: key.partition("-")[0], workers=2)
        async with running(queue):
            for number in range(5):
                queue.add(f"ann-{number}")
            queue.add("bob")
            await other.wait()
            assert seen == []
            assert queue.depth() == 4, "they are due all the same"
            gate.set()
            await all_done.wait()

    asyncio.run(scenario())
    assert seen == [f"ann-{number}" for number in range(5)], "in the order in which they came"
    assert set(at_work) == {1}, "one of ann's at a time"


def test_who_asks_to_wait_is_given_the_time() -> None:
    """An API server that is busy says for how long; nobody says for hours."""
    assert asked_to_wait(KubeError(429, "busy", retry_after=2.0)) == 2.0
    assert asked_to_wait(KubeError(429, "busy", retry_after=7200.0)) == LONGEST_BACK_OFF
    assert asked_to_wait(KubeError(500, "broken")) == asked_to_wait(ValueError()) == 0.0

    async def scenario() -> None:
        refused = asyncio.Event()

        async def work(key: str) -> None:
            refused.set()
            raise KubeError(429, "busy", retry_after=20.0)

        queue: KeyedQueue[str] = KeyedQueue(work)
        async with running(queue):
            queue.add("a")
            await refused.wait()
            await asyncio.sleep(0)
            assert queue._next_look["a"] - asyncio.get_running_loop().time() > 19

    asyncio.run(scenario())


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
