"""The project's four images, built from the lock and the packages of this clone."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import cache, rootfs, tools
from .shell import run, step, succeeds

PYTHON_PACKAGES = ["python3", "python3-venv", "ca-certificates", "tini"]
NODE_PACKAGES = ["nodejs", "npm", "ca-certificates"]
PUBLIC_PYTHON = "python:3.13-slim-trixie"
PUBLIC_NODE = "node:22-trixie-slim"


@dataclass(frozen=True)
class Image:
    name: str
    folder: str
    package: str
    workspace: tuple[str, ...]


IMAGES = (
    Image("operator", "operator", "steward-operator", ("api", "operator")),
    Image("hub", "hub-image", "steward-hub", ("api", "hub-image")),
    Image("lab", "lab-image", "steward-lab", ("lab-image",)),
    Image("proxy", "proxy-image", "", ()),
)


def build_all() -> dict[str, str]:
    """Reference of every image by its short name; the tag is a hash of what it is made from."""
    python = python_base()
    node = _base(PUBLIC_NODE, "javascript-base", NODE_PACKAGES)
    return {image.name: _build(image, node if image.name == "proxy" else python) for image in IMAGES}


def python_base() -> str:
    return _base(PUBLIC_PYTHON, "python-base", PYTHON_PACKAGES)


def _base(public: str, name: str, packages: list[str]) -> str:
    """The public base image where it is here or can be pulled, otherwise a Debian made here."""
    built = f"hub-steward/{name}:{cache.fingerprint(','.join(packages))}"
    if rootfs.image_exists(built):
        return built
    if rootfs.image_exists(public):
        return public
    if succeeds(["docker", "manifest", "inspect", public], timeout=20) and succeeds(
        ["docker", "pull", "-q", public], timeout=300
    ):
        return public
    return rootfs.debian(built, "trixie", packages, f"stands in for {public}, which cannot be pulled")


def _key(image: Image, base: str) -> str:
    inputs: list[str | Path] = [base, cache.REPOSITORY / image.folder]
    if image.package:
        inputs += [cache.REPOSITORY / "uv.lock", *(cache.REPOSITORY / member for member in image.workspace)]
    return cache.fingerprint(*inputs)


def _build(image: Image, base: str) -> str:
    reference = f"hub-steward/{image.name}:{_key(image, base)}"
    if rootfs.image_exists(reference):
        return reference
    with step(f"build the image {image.name}", "from the lock and this clone"):
        with tempfile.TemporaryDirectory(dir=cache.root()) as scratch:
            context = Path(scratch)
            if image.package:
                _python_context(image, context)
            else:
                for name in ("package.json", "package-lock.json"):
                    shutil.copy(cache.REPOSITORY / image.folder / name, context / name)
            shutil.copy(cache.REPOSITORY / image.folder / "Dockerfile", context / "Dockerfile")
            command = ["docker", "build", "--network", "host", "-t", reference, "--build-arg", f"BASE_IMAGE={base}"]
            for variable in ("PIP_INDEX_URL", "NPM_CONFIG_REGISTRY"):
                if os.environ.get(variable):
                    command += ["--build-arg", f"{variable}={os.environ[variable]}"]
            run([*command, context], log=cache.logs() / f"image-{image.name}.log",
                problem=f"Building the image {image.name} failed")  # fmt: skip
    return reference


def _python_context(image: Image, context: Path) -> None:
    requirements = run([
        tools.uv(), "export", "--frozen", "--no-dev", "--no-emit-workspace", "--package", image.package,
        "--format", "requirements-txt", "--no-header", "--no-annotate",
    ], cwd=cache.REPOSITORY, problem="The lock could not be read by uv")  # fmt: skip
    (context / "requirements.txt").write_text(requirements)
    for member in image.workspace:
        run([tools.uv(), "build", "--wheel", "-q", "--out-dir", context / "wheels", cache.REPOSITORY / member],
            cwd=cache.REPOSITORY, problem=f"The package in {member} could not be built")  # fmt: skip
