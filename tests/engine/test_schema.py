"""Schemas that never end are refused; those that may end are not."""

import json
import re
from typing import Any

import pytest

from fluvial.engine.schema import MAX_REFERENCES, load_schema
from fluvial.errors import InputError

TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["children"],
}
CHAIN: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["next"],
        }
    },
    "$ref": "#/$defs/node",
}


def load(schema: object) -> dict[str, Any]:
    return load_schema(json.dumps(schema), param="here")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        TREE,
        CHAIN,
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}},
        {"$ref": "#/$defs/a%20b", "$defs": {"a b": {"type": "string"}}},
        {"$ref": "#/anyOf/0", "anyOf": [{"type": "string"}]},
        {"const": {"$ref": "#"}, "default": {"$ref": "#/const"}},
        {"required": 5, "properties": [], "allOf": "x", "type": "object", "minItems": []},
    ],
)
def test_what_may_end_passes(schema: dict[str, Any]) -> None:
    assert load(schema) == schema


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"$ref": "#"}, "#"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "#"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "#"),
        ({"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1}, "#"),
        ({"allOf": [{"type": "object"}, {"$ref": "#"}]}, "#"),
        ({"anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#"}}}, "#"),
        # What is not required can't end either, once it has begun.
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/x"}},
                "$defs": {"x": {"$ref": "#/$defs/x"}},
            },
            "#/$defs/x",
        ),
    ],
)
def test_what_requires_itself_is_refused(schema: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"honoured: {part} requires itself")) as no:
        load(schema)
    assert (no.value.code, no.value.param) == ("grammar_refused", "here")


def test_references_are_counted() -> None:
    names = [f"d{n}" for n in range(MAX_REFERENCES)]
    schema = {
        "$defs": {name: {"type": "string"} for name in names},
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in names],
    }
    with pytest.raises(InputError, match="at most 128"):
        load(schema)
    del schema["anyOf"][0]
    load(schema)


def test_a_long_chain_the_wrong_way_round_is_followed() -> None:
    last = MAX_REFERENCES - 2
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(last)}
    filler = {"enum": ["x" * 400]}
    schema = {"$defs": chain | {f"d{last}": filler}, "allOf": [{"$ref": "#/$defs/d0"}]}
    load(schema)
    schema["$defs"][f"d{last}"] = {"$ref": "#/$defs/d0"}
    with pytest.raises(InputError, match="requires itself"):
        load(schema)
