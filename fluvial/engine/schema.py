"""JSON schemas before they become grammars: parsed, bounded, and sure to have an end.

Source: JSON Schema 2020-12, core and validation; references as JSON Pointers (RFC 6901).
"""

import json
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote

from fluvial.errors import InputError

MAX_SCHEMA_DEPTH = 32
MAX_REFERENCES = 128
_DATA = ("const", "enum", "default", "examples")

Schema = dict[str, Any]


def load_schema(text: str, *, param: str) -> Schema:
    """Parse a schema and check what `llguidance` does not.

    Raises InputError, naming `param`, when it is no JSON object, nested too deep, or has a part
    that no finite text satisfies: one that requires itself.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("the JSON schema is not JSON", param=param) from None
    if not isinstance(schema, dict):
        raise InputError("a JSON schema must be an object", param=param)
    schema = cast("Schema", schema)
    if _measure_depth(schema) > MAX_SCHEMA_DEPTH:
        raise InputError(
            f"the JSON schema is nested deeper than {MAX_SCHEMA_DEPTH} levels", param=param
        )
    _check_end(schema, param=param)
    return schema


def _check_end(schema: Schema, *, param: str) -> None:
    parts = {"#": schema} | _find_references(schema)
    if len(parts) > MAX_REFERENCES:
        raise InputError(
            f"the JSON schema refers to {len(parts)} parts of itself; at most {MAX_REFERENCES} are "
            "supported",
            param=param,
        )
    pending = set(parts)
    shrank = True
    while shrank:
        found = {name for name in pending if _can_end(parts[name], pending)}
        shrank = bool(found)
        pending -= found
    endless = sorted(pending)
    if endless:
        raise InputError(
            f"the JSON schema can't be honoured: {endless[0][:80]} requires itself, so no text "
            "ends",
            code="grammar_refused",
            param=param,
        )


def _can_end(schema: object, pending: set[str]) -> bool:
    """Tell whether some finite value satisfies `schema`, as far as references go.

    `pending` are the references not known to end. Other reasons are for the grammar to find.
    """
    if not isinstance(schema, dict):
        return True
    table = cast("Schema", schema)
    reference = table.get("$ref")
    if isinstance(reference, str) and reference in pending:
        return False
    parts = _list(table.get("allOf"))
    if not all(_can_end(part, pending) for part in parts):
        return False
    for choice in ("anyOf", "oneOf"):
        options = _list(table.get(choice))
        if options and not any(_can_end(option, pending) for option in options):
            return False
    kinds = table.get("type")
    kinds = _list(kinds) if isinstance(kinds, list) else [kinds]
    needed: list[object] = []
    if kinds == ["object"]:
        needed = _list_required(table)
    elif kinds == ["array"] and table.get("minItems"):
        needed = [*_list(table.get("prefixItems")), table.get("items")]
    return all(_can_end(part, pending) for part in needed)


def _list_required(table: Schema) -> list[object]:
    properties = table.get("properties")
    if not isinstance(properties, dict):
        return []
    named = cast("Schema", properties)
    return [named.get(name) for name in _list(table.get("required")) if isinstance(name, str)]


def _find_references(schema: Schema) -> dict[str, object]:
    """Return the parts of `schema` that it refers to; what leads nowhere is left out."""
    found: dict[str, object] = {}
    for node in _walk(schema):
        reference = node.get("$ref")
        if isinstance(reference, str) and reference.startswith("#") and reference not in found:
            target = _resolve(schema, reference)
            found[reference] = target
    return found


def _resolve(schema: Schema, pointer: str) -> object:
    """Follow a pointer; return an empty schema where it leads nowhere, or is an anchor."""
    node: Any = schema
    for part in pointer.removeprefix("#").split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(name, {})
        elif isinstance(node, list) and name.isdecimal() and int(name[:9]) < len(_list(node)):
            node = _list(node)[int(name[:9])]
        else:
            return {}
    return node


def _walk(schema: object) -> Iterator[Schema]:
    """Yield all objects in `schema` but plain data; its depth is bounded."""
    if isinstance(schema, dict):
        table = cast("Schema", schema)
        yield table
        for name, each in table.items():
            if name not in _DATA:
                yield from _walk(each)
    for each in _list(schema):
        yield from _walk(each)


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _measure_depth(value: object) -> int:
    """Return how deep objects and lists are nested, without recursion."""
    depth, level = 0, [value]
    while level:
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner += cast("Schema", each).values()
            inner += _list(each)
        depth, level = depth + any(isinstance(each, dict | list) for each in level), inner
    return depth
