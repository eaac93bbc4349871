"""Runs the tiers of the test suite one after the other and says of each what ran, and what could not.

python3 -m tests.run                 all tiers
python3 -m tests.run unit api        some of them
KEEP=1 python3 -m tests.run e2e      leaves the test cluster running
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

from cluster import cache, engine, local, tools
from cluster.local import Target
from cluster.shell import Problem, fail, say
from tests.csi.target import TARGET as CSI_TARGET
from tests.target import TARGET

#: Tiers that need a cluster, and which.
CLUSTERS = {"e2e": TARGET, "browser": TARGET, "csi": CSI_TARGET, "sequences": TARGET}


@dataclass
class Result:
    tier: str
    passed: bool
    seconds: float
    note: str = ""


def uv_run(*words: str) -> int:
    return subprocess.run([tools.uv(), "run", "--frozen", "--all-packages", *words], cwd=cache.REPOSITORY).returncode


def lint() -> int:
    for words in (
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("lint-imports",),
        ("python", "tools/generate.py", "--check"),
    ):
        say(f"--- {' '.join(words)}")
        if uv_run(*words):
            return 1
    return 0


#: Users of the e2e tier who are at work at once: most of the time they wait for servers to start and stop.
AT_ONCE = "3"


def pytest(tier: str) -> int:
    if tier == "browser":
        engine.apt_install("chromium", "fonts-dejavu-core")
    return uv_run("pytest", f"tests/{tier}", "--durations=5")


def e2e() -> int:
    together = ("-m", "not alone", "-n", AT_ONCE, "--dist", "worksteal")
    codes = [uv_run("pytest", "tests/e2e", "--durations=8", *words) for words in (together, ("-m", "alone"))]
    return max(codes)


def chaos() -> int:
    """Two control planes, each with its part of the tests: most of the time one waits for a process to start."""
    return uv_run("pytest", "tests/chaos", "--durations=8", "-n", "2", "--dist", "worksteal")


NAMES = ("unit", "api", "chart", "e2e", "browser", "chaos")
#: Not run unless asked for: they take long, or are not about every change.
APART = ("csi", "schedules", "sequences")


def schedules() -> int:
    """Those of the unit tier alone, as many times over as SCHEDULES says; what was played goes into the report."""
    files = [f"tests/unit/test_{what}.py" for what in ("schedules", "restart_schedules", "explorer")]
    return uv_run("pytest", *files, "--durations=5", "-n", "2", "--dist", "worksteal")


def sequences() -> int:
    """Those of the e2e tier alone: a hundred of them with CHAOS=full, on the real kubelet."""
    return uv_run("pytest", "tests/e2e/test_sequences.py", "--durations=1")


TIERS = {"lint": lint} | {tier: lambda t=tier: pytest(t) for tier in (*NAMES, *APART)} | {
    "e2e": e2e, "chaos": chaos, "schedules": schedules, "sequences": sequences,
}  # fmt: skip


def main(wanted: list[str]) -> int:
    unknown = [tier for tier in wanted if tier not in TIERS]
    if unknown:
        return fail(Problem(f"no such tier: {', '.join(unknown)}; there are: {', '.join(TIERS)}"))
    results = []
    chosen = wanted or ["lint", *NAMES]
    keep = bool(os.environ.get("KEEP"))
    used: set[Target] = set()
    try:
        for tier in chosen:
            say(f"\n===== {tier}")
            begun = time.monotonic()
            try:
                if (target := CLUSTERS.get(tier)) and target not in used:
                    used.add(target)
                    if not keep:
                        local.forget_left_over(target)
                code, note = TIERS[tier](), ""
            except Problem as problem:
                code, note = 1, str(problem).splitlines()[0]
            results.append(Result(tier, code == 0, time.monotonic() - begun, note))
    finally:
        for target in used if not keep else ():
            local.down(target)
    say("\n===== tiers")
    for result in results:
        say(f"  {result.tier:8} {'passed' if result.passed else 'FAILED'}  {result.seconds:6.0f} s  {result.note}")
    say("  not run here: NetworkPolicies in force (the self-built node's network does not enforce them)")
    passed = sum(result.passed for result in results)
    say(f"\ntiers: {passed} passed, {len(results) - passed} failed")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
