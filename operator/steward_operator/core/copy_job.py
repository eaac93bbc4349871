"""The manifests of a copy: the claim that a backup goes into, and the Job that copies one claim into another.

The Job's pod is what the restricted standard asks for, has no token, no Secret and no network, reads the source
read-only, and runs as the owner of the lab's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steward_api import names

from .model import Claim, Request
from .settings import Copying

Manifest = dict[str, Any]

SOURCE, TARGET = "/source", "/target"
#: Exit codes of the copy that another attempt would only repeat.
FINAL_EXIT_CODES = (3, 4, 5, 6)
JOB_UID = "metadata.labels['batch.kubernetes.io/controller-uid']"
RETRIES = 2
FORGOTTEN_AFTER = 900


def backup_name(request: Request, volume: str) -> str:
    """The same at every attempt, and short enough for a Job: at most 60 characters."""
    return f"backup-{volume}-{request.uid}"


def restore_name(request: Request, volume: str) -> str:
    return f"restore-{volume}-{request.uid}"


def backup_claim(request: Request, source: Claim, volume: str, copying: Copying) -> Manifest:
    """Of the source's class and modes, as large as the source is."""
    spec = source.spec
    capacity = (source.status.get("capacity") or {}).get("storage") or spec["resources"]["requests"]["storage"]
    kept = {key: spec[key] for key in ("accessModes", "storageClassName", "volumeMode") if key in spec}
    annotations = {
        key: str(value) for key, value in source.annotations.items() if key in (names.USERNAME, names.SERVERNAME)
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": backup_name(request, volume),
            "labels": _labels(request, volume, names.BACKUP_COMPONENT, copying),
            "annotations": {**annotations, f"{names.GROUP}/backup-of": source.name},
        },
        "spec": {**kept, "resources": {"requests": {"storage": capacity}}},
    }


def snapshot(request: Request, source: Claim, volume: str, copying: Copying, class_name: str) -> Manifest:
    """Of the driver's default class where ``class_name`` is empty."""
    annotations = {
        key: str(value) for key, value in source.annotations.items() if key in (names.USERNAME, names.SERVERNAME)
    }
    spec: Manifest = {"source": {"persistentVolumeClaimName": source.name}}
    if class_name:
        spec["volumeSnapshotClassName"] = class_name
    return {
        "apiVersion": f"{names.SNAPSHOT_GROUP}/{names.SNAPSHOT_VERSION}",
        "kind": "VolumeSnapshot",
        "metadata": {
            "name": backup_name(request, volume),
            "labels": _labels(request, volume, names.BACKUP_COMPONENT, copying),
            "annotations": {
                **annotations,
                f"{names.GROUP}/backup-of": source.name,
                names.STORAGE_CLASS: source.storage_class,
            },
        },
        "spec": spec,
    }


def copy_job(
    request: Request, name: str, volume: str, source: str, target: str, copying: Copying, checksum: str = ""
) -> Manifest:
    """Copies the claim ``source`` into the claim ``target``; with ``checksum`` it must be what the source holds."""
    # Either what is written becomes a sealed backup, or it is compared with one.
    arguments = [f"--from={SOURCE}", f"--to={TARGET}", f"--expect={checksum}" if checksum else "--seal"]
    mounts = [("source", source, True, SOURCE), ("target", target, False, TARGET)]
    return _job(request, name, volume, _pod(mounts, arguments, copying), copying)


def look_job(request: Request, name: str, volume: str, claim: str, copying: Copying) -> Manifest:
    """Mounts the claim and looks into it, no more: by then its storage has made it."""
    pod = _pod([("source", claim, True, SOURCE)], [f"--look={SOURCE}"], copying)
    return _job(request, name, volume, pod, copying)


def _job(request: Request, name: str, volume: str, pod: Manifest, copying: Copying) -> Manifest:
    labels = _labels(request, volume, names.COPY_COMPONENT, copying)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [_owner(request)]},
        "spec": {
            "backoffLimit": RETRIES,
            # A Job that nobody takes away any more; a copy whose report is lost is made again.
            "ttlSecondsAfterFinished": FORGOTTEN_AFTER,
            "activeDeadlineSeconds": copying.deadline,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": "copy",
                            "operator": "In",
                            "values": list(FINAL_EXIT_CODES),
                        },
                    }
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _pod(mounts: list[tuple[str, str, bool, str]], arguments: list[str], copying: Copying) -> Manifest:
    """``mounts`` are name, claim, whether it is only read, and path."""
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": copying.uid,
            "runAsGroup": copying.gid,
            "fsGroup": copying.fs_gid,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "copy",
                "image": copying.image,
                "imagePullPolicy": copying.pull_policy,
                "command": ["steward-copy"],
                "args": arguments,
                # The same for all pods of one Job, and for no other's.
                "env": [{"name": "STEWARD_ATTEMPT", "valueFrom": {"fieldRef": {"fieldPath": JOB_UID}}}],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": dict(copying.resources),
                "volumeMounts": [
                    {"name": name, "mountPath": path, "readOnly": only_read} for name, _, only_read, path in mounts
                ],
            }
        ],
        "volumes": [
            {"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": only_read}}
            for name, claim, only_read, _ in mounts
        ],
    }
    if copying.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in copying.pull_secrets]
    if copying.node_selector:
        pod["nodeSelector"] = dict(copying.node_selector)
    if copying.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in copying.tolerations]
    return pod


def _labels(request: Request, volume: str, component: str, copying: Copying) -> Mapping[str, str]:
    return {**copying.labels, names.COMPONENT: component, names.VOLUME: volume, names.REQUEST: request.uid}


def _owner(request: Request) -> Manifest:
    """A deleted request takes its Jobs with it. Backups are not owned by it: they outlive it."""
    return {
        "apiVersion": names.API_VERSION, "kind": request.kind, "name": request.name, "uid": request.uid,
        "controller": False, "blockOwnerDeletion": False,
    }  # fmt: skip
