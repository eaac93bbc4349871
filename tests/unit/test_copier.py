"""The copy behind backups, on real folders: what is kept, what is left out, and what it refuses to call complete."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from steward_operator import copier
from steward_operator.core.copies import _failure
from steward_operator.core.copy_job import FINAL_EXIT_CODES


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "notes" / "empty").mkdir(parents=True)
    (root / "lost+found").mkdir()
    (root / "lost+found" / "x").write_text("not a user's")
    (root / "notes" / "a.txt").write_text("hello")
    (root / "notes" / "run.sh").write_text("#!/bin/sh\n")
    (root / "notes" / "run.sh").chmod(0o750)
    (root / "notes" / "b.txt").hardlink_to(root / "notes" / "a.txt")
    (root / "link").symlink_to("notes/a.txt")
    (root / "away").symlink_to("/nowhere/at/all")
    with (root / "sparse").open("wb") as sparse:
        sparse.seek(50_000_000)
        sparse.write(b"end")
    os.utime(root / "notes" / "a.txt", (1_000_000, 2_000_000))
    os.utime(root / "notes", (1_000_000, 3_000_000))
    return root


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    root = tmp_path / "kept"
    (root / "lost+found").mkdir(parents=True)
    return root


def test_a_copy_keeps_contents_modes_times_holes_and_links(source: Path, kept: Path) -> None:
    code, report = copier.run(source, kept)
    assert code == 0, report
    assert report["files"] == 6
    assert (kept / "notes" / "a.txt").read_text() == "hello"
    assert (kept / "notes" / "run.sh").stat().st_mode & 0o777 == 0o750
    assert (kept / "notes" / "a.txt").stat().st_ino == (kept / "notes" / "b.txt").stat().st_ino
    assert (kept / "link").readlink() == Path("notes/a.txt")
    assert (kept / "away").readlink() == Path("/nowhere/at/all")
    assert (kept / "sparse").stat().st_size == 50_000_003
    assert (kept / "sparse").stat().st_blocks * 512 < 1_000_000
    assert report["bytes"] < 1_000_000
    assert (kept / "notes" / "a.txt").stat().st_mtime == 2_000_000
    assert (kept / "notes").stat().st_mtime == 3_000_000
    assert list((kept / "lost+found").iterdir()) == []
    assert (kept / "notes" / "empty").is_dir()


def test_an_attempt_that_was_broken_off_is_begun_again(source: Path, kept: Path) -> None:
    (kept / copier.MARK).write_text("job-1")
    (kept / "half").mkdir(mode=0o500)
    (kept / "leftover").write_text("x")
    assert copier.run(source, kept, attempt="job-2")[0] == copier.OCCUPIED, "another Job's"
    assert (kept / "leftover").exists()
    assert copier.run(source, kept, attempt="job-1")[0] == 0
    assert not (kept / "half").exists()
    assert not (kept / "leftover").exists()


def test_a_sealed_backup_is_never_written_again(source: Path, kept: Path, tmp_path: Path) -> None:
    """A Job that comes late finds the new, empty volume as its source."""
    first = copier.run(source, kept)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert copier.run(empty, kept) == first
    assert (kept / "notes" / "a.txt").read_text() == "hello"


def test_nothing_is_put_over_somebody_elses_files(source: Path, kept: Path, tmp_path: Path) -> None:
    _, report = copier.run(source, kept)
    back = tmp_path / "back"
    back.mkdir()
    (back / "new.txt").write_text("work of today")
    code, told = copier.run(kept, back, report["checksum"])
    assert code == copier.OCCUPIED
    assert "not empty" in told["error"]
    assert [path.name for path in back.iterdir()] == ["new.txt"]


def test_the_way_there_and_back_is_compared_with_what_was_written(source: Path, kept: Path, tmp_path: Path) -> None:
    _, report = copier.run(source, kept)
    back = tmp_path / "back"
    back.mkdir()
    code, told = copier.run(kept, back, report["checksum"])
    assert (code, told["checksum"]) == (0, report["checksum"])
    assert not (back / copier.MARK).exists()
    assert not (back / copier.SEAL).exists()
    assert copier.run(kept, back, report["checksum"])[0] == 0, "a report that was lost is given again"
    (kept / "notes" / "a.txt").write_text("changed")
    other = tmp_path / "other"
    other.mkdir()
    code, told = copier.run(kept, other, report["checksum"])
    assert code == copier.DIFFERENT
    assert "not what was written" in told["error"]


def test_a_report_fits_into_a_termination_message() -> None:
    report = copier._unreadable(["ж" * 400 + str(number) for number in range(12)])
    assert report["count"] == 12
    assert report["unreadable"]
    assert len(copier.json.dumps(report, ensure_ascii=False).encode()) < 4096


def test_ten_long_paths_fit_into_the_message_of_a_volume() -> None:
    """What tells them apart is at their end, and the end stays."""
    paths = [f"project/{'node_modules/' * 20}file-{number}" for number in range(10)]
    report = copier._unreadable(paths)
    told = _failure(report, "").message
    assert all(path[-50:] in told for path in paths)
    assert "short" in copier._unreadable(["short"])["unreadable"]


def test_sockets_are_left_out(source: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        code, report = copier.run(source, kept)
    assert code == 0, report
    assert not (kept / "s").exists()


def as_nobody(source: Path, kept: Path) -> tuple[int, dict[str, Any]]:
    """Run the copy as a user who owns nothing, in a process of his own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        code, report = copier.run(source, kept)
        os.write(writing, copier.json.dumps([code, report]).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as answers:
        code, report = copier.json.loads(answers.read())
    return code, report


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that another user cannot read")
def test_unreadable_files_are_named_ten_of_them_and_nothing_is_called_complete(
    source: Path, kept: Path, tmp_path: Path
) -> None:
    for number in range(14):
        secret = source / f"secret-{number:02}"
        secret.write_text("x")
        secret.chmod(0o600)
    (source / "private").mkdir(mode=0o700)
    (source / "notes" / "run.sh").chmod(0o755)
    # pytest keeps what it makes to its own user, however deep; xdist makes one folder more.
    for folder in (tmp_path, *tmp_path.parents):
        if "pytest" in str(folder):
            folder.chmod(folder.stat().st_mode | 0o755)
    kept.chmod(0o777)
    code, report = as_nobody(source, kept)
    assert code == copier.UNREADABLE
    assert report["count"] == 15
    assert report["unreadable"][:2] == ["private/", "secret-00"]
    assert len(report["unreadable"]) == 10
    assert list(kept.iterdir()) == [kept / "lost+found"]


def test_a_full_target_says_so(source: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any) -> int:
        raise OSError(copier.errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copier.os, "pwrite", no_room)
    code, report = copier.run(source, kept)
    assert code == copier.FULL
    assert "too small" in report["error"]


def test_what_another_attempt_would_only_repeat_fails_the_job_at_once() -> None:
    assert set(FINAL_EXIT_CODES) == {copier.UNREADABLE, copier.FULL, copier.DIFFERENT, copier.OCCUPIED}
