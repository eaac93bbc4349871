"""Latency, load, memory and fail-over of the operator on a real API server, without a cluster.

``python -m benchmarks.load`` prints the table of docs/reliability.md; ``--write`` puts it there. The API server, etcd
and controller manager are real, pods are run on paper, and everything shares the machine's cores with the operator.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import statistics
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from steward_api import names
from steward_operator.kube.client import UNFINISHED

from benchmarks.tables import machine, replace_section
from cluster import cache
from tests.support.cluster import wait_for
from tests.support.control_plane import ControlPlane
from tests.support.control_plane_fixtures import CONFIG, NAMESPACE, Namespace, installed
from tests.support.fake_kubelet import FakeKubelet
from tests.support.operator import FakeHub, Operator

Json = dict[str, Any]
Row = tuple[str, str, str]
THREADS = 16
#: The tests' settings look again and again at everything; an installation does so every minute.
SETUP = {**CONFIG, "settings": {**CONFIG["settings"], "resync_every": 40, "most_finished_requests": 50_000}}
#: Seconds; a sweep of what is old is among them.
IDLE = 90


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def in_parallel(work: Callable[[int], Any], count: int) -> None:
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(count)))


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class Audit:
    """What the operator has sent since the last `mark`, from the API server's own log."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._begin = 0

    def mark(self) -> None:
        self._begin = self._plane.audit_file.stat().st_size

    def writes(self) -> list[Json]:
        """Those that count: no Leases, Events or reviews, and no dry runs."""
        return [
            event
            for event in self._plane.audit(self._begin)
            if event["verb"] not in ("get", "list", "watch")
            and event["objectRef"]["resource"] not in ("leases", "events", "selfsubjectaccessreviews")
            and "dryRun" not in event["requestURI"]
        ]

    def throttled(self) -> int:
        """Requests of any kind that the API server had no room for."""
        return sum(event["responseStatus"]["code"] == 429 for event in self._plane.audit(self._begin))

    def of(self, resource: str, subresource: str = "", verb: str = "") -> list[Json]:
        return [
            event
            for event in self.writes()
            if verb in ("", event["verb"])
            and (event["objectRef"]["resource"], event["objectRef"].get("subresource", "")) == (resource, subresource)
            and event["responseStatus"]["code"] < 300
        ]


def reset(ns: Namespace, audit: Audit) -> tuple[float, float]:
    """Of a stopped user's volume: seconds from the request's creation to its write-ahead and to its end."""
    user = ns.user()
    ns.make_claim(user, "workspace")
    audit.mark()
    name = ns.ask(names.VOLUME_RESET, user)
    asked = time.time()
    ns.ended(names.VOLUME_RESET, name)
    statuses = audit.of("volumeresets", "status")
    locked = max(0.0, moment(statuses[0]["requestReceivedTimestamp"]) - asked)
    return locked, moment(statuses[-1]["stageTimestamp"]) - asked


def latency(ns: Namespace, audit: Audit, count: int) -> list[Row]:
    """One request after the other on an idle operator, from the moment its creation was answered."""
    to_resize, to_lock, to_end, writes = [], [], [], []
    for _ in range(count):
        user = ns.user()
        ns.start_server(user)
        audit.mark()
        name = ns.ask(names.SERVER_RESTART, user)
        asked = time.time()
        ns.ended(names.SERVER_RESTART, name)
        (resized,) = audit.of("pods", "resize")
        to_resize.append(max(0.0, moment(resized["requestReceivedTimestamp"]) - asked))
        restart_writes = len(audit.writes())
        locked, ended = reset(ns, audit)
        to_lock.append(locked)
        to_end.append(ended)
        writes.append((restart_writes, len(audit.writes())))
    return [
        ("request to resize", f"p50 {milliseconds(statistics.median(to_resize))}, "
         f"p99 {milliseconds(percentile(to_resize, 0.99))}", f"{count} restarts"),
        ("request to a reset's write-ahead", f"p50 {milliseconds(statistics.median(to_lock))}, "
         f"p99 {milliseconds(percentile(to_lock, 0.99))}", f"{count} resets"),
        ("reset of a stopped user's volume, without backup, to Succeeded",
         f"p50 {milliseconds(statistics.median(to_end))}, max {milliseconds(max(to_end))}", f"{count} resets"),
        ("writes", f"restart {max(w[0] for w in writes)}, reset {max(w[1] for w in writes)}",
         "the most of any, without Events and Leases"),
    ]  # fmt: skip


