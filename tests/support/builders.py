"""Small worlds for the core: requests, claims and pods with everything that does not matter filled in."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from steward_api import names
from steward_api.volumes import BackupPolicy, Volume
from steward_operator.core.model import Claim, Pod, Request, World
from steward_operator.core.plan_restart import plan_restart
from steward_operator.core.steps import WriteStatus

Json = dict[str, Any]
NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
#: The same, as a status has it.
AT = "2026-11-21T12:00:00Z"
_numbers = itertools.count(1)

TABLE = {
    "home": Volume(
        "home", "Home", "/home/jovyan", "1Gi", "claim-{user_server}", reset_allowed=True, backup=BackupPolicy.COPY
    ),
    "workspace": Volume(
        "workspace", "Workspace", "/home/jovyan/workspace", "2Gi", "workspace-{user_server}", reset_allowed=True
    ),
    "shared": Volume("shared", "Shared", "/shared", "1Gi", "shared-{user_server}", reset_allowed=False),
    "cache": Volume("cache", "Cache", "/home/jovyan/.cache", "1Gi", "cache-{user_server}", reset_allowed=True),
}


def stamp(moment: datetime = NOW) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def request(kind: str, name: str = "r", created: datetime = NOW, **spec: Any) -> Request:
    spec = {
        "user": "ann",
        "server": "",
        "cancel": False,
        "startingDeadlineSeconds": 600,
        "requestedBy": {"kind": "KubernetesUser", "name": "admin"},
        **spec,
    }
    meta = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "generation": 1,
            "creationTimestamp": stamp(created)}  # fmt: skip
    return Request({"apiVersion": names.API_VERSION, "kind": kind, "metadata": meta, "spec": spec})


def reset(*volumes: str, **spec: Any) -> Request:
    defaults = {"serverPolicy": "RequireStopped", "backup": "Default", "contents": {"from": "Empty"}}
    wanted = {"volumes": list(volumes or ("workspace",)), **defaults, **spec}
    return request(names.VOLUME_RESET, **wanted)


def restart(**spec: Any) -> Request:
    return request(names.SERVER_RESTART, **{"strategy": "Auto", **spec})


def claim(kind: str = "workspace", user: str = "ann", server: str = "", uid: str = "", **more: Any) -> Claim:
    name = more.pop("name", f"{kind}-{user}" + (f"--{server}" if server else ""))
    annotations = {names.USERNAME: user, **more.pop("annotations", {})}
    if server:
        annotations[names.SERVERNAME] = server
    labels = {names.COMPONENT: names.STORAGE_COMPONENT, names.VOLUME: kind, "app": "jupyterhub"}
    meta: Json = {"name": name, "uid": uid or f"{kind}-1", "resourceVersion": "7", "labels": labels,
                  "annotations": annotations,
                  "creationTimestamp": stamp(more.pop("created", NOW - timedelta(days=3)))}  # fmt: skip
    if more.pop("deleting", False):
        meta["deletionTimestamp"] = stamp()
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "standard",
            "resources": {"requests": {"storage": "2Gi"}}, **more.pop("spec", {})}  # fmt: skip
    return Claim({"metadata": meta, "spec": spec, "status": more.pop("status", {})})


def pod(
    user: str = "ann", server: str = "", claims: tuple[str, ...] = (), *, container: str = "c1",
    restarts: int = 0, state: str = "running", started: datetime = NOW - timedelta(hours=1), ready: bool = True,
    phase: str = "Running", is_server: bool = True, deleting: bool = False, uid: str = "pod-1",
    requests: Json | None = None, limits: Json | None = None, qos: str = "Burstable",
    present: Json | None = None, policy: str = "OnFailure", resize: bool = True, probe: bool = False, **more: Any,
) -> Pod:  # fmt: skip
    original = {"requests": requests if requests is not None else {"cpu": "50m", "memory": "256Mi"}}
    if limits:
        original["limits"] = limits
    meta: Json = {
        "name": f"jupyter-{user}" + (f"--{server}" if server else ""), "uid": uid, "resourceVersion": "9",
        "creationTimestamp": stamp(more.pop("created", started)),
        "labels": {names.COMPONENT: names.SERVER_COMPONENT} if is_server else {},
        "annotations": {names.USERNAME: user, names.RESOURCES: json.dumps(original)} if is_server else {},
    }  # fmt: skip
    if server:
        meta["annotations"][names.SERVERNAME] = server
    if deleting:
        meta["deletionTimestamp"] = stamp()
    body: Json = {"startedAt": stamp(started)} if state == "running" else {}
    if state == "terminated":
        body = {"exitCode": 0, "finishedAt": stamp(), "message": "bye"}
    status: Json = {"name": "notebook", "containerID": container, "restartCount": restarts, "state": {state: body},
                    "ready": ready, "started": ready}  # fmt: skip
    if last := more.pop("last", None):
        status["lastState"] = {"terminated": last}
    spec: Json = {
        "name": "notebook",
        "resources": present or original,
        "ports": [{"name": "nb", "containerPort": 8888}],
    }
    if resize:
        spec["resizePolicy"] = [{"resourceName": r, "restartPolicy": "RestartContainer"} for r in ("cpu", "memory")]
    if probe:
        spec["startupProbe"] = {"httpGet": {"path": "/user/ann/api", "port": "nb"}}
    return Pod({
        "metadata": meta,
        "spec": {
            "restartPolicy": policy,
            "containers": [spec],
            "volumes": [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in claims],
        },
        "status": {"phase": phase, "qosClass": qos, "podIP": "10.0.0.9", "containerStatuses": [status] if container else [],
                   "conditions": more.pop("conditions", [])},
    })  # fmt: skip


def world(req: Request, *objects: Claim | Pod, **more: Any) -> World:
    pods = tuple(o for o in objects if isinstance(o, Pod))
    claims = tuple(o for o in objects if isinstance(o, Claim))
    return World(**{"now": NOW, "request": req, "pods": pods, "claims": claims, "table": TABLE, **more})


def written(req: Request, step: object) -> Request:
    """The request after a WriteStatus was carried out."""
    assert isinstance(step, WriteStatus), step
    return Request({**req.manifest, "status": dict(step.status)})


def with_status(req: Request, finalizers: tuple[str, ...] = (), **status: Any) -> Request:
    return Request({**req.manifest, "metadata": {**req.meta, "finalizers": list(finalizers)},
                    "status": {**req.status, **status}})  # fmt: skip


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def status_of(step: object) -> Json:
    """What a step writes down, the conditions apart: the tests name those one by one."""
    assert isinstance(step, WriteStatus), step
    return {key: value for key, value in step.status.items() if key != "conditions"}


def told(step: object) -> tuple[str, str, str]:
    """What people are told of the request: phase, reason and message."""
    status = status_of(step)
    return status["phase"], status["reason"], status["message"]


def denial(
    name: str, operation: str, resource: str, message: str, *, only: str = "", group: str = ""
) -> tuple[Json, Json]:
    """A policy, as a team may have one, that refuses an operation on a resource, or on the one object ``only``."""
    rule: Json = {"apiGroups": [group], "apiVersions": ["*"], "operations": [operation], "resources": [resource]}
    if only:
        rule["resourceNames"] = [only]
    version = "admissionregistration.k8s.io/v1"
    policy = {
        "apiVersion": version, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [rule]},
                 "validations": [{"expression": "false", "message": message}]},
    }  # fmt: skip
    binding = {
        "apiVersion": version, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }  # fmt: skip
    return policy, binding


def bouncing(**spec: Any) -> Request:
    """A restart in place that is on record and has not been sent."""
    req = restart(**spec)
    return written(req, plan_restart(world(req, pod())))


def recreating(step: str = "Stopping") -> Request:
    """A restart through the hub, begun at `AT`."""
    return with_status(restart(), phase="Restarting", mechanism="Recreate", step=step, podUID="pod-1", stepTime=AT,
                       containerID="c1", restartCount=0, startTime=AT)  # fmt: skip
