"""What is done now and then: finished requests past their time are deleted, and the watches are checked by a list."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from steward_api.names import PLURALS

from steward_operator.core.admission import is_replayed
from steward_operator.core.clock import parse_time
from steward_operator.core.model import Pod, World
from steward_operator.kube.api import KubeApi, KubeError
from steward_operator.obs.log import log

from .driver import SERVERS_ONLY, utc_now
from .store import Key, Requests, Servers

RESYNC_EVERY = 60.0


async def resync(kube: KubeApi, requests: Requests, servers: Servers, add: Callable[[Key], None]) -> None:
    """Once: what a watch may have missed. Unfinished requests are looked at again."""
    for kind in PLURALS:
        listed = await kube.list_requests(kind)
        for manifest in listed:
            requests.put(manifest)
        requests.keep_only(kind, {manifest["metadata"]["name"] for manifest in listed})
    pods = [Pod(manifest) for manifest in await kube.list_pods(SERVERS_ONLY)]
    for pod in pods:
        servers.put(pod, utc_now())
    servers.keep_only({pod.uid for pod in pods})
    for request in requests.all():
        if not request.is_finished or request.has_finalizer:
            add((request.kind, request.name))


async def delete_expired(kube: KubeApi, requests: Requests, now: datetime) -> None:
    """Delete finished requests whose TTL is over. What a tool would apply again is kept: it would erase again."""
    for request in requests.all():
        ttl = request.spec.get("ttlSecondsAfterFinished")
        ended = parse_time(request.status.get("completionTime"))
        if not request.is_finished or ttl is None or ended is None or request.is_deleting:
            continue
        if now < ended + timedelta(seconds=ttl) or is_replayed(World(now=now, request=request)):
            continue
        try:
            await kube.delete_request(request.kind, request.name, request.uid, str(request.meta["resourceVersion"]))
        except KubeError as error:
            if not (error.is_gone or error.is_conflict):
                raise


async def run(
    kube: KubeApi, requests: Requests, servers: Servers, add: Callable[[Key], None], is_leading: Callable[[], bool]
) -> None:
    while True:
        await asyncio.sleep(RESYNC_EVERY)
        try:
            await resync(kube, requests, servers, add)
            if is_leading():
                await delete_expired(kube, requests, utc_now())
        except KubeError as error:
            log(logging.WARNING, "resync failed, trying again", problem=str(error), seconds=RESYNC_EVERY)
