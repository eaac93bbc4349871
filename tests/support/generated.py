"""Requests made from the CRDs themselves: everything that the structural schema lets through may come.

hypothesis-jsonschema 0.23.1 does not work with the present Hypothesis; the CRDs need no more than is here.
"""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

from hypothesis import strategies as st
from steward_api import names
from steward_api.crds import definitions

Json = dict[str, Any]


def values(schema: Json) -> st.SearchStrategy[Any]:
    """Values that the schema takes. Raises KeyError for a type that the CRDs of requests do not use."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "string":
            return _texts(schema)
        case "array":
            keys = schema.get("x-kubernetes-list-map-keys")
            unique = (lambda row: tuple(row[key] for key in keys)) if keys else None
            is_set = schema.get("x-kubernetes-list-type") == "set"
            return st.lists(
                values(schema["items"]), min_size=schema.get("minItems", 0), max_size=schema["maxItems"],
                unique_by=unique, unique=is_set and not unique,
            )  # fmt: skip
        case "object":
            required = set(schema.get("required") or ())
            fields = {name: values(inner) for name, inner in schema["properties"].items()}
            return st.fixed_dictionaries(
                {name: field for name, field in fields.items() if name in required},
                optional={name: field for name, field in fields.items() if name not in required},
            )
    raise KeyError(schema["type"])


def _texts(schema: Json) -> st.SearchStrategy[str]:
    if schema.get("format") == "date-time":
        moments = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1))
        return moments.map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ"))
    shortest, longest = schema.get("minLength", 0), schema["maxLength"]
    if pattern := schema.get("pattern"):
        found = st.from_regex(pattern.replace("$", r"\Z"))
        return found.filter(lambda text: shortest <= len(text) <= longest)
    # An API server takes no lone surrogates.
    characters = st.characters(exclude_categories=["Cs"])
    return st.text(characters, min_size=shortest, max_size=min(longest, 40))


def specs(kind: str, user: str, volumes: list[str]) -> st.SearchStrategy[Json]:
    """Specs that the structural schema of ``kind`` takes; half of them are about ``user`` and ``volumes``."""
    schema = definitions()[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    def aim(spec: Json, about: bool) -> Json:
        spec = copy.deepcopy(spec)
        if about:
            spec["user"] = user
            spec["server"] = ""
            if kind == names.VOLUME_RESET:
                spec["volumes"] = volumes[: 1 + len(spec["volumes"]) % len(volumes)]
        return spec

    return st.builds(aim, values(schema), st.booleans())
