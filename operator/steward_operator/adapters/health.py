"""``/livez``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from steward_operator.engine.watches import Watches
from steward_operator.obs import metrics

LAG_EVERY = 1.0
#: A loop that is this late carries nothing out in time. The kubelet asks three times before it acts.
MOST_LAG = 10.0


class Lag:
    """How late the loop wakes up, in seconds: so long everything else has to wait."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self.seconds = max(0.0, loop.time() - due)
            metrics.loop_lag.set(self.seconds)


async def serve(port: int, watches: Watches, lag: Lag, is_ready: Callable[[], str]) -> web.AppRunner:
    """``is_ready`` answers why not, or nothing."""

    async def livez(_: web.Request) -> web.Response:
        if lag.seconds > MOST_LAG:
            return web.Response(status=503, text=f"the event loop was {lag.seconds:.0f} s late\n")
        # A restart opens the watches anew. That they cannot be opened is not for a restart to mend.
        if dead := watches.dead():
            return web.Response(status=503, text=f"the watch on {dead} does not deliver\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why = is_ready()
        return web.Response(status=503 if why else 200, text=f"{why or 'ok'}\n")

    async def exposition(_: web.Request) -> web.Response:
        for resource in watches.resources():
            metrics.watch_age.labels(resource).set(watches.age(resource))
        return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", exposition)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104
    return runner
