"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

from steward_api.phases import Reason
from steward_operator.obs import metrics

from tools.guards import guards, table

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_the_reliability_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    files = {file.name.removesuffix(".py") for file in (ROOT / "tests").rglob("test_*.py")}
    source = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    functions = set(re.findall(r"def (test_\w+)\(", source))
    assert len(named) > 40
    assert named - functions - files == set()


def test_every_guard_of_the_list_is_in_the_sources_once_and_on_the_page() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    listed = guards()
    for guard in listed:
        assert guard.cut(guard.source) != guard.source
        assert guard.tests, guard.name
    assert table(listed) in page, "make test-guards WRITE=1 renews it"


def test_the_operating_page_names_the_metrics_and_reasons_there_are() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    served = {family.name for family in metrics.REGISTRY.collect() if family.name.startswith("hubsteward_")}
    named = {name.removesuffix("_total") for name in re.findall(r"`(hubsteward_\w+)`", page)}
    assert named == served
    reasons = set(re.findall(r"^\| `([A-Z]\w+)`", page, re.MULTILINE))
    assert reasons
    assert reasons <= {str(reason) for reason in Reason}


def test_every_target_that_a_document_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    for line in re.findall(r"^([a-z0-9 -]+):$", makefile, re.MULTILINE):
        targets |= set(line.split())
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        named = set(re.findall(r"`make ([a-z][a-z0-9-]*)", document.read_text()))
        assert named <= targets, (document.name, named - targets)
