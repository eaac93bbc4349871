"""Who may press which button: the custom scopes and the roles that carry them."""

from __future__ import annotations

from jupyterhub.scopes import define_custom_scopes

READ = "custom:steward:read"
RESTART = "custom:steward:restart"
RESET = "custom:steward:reset"

CUSTOM_SCOPES = {
    READ: {"description": "See the state of one's server, its volumes and the requests about them."},
    RESTART: {"description": "Restart a running server in place.", "subscopes": [READ]},
    RESET: {"description": "Erase and create anew a volume of a stopped server.", "subscopes": [READ]},
}

#: Every user, on himself.
USER_SCOPES = {f"{RESTART}!user", f"{RESET}!user"}

OPERATOR_SERVICE = "hubsteward-operator"
OPERATOR_ROLE = {
    "name": "hubsteward-operator",
    "description": "Stop and start servers for ServerRestart requests",
    "scopes": ["read:servers", "delete:servers", "start:servers"],
    "services": [OPERATOR_SERVICE],
}

# The decorators of the handlers look scopes up when their module is imported, which is before the configuration is
# applied; defining the same scopes twice is accepted.
define_custom_scopes(CUSTOM_SCOPES)
