"""Everything the chart renders and the samples, checked with kubeconform against this API server's own schemas."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from cluster import cache, local, tools
from cluster.shell import run
from tests.support.control_plane import ControlPlane
from tests.support.control_plane_fixtures import NAMESPACE

Json = dict[str, Any]


def _resolve(node: Any, schemas: Json, seen: tuple[str, ...] = ()) -> Any:
    """An OpenAPI v3 schema with its references put in place, closed where it lists its properties."""
    if isinstance(node, list):
        return [_resolve(item, schemas, seen) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        name = node["$ref"].rsplit("/", 1)[-1]
        return {} if name in seen else _resolve(schemas[name], schemas, (*seen, name))
    if len(node.get("allOf", [])) == 1:
        return _resolve(node["allOf"][0], schemas, seen)
    found = {key: _resolve(value, schemas, seen) for key, value in node.items() if key != "default"}
    if found.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    if found.get("x-kubernetes-preserve-unknown-fields"):
        return {"type": "object"}
    if "properties" in found and "additionalProperties" not in found:
        found["additionalProperties"] = False
    return found


def _without_nulls(node: Any) -> Any:
    """As the API server reads it: null is absent."""
    if isinstance(node, dict):
        return {key: _without_nulls(value) for key, value in node.items() if value is not None}
    return [_without_nulls(item) for item in node] if isinstance(node, list) else node


def write_schemas(api: ControlPlane, directory: Path) -> None:
    for path in api.raw("GET", "/openapi/v3")["paths"]:
        # The schema of schemas refers to itself under names that mean something else in it; CRDs are tried for real.
        if not path.startswith(("api/v1", "apis/")) or path.count("/") < 1 or "apiextensions" in path:
            continue
        schemas = api.raw("GET", f"/openapi/v3/{path}").get("components", {}).get("schemas", {})
        for schema in schemas.values():
            for kind in schema.get("x-kubernetes-group-version-kind", []):
                if not schema.get("properties", {}).get("kind"):
                    continue
                # kubeconform's KindSuffix: the first word of the group, and the version.
                group = f"{kind['group'].split('.')[0]}-" if kind["group"] else ""
                name = f"{kind['kind']}-{group}{kind['version']}.json".lower()
                (directory / name).write_text(json.dumps(_resolve(schema, schemas)))


def test_what_the_chart_renders_fits_the_api_server(api: ControlPlane, tmp_path: Path) -> None:
    write_schemas(api, tmp_path)
    assert (tmp_path / "volumereset-hubsteward-v1alpha1.json").exists()
    rendered = run([
        tools.bin_directory() / "helm", "template", "hub", local.CHART, "--namespace", NAMESPACE,
        "--values", cache.REPOSITORY / "cluster" / "values.yaml", "--set", "crds.install=false",
    ])  # fmt: skip
    files = sorted((cache.REPOSITORY / "manifests").glob("**/*.yaml"))
    text = rendered + "".join(f"\n---\n{file.read_text()}" for file in files)
    manifests = yaml.safe_dump_all([_without_nulls(o) for o in yaml.safe_load_all(text) if o])
    template = str(tmp_path) + "/{{.ResourceKind}}{{.KindSuffix}}.json"
    result = subprocess.run(
        [tools.program("kubeconform"), "-strict", "-summary", "-schema-location", template],
        input=manifests, text=True, capture_output=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Valid: " in result.stdout


def test_the_samples_are_accepted(api: ControlPlane) -> None:
    for file in sorted((cache.REPOSITORY / "manifests" / "samples").glob("*.yaml")):
        text = file.read_text().replace("YOUR-KUBERNETES-USER", "test-admin")
        api.kubectl("-n", NAMESPACE, "create", "--dry-run=server", "-f", "-", input_text=text)
