"""``steward-copy``: copies one volume into another, reads the copy again, and compares. Runs in a Job.

Standard library only, no network, no token. Holes and hard links are kept, ``lost+found`` and sockets are left out.
What it found goes into the container's termination message as one JSON object, which is all that the operator learns:
``{"files": …, "bytes": …, "checksum": …}`` or ``{"error": …}`` or ``{"unreadable": [ten paths], "count": …}``.

A Job may come twice, or late: when the operator dies, or when a request to make it was held up on its way. So a copy
only writes into a volume that is empty or that bears the mark of its own Job, and what it has finished it never touches
again: a backup stays sealed by a file with its report, and a volume that was put back loses the mark.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: ``core.copy_job.FINAL_EXIT_CODES``: another attempt would end the same way.
UNREADABLE, FULL, DIFFERENT, OCCUPIED, AGAIN = 3, 4, 5, 6, 1
MESSAGE_FILE = Path("/dev/termination-log")
#: At the top of a volume; never part of what is copied.
LOST_AND_FOUND, MARK, SEAL = "lost+found", ".hub-steward-copying", ".hub-steward-backup"
LEFT_OUT = frozenset({LOST_AND_FOUND, MARK, SEAL, SEAL + ".new"})
BLOCK = 1 << 20
MOST_PATHS = 10
#: Ten of them fit into the message of one volume (1024 characters). What tells files apart is at their end.
LONGEST_PATH = 90
LONGEST_REPORT = 3500


@dataclass
class Tally:
    """What has been copied, and what could not be read."""

    files: int = 0
    bytes: int = 0
    unreadable: list[str] = field(default_factory=list)


class Full(Exception):
    """The target has no room left."""


def entries(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below ``root`` by relative path, sorted, a directory before what is in it. Raises OSError.

    Sockets, and at the top ``lost+found`` and the copy's own files, are left out.
    """

    def walk(directory: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(directory) as found:
            listed = sorted(found, key=lambda entry: os.fsencode(entry.name))
        for entry in listed:
            if not prefix and entry.name in LEFT_OUT:
                continue
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISSOCK(info.st_mode):
                continue
            relative = prefix + entry.name
            yield relative, info
            if stat.S_ISDIR(info.st_mode):
                yield from walk(directory / entry.name, relative + "/")

    yield from walk(root, "")


def find_unreadable(root: Path) -> list[str]:
    """Paths that cannot be read by this user; found before anything is copied."""
    found: list[str] = []

    def look(directory: Path, prefix: str) -> None:
        try:
            with os.scandir(directory) as listed:
                inside = sorted(listed, key=lambda entry: os.fsencode(entry.name))
        except PermissionError:
            found.append(prefix or "/")
            return
        for entry in inside:
            if not prefix and entry.name in LEFT_OUT:
                continue
            if entry.is_dir(follow_symlinks=False):
                # A directory that may be listed and not entered shows names and hides everything else.
                if os.access(entry.path, os.X_OK):
                    look(Path(entry.path), f"{prefix}{entry.name}/")
                else:
                    found.append(f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False) and not os.access(entry.path, os.R_OK):
                found.append(prefix + entry.name)

    look(root, "")
    return found


def clear(root: Path) -> None:
    """Empty a target that bears the mark: an attempt that was broken off left something there."""
    for entry in root.iterdir():
        if entry.name in LEFT_OUT:
            continue
        if entry.is_dir() and not entry.is_symlink():
            _make_writable(entry)
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _make_writable(directory: Path) -> None:
    for path, names, _ in os.walk(directory):
        with suppress(OSError):
            os.chmod(path, 0o700)
        for name in names:
            inner = Path(path, name)
            if not inner.is_symlink():
                with suppress(OSError):
                    inner.chmod(0o700)


def copy(source: Path, target: Path, tally: Tally) -> None:
    """Copy the tree. Raises `Full`; OSError for anything else."""
    links: dict[tuple[int, int], str] = {}
    directories: list[tuple[str, os.stat_result]] = []
    for relative, info in entries(source):
        there, here = source / relative, target / relative
        key = (info.st_dev, info.st_ino)
        try:
            if stat.S_ISDIR(info.st_mode):
                here.mkdir(mode=0o700)
                directories.append((relative, info))
                continue
            if stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink(there), here)
            elif info.st_nlink > 1 and key in links:
                os.link(target / links[key], here, follow_symlinks=False)
            elif stat.S_ISREG(info.st_mode):
                tally.bytes += _copy_file(there, here, info)
                if info.st_nlink > 1:
                    links[key] = relative
            elif stat.S_ISFIFO(info.st_mode):
                os.mkfifo(here, stat.S_IMODE(info.st_mode))
            else:
                # A device: nobody but root can have made it, nor could make it again.
                tally.unreadable.append(relative)
                continue
            tally.files += 1
        except PermissionError:
            tally.unreadable.append(relative)
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Full from problem
            raise
        else:
            if not stat.S_ISLNK(info.st_mode):
                _copy_attributes(there, here, info)
    # From the innermost out, so that a directory's time and mode are set after its content.
    for relative, info in reversed(directories):
        _copy_attributes(source / relative, target / relative, info)


