"""``steward-operator``: wires the parts together and runs until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import kopf
import uvloop
from kopf._core.engines.peering import Identity
from steward_api.names import PLURALS
from steward_api.volumes import BadVolumeTable, Volume, read_table

from steward_operator.adapters import health, informer, startup
from steward_operator.core.settings import Copying, Settings, Snapshots
from steward_operator.engine import upkeep
from steward_operator.engine.driver import Driver, utc_now
from steward_operator.engine.lease import ForeignRelease, Lease
from steward_operator.engine.limiter import TokenBucket
from steward_operator.engine.prober import Prober
from steward_operator.engine.queue import KeyedQueue
from steward_operator.engine.store import Key, Requests, Servers
from steward_operator.engine.teller import Teller
from steward_operator.engine.watches import Watches
from steward_operator.hubapi.client import HttpHubApi
from steward_operator.kube.api import KubeError
from steward_operator.kube.client import HttpKubeApi, connection
from steward_operator.obs import metrics
from steward_operator.obs.log import configure, log


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="steward-operator", description="Carries out VolumeReset and ServerRestart requests of one hub."
    )
    parser.add_argument("--namespace", required=True, help="namespace of the hub, its servers and its requests")
    parser.add_argument("--release", required=True, help="Helm release this operator belongs to")
    parser.add_argument("--config", type=Path, required=True, help="JSON file with the storage table and the settings")
    parser.add_argument("--hub-url", required=True, help="the hub's API, for example http://hub:8081/hub/api")
    parser.add_argument(
        "--hub-token-file", type=Path, help="file with the token of the hub service hubsteward-operator"
    )
    parser.add_argument("--health-port", type=int, default=8080, help="port of /livez and /readyz (default: 8080)")
    parser.add_argument("--identity", default=socket.gethostname(), help="holder of the Lease (default: the host name)")
    parser.add_argument("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR (default: INFO)")
    return parser.parse_args()


def read_settings(given: dict[str, Any]) -> Settings:
    """Settings by the names of their fields; lists become tuples. Raises TypeError for an unknown name."""
    given = dict(given)
    snapshots = given.pop("snapshots", {})
    copying: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.pop("copying", {}).items()}
    return Settings(**given, copying=Copying(**copying), snapshots=Snapshots(**snapshots))


def load(arguments: argparse.Namespace) -> tuple[dict[str, Volume], Settings, str]:
    """The storage table, the settings and the hub's token. Raises `startup.StartUpError`."""
    try:
        config = json.loads(arguments.config.read_text())
        table = read_table(config.get("storage") or {})
        settings = read_settings(config.get("settings") or {})
        token = arguments.hub_token_file.read_text().strip() if arguments.hub_token_file else ""
    except (OSError, ValueError, TypeError, BadVolumeTable) as problem:
        raise startup.StartUpError(f"The configuration {arguments.config} cannot be used: {problem}") from problem
    return table, settings, token


