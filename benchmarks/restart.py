"""In-place restart against its floor and against stop and start through the same hub, until the server answers.

    python3 -m benchmarks.restart [--pairs 10] [--write]

Runs on the test cluster (created if need be, and left running with KEEP=1). Each pair takes one restart in place and
one stop and start of the same user's server; both are timed from the HTTP request of the press to the first answer of
``/user/NAME/api`` through the proxy that comes from the new instance. The floor is what nobody can be faster than: the
same container, told to end and started again by hand on its node, with the kubelet out of the way.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

from benchmarks.tables import machine, replace_section
from cluster import cache, local
from cluster.shell import run
from tests.support.cluster import Kube, Session, passwords, wait_for
from tests.target import TARGET

DOCUMENT = cache.REPOSITORY / "docs" / "benchmarks.md"


def instance(kube: Kube, user: str) -> str:
    pod = kube.pod(user)
    statuses = (pod or {}).get("status", {}).get("containerStatuses", [])
    return str(statuses[0].get("containerID", "")) if statuses else ""


def answers(session: Session) -> bool:
    return session.raw("GET", f"/user/{session.user}/api").status == 200


def in_place(session: Session, kube: Kube) -> float:
    """Seconds from the press until the new instance answers."""
    begin = time.perf_counter()
    answer = session.restart()
    assert answer.status == 202, answer.text
    wait_for("the old instance is gone", lambda: not answers(session), 60, every=0.02)
    wait_for("the new instance answers", lambda: answers(session), 60, every=0.02)
    seconds = time.perf_counter() - begin
    ended = kube.finished("srestart", answer.json["request"]["name"])
    assert ended["status"]["mechanism"] == "InPlace", ended["status"]
    return seconds


def stop_and_start(session: Session) -> float:
    """Seconds from the press of Stop until the newly started server answers, as a script would do it."""
    begin = time.perf_counter()
    session.stop()
    wait_for("stopped", lambda: session.api("GET", f"users/{session.user}").json["servers"] == {}, 60, every=0.02)
    session.start()
    wait_for("the new server answers", lambda: answers(session), 120, every=0.02)
    return time.perf_counter() - begin


#: Prints when it began, by the clock that node and host share. Waiting costs the machine nothing.
BY_HAND = """
pid=$(ctr -n k8s.io task ls | grep {id} | tr -s ' ' | cut -d ' ' -f 2)
date +%s.%N
kill -s TERM $pid
while kill -0 $pid 2>/dev/null; do sleep 0.01; done
for attempt in $(seq 100); do
  ctr -n k8s.io task delete {id} >/dev/null 2>&1
  ctr -n k8s.io task start --detach {id} 2>/dev/null && exit 0
done
exit 1
"""


def floor(session: Session, kube: Kube) -> float:
    """Seconds from the signal until the same container, started again, answers."""
    pod = kube.pod(session.user)
    assert pod is not None
    identity = instance(kube, session.user).removeprefix("containerd://")
    node = ["docker", "exec", f"{kube.target.name}-control-plane"]
    run([*node, "systemctl", "stop", "kubelet"])
    try:
        begin = float(run([*node, "sh", "-c", BY_HAND.format(id=identity)]).split()[0])
        wait_for("the container answers", lambda: answers(session), 60, every=0.02)
        return time.time() - begin
    finally:
        # The kubelet starts a container of its own, which the one started by hand would be in the way of.
        run([*node, "sh", "-c", f"ctr -n k8s.io task kill -s SIGKILL {identity}; systemctl start kubelet"])


def old_enough(kube: Kube, user: str) -> bool:
    """Past the test cluster's minimum interval, so that the restart is not made to wait."""
    pod = kube.pod(user)
    started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] if pod else ""
    from datetime import UTC, datetime

    return bool(started) and (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds() > 7


def measure(pairs: int) -> tuple[list[float], list[float], list[float]]:
    kube = Kube(TARGET)
    session = Session(TARGET.url, "benchmark", passwords(TARGET)["*"])
    session.start_and_wait()
    swaps, rounds, floors = [], [], []
    try:
        for number in range(pairs):
            wait_for("the server has run for a moment", lambda: old_enough(kube, "benchmark"), 60)
            swaps.append(in_place(session, kube))
            rounds.append(stop_and_start(session))
            wait_for("running", lambda: session.state() == "running", 60)
            floors.append(floor(session, kube))
            session.stop_and_wait()
            session.start_and_wait()
            print(
                f"round {number + 1}: by hand {floors[-1]:.2f} s, in place {swaps[-1]:.2f} s, "
                f"stop and start {rounds[-1]:.2f} s",
                flush=True,
            )
    finally:
        session.stop()
    return swaps, rounds, floors


def row(name: str, values: list[float]) -> str:
    return f"| {name} | {min(values):.2f} | {statistics.median(values):.2f} | {max(values):.2f} |"


def table(swaps: list[float], rounds: list[float], floors: list[float]) -> str:
    ratio = statistics.median(rounds) / statistics.median(swaps)
    above = statistics.median(swaps) / statistics.median(floors)
    return "\n".join(
        [
            f"{len(swaps)} rounds. {machine()} kind with one node, JupyterHub 6.1.1, KubeSpawner 7.1.0. "
            "Seconds from the press until the server answers through the proxy.",
            "",
            "| | min | median | max |",
            "|---|---|---|---|",
            row("the same container stopped and started by hand on the node", floors),
            row("restart in place", swaps),
            row("stop and start through this hub", rounds),
            "",
            f"In the median a restart in place takes {above:.2f} times as long as by hand, and is {ratio:.1f} times as "
            "fast as stop and start.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="how many pairs (default: 10)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    local.up(TARGET)
    try:
        text = table(*measure(arguments.pairs))
    finally:
        if not os.environ.get("KEEP"):
            local.down(TARGET)
    print(f"\n{text}")
    if arguments.write:
        replace_section(DOCUMENT, "restart", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
