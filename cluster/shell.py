"""Running other programs with visible progress and errors that end in one clear sentence.

Owns the look of the command line (steps, heartbeats, failures). Knows nothing of clusters or images.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HEARTBEAT_SECONDS = 15


class Problem(Exception):
    """Something a person has to know about, said in one sentence. Ends the command with exit code 1."""


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def step(what: str, why: str = "") -> Iterator[None]:
    """Announce a piece of work, show that it is alive, and say how long it took."""
    say(f"==> {what}" + (f" ({why})" if why else ""))
    started = time.monotonic()
    finished = threading.Event()

    def beat() -> None:
        while not finished.wait(HEARTBEAT_SECONDS):
            say(f"    ... {what}: {time.monotonic() - started:.0f} s")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
    say(f"    done in {time.monotonic() - started:.1f} s")


def has(program: str) -> bool:
    return shutil.which(program) is not None


def is_root() -> bool:
    return os.geteuid() == 0


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    input_text: str | None = None,
    problem: str = "",
) -> str:
    """Run a command, return its standard output.

    With ``log`` both streams go to that file instead. A failure raises `Problem` with the sentence given in
    ``problem``, the command, and the end of what it printed.
    """
    words = [str(word) for word in command]
    environment = {**os.environ, **(env or {})}
    if log is None:
        result = subprocess.run(words, cwd=cwd, env=environment, input=input_text, text=True, capture_output=True)
        if result.returncode == 0:
            return result.stdout
        tail = (result.stdout + result.stderr).strip()
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as stream:
            result = subprocess.run(
                words, cwd=cwd, env=environment, input=input_text, text=True, stdout=stream, stderr=stream
            )
        if result.returncode == 0:
            return ""
        tail = log.read_text(errors="replace").strip()
    lines = "\n".join("    | " + line for line in tail.splitlines()[-20:])
    sentence = problem or f"'{words[0]}' failed"
    where = f"\n    full log: {log}" if log else ""
    raise Problem(f"{sentence}.\n    command: {shlex.join(words)}\n{lines}{where}")


def succeeds(command: Sequence[str | Path], timeout: float = 60) -> bool:
    """Whether a command ends with 0 within ``timeout`` seconds. Its output is not shown."""
    try:
        return (
            subprocess.run(
                [str(word) for word in command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=timeout,
            ).returncode
            == 0
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def wait_until(probe: Sequence[str | Path], seconds: float, problem: str) -> None:
    deadline = time.monotonic() + seconds
    while not succeeds(probe, timeout=10):
        if time.monotonic() > deadline:
            raise Problem(problem)
        time.sleep(0.3)


def fail(problem: Problem) -> int:
    print(f"\nProblem: {problem}", file=sys.stderr, flush=True)
    return 1
