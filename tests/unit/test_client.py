"""What the client sends: every change names the object, and the version of it, that was looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import kopf
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from steward_api import names
from steward_operator.hubapi.client import HttpHubApi
from steward_operator.kube.client import HttpKubeApi

Json = dict[str, Any]
CLAIM = "/api/v1/namespaces/hub/persistentvolumeclaims/home-ann"
REQUEST = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/hub/volumeresets/r"


def sent(call: Callable[[HttpKubeApi], Awaitable[Any]]) -> tuple[str, str, Json]:
    """Method, path and body of the one write that a call makes."""
    return only_call(lambda url: HttpKubeApi(kopf.ConnectionInfo(server=url), "hub"), call)


def only_call(api_at: Callable[[str], Any], call: Callable[[Any], Awaitable[Any]]) -> tuple[str, str, Json]:
    written: list[tuple[str, str, Json]] = []

    async def take(request: web.Request) -> web.Response:
        written.append((request.method, request.path, await request.json() if request.can_read_body else {}))
        return web.json_response({})

    async def send() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", take)
        async with TestServer(app) as server:
            api = api_at(str(server.make_url("/")))
            try:
                await call(api)
            finally:
                await api.close()

    asyncio.run(send())
    (only,) = written
    return only


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda api: api.delete_claim("home-ann", "u1", "7"), CLAIM),
        (lambda api: api.delete_request(names.VOLUME_RESET, "r", "u1", "7"), REQUEST),
        (lambda api: api.delete_snapshot("backup", "u1", "7"),
         f"/apis/{names.SNAPSHOT_GROUP}/{names.SNAPSHOT_VERSION}/namespaces/hub/{names.SNAPSHOTS}/backup"),
    ],
    ids=["claim", "request", "snapshot"],
)  # fmt: skip
def test_a_delete_names_what_was_looked_at_and_its_version(call: Any, path: str) -> None:
    method, where, body = sent(call)
    assert (method, where) == ("DELETE", path)
    assert body["preconditions"] == {"uid": "u1", "resourceVersion": "7"}


def test_a_job_is_deleted_by_its_uid_and_its_pods_go_with_it() -> None:
    """What a Job is at is no matter when it is to go, and its controller changes its version all the time."""
    _, _, body = sent(lambda api: api.delete_job("copy", "u1"))
    assert body["preconditions"] == {"uid": "u1"}
    assert body["propagationPolicy"] == "Background"


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda api: api.annotate_claim("home-ann", "u1", "7", {"a": "b"}), CLAIM),
        (lambda api: api.set_finalizers(names.VOLUME_RESET, "r", "u1", "7", []), REQUEST),
        (lambda api: api.resize_pod("jupyter-ann", "u1", "7", "notebook", {"requests": {"cpu": "49m"}}),
         "/api/v1/namespaces/hub/pods/jupyter-ann/resize"),
    ],
    ids=["annotation", "finalizers", "resize"],
)  # fmt: skip
def test_a_change_names_what_was_looked_at_and_its_version(call: Any, path: str) -> None:
    method, where, body = sent(call)
    assert (method, where) == ("PATCH", path)
    assert (body["metadata"]["uid"], body["metadata"]["resourceVersion"]) == ("u1", "7")


def test_a_status_names_the_version_that_it_was_planned_on() -> None:
    method, where, body = sent(
        lambda api: api.patch_request_status(names.VOLUME_RESET, "r", "7", {"phase": "Deleting"})
    )
    assert (method, where) == ("PATCH", f"{REQUEST}/status")
    assert body == {"metadata": {"resourceVersion": "7"}, "status": {"phase": "Deleting"}}


@pytest.mark.parametrize(("server", "path"), [("", "/steward/v1/users/a%20b/server/stop"),
                                              ("gpu", "/steward/v1/users/a%20b/servers/gpu/stop")])  # fmt: skip
def test_the_hub_is_told_which_instance_it_is_to_stop(server: str, path: str) -> None:
    def stop(instance: str) -> tuple[str, str, Json]:
        return only_call(
            lambda url: HttpHubApi(url, "secret"), lambda hub: hub.stop_server("a b", server, "pod-1", instance)
        )

    assert stop("c1") == ("POST", path.replace("%20", " "), {"podUID": "pod-1", "containerID": "c1"})
    assert stop("")[2] == {"podUID": "pod-1"}, "whatever runs in that pod"


def test_a_start_has_no_body_so_that_the_chosen_options_are_kept() -> None:
    assert only_call(lambda url: HttpHubApi(url, "secret"), lambda hub: hub.start_server("ann", "")) == (
        "POST", "/users/ann/server", {},
    )  # fmt: skip
