"""Writes the custom resource definitions from the enums and bounds of this package.

``python -m steward_api.crds DIRECTORY`` writes one file a kind; ``--check`` only compares and fails on a difference.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .names import API_VERSION, CATEGORY, GROUP, PLURALS, SERVER_RESTART, VERSION, VOLUME_RESET
from .phases import (
    RESET_PHASES,
    RESTART_PHASES,
    Backup,
    BackupState,
    ConditionType,
    ContentsFrom,
    Phase,
    Provider,
    Reason,
    RequesterKind,
    ServerPolicy,
    Strategy,
)

Schema = dict[str, Any]

DAY = 86_400
LONGEST_TTL = 366 * DAY
LONGEST_DEADLINE = 7 * DAY
MOST_VOLUMES = 16
REASON_LENGTH = 256
#: JupyterHub stores names of up to 255 characters; a slash ends the name in every address.
USER_PATTERN = "^[^/]+$"
#: JupyterHub 6 wants lower-case letters, digits and hyphens; older hubs allowed more, so only a slash is refused.
SERVER_PATTERN = "^[^/]*$"
VOLUME_PATTERN = "^[a-z][a-z0-9]{0,15}$"
UID_LENGTH = 64


def text(description: str, longest: int, **more: Any) -> Schema:
    return {"type": "string", "description": description, "maxLength": longest, **more}


def choice(description: str, values: list[str], default: str | None = None) -> Schema:
    schema: Schema = {"type": "string", "description": description, "enum": values}
    if default is not None:
        schema["default"] = default
    return schema


def time(description: str) -> Schema:
    return {"type": "string", "format": "date-time", "description": description}


def record(
    description: str, properties: dict[str, Schema], required: list[str] | None = None,
    rules: list[tuple[str, str]] | None = None, **more: Any,
) -> Schema:  # fmt: skip
    """``rules`` are CEL expressions, each with the message of its refusal."""
    schema: Schema = {"type": "object", "description": description, "properties": properties, **more}
    if required:
        schema["required"] = required
    if rules:
        schema["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in rules]
    return schema


def _common_spec() -> dict[str, Schema]:
    return {
        "user": text("The hub's raw user name, exactly as the hub writes it.", 255, minLength=1, pattern=USER_PATTERN),
        "server": text("Name of the server; empty is the default server.", 255, pattern=SERVER_PATTERN, default=""),
        "notBefore": time("Carry the request out at this time or later."),
        "startingDeadlineSeconds": {
            "type": "integer",
            "minimum": 1,
            "maximum": LONGEST_DEADLINE,
            "default": 600,
            "description": "Seconds, from creation or notBefore, within which the request must begin; "
            "after that it ends as Failed/Expired with nothing changed.",
        },
        "cancel": {
            "type": "boolean",
            "default": False,
            "description": "Set to true to call the request off: a reset until it deletes, a restart until it begins.",
        },
        "requestedBy": record(
            "Who asked. The API server checks that it is the sender; only the hub may speak for its users.",
            {
                "kind": choice("What the name names.", [str(v) for v in RequesterKind]),
                "name": text("The name of the requester.", 255, minLength=1),
            },
            ["kind", "name"],
        ),
        "reason": text("Free text for the audit.", REASON_LENGTH),
        "ttlSecondsAfterFinished": {
            "type": "integer",
            "minimum": DAY,
            "maximum": LONGEST_TTL,
            "description": "Seconds after which the finished request is deleted; absent means it is kept.",
        },
    }


def _reset_spec() -> dict[str, Schema]:
    common = _common_spec()
    user_and_server = {key: common.pop(key) for key in ("user", "server")}
    return {
        **user_and_server,
        "volumes": {
            "type": "array",
            "x-kubernetes-list-type": "set",
            "minItems": 1,
            "maxItems": MOST_VOLUMES,
            "items": {"type": "string", "maxLength": 16, "pattern": VOLUME_PATTERN},
            "description": "Kinds from the hub's volume table, for example workspace.",
        },
        "serverPolicy": choice(
            "What to do when the server runs. RequireStopped refuses at once. Stop stops it. StopAndStart stops it "
            "and, when the volumes are new, starts it again; a server that was not running is not started.",
            [str(v) for v in ServerPolicy],
            ServerPolicy.REQUIRE_STOPPED,
        ),
        "backup": choice(
            "Whether to back the content up first. Default does what the volume's entry in the table says.",
            [str(v) for v in Backup],
            Backup.DEFAULT,
        ),
        "contents": record(
            "What the new volume holds.",
            {
                "from": choice(
                    "Empty starts with nothing. Backup puts back what a backup of this volume holds.",
                    [str(v) for v in ContentsFrom],
                    ContentsFrom.EMPTY,
                ),
                "name": text("Name of the backup: of its claim, or of its VolumeSnapshot.", 253, minLength=1),
            },
            rules=[("(self.from != 'Backup') == !has(self.name)", "name is needed with from: Backup, and only there")],
            default={"from": str(ContentsFrom.EMPTY)},
        ),
        "expected": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["volume"],
            "maxItems": MOST_VOLUMES,
            "description": "What the requester was looking at; a claim with another UID ends it as Failed/Stale.",
            "items": record(
                "One volume and the UID of its claim.",
                {
                    "volume": {"type": "string", "maxLength": 16, "pattern": VOLUME_PATTERN},
                    "uid": {"type": "string", "minLength": 1, "maxLength": UID_LENGTH},
                },
                ["volume", "uid"],
            ),
        },
        **common,
    }


def _restart_spec() -> dict[str, Schema]:
    common = _common_spec()
    user_and_server = {key: common.pop(key) for key in ("user", "server")}
    return {
        **user_and_server,
        "strategy": choice(
            "InPlace keeps the pod, its address and its node. Recreate stops and starts the server through the hub. "
            "Auto prefers InPlace.",
            [str(v) for v in Strategy],
            Strategy.AUTO,
        ),
        **common,
    }


Rules = list[tuple[str, str]]
#: Rules of a reset beyond the frozen spec.
RESET_RULES: Rules = [
    (
        "self.contents.from == 'Empty' || size(self.volumes) == 1",
        "contents other than Empty are for exactly one volume",
    )
]


def _frozen(properties: dict[str, Schema], required: list[str]) -> Rules:
    """Only ``cancel`` may become true and the TTL may grow; everything else stays as it was."""
    same: list[str] = []
    for name in properties:
        if name in ("cancel", "ttlSecondsAfterFinished"):
            continue
        if name in required or "default" in properties[name]:
            same.append(f"self.{name} == oldSelf.{name}")
        else:
            same.append(
                f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
            )
    ttl = "ttlSecondsAfterFinished"
    return [
        (
            " && ".join(f"({rule})" for rule in same),
            "spec cannot be changed after creation, except cancel and ttlSecondsAfterFinished; "
            "create a new request instead",
        ),
        ("self.cancel || !oldSelf.cancel", "cancel cannot be taken back"),
        (
            f"!has(oldSelf.{ttl}) || (has(self.{ttl}) && self.{ttl} >= oldSelf.{ttl})",
            f"{ttl} may only be raised",
        ),
    ]


def _conditions() -> Schema:
    return {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "maxItems": 16,
        "items": record(
            "A metav1.Condition.",
            {
                "type": choice("Which condition.", [str(v) for v in ConditionType]),
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": text("A word for programs.", 64, minLength=1),
                "message": text("A sentence for people.", 4096),
                "lastTransitionTime": time("When the status last changed."),
                "observedGeneration": {"type": "integer", "minimum": 0},
            },
            ["type", "status", "reason", "message", "lastTransitionTime"],
        ),
    }


def _ending() -> Schema:
    return record(
        "How the request ends as soon as the server that it stopped has been started again.",
        {
            "phase": choice("The end.", [str(p) for p in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)]),
            "reason": choice("Why.", [str(r) for r in Reason]),
            "message": text("One sentence a user understands.", 4096),
        },
    )


def _common_status(phases: tuple[str, ...]) -> dict[str, Schema]:
    return {
        "phase": choice("Where the request is. Phases only move forward.", [str(p) for p in phases]),
        "reason": choice("Why it is there.", [str(r) for r in Reason]),
        "message": text("One sentence a user understands.", 4096),
        "observedGeneration": {"type": "integer", "minimum": 0},
        "startTime": time("When the operator took the request up."),
        "completionTime": time("When the request ended."),
        "waitingUntil": time("Not before this time does anything happen."),
        "conditions": _conditions(),
    }


def _reset_status() -> dict[str, Schema]:
    return {
        **_common_status(RESET_PHASES),
        "step": {"type": "string", "enum": ["Stopping", "Starting", "Awaiting"]},
        "stepTime": time("When the step began."),
        "starts": {"type": "integer", "minimum": 0, "description": "How often the hub has taken the start."},
        "podUID": text("UID of the server's pod that was stopped. Written before it is done.", UID_LENGTH),
        "ending": _ending(),
        "lockedClaims": {
            "type": "array",
            "x-kubernetes-list-type": "set",
            "maxItems": MOST_VOLUMES,
            "items": {"type": "string", "maxLength": 253},
            "description": "Claims that no server may start on while this request works on them.",
        },
        "volumes": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["volume"],
            "maxItems": MOST_VOLUMES,
            "items": record(
                "What happens to one volume. Written before it is done.",
                {
                    "volume": {"type": "string", "maxLength": 16},
                    "claim": text("Name of the claim.", 253),
                    "uid": text("UID of the claim that is to go.", UID_LENGTH),
                    "newUID": text("UID of the claim that took its place.", UID_LENGTH),
                    "capacity": text("Size of the claim.", 64),
                    "outcome": {"type": "string", "enum": ["Pending", "Deleting", "Reset", "Failed"]},
                    "reason": choice("Why the volume was not reset.", [str(r) for r in Reason]),
                    "message": text("One sentence about this volume.", 1024),
                    "persistentVolume": text("The PersistentVolume that the old claim was bound to.", 253),
                    "retainedVolume": text("The old PersistentVolume, where its class keeps it.", 253),
                    "backup": record(
                        "The backup that is made before the delete.",
                        {
                            "provider": choice("How it is made.", [str(v) for v in Provider]),
                            "name": text("Name of the claim or the VolumeSnapshot that holds it.", 253),
                            "state": choice("How far it is.", [str(v) for v in BackupState]),
                            "files": {"type": "integer", "minimum": 0},
                            "bytes": {"type": "integer", "minimum": 0},
                            "checksum": text("SHA-256 over names, kinds, modes and contents.", 64),
                        },
                        ["provider", "state"],
                    ),
                    "restored": {"type": "boolean", "description": "The backup's content is back and was compared."},
                    "template": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                        "description": "The claim as it will be created again.",
                    },
                },
                ["volume"],
            ),
        },
    }


def _restart_status() -> dict[str, Schema]:
    return {
        **_common_status(RESTART_PHASES),
        "mechanism": {"type": "string", "enum": ["InPlace", "Recreate"]},
        "step": {"type": "string", "enum": ["Resizing", "Reverting", "Stopping", "Starting", "Awaiting"]},
        "stepTime": time("When the step began."),
        "starts": {"type": "integer", "minimum": 0, "description": "How often the hub has taken the start."},
        "podName": text("The server's pod.", 253),
        "podUID": text("UID of the pod when the request was first looked at.", UID_LENGTH),
        "newPodUID": text("UID of the pod that took its place, where it was recreated.", UID_LENGTH),
        "containerID": text("The container instance that is to go.", 256),
        "newContainerID": text("The container instance that took its place.", 256),
        "restartCount": {"type": "integer", "minimum": 0},
        "resources": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "description": "The resources the notebook container is resized to. Written before it is done.",
        },
        "lastWords": text("The end of the log of a server that crashed.", 4096),
    }


def _columns(wide: list[tuple[str, str, str]]) -> list[Schema]:
    columns: list[Schema] = [
        {"name": "User", "type": "string", "jsonPath": ".spec.user"},
        {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
        {"name": "Reason", "type": "string", "jsonPath": ".status.reason"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    for name, kind, path in wide:
        columns.append({"name": name, "type": kind, "jsonPath": path, "priority": 1})
    columns.append({"name": "Requested-By", "type": "string", "jsonPath": ".spec.requestedBy.name", "priority": 1})
    columns.append({"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1})
    return columns


def _definition(
    kind: str, short: str, about: str, spec: dict[str, Schema], required: list[str], status: dict[str, Schema],
    rules: Rules, wide: list[tuple[str, str, str]],
) -> Schema:  # fmt: skip
    plural = PLURALS[kind]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "selectableFields": [{"jsonPath": ".status.phase"}, {"jsonPath": ".spec.user"}],
                    "additionalPrinterColumns": _columns(wide),
                    "schema": {
                        "openAPIV3Schema": record(
                            about,
                            {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": record(
                                    "What is asked for. Frozen after creation.",
                                    spec,
                                    required,
                                    [*_frozen(spec, required), *rules],
                                ),
                                "status": record("What has been done. Written by the operator.", status),
                            },
                            ["spec"],
                        )
                    },
                }
            ],
        },
    }


def definitions() -> dict[str, Schema]:
    """Both definitions by kind."""
    return {
        VOLUME_RESET: _definition(
            VOLUME_RESET,
            "vreset",
            f"Resets volumes of one user's server ({API_VERSION}): the claims are deleted and created again.",
            _reset_spec(),
            ["user", "volumes"],
            _reset_status(),
            RESET_RULES,
            [("Volumes", "string", ".spec.volumes"), ("Server", "string", ".spec.server")],
        ),
        SERVER_RESTART: _definition(
            SERVER_RESTART,
            "srestart",
            f"Restarts one user's server ({API_VERSION}), in place where possible.",
            _restart_spec(),
            ["user"],
            _restart_status(),
            [],
            [("Mechanism", "string", ".status.mechanism"), ("Pod", "string", ".status.podName")],
        ),
    }


def render(kind: str) -> str:
    """The definition as YAML. Needs PyYAML, which the packages that only read the contract do not."""
    import yaml

    plain = json.loads(json.dumps(definitions()[kind]))
    body = yaml.safe_dump(plain, sort_keys=False, width=110)
    return f"# Generated by python -m steward_api.crds; do not edit.\n{body}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the files go")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    stale = []
    for kind, plural in PLURALS.items():
        file = arguments.directory / f"{plural}.yaml"
        if arguments.check:
            if not file.exists() or file.read_text() != render(kind):
                stale.append(str(file))
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(render(kind))
    if stale:
        print(f"not up to date, run make generate: {', '.join(stale)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
