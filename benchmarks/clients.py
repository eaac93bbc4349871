"""What one call to the API server costs with each client that the operator could use (docs/adr/0002).

    python -m benchmarks.clients [--calls 2000] [--write]

A real API server, one connection, one call after the other: GET of a pod and a merge patch of its annotations. Every
client runs in a process of its own, with nothing imported but what it needs. The official client is not in this
project's lock; uv brings it for the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

OFFICIAL = "kubernetes==37.0.2"
POD = "/api/v1/namespaces/hub/pods/measured"
Call = Callable[[], Awaitable[Any]]


async def plain(server: str, token: str) -> tuple[Call, Call]:
    """This project's own, on aiohttp. As in the operator's image, there is no client library for kopf to import."""
    sys.modules.update(kubernetes=None, kubernetes_asyncio=None)  # type: ignore[arg-type]
    import kopf
    from steward_operator.kube.client import HttpKubeApi

    info = kopf.ConnectionInfo(server=server, token=token, insecure=True)
    api = HttpKubeApi(info, "hub")
    number = iter(range(10**9))

    async def patch() -> Any:
        body = {"metadata": {"annotations": {"n": str(next(number))}}}
        return await api._call("PATCH", POD, body=body, content_type="application/merge-patch+json")

    return (lambda: api.get_pod("measured")), patch


async def official(server: str, token: str, *, models: bool) -> tuple[Call, Call]:
    """``kubernetes.aio``, with its generated models or with raw JSON."""
    from kubernetes.aio import client

    configuration = client.Configuration(host=server)
    configuration.verify_ssl = False
    api = client.ApiClient(configuration)
    api.set_default_header("Authorization", f"Bearer {token}")
    core = client.CoreV1Api(api)
    number = iter(range(10**9))

    async def get() -> Any:
        if models:
            return await core.read_namespaced_pod("measured", "hub")
        answer = await core.read_namespaced_pod_without_preload_content("measured", "hub")
        return json.loads(await answer.read())

    async def patch() -> Any:
        body = {"metadata": {"annotations": {"n": str(next(number))}}}
        kind = "application/merge-patch+json"
        if models:
            return await core.patch_namespaced_pod("measured", "hub", body, _content_type=kind)
        answer = await core.patch_namespaced_pod_without_preload_content("measured", "hub", body, _content_type=kind)
        return json.loads(await answer.read())

    return get, patch


async def measure(which: str, server: str, token: str, calls: int) -> dict[str, float]:
    begun = time.perf_counter()
    if which == "plain":
        get, patch = await plain(server, token)
    else:
        # The hub's client, which is in this environment and which kopf would import, too.
        sys.modules.update(kubernetes_asyncio=None)  # type: ignore[arg-type]
        import kopf  # noqa: F401 - the operator has it whatever client it uses

        get, patch = await official(server, token, models=which == "models")
    found = {"import": time.perf_counter() - begun}
    for name, call in (("get", get), ("patch", patch)):
        await call()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            await call()
        found[f"{name} cpu"] = (time.process_time() - cpu) / calls
        found[f"{name} wall"] = (time.perf_counter() - wall) / calls
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return found


NAMES = {
    "plain": "plain HTTP (aiohttp), this project",
    "raw": "kubernetes.aio, raw JSON",
    "models": "kubernetes.aio, generated models",
}


def one(which: str, server: str, token: str, calls: int) -> dict[str, float]:
    from cluster import cache, tools

    extra = [] if which == "plain" else ["--with", OFFICIAL]
    answer = subprocess.run(
        [tools.uv(), "run", "-q", "--frozen", "--all-packages", *extra, "python", "-m", "benchmarks.clients",
         f"--one={which}", f"--server={server}", f"--token={token}", f"--calls={calls}"],
        cwd=cache.REPOSITORY, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return dict(json.loads(answer.stdout))


def table(calls: int) -> str:
    from benchmarks.tables import machine
    from tests.support.control_plane import ADMIN_TOKEN, ControlPlane

    plane = ControlPlane()
    rows = ["| client | import | memory | GET: CPU, wall | PATCH: CPU, wall |", "|---|---|---|---|---|"]
    try:
        plane.start()
        plane.kubectl("create", "namespace", "hub")
        plane.kubectl("-n", "hub", "create", "serviceaccount", "default")
        pod = {"metadata": {"name": "measured"}, "spec": {"containers": [{"name": "notebook", "image": "paper"}]}}
        plane.raw("POST", POD.rpartition("/")[0], pod)
        for which, name in NAMES.items():
            got = one(which, plane.url, ADMIN_TOKEN, calls)
            times = [
                f"{got[f'{call} cpu'] * 1000:.2f} ms, {got[f'{call} wall'] * 1000:.2f} ms" for call in ("get", "patch")
            ]
            rows.append(f"| {name} | {got['import']:.2f} s | {got['memory']:.0f} MB | {' | '.join(times)} |")
    finally:
        plane.stop()
    return "\n".join([*rows, "", f"{calls} calls each. {machine()}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="calls of each kind (default: 2000)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/adr/0002")
    parser.add_argument("--one", choices=list(NAMES), help=argparse.SUPPRESS)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    parser.add_argument("--token", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asyncio.run(measure(arguments.one, arguments.server, arguments.token, arguments.calls))))
        return
    text = table(arguments.calls)
    print(text)
    if arguments.write:
        from benchmarks.tables import replace_section
        from cluster import cache

        replace_section(cache.REPOSITORY / "docs/adr/0002-plain-http-instead-of-a-client-library.md", "clients", text)


if __name__ == "__main__":
    sys.exit(main())
