"""Whether marking a shared prefix for the provider's prompt cache pays: measured, not assumed.

Writing to the cache costs more than plain input and reading from it far less. Whether a prefix is
read often enough before it expires, and is long enough for the model at all, shows in the usage of
the replies; a prefix that does not pay after a trial is not marked any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ares_coordinator.distiller.budget import TOKENS_PER_PRICE, Prices
from ares_coordinator.store.request_rows import Usage

MIN_PREFIX_BYTES: Final = 2_048  # 512 tokens, the shortest that any model caches
TRIAL: Final = 12  # marked requests before the measure counts; the first few all write


@dataclass(slots=True)
class _Prefix:
    marked: int = 0
    saved: int = 0  # micro-dollars times TOKENS_PER_PRICE; below 0: it cost more than it saved


class CacheMeter:
    """Counts what the cache saved for each shared prefix, by its name."""

    def __init__(self, prices: Prices) -> None:
        self._write_loss = prices.cache_write_microusd - prices.input_microusd
        self._read_gain = prices.input_microusd - prices.cache_read_microusd
        self._prefixes: dict[str, _Prefix] = {}

    def should_mark(self, name: str, *, prefix_bytes: int) -> bool:
        """Whether to mark a prefix of this name and size."""
        if prefix_bytes < MIN_PREFIX_BYTES:
            return False
        prefix = self._prefixes.get(name, _Prefix())
        return prefix.marked < TRIAL or prefix.saved > 0

    def note(self, name: str, usage: Usage) -> None:
        """Count the usage of a request whose prefix was marked."""
        prefix = self._prefixes.setdefault(name, _Prefix())
        prefix.marked += 1
        prefix.saved += usage.cache_read_tokens * self._read_gain
        prefix.saved -= usage.cache_write_tokens * self._write_loss

    @property
    def saved_microusd(self) -> int:
        """What all marks together saved; below 0 when they cost more."""
        return sum(prefix.saved for prefix in self._prefixes.values()) // TOKENS_PER_PRICE