def _copy_file(there: Path, here: Path, info: os.stat_result) -> int:
    """Data where there is data, holes where there are holes; bytes of data."""
    moved = 0
    with there.open("rb", buffering=0) as reading, here.open("xb", buffering=0) as writing:
        for begin, end in _extents(reading.fileno(), info.st_size):
            position = begin
            while position < end:
                block = os.pread(reading.fileno(), min(BLOCK, end - position), position)
                if not block:
                    break
                written = 0
                while written < len(block):
                    written += os.pwrite(writing.fileno(), block[written:], position + written)
                position += len(block)
                moved += len(block)
        os.ftruncate(writing.fileno(), info.st_size)
    return moved


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            begin = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as problem:
            if problem.errno == errno.ENXIO:
                return
            yield position, size
            return
        end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, end
        position = end


def _copy_attributes(there: Path, here: Path, info: os.stat_result) -> None:
    # Before the mode, which may take the right to do it away.
    for name in _attributes_of(there):
        with suppress(OSError):
            os.setxattr(here, name, os.getxattr(there, name))
    os.chmod(here, stat.S_IMODE(info.st_mode))
    os.utime(here, ns=(info.st_atime_ns, info.st_mtime_ns))


def _attributes_of(path: Path) -> list[str]:
    try:
        return [name for name in os.listxattr(path) if name.startswith("user.")]
    except OSError:
        return []


