"""A token bucket: so many writes a second, and a burst now and then."""

from __future__ import annotations

import asyncio


class TokenBucket:
    """`take` waits until there is a token. First come, first served."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, float(burst)
        self._tokens = float(burst)
        self._filled_at: float | None = None
        self._line = asyncio.Lock()

    async def take(self) -> None:
        async with self._line:
            self._fill()
            if self._tokens < 1:
                await asyncio.sleep((1 - self._tokens) / self._rate)
                self._fill()
            self._tokens -= 1

    def _fill(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
