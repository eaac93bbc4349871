"""The home page as a person uses it: the card, both dialogs, two tabs, the keyboard, and what a screen reader finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from cluster.local import Target
from tests.browser.conftest import picture, violations
from tests.support.cluster import Kube, Session

Home = Callable[[str], Page]
Login = Callable[[str], Session]


def card(page: Page, state: str) -> None:
    """The card shows the state."""
    expect(page.locator(f'.steward-card[data-server=""][data-state="{state}"]')).to_be_visible()


def forget(kube: Kube, user: str) -> None:
    """Nothing is shown of an earlier run on a cluster that was kept."""
    kube("delete", "vreset,srestart", "--field-selector", f"spec.user={user}")


def outcome(page: Page) -> Locator:
    return page.locator('[data-role="outcome"]').first


def button(page: Page, name: str) -> Locator:
    return page.locator(".steward-card").first.get_by_role("button", name=name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_login_page_has_no_violation(context: BrowserContext, target: Target, scheme: str) -> None:
    page = context.new_page()
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{target.url}/hub/login")
    assert violations(page) == []


def test_a_notebook_survives_a_restart_in_the_browser(home: Home, login: Login, kube: Kube) -> None:
    session = login("ann")
    forget(kube, "ann")
    session.start_and_wait()
    lab = home("ann")
    page = lab.context.new_page()
    lab.goto(f"{session.url}/user/ann/lab?reset")
    expect(lab.locator("#jp-main-dock-panel")).to_be_visible()
    pod = kube.pod("ann")
    assert pod is not None
    notebook = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    kube.run_in(pod["metadata"]["name"], "sh", "-c", f"echo '{notebook}' > /home/jovyan/analysis.ipynb")

    page.goto(f"{session.url}/hub/home")
    card(page, "running")
    assert violations(page) == []
    expect(page.get_by_text("Manage volumes: Stop the server first")).to_be_visible()
    picture(page, "card-running")
    button(page, "Restart").click()
    dialog = page.get_by_role("dialog", name="Restart the server?")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("Everything in your volumes stays")
    assert violations(page) == []
    picture(page, "dialog-restart")
    dialog.get_by_role("button", name="Restart server").click()
    expect(page.locator('[data-role="progress-text"]')).not_to_be_empty()
    picture(page, "card-restarting")
    expect(outcome(page)).to_contain_text("Done. The server has been restarted and answers.")
    card(page, "running")
    assert session.raw("GET", "/user/ann/api").status == 200
    after = kube.pod("ann")
    assert after is not None
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    picture(page, "card-restarted")

    lab.goto(f"{session.url}/user/ann/lab?reset")
    expect(lab.get_by_role("listitem", name="analysis.ipynb").first).to_be_visible()


def test_a_volume_is_reset_by_the_dialog(home: Home, login: Login, kube: Kube) -> None:
    session = login("bob")
    forget(kube, "bob")
    session.start_and_wait()
    session.stop_and_wait()
    before = kube.uids("bob")
    page = home("bob")
    card(page, "stopped")
    expect(button(page, "Restart")).to_be_disabled()
    expect(page.get_by_text("Restart: Only a running server can be restarted.")).to_be_visible()
    button(page, "Manage volumes").click()
    dialog = page.get_by_role("dialog", name="Manage volumes")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Erase")).to_be_disabled()
    dialog.get_by_label("Workspace (2Gi)").check()
    expect(dialog).to_contain_text("This erases bob's workspace (2Gi). ")
    expect(dialog).to_contain_text("Home and Cache and models stay.")
    expect(dialog).to_contain_text("There is no backup. This cannot be undone.")
    assert violations(page) == []
    picture(page, "dialog-volumes")
    dialog.get_by_role("button", name="Erase workspace").click()
    expect(outcome(page)).to_contain_text("Done. New and empty: Workspace.")
    card(page, "stopped")
    after = kube.uids("bob")
    assert {kind for kind in after if after[kind] != before[kind]} == {"workspace"}


def test_home_is_erased_with_a_backup_and_comes_back_by_undo(home: Home, login: Login, kube: Kube) -> None:
    session = login("undoer")
    forget(kube, "undoer")
    session.start_and_wait()
    pod = kube.pod("undoer")
    assert pod is not None
    kube.run_in(pod["metadata"]["name"], "sh", "-c", "echo mine > /home/jovyan/thesis.txt")
    session.stop_and_wait()
    page = home("undoer")
    card(page, "stopped")
    button(page, "Manage volumes").click()
    dialog = page.get_by_role("dialog", name="Manage volumes")
    dialog.get_by_label("Home (1Gi)").check()
    expect(dialog).to_contain_text("A backup of home is made first, so that this can be undone.")
    picture(page, "dialog-home")
    dialog.get_by_role("button", name="Erase home").click()
    expect(outcome(page)).to_contain_text("Done. New and empty: Home.", timeout=60_000)
    undo = page.get_by_role("button", name="Undo: put home back")
    expect(undo).to_be_visible()
    picture(page, "card-undo")
    assert violations(page) == []
    undo.click()
    dialog = page.get_by_role("dialog", name="Put a backup back?")
    expect(dialog).to_contain_text("back into undoer's home.")
    assert violations(page) == []
    picture(page, "dialog-undo")
    dialog.get_by_role("button", name="Put home back").click()
    expect(outcome(page)).to_contain_text("The content of the backup is back: Home.", timeout=60_000)
    button(page, "Manage volumes").click()
    listed = page.get_by_role("list", name="Backups of home")
    expect(listed.get_by_role("listitem")).to_have_count(1)
    assert violations(page) == []
    page.keyboard.press("Escape")
    session.start_and_wait()
    pod = kube.pod("undoer")
    assert pod is not None
    assert kube.run_in(pod["metadata"]["name"], "cat", "/home/jovyan/thesis.txt").strip() == "mine"


def test_A44_a_server_that_crashes_after_a_restart_shows_its_last_words_and_what_to_do(
    home: Home, login: Login, kube: Kube
) -> None:
    session = login("crasher")
    forget(kube, "crasher")
    session.start_and_wait()
    pod = kube.pod("crasher")
    assert pod is not None
    broken = "mkdir -p ~/.jupyter && echo 'raise SystemExit(\"a broken configuration\")' > ~/.jupyter/jupyter_server_config.py"
    kube.run_in(pod["metadata"]["name"], "sh", "-c", broken)
    page = home("crasher")
    card(page, "running")
    button(page, "Restart").click()
    page.get_by_role("button", name="Restart server").click()
    expect(outcome(page)).to_contain_text("ended before it answered", timeout=90_000)
    expect(outcome(page)).to_contain_text("a broken configuration")
    assert violations(page) == []
    anew = page.get_by_role("button", name="Stop and start it anew")
    expect(anew).to_be_visible()
    picture(page, "card-crashed")


def test_keeping_everything_changes_nothing_and_the_focus_comes_back(home: Home, login: Login, kube: Kube) -> None:
    session = login("keyboard")
    forget(kube, "keyboard")
    session.start_and_wait()
    page = home("keyboard")
    card(page, "running")
    button(page, "Restart").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Restart the server?")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button(page, "Restart")).to_be_focused()
    assert kube.json("get", "srestart", "--field-selector", "spec.user=keyboard")["items"] == []


def test_A33_two_tabs_follow_one_restart_to_its_end(home: Home, login: Login, kube: Kube) -> None:
    session = login("tabs")
    forget(kube, "tabs")
    session.start_and_wait()
    first = home("tabs")
    second = first.context.new_page()
    second.goto(f"{session.url}/hub/home")
    for page in (first, second):
        card(page, "running")
        button(page, "Restart").click()
        expect(page.get_by_role("dialog", name="Restart the server?")).to_be_visible()
    for page in (first, second):
        page.get_by_role("button", name="Restart server").click()
    outcomes = []
    for page in (first, second):
        expect(outcome(page)).to_contain_text("Done. The server has been restarted and answers.")
        outcomes.append(outcome(page).get_attribute("data-request"))
    assert outcomes[0] == outcomes[1]
    pod = kube.pod("tabs")
    assert pod is not None
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1


def test_what_an_administrator_asks_for_is_shown_to_the_user(home: Home, login: Login, kube: Kube) -> None:
    session = login("watched")
    forget(kube, "watched")
    session.start_and_wait()
    page = home("watched")
    card(page, "running")
    admin = login("admin")
    assert admin.restart(user="watched").status == 202
    expect(outcome(page)).to_contain_text("asked by admin")
    expect(outcome(page)).to_contain_text("Done. The server has been restarted and answers.")


def test_somebody_logged_out_is_told_so(home: Home) -> None:
    page = home("gone")
    card(page, "stopped")
    page.context.clear_cookies()
    card(page, "logged-out")
    expect(page.get_by_text("You are logged out.").last).to_be_visible()
    expect(button(page, "Manage volumes")).to_be_disabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_home_page_has_no_violation(home: Home, scheme: str) -> None:
    page = home("axe")
    page.emulate_media(color_scheme=scheme)
    page.reload()
    card(page, "stopped")
    assert violations(page) == []
