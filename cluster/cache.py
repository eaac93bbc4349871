"""Where builds and downloads live: one directory a thing, named after a hash of what it is made from.

A directory is published by one rename, so an interrupted build leaves nothing that a later run would take for whole.
Shared by every target and every clone of the repository.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "hub-steward"


def logs() -> Path:
    return root() / "logs"


def fingerprint(*inputs: str | Path) -> str:
    """A short hash of strings, files and whole directories (names and contents)."""
    digest = hashlib.sha256()
    for item in inputs:
        if isinstance(item, str):
            digest.update(b"s" + item.encode())
            continue
        for file in _files(item):
            digest.update(b"f" + str(file.relative_to(item.parent)).encode())
            digest.update(str(file.stat().st_mode & 0o111).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    ignored = {"__pycache__", "node_modules", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
    return sorted(p for p in path.rglob("*") if p.is_file() and not ignored & set(p.parts))


def entry(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory ``name-key``, built by ``build`` into an empty directory if it is not there yet."""
    target = root() / f"{name}-{key}"
    if target.is_dir():
        return target
    root().mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root()))
    try:
        build(scratch)
        scratch.chmod(0o755)
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return target


def clear() -> None:
    shutil.rmtree(root(), ignore_errors=True)
