"""``steward-operator``: wires the parts together and runs until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import kopf
import uvloop
from kopf._core.engines.peering import Identity
from steward_api.names import PLURALS, SERVER_RESTART, VOLUME_RESET
from steward_api.volumes import BadVolumeTable, read_table

from steward_operator.adapters import health, informer
from steward_operator.core.model import Copying, Settings
from steward_operator.engine import upkeep
from steward_operator.engine.driver import Driver
from steward_operator.engine.lease import ForeignRelease, Lease
from steward_operator.engine.prober import Prober
from steward_operator.engine.queue import KeyedQueue
from steward_operator.engine.store import Key, Requests, Servers
from steward_operator.hubapi.client import HttpHubApi
from steward_operator.kube.api import KubeApi, KubeError
from steward_operator.kube.client import HttpKubeApi, connection
from steward_operator.obs.log import configure, log


class StartUpError(Exception):
    """Something an administrator has to put right, said in one sentence."""


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
    copying: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.pop("copying", {}).items()}
    return Settings(**given, copying=Copying(**copying))


async def check_rights(kube: KubeApi) -> None:
    """A missing CRD or right is told at once, not at the first request."""
    for kind in PLURALS:
        try:
            await kube.list_requests(kind)
        except KubeError as error:
            if error.is_gone:
                raise StartUpError(
                    f"The CRD of {kind} is not installed; install the chart jupyterhub-steward-crds."
                ) from error
            raise
    needed = [
        ("patch", "hubsteward.io", PLURALS[VOLUME_RESET], "status"),
        ("patch", "hubsteward.io", PLURALS[SERVER_RESTART], "status"),
        ("delete", "", "persistentvolumeclaims", ""),
        ("create", "", "persistentvolumeclaims", ""),
        ("patch", "", "pods", "resize"),
        ("list", "", "pods", ""),
        ("create", "batch", "jobs", ""),
    ]
    for verb, group, resource, subresource in needed:
        if not await kube.may(verb, group, resource, subresource):
            what = f"{resource}/{subresource}" if subresource else resource
            raise StartUpError(f"The operator's service account may not {verb} {what}; its Role is not complete.")


async def run(arguments: argparse.Namespace) -> None:
    try:
        config = json.loads(arguments.config.read_text())
        table = read_table(config.get("storage") or {})
        settings = read_settings(config.get("settings") or {})
    except (OSError, ValueError, TypeError, BadVolumeTable) as problem:
        raise StartUpError(f"The configuration {arguments.config} cannot be used: {problem}") from problem
    token = arguments.hub_token_file.read_text().strip() if arguments.hub_token_file else ""

    kube = HttpKubeApi(connection(), arguments.namespace)
    hub = HttpHubApi(arguments.hub_url, token)
    requests, servers = Requests(), Servers(timedelta(seconds=settings.restart_window))

    def wake(user: str) -> None:
        for request in requests.of_user(user, excluding=("", "")):
            queue.add((request.kind, request.name))

    prober = Prober(settings.answer_timeout, on_answer=wake)
    driver = Driver(kube, hub, requests, servers, table, settings, arguments.namespace, prober)

    async def work(key: Key) -> float | None:
        # A standby keeps its watches warm and does nothing; on taking over, everything unfinished is looked at.
        return await driver.process(key) if lease.is_held else None

    queue: KeyedQueue[Key] = KeyedQueue(work)

    def look_at_all() -> None:
        for request in requests.all():
            queue.add((request.kind, request.name))

    # The pod's name: a container that is restarted in its pod goes on with its own Lease at once.
    identity = arguments.identity
    lease = Lease(kube, arguments.release, identity, on_held=look_at_all)
    await check_rights(kube)
    await upkeep.resync(kube, requests, servers, queue.add)
    ready = asyncio.Event()
    web = await health.serve(arguments.health_port, lambda: "" if ready.is_set() else "the watches are not open yet")
    stop = asyncio.Event()

    async def wait_for_signal() -> None:
        # kopf takes the signals while it starts; from then on they are ours, so that the Lease is given up in order.
        await ready.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()

    watching = asyncio.create_task(
        kopf.operator(
            registry=informer.registry(requests, servers, prober, queue.add, wake),
            settings=informer.settings(),
            namespaces=[arguments.namespace],
            clusterwide=False,
            standalone=True,
            # Found out by itself it needs a user name, which an arbitrary UID does not have.
            identity=Identity(identity),
            ready_flag=ready,
        ),
        name="watches",
    )
    tasks = [
        watching,
        asyncio.create_task(queue.run(), name="queue"),
        asyncio.create_task(lease.run(), name="lease"),
        asyncio.create_task(
            upkeep.run(kube, requests, servers, settings, queue.add, lambda: lease.is_held), name="upkeep"
        ),
    ]
    stopping = asyncio.create_task(wait_for_signal(), name="stop")
    done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    log(logging.INFO, "stopping", because=", ".join(task.get_name() for task in done))
    await lease.release()
    for task in [*tasks, stopping]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await web.cleanup()
    await prober.close()
    await kube.close()
    await hub.close()
    for result in results:
        if isinstance(result, ForeignRelease):
            raise StartUpError(str(result)) from result
        if isinstance(result, Exception):
            raise result
    if not stop.is_set() and ready.is_set():
        raise RuntimeError("a part of the operator ended by itself")


def main() -> int:
    arguments = parse_arguments()
    configure(arguments.log_level)
    try:
        uvloop.run(run(arguments))
    except (StartUpError, KubeError) as problem:
        log(logging.ERROR, "cannot run", problem=str(problem))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
