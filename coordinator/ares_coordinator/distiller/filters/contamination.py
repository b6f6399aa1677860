"""Rows that hold text of an evaluation set: a run of 13 words in common, by hash.

An index holds hashes only, so the index of a benchmark can be kept and passed on without a word
of the benchmark. Texts shorter than a run are compared as a whole.

Source: Brown et al., arXiv:2005.14165, appendix C (13-grams).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ares_coordinator.distiller.filters.base import Reject, fold
from ares_p2p.errors import ConfigFault
from ares_p2p.files import write_atomically
from ares_p2p.shards import Example

RUN_WORDS: Final = 13
MIN_WORDS: Final = 6  # shorter texts are nobody's
MAGIC: Final = b"ARESNGR1"
SUFFIX: Final = ".ngrams"
_WORD: Final = re.compile(r"\w+")
Hashes = npt.NDArray[np.uint64]


def runs_of(text: str) -> Iterator[int]:
    """Yield the 64-bit hashes of a text's runs of words."""
    words = _WORD.findall(fold(text))
    if len(words) < MIN_WORDS:
        return
    for place in range(max(1, len(words) - RUN_WORDS + 1)):
        run = " ".join(words[place : place + RUN_WORDS])
        yield int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "little")


class NgramIndex:
    """The runs of some texts, sorted.

    Args:
        name: of the evaluation set; said in refusals.
        hashes: (n,), ascending, without repetition.
    """

    def __init__(self, name: str, hashes: Hashes) -> None:
        self.name = name
        self._hashes = hashes

    @classmethod
    def of(cls, name: str, texts: Iterable[str]) -> NgramIndex:
        """Return the index of `texts`."""
        found = {run for text in texts for run in runs_of(text)}
        return cls(name, np.sort(np.fromiter(found, dtype=np.uint64, count=len(found))))

    @classmethod
    def load(cls, path: Path) -> NgramIndex:
        """Return an index that `save` wrote.

        Raises: ConfigFault: it cannot be read, or is none.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigFault(f"{path} cannot be read: {error.strerror}") from error
        if not data.startswith(MAGIC) or (len(data) - len(MAGIC)) % 8:
            raise ConfigFault(
                f"{path} is no index of runs of words",
                hint="Make one: ares-coordinator data index NAME FILE...",
            )
        hashes = np.frombuffer(data, dtype="<u8", offset=len(MAGIC))
        if bool((hashes[1:] <= hashes[:-1]).any()):
            raise ConfigFault(f"{path} is damaged: its hashes are not in order")
        return cls(path.name.removesuffix(SUFFIX), hashes)

    def save(self, path: Path) -> None:
        """Write the index; 8 bytes a run.

        Raises: DiskFull.
        """
        write_atomically(path, MAGIC + self._hashes.astype("<u8").tobytes(), durable=True)

    def __len__(self) -> int:
        return len(self._hashes)

    def has_any(self, runs: Hashes) -> bool:
        """Return whether one of `runs` is in here."""
        if not len(self._hashes) or not len(runs):
            return False
        places = np.searchsorted(self._hashes, runs)
        inside = places < len(self._hashes)
        return bool((self._hashes[places[inside]] == runs[inside]).any())


class ContaminationFilter:
    """Leaves out rows that share a run of words with one of the indices."""

    def __init__(self, indices: Iterable[NgramIndex]) -> None:
        self._indices = tuple(indices)

    def __call__(self, example: Example) -> Reject | None:
        """Return why a row is left out."""
        if not self._indices:
            return None
        said = (message.content for message in example.messages if message.role != "system")
        found = {run for text in said for run in runs_of(text)}
        runs = np.fromiter(found, dtype=np.uint64, count=len(found))
        for index in self._indices:
            if index.has_any(runs):
                return Reject("contaminated", index.name)
        return None
