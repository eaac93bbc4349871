"""Takes every guard of tests/guards.toml away, one at a time, and runs the unit tests that have to fail without it.

python tools/guards.py                 all of them
python tools/guards.py device resize   those whose name has one of the words in it
python tools/guards.py --which device  every test of the core that fails without it, for a guard that has none yet
python tools/guards.py --write         the table into docs/reliability.md

Works on copies; the sources stay as they are.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.tables import machine, replace_section  # noqa: E402

#: Where guards stand, by the name of the package.
PACKAGES = {folder.name: folder for folder in (ROOT / "operator/steward_operator", ROOT / "hub-image/steward_hub")}
UNIT = ROOT / "tests" / "unit"
FILES = sorted(UNIT.glob("test_*.py"))
#: Where the tests of the core are, without those that play thousands of cases.
CORE = sorted(file for pattern in ("test_plan_*.py", "test_core*.py", "test_upkeep.py") for file in UNIT.glob(pattern))
#: Seconds for the tests of one guard; the whole core takes some ten.
LONGEST = 300
#: Exit status of pytest when it ran and tests failed; every other one means that nothing was proved.
FAILED = 1


@dataclass(frozen=True)
class Guard:
    """One entry of the list: what is cut out of a file, and the tests that notice."""

    name: str
    package: str
    file: str
    take: str
    leave: str
    tests: tuple[str, ...]
    also: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        return (PACKAGES[self.package] / self.file).read_text()

    def cut(self, source: str) -> str:
        """The source without the guard. Raises ValueError when the list and the source have drifted apart."""
        if (times := source.count(self.take)) != 1:
            raise ValueError(f"'{self.name}': its text stands {times} times in {self.file}, not once:\n{self.take}")
        return source.replace(self.take, self.leave)


def guards() -> list[Guard]:
    rows = tomllib.loads((ROOT / "tests" / "guards.toml").read_text())["guards"]
    return [
        Guard(
            row["guard"], row.get("package", "steward_operator"), row["file"], row["take"], row["leave"],
            tuple(row["tests"]), tuple(row.get("also", ())),
        )
        for row in rows
    ]  # fmt: skip


def failing(instead: Path | None, *chosen: str) -> set[str]:
    """Names of the tests that fail with the packages in the folder ``instead`` of our own. Raises RuntimeError when
    pytest did not get to run them."""
    files = [file for file in FILES if any(f"def {name}(" in file.read_text() for name in chosen)] or CORE
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rf", *map(str, files)]
    if chosen:
        command += ["-k", " or ".join(chosen)]
    environment = {**os.environ, "PYTHONPATH": str(instead or ""), "COLUMNS": "200"}
    try:
        run = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=LONGEST)
    except subprocess.TimeoutExpired as late:
        raise RuntimeError(f"the tests {', '.join(chosen)} did not end; another cut would let them fail") from late
    if run.returncode not in (0, FAILED):
        raise RuntimeError(f"pytest ended with {run.returncode}:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return set(re.findall(r"^FAILED \S+::(test_\w+)", run.stdout, re.MULTILINE))


def without(guard: Guard, *chosen: str) -> set[str]:
    """The tests that fail when the guard is taken away."""
    with tempfile.TemporaryDirectory(prefix="hub-steward-guard-") as directory:
        package = Path(directory) / guard.package
        shutil.copytree(PACKAGES[guard.package], package, ignore=shutil.ignore_patterns("__pycache__"))
        (package / guard.file).write_text(guard.cut(guard.source))
        return failing(package.parent, *chosen)


def table(found: list[Guard]) -> str:
    rows = ["| guard | tests |", "|---|---|"]
    for guard in found:
        tests, also = (", ".join(f"`{name}`" for name in names) for names in (guard.tests, guard.also))
        rows.append(f"| {guard.name} | {tests}{f'; also {also}' if also else ''} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only guards with one of these words in their name (default: all)")
    parser.add_argument("--which", action="store_true", help="list every test of the core that fails without it")
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    arguments = parser.parse_args()
    every = guards()
    chosen = [g for g in every if not arguments.words or any(word in g.name for word in arguments.words)]
    if not chosen:
        parser.error("no guard has such a word in its name")
    if failed := failing(None, *sorted({name for guard in chosen for name in guard.tests})):
        print(f"these fail with every guard in place: {', '.join(sorted(failed))}", file=sys.stderr)
        return 1
    unnoticed = 0
    with ThreadPoolExecutor(arguments.at_once) as pool:
        results = pool.map(lambda guard: without(guard, *(() if arguments.which else guard.tests)), chosen)
        for guard, failed in zip(chosen, results, strict=True):
            missed = [name for name in guard.tests if name not in failed]
            unnoticed += bool(missed)
            print(f"{'not noticed by ' + ', '.join(missed) if missed else 'noticed'}: {guard.name}", flush=True)
            if arguments.which:
                print("".join(f"    {name}\n" for name in sorted(failed)), end="", flush=True)
    print(f"{len(chosen) - unnoticed} of {len(chosen)} guards: without it, every test named beside it fails")
    if arguments.write and not unnoticed and chosen == every:
        told = f"{len(every)} guards, taken away one by one: every unit test named beside it fails."
        replace_section(ROOT / "docs" / "reliability.md", "guards", f"{table(every)}\n\n{told} {machine()}")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
