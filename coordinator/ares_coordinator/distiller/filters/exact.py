"""The same task or the same prompt a second time: exact, by key and by folded text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ares_coordinator.distiller.filters.base import Reject, fold
from ares_p2p.shards import Example


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
