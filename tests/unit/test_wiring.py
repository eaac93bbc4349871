"""``wire(c)`` appends to a team's configuration and takes nothing away."""

from __future__ import annotations

from typing import Any

import pytest
from jupyterhub.spawner import SimpleLocalProcessSpawner
from kubespawner import KubeSpawner
from steward_api.volumes import BadVolumeTable, read_table
from steward_hub import wire
from steward_hub.spawner import StewardMixin
from traitlets.config import Config

STORAGE = {
    "type": "dynamic",
    "volumes": {"home": {"title": "Home"}, "cache": None, "data": {"mountPath": "/data", "capacity": "1Gi"}},
}


class TeamSpawner(KubeSpawner):  # type: ignore[misc]
    pass


def wired(**hub: Any) -> Config:
    c = Config()
    c.JupyterHub.update(hub)
    wire(c, storage=STORAGE, namespace="hub", operator_token="t")
    return c


def test_the_mixin_goes_over_whatever_kubespawner_is_configured() -> None:
    spawner = wired(spawner_class=TeamSpawner).JupyterHub.spawner_class
    assert issubclass(spawner, TeamSpawner)
    assert spawner.__mro__.index(StewardMixin) < spawner.__mro__.index(KubeSpawner)
    assert set(spawner.steward_volumes) == {"home", "data"}


def test_with_a_foreign_spawner_the_hub_starts_and_our_actions_are_off() -> None:
    c = wired(spawner_class=SimpleLocalProcessSpawner)
    assert c.JupyterHub.spawner_class is SimpleLocalProcessSpawner
    steward = c.JupyterHub.extra_handlers[-1][2]["steward"]
    assert "SimpleLocalProcessSpawner" in steward.actions_off


def test_a_teams_own_entries_stay_and_come_first() -> None:
    role = {"name": "team", "scopes": ["list:users"]}
    c = wired(
        load_roles=[role], services=[{"name": "culler"}], extra_handlers=[("/x", object)], template_paths=["/theirs"],
        extra_user_scopes={"access:services"}, custom_scopes={"custom:team:x": {"description": "x"}},
    )  # fmt: skip
    hub = c.JupyterHub
    assert hub.load_roles[0] == role
    assert hub.services[0] == {"name": "culler"}
    assert hub.extra_handlers[0] == ("/x", object)
    assert hub.template_paths[0] == "/theirs"
    assert "access:services" in hub.extra_user_scopes
    assert "custom:team:x" in hub.custom_scopes
    assert {"custom:steward:restart!user", "custom:steward:reset!user"} <= hub.extra_user_scopes


def test_no_hook_of_the_teams_is_taken() -> None:
    c = wired()
    assert not {"pre_spawn_hook", "modify_pod_hook", "after_pod_created_hook"} & set(c.KubeSpawner)


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        ({"Data": {"mountPath": "/d", "capacity": "1Gi"}}, "volumes.Data"),
        ({"data": {"capacity": "1Gi"}}, "data.mountPath is missing"),
        ({"data": {"mountPath": "/d"}}, "data.capacity is missing"),
        ({"a": {"mountPath": "/d", "capacity": "1Gi"}, "b": {"mountPath": "/d", "capacity": "1Gi"}}, "mountPath of a"),
    ],
)
def test_a_bad_volume_table_is_named(volumes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadVolumeTable, match=words):
        read_table({"volumes": volumes})
