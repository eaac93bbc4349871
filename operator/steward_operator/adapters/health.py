"""``/livez`` and ``/readyz`` for the kubelet."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web


async def serve(port: int, is_ready: Callable[[], str]) -> web.AppRunner:
    """``is_ready`` answers why not, or nothing. Answering at all shows that the loop is alive."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why = is_ready()
        return web.Response(status=503 if why else 200, text=f"{why or 'ok'}\n")

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104
    return runner
