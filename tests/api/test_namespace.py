"""The namespace is deleted in the middle of a reset. A control plane of its own: afterwards there is no namespace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from steward_api import names

from tests.support.cluster import wait_for
from tests.support.control_plane import ControlPlane, Refused
from tests.support.control_plane_fixtures import CONFIG, NAMESPACE, Namespace, installed
from tests.support.operator import FakeHub, Operator, Proxy


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with installed() as plane:
        yield plane


def test_a_namespace_that_is_deleted_in_the_middle_goes(plane: ControlPlane, tmp_path: Path) -> None:
    """Between the delete and the new claim the request holds a finalizer, and nothing can be created any more."""
    ns = Namespace(plane)
    ns.make_claim("ann", "workspace")
    deleted, go = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> threading.Event | None:
        if method == "POST" and "persistentvolumeclaims" in path and "dryRun" not in path:
            deleted.set()
            return go
        return None

    proxy = Proxy(plane)
    proxy.start()
    proxy.hold = hold
    hub = FakeHub(lambda user, uid: True, lambda user: None)
    hub.start()
    kubeconfig = plane.kubeconfig("operator", ns.token("operator"), f"http://127.0.0.1:{proxy.port}")
    operator = Operator(kubeconfig, CONFIG, hub.port, NAMESPACE, tmp_path)
    try:
        operator.start()
        operator.wait_ready()
        name = ns.ask(names.VOLUME_RESET, "ann")
        assert deleted.wait(30)
        assert ns.request(names.VOLUME_RESET, name)["metadata"]["finalizers"]
        plane.raw("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
        go.set()

        def is_gone() -> bool:
            try:
                ns.request(names.VOLUME_RESET, name)
            except Refused as refused:
                return refused.status == 404
            return False

        wait_for("the request lets its namespace go", is_gone, 60)

        def namespace_is_gone() -> bool:
            try:
                plane.raw("GET", f"/api/v1/namespaces/{NAMESPACE}")
            except Refused as refused:
                return refused.status == 404
            return False

        wait_for("the namespace is gone", namespace_is_gone, 60)
    finally:
        operator.stop()
        hub.stop()
        proxy.stop()
