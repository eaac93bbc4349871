"""Debian's Chromium driven by Playwright; a screenshot of what it last showed goes into a failure's report."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from cluster import cache
from cluster.local import Target
from tests.conftest import REPORTS

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
#: `make screenshots` renews the README's pictures; an ordinary run leaves them alone.
PICTURES = cache.REPOSITORY / "docs" / "images" if os.environ.get("SCREENSHOTS") else REPORTS / "screenshots"

expect.set_options(timeout=60_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert executable, "Chromium is not installed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1000, "height": 760}, reduced_motion="reduce")
    yield context
    if getattr(request.node, "failed", False):
        REPORTS.mkdir(exist_ok=True)
        for number, page in enumerate(context.pages):
            name = re.sub(r"[^A-Za-z0-9_-]+", "_", request.node.name)[:100]
            page.screenshot(path=str(REPORTS / f"{name}-{number}.png"))
    context.close()


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    outcome: Any = yield
    if outcome.get_result().when == "call":
        item.failed = outcome.get_result().failed  # type: ignore[attr-defined]


@pytest.fixture
def home(context: BrowserContext, target: Target, secrets: dict[str, str]) -> Callable[[str], Page]:
    """Log in as somebody and stand on his home page."""

    def open_home(user: str) -> Page:
        page = context.new_page()
        page.goto(f"{target.url}/hub/login")
        page.get_by_label("User name").fill(user)
        page.get_by_label("Password").fill(secrets.get(user, secrets["*"]))
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/hub/**")
        page.goto(f"{target.url}/hub/home")
        return page

    return open_home


def violations(page: Page) -> list[str]:
    found = Axe().run(page)["violations"]
    return [f"{v['id']}: {node['html'][:200]}" for v in found for node in v["nodes"]]


def picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(Path(PICTURES) / f"{name}.png"))
