"""The fixtures of the tier: one control plane with the chart's roles and policies, one operator behind the proxy."""

import pytest

from tests.chaos.report import Tally
from tests.support.control_plane_fixtures import *  # noqa: F403


@pytest.fixture(scope="session")
def tally() -> Tally:
    return Tally()
