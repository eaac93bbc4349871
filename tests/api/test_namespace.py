"""The namespace is deleted in the middle of a reset. A control plane of its own: afterwards there is no namespace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from steward_api import names

from tests.support.cluster import wait_for
from tests.support.control_plane import ControlPlane
from tests.support.control_plane_fixtures import CONFIG, NAMESPACE, Namespace, installed
from tests.support.operator import FakeHub, Operator, Proxy


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with installed() as plane:
        yield plane


@dataclass
class Site:
    """The namespace, and an operator that is at work in it. The hub takes starts, and no pod comes."""

    ns: Namespace
    proxy: Proxy
    hub: FakeHub

    def delete_namespace(self) -> None:
        self.ns.api.raw("DELETE", f"/api/v1/namespaces/{NAMESPACE}")

    def wait_gone(self, request: str) -> None:
        path = self.ns.requests(names.VOLUME_RESET, request)
        wait_for("the request lets its namespace go", lambda: self.ns.is_gone(path), 60)
        wait_for("the namespace is gone", lambda: self.ns.is_gone(f"/api/v1/namespaces/{NAMESPACE}"), 60)


@pytest.fixture
def site(plane: ControlPlane, tmp_path: Path) -> Iterator[Site]:
    ns = Namespace(plane)

    def stop(user: str, uid: str, container_id: str) -> bool:
        plane.raw("DELETE", ns.core("pods", f"jupyter-{user}"), {"preconditions": {"uid": uid}})
        return True

    proxy, hub = Proxy(plane), FakeHub(stop, lambda user: None)
    proxy.start()
    hub.start()
    kubeconfig = plane.kubeconfig("operator", ns.token("operator"), f"http://127.0.0.1:{proxy.port}")
    operator = Operator(kubeconfig, CONFIG, hub.port, NAMESPACE, tmp_path)
    try:
        operator.start()
        operator.wait_ready()
        yield Site(ns, proxy, hub)
    finally:
        operator.stop()
        hub.stop()
        proxy.stop()


def test_a_namespace_that_is_deleted_in_the_middle_goes(site: Site) -> None:
    """Between the delete and the new claim the request holds a finalizer, and nothing can be created any more."""
    site.ns.make_claim("ann", "workspace")
    deleted, go = site.proxy.hold_creation()
    name = site.ns.ask(names.VOLUME_RESET, "ann")
    assert deleted.wait(30)
    assert site.ns.request(names.VOLUME_RESET, name)["metadata"]["finalizers"]
    site.delete_namespace()
    go.set()
    site.wait_gone(name)


def test_a_namespace_goes_with_a_request_that_has_a_server_to_start(site: Site) -> None:
    """The hub has taken the start, and its pod is waited for; in a namespace that goes it never comes."""
    site.ns.make_claim("ann", "workspace")
    site.ns.make_pod("ann")
    name = site.ns.ask(names.VOLUME_RESET, "ann", serverPolicy="StopAndStart")
    path = site.ns.requests(names.VOLUME_RESET, name)

    def is_starting() -> bool:
        return "ending" in site.ns.request(names.VOLUME_RESET, name).get("status", {})

    wait_for("the server is to be started", is_starting, 60)
    asked, go = site.proxy.hold_creation(dry_run=True)
    site.ns.api.raw("DELETE", path)
    assert asked.wait(30), "what is deleted asks whether it goes with its namespace"
    assert not site.ns.is_gone(path), "it has a server to start"
    site.delete_namespace()
    go.set()
    site.wait_gone(name)
