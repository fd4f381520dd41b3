"""The documents that the JSON Schema Test Suite finds under http://localhost:1234/draft2020-12/, as far as required."""

import json
from pathlib import Path
from typing import Any

URI = "http://localhost:1234/draft2020-12/"
_VOCABULARY = "https://json-schema.org/draft/2020-12/vocab/"
INTEGER = {"type": "integer"}
STRING = {"type": "string"}
DOCUMENTS: dict[str, Any] = {
    "baseUriChange/folderInteger": INTEGER,
    "baseUriChangeFolder/folderInteger": INTEGER,
    "baseUriChangeFolderInSubschema/folderInteger": INTEGER,
    "detached-dynamicref": {
        "$defs": {"foo": {"$dynamicRef": "#detached"}, "detached": {"$dynamicAnchor": "detached", **INTEGER}}
    },
    "detached-ref": {"$defs": {"foo": {"$ref": "#detached"}, "detached": {"$anchor": "detached", **INTEGER}}},
    "different-id-ref-string": {
        "$id": f"{URI}real-id-ref-string.json",
        "$defs": {"bar": STRING},
        "$ref": "#/$defs/bar",
    },
    "extendible-dynamic-ref": {
        "type": "object",
        "properties": {"elements": {"type": "array", "items": {"$dynamicRef": "#elements"}}},
        "required": ["elements"],
        "additionalProperties": False,
        "$defs": {"elements": {"$dynamicAnchor": "elements"}},
    },
    "integer": INTEGER,
    "locationIndependentIdentifier": {"$defs": {"refToInteger": {"$ref": "#foo"}, "A": {"$anchor": "foo", **INTEGER}}},
    "metaschema-no-validation": {"$vocabulary": {f"{_VOCABULARY}applicator": True, f"{_VOCABULARY}core": True}},
    "metaschema-optional-vocabulary": {
        "$vocabulary": {f"{_VOCABULARY}validation": True, f"{_VOCABULARY}core": True, f"{URI}vocab/custom": False}
    },
    "name-defs": {"$defs": {"orNull": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, **STRING},
    "nested/foo-ref-string": {"type": "object", "properties": {"foo": {"$ref": "string.json"}}},
    "nested/string": STRING,
    "subSchemas": {"$defs": {"integer": INTEGER, "refToInteger": {"$ref": "#/$defs/integer"}}},
    "tree": {
        "$dynamicAnchor": "node",
        "type": "object",
        "properties": {"data": True, "children": {"type": "array", "items": {"$dynamicRef": "#node"}}},
    },
    "urn-ref-string": {
        "$id": "urn:uuid:feebdaed-ffff-0000-2020-1200deadbeef",
        "$defs": {"bar": STRING},
        "$ref": "#/$defs/bar",
    },
}


def write_documents(folder: Path) -> str:
    """Writes them, and says where they are as `load_documents` takes it."""
    for name, schema in DOCUMENTS.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(schema))
    return f"{URI}={folder}"
