"""What is done now and then: what is old is deleted, and the watches are checked by a list."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from steward_api.names import PLURALS

from steward_operator.core.model import Claim, Pod, Settings
from steward_operator.core.retention import old_backups, old_requests
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


async def delete_old_requests(kube: KubeApi, requests: Requests, settings: Settings, now: datetime) -> None:
    for request in old_requests(requests.all(), settings.most_finished_requests, now):
        try:
            await kube.delete_request(request.kind, request.name, request.uid, request.resource_version)
        except KubeError as error:
            if not (error.is_gone or error.is_conflict):
                raise


async def delete_old_backups(kube: KubeApi, requests: Requests, settings: Settings, now: datetime) -> None:
    """Backups are listed before it is asked who wants them, and deleted as they were listed: a pin makes that fail."""
    claims = [Claim(manifest) for manifest in await kube.list_claims()]
    for claim in old_backups(claims, requests.all(), settings.copying, now):
        log(logging.INFO, "backup deleted", claim=claim.name, owner=claim.user, volume=claim.kind)
        try:
            await kube.delete_claim(claim.name, claim.uid, claim.resource_version)
        except KubeError as error:
            if not (error.is_gone or error.is_conflict):
                raise


async def run(
    kube: KubeApi,
    requests: Requests,
    servers: Servers,
    settings: Settings,
    add: Callable[[Key], None],
    is_leading: Callable[[], bool],
) -> None:
    while True:
        await asyncio.sleep(RESYNC_EVERY)
        try:
            await resync(kube, requests, servers, add)
            if is_leading():
                await delete_old_requests(kube, requests, settings, utc_now())
                await delete_old_backups(kube, requests, settings, utc_now())
        except KubeError as error:
            log(logging.WARNING, "resync failed, trying again", problem=str(error), seconds=RESYNC_EVERY)
