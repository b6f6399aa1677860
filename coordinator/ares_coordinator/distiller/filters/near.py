"""Nearly the same row a second time: MinHash over runs of words.

Rows made from templates are all nearly the same: never put procedural rows through this.

Source: Broder, "On the resemblance and containment of documents" (1997); rensa's R-MinHash.
"""

from __future__ import annotations

import re
from typing import Final

from rensa import RMinHash, RMinHashLSH

from ares_coordinator.distiller.filters.base import Reject, fold
from ares_p2p.shards import Example

SHINGLE_WORDS: Final = 3
PERMUTATIONS: Final = 128
BANDS: Final = 32  # of 4: pairs of resemblance 0.5 are looked at with probability 0.87
NEAR: Final = 0.55  # share of common runs; a tenth of the words changed leaves about 0.57
MIN_WORDS: Final = 12  # shorter rows say the same words about different things
_SEED: Final = 0x41524553  # "ARES": the same rows give the same verdicts
_WORD: Final = re.compile(r"\w+")


def shingles(example: Example) -> set[str]:
    """Return the runs of words of what was asked and answered, without the system prompt."""
    said = (fold(message.content) for message in example.messages if message.role != "system")
    words = _WORD.findall(" ".join(said))
    if len(words) < MIN_WORDS:
        return set()
    runs = range(len(words) - SHINGLE_WORDS + 1)
    return {" ".join(words[place : place + SHINGLE_WORDS]) for place in runs}


class NearDuplicates:
    """Remembers rows; a later one that says nearly the same is left out. Not for several threads."""

    def __init__(self) -> None:
        self._index = RMinHashLSH(NEAR, PERMUTATIONS, BANDS)
        self._seen: list[tuple[RMinHash, str]] = []

    def __call__(self, example: Example) -> Reject | None:
        """Return why the row is left out; else it is remembered."""
        runs = shingles(example)
        if not runs:
            return None
        sketch = RMinHash(PERMUTATIONS, _SEED)
        sketch.update(sorted(runs))
        for number in self._index.query(sketch):
            other, key = self._seen[number]
            resemblance = sketch.jaccard(other)
            if resemblance >= NEAR:
                return Reject("near_duplicate", f"{resemblance:.2f} of {key}")
        self._index.insert(len(self._seen), sketch)
        self._seen.append((sketch, example.key))
        return None