def several(ns: Namespace, audit: Audit) -> Row:
    """What each further volume of a reset costs."""
    counts = []
    kinds = ["workspace", "cache", "home"]
    for many in range(1, len(kinds) + 1):
        user = ns.user()
        for kind in kinds[:many]:
            ns.make_claim(user, kind)
        audit.mark()
        ended = ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, user, volumes=kinds[:many]))
        assert ended["status"]["phase"] == "Succeeded", ended["status"]
        counts.append(len(audit.writes()))
    return (
        "writes of a reset of one, two and three volumes",
        ", ".join(map(str, counts)),
        "none of them used, no backup",
    )


def idle(audit: Audit, seconds: float) -> Row:
    """With all its servers and finished requests there. Sweeps of what is old are among it."""
    audit.mark()
    end = time.monotonic() + seconds
    wait_for("the time is over", lambda: time.monotonic() >= end, seconds + 10, every=1)
    return f"writes in {seconds:.0f} s without a request", str(len(audit.writes())), "without Events and Leases"


def duplicates(ns: Namespace, kubelet: FakeKubelet, audit: Audit) -> list[Row]:
    """A hundred that mean the same thing: one of them has an effect, and all of them end well."""
    user = ns.user()
    pod = ns.start_server(user)
    ends = asked_at_once(ns, names.SERVER_RESTART, user)
    restarts = kubelet.restarts.get(pod["metadata"]["uid"], 0)
    stopped = ns.user()
    claim = ns.make_claim(stopped, "workspace")
    audit.mark()
    expected = [{"volume": "workspace", "uid": claim["metadata"]["uid"]}]
    resets = asked_at_once(ns, names.VOLUME_RESET, stopped, expected=expected)
    deletes = len(audit.of("persistentvolumeclaims", verb="delete"))
    return [
        ("100 identical restarts at once", f"{told(ends)}, {restarts} restart(s)", ""),
        ("100 identical resets at once", f"{told(resets)}, {deletes} delete(s)", "of the claim that all of them name"),
    ]


def told(ends: Counter[str]) -> str:
    return ", ".join(f"{count} {phase}" for phase, count in ends.most_common())


def asked_at_once(ns: Namespace, kind: str, user: str, count: int = 100, **spec: Any) -> Counter[str]:
    """How they ended."""
    asked: list[str] = []
    in_parallel(lambda _: asked.append(ns.ask(kind, user, **spec)), count)
    return Counter(ns.ended(kind, name, 120)["status"]["phase"] for name in asked)


def burst(ns: Namespace, audit: Audit, count: int) -> Row:
    users = [ns.user() for _ in range(count)]
    in_parallel(lambda n: ns.make_pod(users[n]), count)

    def all_run() -> bool:
        pods = ns.api.raw("GET", ns.core("pods"))["items"]
        return sum(p["status"]["phase"] == "Running" for p in pods if p["metadata"]["name"][8:] in set(users)) == count

    wait_for("the paper servers run", all_run, 300, every=1)
    audit.mark()
    begun = time.time()
    in_parallel(lambda n: ns.ask(names.SERVER_RESTART, users[n]), count)
    asked = time.time()
    wait_for("all resizes are sent", lambda: len(audit.of("pods", "resize")) >= count, 300, every=1)
    last = max(moment(event["requestReceivedTimestamp"]) for event in audit.of("pods", "resize"))
    return (
        f"{count} restarts at once",
        f"all sent {last - begun:.1f} s after the first was asked for, {audit.throttled()} throttled",
        f"asking alone took {asked - begun:.1f} s",
    )


def resets_among(ns: Namespace, audit: Audit, count: int) -> Row:
    """One after the other, then as many at once, where others have thousands of pods and claims."""
    to_end = [reset(ns, audit)[1] for _ in range(count)]
    users = [ns.user() for _ in range(count)]
    for user in users:
        ns.make_claim(user, "workspace")
    in_parallel(lambda n: ns.ended(names.VOLUME_RESET, ns.ask(names.VOLUME_RESET, users[n]), 120), count)
    told = f"p50 {milliseconds(statistics.median(to_end))}, max {milliseconds(max(to_end))}"
    return "reset as above, among them", told, f"{count} resets, and as many at once after that"


