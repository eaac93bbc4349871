"""The test cluster, shared by the e2e and browser tiers, and a report of what it says when a test fails."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster import cache, local
from cluster.local import Target
from tests.support.cluster import Kube, Session, passwords
from tests.target import TARGET

REPORTS = cache.REPOSITORY / "test-report"


#: Empty, or the name of this process among several that share the cluster.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")


@pytest.fixture(scope="session")
def target() -> Target:
    """The running test cluster with this clone's chart on it."""
    cache.root().mkdir(parents=True, exist_ok=True)
    with (cache.root() / f"up-{TARGET.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        local.up(TARGET)
    return TARGET


@pytest.fixture(scope="session")
def kube(target: Target) -> Kube:
    return Kube(target)


@pytest.fixture(scope="session")
def secrets(target: Target) -> dict[str, str]:
    return passwords(target)


_numbers = itertools.count(1)


@pytest.fixture
def login(target: Target, secrets: dict[str, str]) -> Iterator[Callable[[str], Session]]:
    """Log somebody in; his servers are stopped at the end."""
    sessions: list[Session] = []

    def log_in(user: str) -> Session:
        session = Session(target.url, user, secrets.get(user, secrets["*"]))
        sessions.append(session)
        return session

    yield log_in
    for session in {s.user: s for s in sessions}.values():
        session.stop()


@pytest.fixture
def user(login: Callable[[str], Session]) -> Session:
    """Somebody nobody else knows, logged in."""
    return login(f"user{WORKER}{next(_numbers)}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.when != "call" or report.passed or "target" not in getattr(item, "fixturenames", ()):
        return
    REPORTS.mkdir(exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", item.name)[:100]
    try:
        text = local.report(getattr(item, "funcargs", {}).get("target", TARGET))
    except Exception as problem:
        text = f"the cluster could not be asked: {problem}"
    (REPORTS / f"{name}.txt").write_text(text)
    report.sections.append(("the cluster", text[-12000:]))
