"""What has to be right before anything is done, each failure in one sentence for an administrator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from steward_api.crds import definitions
from steward_api.names import GROUP, LEASE, PLURALS, SNAPSHOT_GROUP, SNAPSHOTS

from steward_operator.core.settings import Settings
from steward_operator.hubapi.client import HubApi, HubError
from steward_operator.kube.api import Json, KubeApi, KubeError
from steward_operator.obs.log import log

#: After an upgrade the hub may still be the old one, which does not know a new token.
TOKEN_PATIENCE = 60.0
TOKEN_AGAIN = 3.0
API_PATIENCE, API_AGAIN = 30.0, 0.5

#: Verbs by group, resource, subresource and name: the whole of the operator's Role, so that what is missing is said at
#: once and not at the first request that needs it.
RIGHTS: Mapping[tuple[str, str, str, str], tuple[str, ...]] = {
    **{(GROUP, plural, "", ""): ("get", "list", "watch", "patch", "delete") for plural in PLURALS.values()},
    **{(GROUP, plural, "status", ""): ("patch",) for plural in PLURALS.values()},
    ("", "pods", "", ""): ("get", "list", "watch"),
    ("", "pods", "resize", ""): ("patch",),
    ("", "persistentvolumeclaims", "", ""): ("get", "list", "watch", "create", "delete", "patch"),
    ("batch", "jobs", "", ""): ("get", "list", "watch", "create", "delete"),
    ("events.k8s.io", "events", "", ""): ("create",),
    ("coordination.k8s.io", "leases", "", ""): ("create",),
    ("coordination.k8s.io", "leases", "", LEASE): ("get", "update"),
}
SNAPSHOT_RIGHTS: Mapping[tuple[str, str, str, str], tuple[str, ...]] = {
    (SNAPSHOT_GROUP, SNAPSHOTS, "", ""): ("list", "create", "delete", "patch")
}


class StartUpError(Exception):
    """Something an administrator has to put right, said in one sentence."""


async def patiently(call: Callable[[], Awaitable[None]]) -> None:
    """An API server that is itself just starting is given half a minute. Raises the last `KubeError`."""
    end = asyncio.get_running_loop().time() + API_PATIENCE
    while True:
        try:
            return await call()
        except KubeError as error:
            if not error.is_transient or asyncio.get_running_loop().time() > end:
                raise
            log(logging.INFO, "the API server is not ready yet", problem=str(error))
        await asyncio.sleep(API_AGAIN)


async def check(kube: KubeApi, settings: Settings) -> None:
    """The CRDs and the rights. Told at once, not at the first request. Raises `StartUpError`, `KubeError`."""
    try:
        served = await kube.served_schemas()
    except KubeError as error:
        if not error.is_gone:
            raise
        served = {}
    for kind, definition in definitions().items():
        wanted = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        present = next((schema for name, schema in served.items() if name.endswith(f".{kind}")), None)
        if present is None:
            raise StartUpError(f"The CRD of {kind} is not installed; install the chart jupyterhub-steward-crds.")
        if missing := first_missing(wanted, present):
            raise StartUpError(
                f"The installed CRD of {kind} is older than this operator: {missing}. "
                "Upgrade the chart jupyterhub-steward-crds."
            )
    rights = {**RIGHTS, **(SNAPSHOT_RIGHTS if settings.snapshots.enabled else {})}
    for (group, resource, subresource, name), verbs in rights.items():
        for verb in verbs:
            if not await kube.may(verb, group, resource, subresource, name):
                what = f"{resource}/{subresource}" if subresource else resource
                raise StartUpError(f"The operator's service account may not {verb} {what}; its Role is not complete.")


def first_missing(wanted: Mapping[str, Any], present: Json, path: str = "") -> str:
    """What the schema that is wanted has and the one that is served lacks; empty when nothing."""
    if lacking := sorted(set(wanted.get("enum") or ()) - set(present.get("enum") or ())):
        return f"{path} does not know {lacking[0]}"
    for name, inner in (wanted.get("properties") or {}).items():
        where = f"{path}.{name}" if path else name
        there = (present.get("properties") or {}).get(name)
        if there is None:
            # The API server serves metadata as a reference to its own type.
            return f"there is no {where}"
        if where != "metadata" and (found := first_missing(inner, there, where)):
            return found
    if "items" in wanted:
        return first_missing(wanted["items"], present.get("items") or {}, f"{path}[]")
    return ""


async def check_hub(hub: HubApi) -> None:
    """Ends when the hub has taken the token. Raises `StartUpError` when it refuses it for good; a hub that is away may
    come yet."""
    loop = asyncio.get_running_loop()
    refused_since: float | None = None
    while True:
        try:
            log(logging.INFO, "the hub knows this operator", name=await hub.who_am_i())
            return
        except HubError as error:
            if error.status not in (401, 403):
                refused_since = None
            else:
                refused_since = refused_since or loop.time()
                if loop.time() - refused_since > TOKEN_PATIENCE:
                    raise StartUpError(
                        "The hub refuses the operator's token: the Secret of secrets.operatorToken and the one the hub "
                        "was started with are not the same. Restart the hub."
                    ) from error
        await asyncio.sleep(TOKEN_AGAIN)
