"""KubeRay's schemas, small enough to ship.

    python -m cluster.schemas CHECKOUT/ray-operator/config/crd/bases

The three custom resource definitions hold 3 MB of YAML, mostly the same pod specification again and again. What they
say about version v1 is kept as one JSON schema of some 40 KB: descriptions, defaults and status are left out, equal
parts are shared, and every object is closed, so that a misspelt field is an error here although a cluster would drop it
in silence. Rules in CEL (`x-kubernetes-validations`) are not JSON schema and are lost.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]
TARGET = Path(__file__).with_name("kuberay-schemas.json")
KINDS = ("RayCluster", "RayJob", "RayCronJob")
NOTICE = (
    "Derived from the custom resource definitions of KubeRay v1.7.0 (github.com/ray-project/kuberay), Copyright the "
    "KubeRay authors, licensed under the Apache License, Version 2.0. Changed: descriptions, defaults, status and CEL "
    "rules left out, equal parts shared, objects closed. Made by cluster/schemas.py; do not edit."
)
SHARED_FROM = 120  # characters; smaller parts are clearer where they stand


def condense(definitions: list[Schema]) -> Schema:
    """CustomResourceDefinitions -> one JSON schema for each kind's v1, under `$defs` by kind."""
    kinds = {}
    for definition in definitions:
        kind = definition["spec"]["names"]["kind"]
        [version] = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
        schema = closed(version["schema"]["openAPIV3Schema"])
        del schema["properties"]["status"]
        schema["properties"] |= {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
        kinds[kind] = schema
    counts: Counter[str] = Counter()
    for schema in kinds.values():
        _count(schema, counts)
    shared: dict[str, str] = {}
    parts: dict[str, Schema] = {}
    for kind, schema in kinds.items():
        parts[kind] = {name: _share(value, counts, shared, parts) for name, value in schema.items()}
    return {"$comment": NOTICE, "$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": parts}


def closed(schema: Schema) -> Schema:
    """The JSON schema in an OpenAPI v3 one, refusing unknown fields wherever fields are listed."""
    kept: Schema = {}
    for key, value in schema.items():
        if key in {"description", "default", "example"} or key.startswith("x-kubernetes-"):
            continue
        if key == "properties":
            kept[key] = {name: closed(field) for name, field in value.items()}
        elif isinstance(value, dict):
            kept[key] = closed(value)
        elif isinstance(value, list):
            kept[key] = [closed(item) if isinstance(item, dict) else item for item in value]
        else:
            kept[key] = value
    if "required" in kept:  # the API server fills in defaults before it checks for missing fields
        kept["required"] = [name for name in kept["required"] if "default" not in schema["properties"].get(name, {})]
    if "properties" in kept and not schema.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    return kept


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _count(value: Any, counts: Counter[str]) -> None:
    if isinstance(value, dict):
        counts[_written(value)] += 1
        for item in value.values():
            _count(item, counts)
    elif isinstance(value, list):
        for item in value:
            _count(item, counts)


def _share(value: Any, counts: Counter[str], shared: dict[str, str], parts: dict[str, Schema]) -> Any:
    """`value` with every object schema that occurs twice moved into `parts` and referred to."""
    if isinstance(value, list):
        return [_share(item, counts, shared, parts) for item in value]
    if not isinstance(value, dict):
        return value
    text = _written(value)
    if text in shared:
        return {"$ref": f"#/$defs/{shared[text]}"}
    smaller = {name: _share(item, counts, shared, parts) for name, item in value.items()}
    is_schema = isinstance(value.get("type"), str)  # and not a table of fields, one of which may be called "type"
    if not is_schema or counts[text] < 2 or len(text) < SHARED_FROM:
        return smaller
    shared[text] = str(len(shared))
    parts[shared[text]] = smaller
    return {"$ref": f"#/$defs/{shared[text]}"}


def main(folder: Path) -> None:
    """Writes kuberay-schemas.json from the definitions in `folder`."""
    files = [folder / f"ray.io_{kind.lower()}s.yaml" for kind in KINDS]
    definitions = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    TARGET.write_text(json.dumps(condense(definitions), separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
