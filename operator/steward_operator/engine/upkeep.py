"""What is done now and then: what is old is deleted, and the watches are checked by a list."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from datetime import datetime

from steward_api import names
from steward_api.names import PLURALS

from steward_operator.core.model import Claim, Holder, Pod, Request, Snapshot
from steward_operator.core.retention import old_backups, old_requests
from steward_operator.core.settings import Settings
from steward_operator.kube.api import Json, KubeApi, KubeError
from steward_operator.obs import metrics
from steward_operator.obs.log import log

from .driver import utc_now
from .look import SERVERS_ONLY
from .store import Key, Requests, Servers
from .watches import GRACE, Watches

BACKUPS_ONLY = f"{names.COMPONENT}={names.BACKUP_COMPONENT}"
#: Resyncs from one sweep of old requests and backups to the next.
SWEEP_EVERY = 10


async def resync(
    kube: KubeApi,
    requests: Requests,
    servers: Servers,
    add: Callable[[Key], None],
    forget_pod: Callable[[str], None],
    forget_request: Callable[[Key], None],
    watches: Watches | None = None,
) -> None:
    """Once: what a watch may have missed. Unfinished requests are looked at again.

    With ``watches``, what is listed is compared with what they have shown a moment later.
    """
    shown = {resource: watches.known(resource) for resource in (*PLURALS.values(), "pods")} if watches else {}
    before = {(request.kind, request.name) for request in requests.all()}
    known_pods = servers.uids()
    listed = {kind: await kube.list_requests(kind, unfinished=True) for kind in PLURALS}
    pods: list[Json] = []
    async for page in kube.pages_of_pods(SERVERS_ONLY):
        for pod in map(Pod, page):
            servers.put(pod, utc_now())
            pods.append({"metadata": {"uid": pod.uid, "resourceVersion": pod.resource_version}})
    if watches is not None:
        await asyncio.sleep(GRACE)
        for resource, manifests in [*((PLURALS[kind], found) for kind, found in listed.items()), ("pods", pods)]:
            if not watches.compare(resource, manifests):
                log(logging.WARNING, "the watch is behind", resource=resource)
            watches.drop(resource, shown[resource] - {manifest["metadata"]["uid"] for manifest in manifests})
    for kind, manifests in listed.items():
        for manifest in manifests:
            known = requests.get(kind, manifest["metadata"]["name"])
            if known is None or int(known.resource_version) < int(manifest["metadata"]["resourceVersion"]):
                requests.put(manifest)
    there = {(kind, manifest["metadata"]["name"]) for kind, manifests in listed.items() for manifest in manifests}
    for key in before - there:
        forget_request(key)
    for uid in known_pods - {pod["metadata"]["uid"] for pod in pods}:
        forget_pod(uid)
    for request in requests.all():
        add((request.kind, request.name))


def only_metadata(manifest: Json) -> Json:
    return {"metadata": {key: value for key, value in manifest["metadata"].items() if key != "managedFields"}}


def in_short(manifest: Json) -> Json:
    """A request without what retention does not ask for, which is most of it."""
    spec, status = manifest["spec"], manifest.get("status") or {}
    return {
        "kind": manifest["kind"],
        **only_metadata(manifest),
        "spec": {key: spec[key] for key in ("ttlSecondsAfterFinished",) if key in spec},
        "status": {key: status[key] for key in ("phase", "completionTime") if key in status},
    }


async def delete_old_requests(kube: KubeApi, settings: Settings, now: datetime) -> None:
    """Lists everything, which is why it is done seldom: what has ended is not kept in memory."""
    requests = [
        Request(in_short(manifest))
        for kind in PLURALS
        async for page in kube.pages_of_requests(kind)
        for manifest in page
    ]
    for request in old_requests(requests, settings.most_finished_requests, now):
        try:
            await kube.delete_request(request.kind, request.name, request.uid, request.resource_version)
        except KubeError as error:
            _refused("request", request.name, error)


async def delete_old_backups(kube: KubeApi, settings: Settings, now: datetime) -> None:
    """Backups are listed before it is asked who wants them, and deleted as they were listed: a pin makes that fail."""
    holders: list[Holder] = [
        Claim(only_metadata(manifest)) async for page in kube.pages_of_claims(BACKUPS_ONLY) for manifest in page
    ]
    if settings.snapshots.enabled:
        holders += [Snapshot(only_metadata(manifest)) async for page in kube.pages_of_snapshots() for manifest in page]
    active = [Request(manifest) for manifest in await kube.list_requests(names.VOLUME_RESET, unfinished=True)]
    for held in old_backups(holders, active, settings.copying, now):
        delete = kube.delete_snapshot if isinstance(held, Snapshot) else kube.delete_claim
        try:
            await delete(held.name, held.uid, held.resource_version)
        except KubeError as error:
            _refused("backup", held.name, error)
        else:
            log(logging.INFO, "backup deleted", backup=held.name, owner=held.user, volume=held.kind)
            metrics.backups_deleted.inc()


def _refused(what: str, name: str, error: KubeError) -> None:
    """One that may not be deleted does not keep the others. Raises what concerns them all: no API server."""
    if error.is_gone or error.is_conflict:
        return
    if error.is_transient:
        raise error
    log(logging.WARNING, "not deleted", **{what: name}, problem=str(error))


async def run(
    kube: KubeApi,
    requests: Requests,
    servers: Servers,
    watches: Watches,
    settings: Settings,
    add: Callable[[Key], None],
    forget_pod: Callable[[str], None],
    forget_request: Callable[[Key], None],
    is_leading: Callable[[], bool],
) -> None:
    for turn in itertools.count(1):
        await asyncio.sleep(settings.resync_every)
        try:
            await resync(kube, requests, servers, add, forget_pod, forget_request, watches)
            if is_leading() and turn % SWEEP_EVERY == 1:
                await delete_old_requests(kube, settings, utc_now())
                await delete_old_backups(kube, settings, utc_now())
        except Exception as error:
            # Whatever one object is like, the operator goes on with the others.
            log(logging.WARNING, "resync failed, trying again", problem=str(error) or repr(error),
                seconds=settings.resync_every)  # fmt: skip
