"""The fixtures of the tier: one control plane with the chart's roles and policies, one operator behind the proxy."""

from tests.support.control_plane_fixtures import *  # noqa: F403
