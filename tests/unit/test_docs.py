"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_the_reliability_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    files = {file.name.removesuffix(".py") for file in (ROOT / "tests").rglob("test_*.py")}
    source = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    functions = set(re.findall(r"def (test_\w+)\(", source))
    assert len(named) > 40
    assert named - functions - files == set()


def test_every_target_that_a_document_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    for line in re.findall(r"^([a-z0-9 -]+):$", makefile, re.MULTILINE):
        targets |= set(line.split())
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        named = set(re.findall(r"`make ([a-z][a-z0-9-]*)", document.read_text()))
        assert named <= targets, (document.name, named - targets)