def checksum(root: Path) -> str:
    """SHA-256 over every entry's name, kind, mode, size and content. Owners and times are not part of it."""
    total = hashlib.sha256()
    seen: dict[tuple[int, int], str] = {}
    for relative, info in entries(root):
        kind = stat.S_IFMT(info.st_mode)
        mode = 0 if stat.S_ISLNK(info.st_mode) else stat.S_IMODE(info.st_mode)
        line: list[Any] = [relative.encode(errors="surrogateescape").hex(), kind, mode]
        key = (info.st_dev, info.st_ino)
        if stat.S_ISLNK(info.st_mode):
            line.append(os.fsencode(os.readlink(root / relative)).hex())
        elif stat.S_ISREG(info.st_mode):
            if info.st_nlink > 1 and key in seen:
                line.append(f"link {seen[key]}")
            else:
                if info.st_nlink > 1:
                    seen[key] = line[0]
                line += [info.st_size, _digest(root / relative)]
        total.update(json.dumps(line).encode() + b"\n")
    return total.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as reading:
        # The comparison has to read the disk, not what is still in memory.
        os.posix_fadvise(reading.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(reading, "sha256").hexdigest()


def is_occupied(target: Path, attempt: str) -> bool:
    """Whether somebody else's files are in the target, or another Job's."""
    if (target / MARK).exists():
        return (target / MARK).read_text() != attempt
    return any(entry.name not in LEFT_OUT for entry in target.iterdir())


def run(source: Path, target: Path, expected: str = "", attempt: str = "") -> tuple[int, dict[str, Any]]:
    """Exit code and report. Without ``expected`` the copy becomes a sealed backup.

    ``attempt`` is the same for every try of one Job.
    """
    try:
        return _run(source, target, expected, attempt)
    except Full:
        return FULL, {"error": "the new volume is too small for what is to be copied"}
    except (OSError, ValueError) as problem:
        return AGAIN, {"error": str(problem)}


def _run(source: Path, target: Path, expected: str, attempt: str) -> tuple[int, dict[str, Any]]:
    if (target / SEAL).exists():
        print("this backup is complete already", flush=True)
        return 0, json.loads((target / SEAL).read_text())
    if is_occupied(target, attempt):
        return _report_on(target, expected)
    print("looking for files that cannot be read", flush=True)
    if unreadable := find_unreadable(source):
        return UNREADABLE, _unreadable(unreadable)
    tally = Tally()
    print("copying", flush=True)
    (target / MARK).write_text(attempt)
    clear(target)
    copy(source, target, tally)
    if tally.unreadable:
        return UNREADABLE, _unreadable(tally.unreadable)
    os.sync()
    print(f"{tally.files} files, {tally.bytes} bytes; comparing", flush=True)
    before, after = checksum(source), checksum(target)
    if expected and before != expected:
        return DIFFERENT, {"error": "the backup is not what was written into it"}
    if before != after:
        return DIFFERENT, {"error": "what was written is not what was read"}
    report = {"files": tally.files, "bytes": tally.bytes, "checksum": after}
    if not expected:
        seal = target / (SEAL + ".new")
        seal.write_text(json.dumps(report))
        os.sync()
        seal.rename(target / SEAL)
    (target / MARK).unlink()
    os.sync()
    return 0, report


def look(root: Path) -> tuple[int, dict[str, Any]]:
    """The volume is there and can be opened; what is in it is its storage's word."""
    try:
        entries = len(os.listdir(root))
        # What a server wrote last may still be in this node's memory.
        os.sync()
        return 0, {"entries": entries}
    except OSError as error:
        return AGAIN, {"error": f"the volume cannot be opened: {error}"}


def _report_on(target: Path, expected: str) -> tuple[int, dict[str, Any]]:
    """There is something in the target already. It is what was to come if an earlier attempt's report was lost."""
    if expected and checksum(target) == expected:
        found = [info for _, info in entries(target) if not stat.S_ISDIR(info.st_mode)]
        return 0, {"files": len(found), "bytes": sum(info.st_size for info in found), "checksum": expected}
    return OCCUPIED, {"error": "the volume is not empty, so nothing was put into it"}


def _short(path: str) -> str:
    return path if len(path) <= LONGEST_PATH else f"…{path[1 - LONGEST_PATH :]}"


def _unreadable(paths: list[str]) -> dict[str, Any]:
    shown = [_short(path.encode(errors="replace").decode()) for path in paths[:MOST_PATHS]]
    # The kubelet takes 4096 bytes of a termination message.
    while len(json.dumps(shown, ensure_ascii=False).encode()) > LONGEST_REPORT:
        shown.pop()
    return {"unreadable": shown, "count": len(paths)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="steward-copy", description="Copies a volume, reads the copy and compares.")
    parser.add_argument("--from", dest="source", type=Path, help="folder to read")
    parser.add_argument("--to", dest="target", type=Path, help="folder to write; it has to be empty")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seal", action="store_true", help="the copy is a backup: leave its report in it")
    what.add_argument("--expect", default="", help="the source is a backup: its checksum")
    what.add_argument("--look", type=Path, help="copy nothing: only say that this folder can be opened")
    parser.add_argument(
        "--attempt", default=os.environ.get("STEWARD_ATTEMPT", ""), help="what all tries of one Job have in common"
    )
    parser.add_argument("--report", type=Path, default=MESSAGE_FILE, help=f"where the report goes ({MESSAGE_FILE})")
    arguments = parser.parse_args()
    if arguments.look:
        code, report = look(arguments.look)
    elif arguments.source and arguments.target:
        code, report = run(arguments.source, arguments.target, arguments.expect, arguments.attempt)
    else:
        parser.error("--from and --to are needed to copy")
    text = json.dumps(report, ensure_ascii=False)
    print(text, flush=True)
    arguments.report.write_text(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
