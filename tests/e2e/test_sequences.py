"""Restarts, crashes and out-of-memory kills of the lab in any order and spacing: a server that nobody stopped is never gone.

Four sequences in `make test`; a hundred with ``CHAOS=full python3 -m tests.run sequences``.
"""

from __future__ import annotations

import concurrent.futures
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from steward_api import names

from cluster.shell import Problem
from tests.chaos.report import FULL, Tally
from tests.e2e.test_reset import manifest
from tests.support.cluster import Kube, Session, wait_for

SEQUENCES = 100 if FULL else 4
AT_ONCE = 4
SEED = 43
#: The kubelet's longest back-off after a crash is five minutes.
PATIENCE = 420
#: Instances that were killed, by the test and by the kernel.
crashes: list[str] = []
out_of_memory_kills: list[str] = []


def answers(session: Session) -> bool:
    return session.raw("GET", f"/user/{session.user}/api").status == 200


def crash(kube: Kube, session: Session) -> None:
    """What the kernel does to a lab that is out of memory. One that is down already cannot be killed."""
    pod = kube.pod(session.user)
    statuses = (pod or {}).get("status", {}).get("containerStatuses") or []
    for container in [s["containerID"].partition("//")[2] for s in statuses if "running" in s["state"]]:
        kill = ["ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", container]
        done = subprocess.run(
            ["docker", "exec", f"{kube.target.name}-control-plane", *kill], capture_output=True, text=True
        )
        assert done.returncode == 0 or "not found" in done.stderr or "already finished" in done.stderr, done.stderr
        crashes.append(container)


#: Takes all the memory that there is, in processes that are each smaller than the lab: the kernel ends the largest. All of
#: a container's have nearly the same score to begin with; the lab's is raised by the little that is left.
HOG = """
import glob, os, time
for path in glob.glob("/proc/[0-9]*/oom_score_adj"):
    if path != f"/proc/{os.getpid()}/oom_score_adj":
        try:
            open(path, "w").write("1000")
        except OSError:
            pass
for _ in range(100):
    if os.fork() == 0:
        kept = b"x" * (20 << 20)
        time.sleep(20)
        os._exit(0)
time.sleep(20)
"""


def out_of_memory(kube: Kube, session: Session) -> None:
    """The kernel ends the lab, because its container is beyond its limit of memory. One that is down cannot be ended."""
    before = notebook(kube, session)
    if before is None or "running" not in before["state"]:
        return
    # It ends with the container, or is refused because that has just ended.
    with suppress(Problem):
        kube.run_in(f"jupyter-{session.user}", "python3", "-c", HOG)

    def ending() -> dict[str, Any] | None:
        now = notebook(kube, session)
        if now is None:
            return {}
        if now["containerID"] == before["containerID"]:
            return dict(now["state"].get("terminated") or {}) or None
        return dict(now["lastState"].get("terminated") or {})

    how = wait_for("the instance has ended", ending, 60)
    # A restart, or a crash, may have been quicker.
    if how.get("reason") == "OOMKilled":
        out_of_memory_kills.append(before["containerID"])


def notebook(kube: Kube, session: Session) -> dict[str, Any] | None:
    statuses = (kube.pod(session.user) or {}).get("status", {}).get("containerStatuses") or []
    return next((dict(s) for s in statuses if s["name"] == names.NOTEBOOK_CONTAINER), None)


def restart(kube: Kube, session: Session) -> None:
    kube.create(manifest(names.SERVER_RESTART, session.user))


def restart_in_place(kube: Kube, session: Session) -> None:
    kube.create(manifest(names.SERVER_RESTART, session.user, strategy="InPlace"))


ACTIONS: list[Callable[[Kube, Session], None]] = [
    restart, restart, restart_in_place, restart_in_place, crash, crash, out_of_memory,
]  # fmt: skip


def play(kube: Kube, session: Session, number: int) -> dict[str, Any]:
    """One sequence; what it was."""
    chance = random.Random(SEED * 1000 + number)
    steps = []
    for _ in range(chance.randint(2, 7 if FULL else 5)):
        action = chance.choice(ACTIONS)
        action(kube, session)
        pause = chance.choice([0.0, 1.0, 3.0, 8.0, 16.0])
        steps.append(f"{action.__name__}, {pause:.0f} s")
        end = time.monotonic() + pause
        wait_for("the pause is over", lambda end=end: time.monotonic() >= end, pause + 10, every=0.1)
    return {"number": number, "steps": steps}


def ended(kube: Kube, user: str) -> bool:
    found = kube.json("get", "srestart", "--field-selector", f"spec.user={user}")["items"]
    return all("completionTime" in r.get("status", {}) for r in found)


def check(kube: Kube, session: Session, played: dict[str, Any]) -> None:
    wait_for(f"the requests end: {played}", lambda: ended(kube, session.user), PATIENCE, every=2)
    wait_for(f"the server answers: {played}", lambda: answers(session), PATIENCE, every=2)
    assert session.state() in ("running", "not-answering"), played


@pytest.mark.alone
def test_no_sequence_of_restarts_and_crashes_loses_a_server(login: Callable[[str], Session], kube: Kube) -> None:
    people = [login(f"limited-seq{number}") for number in range(AT_ONCE)]
    numbers = iter(range(SEQUENCES))

    def work(session: Session) -> int:
        done = 0
        while (number := next(numbers, None)) is not None:
            # A pod of its own for every sequence, so that one's back-off is not the next one's.
            session.stop_and_wait()
            session.start_and_wait()
            check(kube, session, play(kube, session, number))
            done += 1
        return done

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        done = sum(pool.map(work, people))
    assert done == SEQUENCES
    assert len(crashes) + len(out_of_memory_kills) >= SEQUENCES / 2, "too few labs were there to be killed"
    assert not FULL or out_of_memory_kills
    Tally().add(
        "restarts, crashes and out-of-memory kills on the real kubelet",
        cases=SEQUENCES, met=done, crashes=len(crashes), out_of_memory=len(out_of_memory_kills),
    )  # fmt: skip
