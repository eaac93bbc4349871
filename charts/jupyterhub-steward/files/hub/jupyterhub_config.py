"""Configuration of the hub, from the chart's values.

Order: values, then hub.config, then the snippets of hub.extraConfig, then Hub Steward's own parts. Later wins, and
the last step only appends.
"""

import json
import os
from pathlib import Path

import steward_hub

c = get_config()  # noqa: F821  (JupyterHub puts it here)

VALUES = json.loads(Path("/usr/local/etc/jupyterhub-values/values.json").read_text())
_chart_get_config = get_config  # noqa: F821


def get_config(path="", default=None):
    """A value of the chart by its dotted path, as z2jh's snippets know it; without a path, traitlets' own."""
    if not path:
        return _chart_get_config()
    value = VALUES
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return default
        value = value[name]
    return value


def set_if_given(section, trait, path):
    value = get_config(path)
    if value is not None:
        setattr(section, trait, value)


namespace = os.environ["POD_NAMESPACE"]
hub = VALUES["hub"]
singleuser = VALUES["singleuser"]

# The hub and its proxy.
c.JupyterHub.hub_bind_url = f"http://:8081{hub['baseUrl']}hub/"
c.JupyterHub.hub_connect_url = "http://hub:8081"
c.JupyterHub.base_url = hub["baseUrl"]
c.JupyterHub.db_url = "sqlite:////srv/jupyterhub/jupyterhub.sqlite"
c.ConfigurableHTTPProxy.api_url = "http://proxy-api:8001"
c.ConfigurableHTTPProxy.should_start = False
c.JupyterHub.cleanup_servers = False
c.JupyterHub.last_activity_interval = 60
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
for trait, key in (
    ("redirect_to_server", "redirectToServer"),
    ("allow_named_servers", "allowNamedServers"),
    ("named_server_limit_per_user", "namedServerLimitPerUser"),
    ("concurrent_spawn_limit", "concurrentSpawnLimit"),
    ("active_server_limit", "activeServerLimit"),
    ("template_paths", "templatePaths"),
    ("template_vars", "templateVars"),
):
    set_if_given(c.JupyterHub, trait, f"hub.{key}")
set_if_given(c.Spawner, "consecutive_failure_limit", "hub.consecutiveFailureLimit")

# Servers. The class is KubeSpawner's, so that a team's own subclass is configured just the same.
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
labels = VALUES["labels"]
c.KubeSpawner.namespace = namespace
c.KubeSpawner.image = VALUES["image"]
c.KubeSpawner.image_pull_policy = singleuser["image"]["pullPolicy"]
c.KubeSpawner.image_pull_secrets = VALUES["imagePullSecrets"]
c.KubeSpawner.component_label = "singleuser-server"
c.KubeSpawner.common_labels = {
    key: labels[key]
    for key in ("app", "chart", "heritage", "release", "app.kubernetes.io/name", "app.kubernetes.io/instance",
                "app.kubernetes.io/managed-by", "helm.sh/chart")
}  # fmt: skip
c.KubeSpawner.extra_labels = {"hub.jupyter.org/network-access-hub": "true", **singleuser["extraLabels"]}
c.KubeSpawner.storage_extra_labels = singleuser["storage"]["extraLabels"]
c.KubeSpawner.pvc_name_template = singleuser["storage"]["dynamic"]["pvcNameTemplate"]
c.KubeSpawner.automount_service_account_token = False
c.KubeSpawner.container_security_context = {
    "allowPrivilegeEscalation": singleuser["allowPrivilegeEscalation"],
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
for trait, path in (
    ("cmd", "cmd"),
    ("default_url", "defaultUrl"),
    ("start_timeout", "startTimeout"),
    ("delete_grace_period", "deleteGracePeriod"),
    ("cpu_limit", "cpu.limit"),
    ("cpu_guarantee", "cpu.guarantee"),
    ("mem_limit", "memory.limit"),
    ("mem_guarantee", "memory.guarantee"),
    ("extra_resource_limits", "extraResource.limits"),
    ("extra_resource_guarantees", "extraResource.guarantees"),
    ("uid", "uid"),
    ("gid", "gid"),
    ("fs_gid", "fsGid"),
    ("environment", "extraEnv"),
    ("extra_annotations", "extraAnnotations"),
    ("node_selector", "nodeSelector"),
    ("tolerations", "extraTolerations"),
    ("extra_pod_config", "extraPodConfig"),
    ("service_account", "serviceAccountName"),
):
    set_if_given(c.KubeSpawner, trait, f"singleuser.{path}")
if singleuser["profileList"]:
    c.KubeSpawner.profile_list = singleuser["profileList"]

# Passwords of the shared-password authenticator; any other authenticator takes no notice.
if password := os.environ.get("STEWARD_ADMIN_PASSWORD"):
    c.SharedPasswordAuthenticator.admin_password = password
if password := os.environ.get("STEWARD_USER_PASSWORD"):
    c.SharedPasswordAuthenticator.user_password = password

# What a team says has the last word over the values.
for section, traits in sorted(hub["config"].items()):
    if not section[:1].isupper():
        raise ValueError(f"hub.config.{section}: sections are named after classes, which begin with a capital letter")
    c[section].update(traits)
for name, snippet in sorted(hub["extraConfig"].items()):
    print(f"running hub.extraConfig.{name}", flush=True)
    exec(compile(snippet, f"hub.extraConfig.{name}", "exec"))  # noqa: S102

steward_hub.wire(
    c,
    storage=singleuser["storage"],
    namespace=namespace,
    operator_token=os.environ.get("STEWARD_OPERATOR_TOKEN", ""),
    snapshots=VALUES["snapshots"],
)