async def run(arguments: argparse.Namespace) -> None:
    table, settings, token = load(arguments)
    async with AsyncExitStack() as closing:
        writes = TokenBucket(settings.writes_per_second, settings.write_burst)
        kube = HttpKubeApi(connection(), arguments.namespace, writes.take)
        closing.push_async_callback(kube.close)
        hub = HttpHubApi(arguments.hub_url, token)
        closing.push_async_callback(hub.close)
        requests, servers = Requests(), Servers(timedelta(seconds=settings.restart_window))
        watches = Watches()

        def wake(user: str) -> None:
            for request in requests.of_user(user, excluding=("", "")):
                queue.add((request.kind, request.name))

        prober = Prober(settings.answer_timeout, on_answer=wake)
        closing.push_async_callback(prober.close)

        def forget_pod(uid: str) -> None:
            servers.drop(uid)
            prober.forget(uid)

        teller = Teller(kube, arguments.namespace, utc_now)
        driver = Driver(kube, hub, requests, servers, table, settings, prober, teller)

        async def work(key: Key) -> float | None:
            # A standby keeps its watches warm and does nothing; on taking over, everything unfinished is looked at.
            return await driver.process(key) if lease.is_held else None

        def name(key: Key) -> dict[str, str]:
            known = requests.get(*key)
            return {"kind": key[0], "request": key[1], "uid": known.uid if known else ""}

        def user(key: Key) -> str:
            """Requests for one user's objects are carried out one at a time."""
            known = requests.get(*key)
            return known.user if known else ""

        queue: KeyedQueue[Key] = KeyedQueue(work, name, user)
        metrics.queue_depth.set_function(queue.depth)
        for kind in PLURALS:
            metrics.unfinished.labels(kind).set_function(partial(requests.unfinished, kind))

        def forget_request(key: Key) -> None:
            """It is not among the unfinished any more: it has ended or was deleted. Where it matters, a look tells."""
            known = requests.get(*key)
            if known and lease.is_held and teller.is_news(known):
                queue.add(key)
            else:
                requests.drop(*key)

        def look_at_all() -> None:
            for request in requests.all():
                queue.add((request.kind, request.name))

        lease = Lease(kube, arguments.release, arguments.identity, on_held=look_at_all)
        await startup.patiently(lambda: startup.check(kube, settings))
        await startup.patiently(lambda: upkeep.resync(kube, requests, servers, queue.add, forget_pod, forget_request))
        ready = asyncio.Event()
        lag = health.Lag()
        web = await health.serve(
            arguments.health_port,
            watches,
            lag,
            lambda: "" if ready.is_set() else "the first lists are not read yet",
        )
        closing.push_async_callback(web.cleanup)
        watching = kopf.operator(
            registry=informer.registry(requests, servers, watches, queue.add, forget_pod, forget_request, wake),
            settings=informer.settings(),
            namespaces=[arguments.namespace],
            clusterwide=False,
            standalone=True,
            # Found out by itself it needs a user name, which an arbitrary UID does not have.
            identity=Identity(arguments.identity),
            ready_flag=ready,
        )
        await until_told_to_stop(
            ready,
            lease,
            startup.check_hub(hub),
            {
                "watches": watching,
                "queue": queue.run(),
                "lease": lease.run(),
                "upkeep": upkeep.run(
                    kube,
                    requests,
                    servers,
                    watches,
                    settings,
                    queue.add,
                    forget_pod,
                    forget_request,
                    lambda: lease.is_held,
                ),
                "events": teller.send_events(),
                "lag": lag.measure(),
            },
        )


async def until_told_to_stop(
    ready: asyncio.Event, lease: Lease, first: Coroutine[Any, Any, None], parts: dict[str, Coroutine[Any, Any, None]]
) -> None:
    """Run all parts until a signal comes or one of them ends, which none may. ``first`` may end, but not fail."""
    stop = asyncio.Event()

    async def wait_for_signal() -> None:
        # kopf takes the signals while it starts; from then on they are ours, so that the Lease is given up in order.
        await ready.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()

    checking = asyncio.create_task(first, name="first checks")
    tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    tasks.append(asyncio.create_task(wait_for_signal(), name="signal"))
    done, _ = await asyncio.wait([*tasks, checking], return_when=asyncio.FIRST_COMPLETED)
    if done == {checking} and checking.exception() is None:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    log(logging.INFO, "stopping", because=", ".join(task.get_name() for task in done))
    # The one that would take the Lease again goes first.
    leading = next(task for task in tasks if task.get_name() == "lease")
    leading.cancel()
    await asyncio.wait([leading])
    await lease.release()
    for task in [*tasks, checking]:
        task.cancel()
    for result in await asyncio.gather(*tasks, checking, return_exceptions=True):
        if isinstance(result, ForeignRelease):
            raise startup.StartUpError(str(result)) from result
        if isinstance(result, Exception):
            raise result
    if not stop.is_set() and ready.is_set():
        raise RuntimeError("a part of the operator ended by itself")


def main() -> int:
    arguments = parse_arguments()
    configure(arguments.log_level)
    try:
        uvloop.run(run(arguments))
    except (startup.StartUpError, KubeError) as problem:
        log(logging.ERROR, "cannot run", problem=str(problem))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
