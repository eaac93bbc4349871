"""Where the figures of the documents come from: the machine they were taken on, and the place they are put."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path

from cluster import tools


def machine() -> str:
    """One line that says when and on what."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{date.today()}; {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}; Kubernetes {tools.KUBERNETES_VERSION}."
    )


def section(document: Path, name: str) -> str:
    """What stands between the two lines ``<!-- name -->``."""
    return document.read_text().split(f"<!-- {name} -->")[1].strip()


def replace_section(document: Path, name: str, text: str) -> None:
    """Put ``text`` between the two lines ``<!-- name -->``."""
    marker = f"<!-- {name} -->"
    before, _, rest = document.read_text().partition(marker)
    _, _, after = rest.partition(marker)
    document.write_text(f"{before}{marker}\n{text.rstrip()}\n{marker}{after}")
