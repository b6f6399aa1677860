"""The JSON that a teacher is asked for: a small part of JSON Schema, and the check of an answer.

Only what the structured outputs of the API accept: objects of which every field is required and
no other allowed, lists, text, whole numbers, yes or no, and one of a few values. The check is
made here as well, because not every server keeps to a schema, and a truncated answer never does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

Schema = Mapping[str, Any]
MAX_ITEMS: Final = 64  # of a list in an answer

TEXT: Final[Schema] = {"type": "string"}
WHOLE: Final[Schema] = {"type": "integer"}
YES_NO: Final[Schema] = {"type": "boolean"}

_FENCE: Final = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n\s*```\s*$", re.DOTALL)


class NotAsAsked(ValueError):
    """An answer that does not fit its schema; the message says where."""


def record(**fields: Schema) -> Schema:
    """Return the schema of an object with exactly these fields."""
    return {
        "type": "object",
        "properties": dict(fields),
        "required": list(fields),
        "additionalProperties": False,
    }


def items(of: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": of}


def one_of(values: Sequence[str] | Sequence[int]) -> Schema:
    """Return the schema of one of a few values."""
    kind = "string" if isinstance(values[0], str) else "integer"
    return {"type": kind, "enum": list(values)}


def read_json(text: str, schema: Schema) -> Any:
    """Return the value of an answer.

    Raises: NotAsAsked: it is no JSON, or not of this schema.
    """
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError) as error:
        raise NotAsAsked("no JSON") from error
    _check(value, schema, "answer")
    return value


_TYPES: Final[Mapping[str, type[Any]]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
}


def _check(value: Any, schema: Schema, place: str) -> None:
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, bool)):
        raise NotAsAsked(f"{place} is no {kind}")
    if "enum" in schema and value not in schema["enum"]:
        raise NotAsAsked(f"{place} is none of {schema['enum']}")
    if kind == "array":
        if len(value) > MAX_ITEMS:
            raise NotAsAsked(f"{place} has more than {MAX_ITEMS} items")
        for number, item in enumerate(value):
            _check(item, schema["items"], f"{place}[{number}]")
    if kind == "object":
        if value.keys() != set(schema["required"]):
            raise NotAsAsked(f"{place} does not have exactly {schema['required']}")
        for name, of in schema["properties"].items():
            _check(value[name], of, f"{place}.{name}")
