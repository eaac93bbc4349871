"""``steward-uninstall``: run before the release goes. Waits for requests that are at work, then lets all of them go.

A request that has deleted a claim holds a finalizer until the claim is there again. Without an operator that finalizer
would keep the namespace from going for ever.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from steward_api import names
from steward_api.phases import Phase

from steward_operator.core.model import Request
from steward_operator.kube.api import KubeApi, KubeError
from steward_operator.kube.client import HttpKubeApi, connection

LOOK_EVERY = 1.0


async def at_work(kube: KubeApi) -> list[Request]:
    """Requests that have begun. One that waits for its time has changed nothing and is not waited for."""
    listed = [manifest for kind in names.PLURALS for manifest in await kube.list_requests(kind)]
    requests = [Request(manifest) for manifest in listed]
    return [r for r in requests if r.has_finalizer or not (r.is_finished or r.phase is Phase.PENDING)]


async def let_go(kube: KubeApi, patience: float) -> int:
    """Returns how many requests were let go of before they had ended."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    told: set[str] = set()
    while (active := await at_work(kube)) and loop.time() < end:
        for request in active:
            if request.uid not in told:
                told.add(request.uid)
                print(f"waiting for {request.kind} {request.name} of {request.user}: {request.phase}", flush=True)
        await asyncio.sleep(LOOK_EVERY)
    for request in active:
        print(
            f"not waiting any longer for {request.kind} {request.name} of {request.user}: {request.phase}", flush=True
        )
        if not request.has_finalizer:
            continue
        kept = [name for name in request.meta.get("finalizers") or () if name != names.FINALIZER]
        try:
            await kube.set_finalizers(request.kind, request.name, request.uid, request.resource_version, kept)
        except KubeError as error:
            if not error.is_gone:
                raise
    print("nothing is at work any more" if not active else f"{len(active)} requests did not end", flush=True)
    return len(active)


async def run(namespace: str, patience: float) -> None:
    kube = HttpKubeApi(connection(), namespace)
    try:
        await let_go(kube, patience)
    finally:
        await kube.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="steward-uninstall", description="Lets the namespace's requests go.")
    parser.add_argument("--namespace", required=True, help="namespace of the requests")
    parser.add_argument(
        "--patience", type=float, default=120, help="seconds to wait for requests at work (default: 120)"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(run(arguments.namespace, arguments.patience))
    except KubeError as error:
        if error.is_gone:
            # The CRDs went before: there is nothing to let go of.
            return 0
        print(f"cannot go on: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
