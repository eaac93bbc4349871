"""Breaks the pure core in every small way that mutmut knows, and says how many of the breaks a unit test notices.

python tools/mutation.py             the whole core; the score, and what nobody noticed
python tools/mutation.py claims      one file of it
python tools/mutation.py --write     the score into docs/reliability.md

Works on a copy under the cache, laid out as mutmut wants it. A second run goes on where the first was cut off.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.tables import machine, replace_section  # noqa: E402
from cluster import cache  # noqa: E402

CORE = ROOT / "operator" / "steward_operator" / "core"
#: Tests that are about the core, and what they need.
TESTS = ("test_plan_*.py", "test_schedules.py", "test_restart_schedules.py", "test_generated_requests.py",
         "test_upkeep.py", "test_core*.py", "conftest.py")  # fmt: skip
SUPPORT = ("__init__.py", "amount.py", "builders.py", "generated.py", "paper.py", "paper_server.py", "schedule.py",
           "server_schedule.py", "under_way.py")  # fmt: skip
SETTINGS = """[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/steward_operator/core/{files}"]
pytest_add_cli_args = ["-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = ["tests/unit"]
timeout_multiplier = 4.0
timeout_constant = 10.0
use_git_change_detection = false

[tool.pytest.ini_options]
pythonpath = ["."]
"""
NOTICED = ("killed", "timeout", "segfault", "caught by type check")


def prepare(files: str) -> Path:
    """A directory of its own for everything that the verdicts depend on; those of earlier states go."""
    state = cache.fingerprint(files, ROOT / "operator" / "steward_operator", ROOT / "api" / "steward_api",
                              *sorted((ROOT / "tests" / "unit").glob("*.py")), ROOT / "tests" / "support",
                              Path(__file__))  # fmt: skip
    directory = cache.root() / f"mutation-{state}"
    for other in cache.root().glob("mutation-*"):
        if other != directory:
            shutil.rmtree(other)
    directory.mkdir(parents=True, exist_ok=True)
    lay_out(directory, files)
    return directory


def lay_out(directory: Path, files: str) -> None:
    for package, source in (("steward_operator", ROOT / "operator"), ("steward_api", ROOT / "api")):
        copy(source / package, directory / "src" / package)
    unit = directory / "tests" / "unit"
    shutil.rmtree(directory / "tests", ignore_errors=True)
    unit.mkdir(parents=True)
    for pattern in TESTS:
        for file in (ROOT / "tests" / "unit").glob(pattern):
            shutil.copy2(file, unit / file.name)
    for name in ("__init__.py", "unit/__init__.py"):
        (directory / "tests" / name).touch()
    (directory / "tests" / "support").mkdir()
    for name in SUPPORT:
        shutil.copy2(ROOT / "tests" / "support" / name, directory / "tests" / "support" / name)
    (directory / "pyproject.toml").write_text(SETTINGS.format(files=files))


def copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def environment() -> dict[str, str]:
    """Few schedules: what they alone would notice is what the guards' own tests are for."""
    return {**os.environ, "SCHEDULES": os.environ.get("SCHEDULES", "0.01"), "COLUMNS": "200"}


def results(directory: Path) -> dict[str, str]:
    """Verdict by mutant."""
    command = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
    listed = subprocess.run(command, cwd=directory, env=environment(), text=True, stdout=subprocess.PIPE).stdout
    rows = [line.strip().rpartition(": ") for line in listed.splitlines() if ": " in line]
    return {name: verdict for name, _, verdict in rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default="*", help="name of a file of the core, without .py (default: all)")
    parser.add_argument("--write", action="store_true", help="put the score into docs/reliability.md")
    parser.add_argument("--least", type=float, default=0.9, help="share that has to be noticed (default: 0.9)")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    arguments = parser.parse_args()
    directory = prepare(f"{arguments.file}.py")
    log = cache.logs() / "mutation.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"mutmut runs; follow it in {log}", flush=True)
    with log.open("w") as stream:
        run = subprocess.run(
            [sys.executable, "-m", "mutmut", "run", "--max-children", str(arguments.at_once)],
            cwd=directory, env=environment(), stdout=stream, stderr=stream,
        )  # fmt: skip
    if run.returncode:
        print(log.read_text()[-3000:], file=sys.stderr)
        return run.returncode
    verdicts = results(directory)
    verdicts = {name: verdict for name, verdict in verdicts.items() if verdict not in ("not checked", "skipped")}
    noticed = sum(verdict in NOTICED for verdict in verdicts.values())
    for name, verdict in sorted(verdicts.items()):
        if verdict not in NOTICED:
            print(f"{verdict}: {name}")
    share = noticed / len(verdicts) if verdicts else 0.0
    score = f"{noticed} of {len(verdicts)} noticed: {share:.1%}"
    print(score)
    report = ROOT / "test-report"
    report.mkdir(exist_ok=True)
    (report / "mutation.json").write_text(json.dumps(verdicts, indent=2, sort_keys=True) + "\n")
    if arguments.write:
        replace_section(ROOT / "docs" / "reliability.md", "mutation", f"{score} by a unit test. {machine()}")
    return 0 if share >= arguments.least else 1


if __name__ == "__main__":
    sys.exit(main())
