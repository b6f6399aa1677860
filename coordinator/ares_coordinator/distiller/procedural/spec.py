"""Typed access to the `check` text of an example: JSON in, refusals out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ares_p2p.errors import PayloadMalformed


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """A parsed check: `kind`, and fields that are text, a number, or a list of texts."""

    kind: str
    fields: Mapping[str, object]

    @staticmethod
    def parse(check: str) -> CheckSpec:
        """Return the spec inside `check`.

        Raises: PayloadMalformed: no JSON object with a `kind`.
        """
        try:
            fields = json.loads(check)
        except (ValueError, RecursionError) as error:
            raise PayloadMalformed("the check is no JSON") from error
        if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
            raise PayloadMalformed("the check has no kind")
        kind = fields.pop("kind")
        return CheckSpec(kind, fields)

    def text(self, name: str) -> str:
        """Return a field that must be text."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise PayloadMalformed(f"check field {name!r} must be text")
        return value

    def number(self, name: str) -> int:
        """Return a field that must be an integer."""
        value = self.fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise PayloadMalformed(f"check field {name!r} must be an integer")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a field that must be a list of texts."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise PayloadMalformed(f"check field {name!r} must be a list of texts")
        return value
