"""Writes every generated file of the repository, or with --check says which are out of date."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import requests_page
import yaml
from steward_api import crds
from steward_api.names import PLURALS

ROOT = Path(__file__).resolve().parent.parent


def generated() -> dict[Path, str]:
    charts = ROOT / "charts"
    source = yaml.safe_load((charts / "jupyterhub-steward" / "values.schema.yaml").read_text())
    files = {charts / "jupyterhub-steward" / "values.schema.json": json.dumps(source, indent=2) + "\n"}
    for kind, plural in PLURALS.items():
        files[charts / "jupyterhub-steward-crds" / "templates" / f"{plural}.yaml"] = crds.render(kind)
    files[ROOT / "docs" / "requests.md"] = requests_page.render()
    return files


def main() -> int:
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"out of date, run make generate: {path.relative_to(ROOT)}", file=sys.stderr)
        return 1 if stale else 0
    for path, text in generated().items():
        path.write_text(text)
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
