"""Puts a CSI driver that takes snapshots into a kind cluster, with the project's own sidecars from their Go modules.

The driver under ``driver/`` keeps volumes and snapshots as directories of the node. external-provisioner,
external-snapshotter and the snapshot controller are the real ones.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from cluster import cache, images, tools
from cluster.local import Target
from cluster.shell import run, step

HERE = Path(__file__).parent
DRIVER = "directory.csi.hubsteward.io"
SIDECARS = {
    "csi-provisioner": "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner",
    "csi-snapshotter": "github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter",
    "snapshot-controller": "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller",
}
CLIENT = "github.com/kubernetes-csi/external-snapshotter/client/v8"
KUBELET = "/var/lib/kubelet"
#: On the node; ``refuse-snapshots`` in it makes the driver refuse them.
DATA = "/var/lib/directory-csi"
Json = dict[str, Any]


def programs() -> Path:
    """Directory with the driver and the sidecars."""

    def build(scratch: Path) -> None:
        with step("build the CSI driver and its sidecars", "from their Go modules; some minutes the first time"):
            run(
                [tools.go(), "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", f"{scratch}/",
                 "./driver", *SIDECARS.values()],
                cwd=HERE, env={"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}, log=cache.logs() / "build-csi.log",
                problem="Building the CSI programs failed",
            )  # fmt: skip

    return cache.entry("csi", _key(), build)


def _key() -> str:
    return cache.fingerprint(HERE / "go.mod", HERE / "go.sum", HERE / "driver")


def definitions() -> list[Json]:
    """The CRDs of snapshots, from the sidecars' own client module."""
    module = json.loads(run([tools.go(), "mod", "download", "-json", CLIENT], cwd=HERE))
    files = sorted(Path(module["Dir"], "config/crd").glob("snapshot.storage.k8s.io_*.yaml"))
    assert len(files) == 3, files
    return [document for file in files for document in yaml.safe_load_all(file.read_text()) if document]


def image() -> str:
    reference = f"hub-steward/csi-fixture:{_key()}"
    if not run(["docker", "image", "ls", "-q", reference]).strip():
        base = images.python_base()
        with (
            step("make the image of the CSI driver", "with the programs just built"),
            tempfile.TemporaryDirectory() as d,
        ):
            for program in programs().iterdir():
                shutil.copy2(program, Path(d) / program.name)
            Path(d, "Dockerfile").write_text(f"FROM {base}\nCOPY driver {' '.join(SIDECARS)} /usr/local/bin/\n")
            run(["docker", "build", "-q", "-t", reference, d])
    return reference


def install(target: Target) -> None:
    """Repeatable. The classes ``directory`` (binds at once) and ``directory-late`` are there afterwards."""
    reference = image()
    run([cache.root() / "bin/kind", "load", "docker-image", "--name", target.name, reference], env=target.environment)
    for objects in (definitions(), _objects(reference)):
        target.kubectl(
            "apply", "--server-side", "-f", "-",
            input_text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
        )  # fmt: skip
        target.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    target.kubectl("-n", "csi", "rollout", "status", "deployment/csi", "--timeout=120s")


def _container(reference: str, name: str, command: list[str], **more: Any) -> Json:
    return {"name": name, "image": reference, "imagePullPolicy": "Never", "command": command, **more}


def _objects(reference: str) -> list[Json]:
    socket = f"{KUBELET}/plugins/{DRIVER}/csi.sock"
    plugins = {"name": "kubelet", "mountPath": KUBELET, "mountPropagation": "Bidirectional"}
    driver = _container(
        reference, "driver", ["driver", f"--data={DATA}"],
        env=[{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        securityContext={"privileged": True}, volumeMounts=[plugins, {"name": "data", "mountPath": DATA}],
    )  # fmt: skip
    sidecars = [
        _container(
            reference, name, [name, f"--csi-address={socket}", "--v=4"],
            securityContext={"privileged": True}, volumeMounts=[{"name": "kubelet", "mountPath": KUBELET}],
        )
        for name in ("csi-provisioner", "csi-snapshotter")
    ]  # fmt: skip
    controller = _container(reference, "snapshot-controller", ["snapshot-controller", "--v=4"])
    labels = {"app": "csi"}
    host = [
        {"name": "kubelet", "hostPath": {"path": KUBELET}},
        {"name": "data", "hostPath": {"path": DATA, "type": "DirectoryOrCreate"}},
    ]
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "csi", "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "csi", "namespace": "csi"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "csi-fixture"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
         "subjects": [{"kind": "ServiceAccount", "name": "csi", "namespace": "csi"}]},
        {"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER},
         "spec": {"attachRequired": False, "podInfoOnMount": False, "fsGroupPolicy": "File"}},
        *({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
           "provisioner": DRIVER, "volumeBindingMode": mode}
          for name, mode in (("directory", "Immediate"), ("directory-late", "WaitForFirstConsumer"))),
        {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": {"name": "directory"},
         "driver": DRIVER, "deletionPolicy": "Delete"},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "csi", "namespace": "csi"},
         "spec": {"selector": {"matchLabels": labels}, "strategy": {"type": "Recreate"}, "template": {
             "metadata": {"labels": labels},
             "spec": {"serviceAccountName": "csi", "containers": [driver, *sidecars, controller], "volumes": host},
         }}},
    ]  # fmt: skip
