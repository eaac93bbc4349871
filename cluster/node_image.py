"""The kind node image: the public one where it can be pulled, otherwise one built here.

The built one is a Debian bookworm (its systemd and containerd still accept cgroup v1) with the Kubernetes programs
of `tools.kubernetes`, and the images that kubeadm expects already inside its containerd.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from . import cache, rootfs, tools
from .shell import Problem, run, say, step, succeeds, wait_until

NODE_FILES = Path(__file__).parent / "node"
#: The image that this version of kind is released with (pkg/apis/config/defaults/image.go).
PUBLIC = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
PULL_SECONDS = 600
PAUSE = "registry.k8s.io/pause:3.10.1"
LOCAL_PATH = "rancher/local-path-provisioner"
NODE_PACKAGES = [
    "systemd", "systemd-sysv", "containerd", "runc", "containernetworking-plugins", "iptables", "iproute2",
    "conntrack", "socat", "ethtool", "mount", "util-linux", "kmod", "procps", "ca-certificates", "libseccomp2",
]  # fmt: skip
PROXY_PACKAGES = ["iptables", "conntrack", "kmod"]


def ensure() -> str:
    """Reference of a node image that is in the local Docker."""
    built = f"hub-steward/node:{_key()}"
    if rootfs.image_exists(built):
        return built
    # The public image's kubelet refuses cgroup v1.
    modern = run(["docker", "info", "--format", "{{.CgroupVersion}}"]).strip() != "1"
    if modern and rootfs.image_exists(PUBLIC):
        return PUBLIC
    if (
        modern
        and succeeds(["docker", "manifest", "inspect", PUBLIC], timeout=20)
        and succeeds(["docker", "pull", "-q", PUBLIC], timeout=PULL_SECONDS)
    ):
        return PUBLIC
    say("==> build the node image here (no image registry answers, or cgroup v1)")
    return _build(built)


def is_self_built(reference: str) -> bool:
    return reference.startswith("hub-steward/node:")


def _key() -> str:
    return cache.fingerprint(NODE_FILES, Path(__file__), tools.GO_MODULES)


def _build(reference: str) -> str:
    kubernetes = tools.kubernetes()
    images = _component_images(kubernetes)
    base = rootfs.debian(
        f"hub-steward/node-base:{cache.fingerprint(','.join(NODE_PACKAGES))}",
        "bookworm",
        NODE_PACKAGES,
        "root of the node",
    )
    with step("assemble the node", "kubelet, kubeadm, containerd, systemd"):
        with tempfile.TemporaryDirectory(dir=cache.root()) as scratch:
            context = Path(scratch)
            shutil.copytree(NODE_FILES, context, dirs_exist_ok=True)
            for name in ("kubelet", "kubeadm", "kubectl"):
                tools.copy_program(kubernetes / name, context / name)
            (context / "version").write_text(f"v{tools.KUBERNETES_VERSION}")
            storage = (context / "default-storage.yaml").read_text()
            helper = next(name for name in images if "kube-proxy" in name)
            (context / "default-storage.yaml").write_text(
                storage.replace("@HELPER_IMAGE@", helper).replace("@LOCAL_PATH_IMAGE@", _local_path_image())
            )
            run(
                ["docker", "build", "-q", "--build-arg", f"BASE={base}", "-t", f"{reference}-bare", context],
                problem="Building the node image failed",
            )
    with step("put the cluster's own images into the node", f"{len(images)} images"):
        _preload(f"{reference}-bare", reference, images)
    return reference


def _local_path_image() -> str:
    return f"{LOCAL_PATH}:{tools.version('local-path-provisioner')}"


def _component_images(kubernetes: Path) -> list[str]:
    """Make every image that kubeadm and the storage manifest name; return their names."""
    listed = run([
        kubernetes / "kubeadm", "config", "images", "list", "--kubernetes-version", f"v{tools.KUBERNETES_VERSION}",
    ]).split()  # fmt: skip
    programs = {
        "kube-apiserver": kubernetes / "kube-apiserver",
        "kube-controller-manager": kubernetes / "kube-controller-manager",
        "kube-scheduler": kubernetes / "kube-scheduler",
        "etcd": kubernetes / "etcd",
        "coredns": tools.program("coredns"),
        "local-path-provisioner": tools.program("local-path-provisioner"),
        "pause": _pause(),
    }
    wanted = sorted({*listed, PAUSE, _local_path_image()})
    # kube-proxy calls iptables, and the storage provisioner's helper pods need a shell: one small Debian serves both.
    base = rootfs.debian(
        f"hub-steward/kube-proxy-base:{cache.fingerprint(','.join(PROXY_PACKAGES))}",
        "bookworm",
        PROXY_PACKAGES,
        "root of kube-proxy and of the storage helper",
    )
    with step("make the cluster's own images", ", ".join(name.split("/")[-1] for name in wanted)):
        for reference in wanted:
            name = reference.split("/")[-1].split(":")[0]
            if name == "kube-proxy":
                _kube_proxy(reference, base, kubernetes / "kube-proxy")
            elif name in programs:
                inside = f"/usr/local/bin/{name}" if name != "pause" else "/pause"
                rootfs.single_program(reference, {inside: programs[name]}, inside)
            else:
                raise Problem(f"kubeadm wants an image this project does not know how to make: {reference}")
    return wanted


def _kube_proxy(reference: str, base: str, program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache.root()) as scratch:
        context = Path(scratch)
        tools.copy_program(program, context / "kube-proxy")
        (context / "Dockerfile").write_text(f"FROM {base}\nCOPY kube-proxy /usr/local/bin/kube-proxy\n")
        run(["docker", "build", "-q", "-t", reference, context], problem="Building the kube-proxy image failed")


def _pause() -> Path:
    def build(scratch: Path) -> None:
        source = NODE_FILES / "pause.go"
        shutil.copy2(source, scratch / "main.go")
        (scratch / "go.mod").write_text("module pause\n\ngo 1.25\n")
        run([tools.go(), "build", "-trimpath", "-ldflags", "-s -w", "-o", "pause", "."], cwd=scratch,
            env={"CGO_ENABLED": "0"}, problem="Building the pause program failed")  # fmt: skip

    return cache.entry("pause", cache.fingerprint(NODE_FILES / "pause.go"), build) / "pause"


def _preload(bare: str, reference: str, images: list[str]) -> None:
    """Import the images into the node's containerd and commit the result as the node image."""
    archive = cache.root() / ".node-images.tar"
    container = f"hub-steward-preload-{_key()}"
    run(["docker", "rm", "-f", container]) if succeeds(["docker", "inspect", container]) else None
    try:
        run(["docker", "save", "-o", archive, *images])
        run([
            "docker", "run", "-d", "--privileged", "--name", container, "--entrypoint", "/usr/bin/containerd",
            "--mount", f"type=bind,source={archive},target=/images.tar,readonly", bare,
        ])  # fmt: skip
        inside = ["docker", "exec", container, "ctr", "-n", "k8s.io"]
        wait_until([*inside, "version"], 60, "containerd did not start in the node image")
        # Importing per name keeps kubeadm's references; nothing is unpacked before the node has its snapshotter.
        run([*inside, "images", "import", "--no-unpack", "/images.tar"], problem="Loading the node's images failed")
        run(["docker", "stop", container])
        run([
            "docker", "commit", "-c", 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]',
            container, reference,
        ])  # fmt: skip
    finally:
        succeeds(["docker", "rm", "-f", container])
        archive.unlink(missing_ok=True)
