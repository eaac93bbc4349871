"""The CSI tier's cluster: the chart with snapshots on, on storage that takes them."""

from __future__ import annotations

import pytest

from cluster import local
from cluster.local import Target
from tests.csi import fixture
from tests.csi.target import TARGET


@pytest.fixture(scope="session")
def target() -> Target:
    local.up(TARGET)
    fixture.install(TARGET)
    return TARGET
