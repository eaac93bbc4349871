"""Puts our parts into a hub's configuration. Only appends: what a team configured before stays as it is."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steward_api.volumes import Volume, read_table
from traitlets.config import Config, LazyConfigValue

from . import scopes

TEMPLATES = Path(__file__).parent / "templates"
DEFAULT_SPAWNER = "kubespawner.KubeSpawner"


def wire(
    c: Config, *, storage: Mapping[str, Any], namespace: str, operator_token: str = "", snapshots: bool = False
) -> None:
    """The last step of the configuration.

    ``storage`` is the chart's ``singleuser.storage``; ``operator_token`` the API token of the operator's service;
    ``snapshots`` says whether backups may be VolumeSnapshots.
    Raises `steward_api.volumes.BadVolumeTable`.
    """
    from .handlers import Steward, handlers

    table = read_table(storage) if storage.get("type", "dynamic") == "dynamic" else {}
    spawner, refusal = compose(_configured(c.JupyterHub, "spawner_class", DEFAULT_SPAWNER), table, snapshots)
    c.JupyterHub.spawner_class = spawner
    steward = Steward(namespace=namespace, table=table, actions_off=refusal, has_snapshots=snapshots)
    _extend(c.JupyterHub, "extra_handlers", handlers(steward))
    _extend(c.JupyterHub, "template_paths", [str(TEMPLATES)])
    c.JupyterHub.custom_scopes = {**dict(_configured(c.JupyterHub, "custom_scopes", {})), **scopes.CUSTOM_SCOPES}
    c.JupyterHub.extra_user_scopes = set(_configured(c.JupyterHub, "extra_user_scopes", set())) | scopes.USER_SCOPES
    if operator_token:
        _extend(c.JupyterHub, "services", [{"name": scopes.OPERATOR_SERVICE, "api_token": operator_token}])
        _extend(c.JupyterHub, "load_roles", [scopes.OPERATOR_ROLE])
    c.KubeSpawner.storage_pvc_ensure = False


def compose(configured: str | type, table: Mapping[str, Volume], snapshots: bool = False) -> tuple[str | type, str]:
    """The configured spawner with our mixin before it; with a foreign spawner that one, and why actions are off."""
    from kubespawner import KubeSpawner

    from .spawner import StewardMixin

    base = _load(configured)
    if not issubclass(base, KubeSpawner):
        return configured, f"This hub starts servers with {base.__name__}, which these actions do not work with."
    parts = {"steward_volumes": dict(table), "steward_snapshots": snapshots}
    return type(f"Steward{base.__name__}", (StewardMixin, base), parts), ""


def _load(configured: str | type) -> type:
    if isinstance(configured, type):
        return configured
    if "." not in configured:
        from importlib.metadata import entry_points

        (found,) = entry_points(group="jupyterhub.spawners", name=configured)
        return found.load()  # type: ignore[no-any-return]
    module, _, name = configured.rpartition(".")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def _configured(section: Config, name: str, default: Any) -> Any:
    return section[name] if name in section and not isinstance(section[name], LazyConfigValue) else default


def _extend(section: Config, name: str, items: list[Any]) -> None:
    """Append to a list trait, whether or not it has been assigned yet."""
    if name in section and not isinstance(section[name], LazyConfigValue):
        section[name] = [*section[name], *items]
    elif name in section:
        section[name].extend(items)
    else:
        section[name] = items
