"""Debian root file systems and single-program images, made without any image registry."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from . import cache
from .engine import apt_install
from .shell import Problem, has, is_root, run, step, succeeds


def image_exists(reference: str) -> bool:
    return succeeds(["docker", "image", "inspect", reference])


def debian(reference: str, suite: str, packages: list[str], why: str, changes: list[str] = []) -> str:  # noqa: B006
    """Import a minimal Debian as image ``reference`` unless it is there. ``changes`` are Dockerfile lines."""
    if image_exists(reference):
        return reference
    if not has("mmdebstrap"):
        apt_install("mmdebstrap")
    if not is_root():
        raise Problem("A Debian root file system can only be made by root here; run this as root")
    tarball = cache.root() / f"{reference.replace('/', '_').replace(':', '_')}.tar"
    with step(f"make the Debian {suite} base {reference}", why):
        tarball.parent.mkdir(parents=True, exist_ok=True)
        command = ["mmdebstrap", "--variant=minbase", "--quiet", f"--include={','.join(packages)}"]
        # A machine behind its own certificate authority builds images that trust it too.
        bundle = Path("/etc/ssl/certs/ca-certificates.crt")
        if "ca-certificates" in packages and bundle.exists():
            command.append(f"--customize-hook=copy-in {bundle} /etc/ssl/certs")
        command += [
            '--customize-hook=rm -rf "$1"/var/cache/apt/* "$1"/usr/share/doc/* "$1"/usr/share/man/*',
            suite,
            str(tarball),
        ]
        try:
            run(command, log=cache.logs() / f"mmdebstrap-{suite}.log", problem=f"Making a Debian {suite} base failed")
            flags = [f"--change={change}" for change in changes]
            run(["docker", "import", *flags, tarball, reference])
        finally:
            tarball.unlink(missing_ok=True)
    return reference


def single_program(reference: str, files: dict[str, Path], entrypoint: str) -> None:
    """An image that holds nothing but the given files (path in the image -> file here)."""
    directory = cache.root() / ".single-program"
    shutil.rmtree(directory, ignore_errors=True)
    for inside, source in files.items():
        target = directory / inside.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    (directory / "tmp").mkdir(exist_ok=True)
    archive = subprocess.Popen(["tar", "-C", str(directory), "-c", "."], stdout=subprocess.PIPE)
    imported = subprocess.run(
        ["docker", "import", f'--change=ENTRYPOINT ["{entrypoint}"]', "-", reference],
        stdin=archive.stdout,
        capture_output=True,
        text=True,
    )
    if archive.wait() or imported.returncode:
        raise Problem(f"The image {reference} could not be made: {imported.stderr.strip()}")
    shutil.rmtree(directory)
