"""Filters: pure stages `(row) -> row | Reject`, each with a stable reason.

Exact only: the key of a row (a task asked twice) and its folded text (a prompt written twice).
Near duplicates by MinHash are no use on templated rows: it flags nearly all of them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field
from typing import Literal

from ares_p2p.shards import Example

Reason = Literal["duplicate_key", "duplicate_text", "unverified", "unlicensed", "contaminated"]


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is left out, and why."""

    reason: Reason
    detail: str = ""


def fold(text: str) -> str:
    """Return `text` in one case, one width and with single spaces: what a reader calls the same."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def prompt_sha256(example: Example) -> bytes:
    """Return the hash of all folded turns before the answer."""
    turns = (f"{m.role}\x1f{fold(m.content)}" for m in example.messages[:-1])
    return hashlib.sha256("\x1e".join(turns).encode()).digest()


@dataclass(slots=True)
class Deduplicator:
    """Remembers keys and prompts; refuses the second of each. Not for several threads.

    Args:
        forbidden_keys: keys that must not appear: those of sealed evaluation sets.
    """

    forbidden_keys: frozenset[str] = frozenset()
    _keys: set[str] = field(default_factory=set)
    _prompts: set[bytes] = field(default_factory=set)

    def __call__(self, example: Example) -> Example | Reject:
        """Return the row, or why it is left out."""
        if example.key in self.forbidden_keys:
            return Reject("contaminated", example.key)
        if example.key in self._keys:
            return Reject("duplicate_key", example.key)
        prompt = prompt_sha256(example)
        if prompt in self._prompts:
            return Reject("duplicate_text", example.key)
        self._keys.add(example.key)
        self._prompts.add(prompt)
        return example