def memory(operator: Operator, what: str = "VmRSS") -> float:
    """Resident, in MB; with ``VmHWM`` the most that it ever was."""
    for line in Path(f"/proc/{operator.pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"no {what}")


def fill(ns: Namespace, count: int) -> None:
    """Servers, claims, and requests that have ended."""

    def one(number: int) -> None:
        user = f"full{number}"
        ns.make_pod(user)
        body = {
            "metadata": {"name": f"workspace-{user}", "labels": {names.COMPONENT: names.STORAGE_COMPONENT},
                         "annotations": {names.USERNAME: user}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }  # fmt: skip
        ns.api.raw("POST", ns.core("persistentvolumeclaims"), body)
        name = ns.ask(names.SERVER_RESTART, user)
        status = {"status": {"phase": "Succeeded", "completionTime": "2026-01-01T00:00:00Z", "reason": "Restarted"}}
        path = ns.requests(names.SERVER_RESTART, name) + "/status"
        ns.api.raw("PATCH", path, status, content_type="application/merge-patch+json")

    in_parallel(one, count)


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name):
                return float(line.split()[-1])
    raise KeyError(name)


def start(operator: Operator) -> float:
    begun = time.monotonic()
    operator.start()
    operator.wait_ready()
    return time.monotonic() - begun


def fail_over(ns: Namespace, audit: Audit, pair: list[Operator]) -> list[Row]:
    """From the end of the leader to the standby's first write for a request that waits."""
    rows = []
    for how, end in (("in order", Operator.terminate), ("killed", Operator.kill)):
        leader = next(one for one in pair if one.identity == ns.lease()["holderIdentity"])
        user = ns.user()
        ns.make_claim(user, "workspace")
        audit.mark()
        begun = time.time()
        end(leader)
        name = ns.ask(names.VOLUME_RESET, user)
        ns.ended(names.VOLUME_RESET, name, 60)
        acted = moment(audit.of("volumeresets", "status")[0]["requestReceivedTimestamp"])
        rows.append((f"leader ends, {how}: until the next one acts", f"{acted - begun:.1f} s", ""))
        leader.stop()
        leader.start()
        leader.wait_ready()
    return rows


def run(many: int) -> list[Row]:
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(installed())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-steward-bench-")))
        hub = FakeHub(lambda user, uid: True, lambda user: None)
        hub.start()
        stack.callback(hub.stop)
        ns = Namespace(plane)
        direct = plane.kubeconfig("direct", ns.token("operator"), plane.url)
        pair: list[Operator] = []
        for identity in ("one", "two"):
            (directory / identity).mkdir()
            pair.append(Operator(direct, SETUP, hub.port, NAMESPACE, directory / identity, identity=identity))
            stack.callback(pair[-1].stop)
        return measure(ns, pair, many)


def measure(ns: Namespace, pair: list[Operator], many: int) -> list[Row]:
    rows: list[Row] = []
    kubelet = FakeKubelet(ns.api, NAMESPACE, tick=0.3, swap=1.0)
    kubelet.start()
    audit = Audit(ns.api)
    try:
        start(pair[0])
        rows.append(("memory, idle", f"{memory(pair[0]):.0f} MB", "resident"))
        rows += latency(ns, audit, 50)
        rows.append(several(ns, audit))
        rows += duplicates(ns, kubelet, audit)
        rows.append(burst(ns, audit, 1000))
        selector = urllib.parse.quote(UNFINISHED)
        path = f"{ns.requests(names.SERVER_RESTART)}?limit=1&fieldSelector={selector}"
        wait_for("they have all ended", lambda: not ns.api.raw("GET", path)["items"], 300, every=1)
        start(pair[1])
        rows += fail_over(ns, audit, pair)
        for one in pair:
            one.stop()
    finally:
        kubelet.stop()
    fill(ns, many)
    ready = start(pair[0])
    rows.append((f"start with {many} servers, claims and finished requests more", f"ready in {ready:.1f} s", ""))
    rows.append(("memory when it is ready", f"{memory(pair[0]):.0f} MB", "resident"))
    rows.append(idle(audit, IDLE))
    rows.append((f"memory {IDLE} s later", f"{memory(pair[0]):.0f} MB", "resident"))
    rows.append(resets_among(ns, audit, 20))
    rows.append(("the most memory that took", f"{memory(pair[0], 'VmHWM'):.0f} MB", "resident"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    parser.add_argument("--many", type=int, default=10_000, help="objects of each kind at the start (default: 10000)")
    arguments = parser.parse_args()
    rows = run(arguments.many)
    table = "\n".join(["| what | measured | |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)])
    text = f"{table}\n\n{machine()}\n"
    print(text)
    if arguments.write:
        replace_section(cache.REPOSITORY / "docs" / "reliability.md", "load", text)
    (cache.REPOSITORY / "test-report").mkdir(exist_ok=True)
    (cache.REPOSITORY / "test-report" / "load.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
