"""Docker: found, or installed and started where this machine is Debian and we are root.

A host whose kernel does not grant CAP_SYS_RESOURCE gets an OCI runtime that leaves that capability out; every
other host keeps plain runc.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from . import cache
from .shell import Problem, has, is_root, run, say, step, succeeds, wait_until

CAP_SYS_RESOURCE = 24
SHIM = Path(__file__).parent / "node" / "runc-without-missing-caps"
PID_FILE = "dockerd.pid"


def host_grants_sys_resource() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return True


def answers() -> bool:
    """A client alone is not Docker: only an engine that answers counts."""
    return succeeds(["docker", "info"], timeout=20)


def is_debian() -> bool:
    return Path("/etc/debian_version").exists() and has("apt-get")


def apt_install(*packages: str) -> None:
    missing = [p for p in packages if not succeeds(["dpkg", "-s", p])]
    if not missing:
        return
    if not is_root() or not is_debian():
        raise Problem(
            f"These programs are needed and could not be installed: {', '.join(missing)}; "
            "install them, or run this as root on Debian"
        )
    with step(f"install {', '.join(missing)}", "Debian packages"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-qq"], env=quiet, problem="Debian's package index could not be read (no network?)")
        run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
            env=quiet,
            log=cache.logs() / "apt.log",
            problem=f"Installing {', '.join(missing)} failed",
        )


def ensure() -> None:
    """Docker answers when this returns."""
    if answers():
        _check_runtime()
        return
    if not is_root() or not is_debian():
        raise Problem(
            "Docker does not answer ('docker info' fails). Start it, or install it: "
            "https://docs.docker.com/engine/install/"
        )
    apt_install("docker.io", "iptables")
    _start()


def _check_runtime() -> None:
    if host_grants_sys_resource():
        return
    runtime = run(["docker", "info", "--format", "{{.DefaultRuntime}}"]).strip()
    if runtime == "runc":
        raise Problem(
            "This machine's kernel does not grant CAP_SYS_RESOURCE, so the running Docker cannot start privileged "
            f"containers; stop it and run this again, or make {SHIM.name} its default runtime"
        )


def _start() -> None:
    with step("start the Docker engine", "no engine is running on this machine"):
        command = ["dockerd", "--pidfile", str(cache.root() / PID_FILE)]
        if not host_grants_sys_resource():
            say("    this kernel grants no CAP_SYS_RESOURCE: containers are started without it")
            command += ["--add-runtime", f"missing-caps={_installed_shim()}", "--default-runtime", "missing-caps"]
        cache.logs().mkdir(parents=True, exist_ok=True)
        stale = Path("/var/run/docker.pid")
        if stale.exists() and not _alive(stale):
            stale.unlink()
        if (cache.root() / PID_FILE).exists() and not _alive(cache.root() / PID_FILE):
            (cache.root() / PID_FILE).unlink()
        log = cache.logs() / "dockerd.log"
        with log.open("w") as stream:
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True)
        wait_until(["docker", "info"], 60, f"The Docker engine did not start within 60 s; its log is {log}")


def _installed_shim() -> Path:
    """The shim outside the clone, so that a removed clone does not break the engine."""

    def copy(scratch: Path) -> None:
        target = scratch / SHIM.name
        target.write_text(SHIM.read_text().replace("#!/usr/bin/env python3", f"#!{sys.executable}"))
        target.chmod(0o755)

    return cache.entry("runtime", cache.fingerprint(SHIM, sys.executable), copy) / SHIM.name


def _alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (ValueError, OSError):
        return False
    return True


def stop_if_ours() -> None:
    """Stop an engine that `ensure` started, once nothing runs in it."""
    pid_file = cache.root() / PID_FILE
    if not pid_file.exists() or not _alive(pid_file) or not answers():
        return
    if run(["docker", "ps", "--quiet"]).strip():
        say("    the Docker engine stays: other containers run in it")
        return
    with step("stop the Docker engine", "it was started by this command and nothing runs in it"):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        wait_until(["sh", "-c", f"! kill -0 {pid} 2>/dev/null"], 60, "The Docker engine did not stop within 60 s")


def disk_is_enough(gigabytes: int = 8) -> None:
    where = Path("/var/lib/docker") if Path("/var/lib/docker").exists() else Path("/")
    for path in (where, cache.root() if cache.root().exists() else Path.home()):
        free = os.statvfs(path)
        if free.f_bavail * free.f_frsize < gigabytes * 1024**3:
            raise Problem(
                f"At least {gigabytes} GiB of free disk are needed under {path}, "
                f"{free.f_bavail * free.f_frsize / 1024**3:.1f} GiB are there"
            )
