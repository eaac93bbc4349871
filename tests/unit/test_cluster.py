"""``make up`` on a machine that cannot have it ends in one sentence, and an interrupted build leaves nothing behind."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import cache, engine, local, shell, tools
from cluster.shell import Problem


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_used_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Problem, match=f"Port {port} of this machine is in use"):
            local._refuse_used_port(port)


def test_too_little_disk_is_named() -> None:
    with pytest.raises(Problem, match=r"1000000000 GiB of free disk are needed"):
        engine.disk_is_enough(10**9)


def test_without_root_and_without_docker_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "answers", lambda: False)
    monkeypatch.setattr(engine, "is_root", lambda: False)
    with pytest.raises(Problem, match="Docker does not answer"):
        engine.ensure()
    with pytest.raises(Problem, match="surely-no-such-package; install them, or run this as root"):
        engine.apt_install("surely-no-such-package")


def test_without_network_the_failed_download_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers at the address that the package client is sent to."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(tools, "has", lambda _: False)
    with pytest.raises(Problem, match=r"uv could not be installed from PyPI \(no network\?\)"):
        tools.uv()


def test_a_failed_command_ends_with_its_last_words() -> None:
    with pytest.raises(Problem, match="The thing failed") as told:
        shell.run([sys.executable, "-c", "print('why'); raise SystemExit(3)"], problem="The thing failed")
    assert "| why" in str(told.value)


def test_an_interrupted_build_leaves_nothing_and_can_be_repeated() -> None:
    def interrupted(scratch: Path) -> None:
        (scratch / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry("thing", "key", interrupted)
    assert list(cache.root().iterdir()) == []
    made = cache.entry("thing", "key", lambda scratch: (scratch / "whole").write_text("whole") and None)
    assert (made / "whole").read_text() == "whole"
    assert cache.entry("thing", "key", interrupted) == made


def test_a_changed_input_is_another_build(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("1")
    first = cache.fingerprint(source)
    (source / "a").write_text("2")
    assert cache.fingerprint(source) != first


def test_every_command_has_help() -> None:
    for command in ("up", "down", "images", "node", "tools", "clean-cache"):
        result = subprocess.run(
            [sys.executable, "-m", "cluster", command, "--help"], cwd=cache.REPOSITORY, capture_output=True, text=True
        )
        assert result.returncode == 0
        assert "usage" in result.stdout
