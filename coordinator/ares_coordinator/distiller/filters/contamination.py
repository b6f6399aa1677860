"""Rows that hold text of an evaluation set: a run of 13 words in common, by hash.

An index holds hashes only, so the index of a benchmark can be kept and passed on without a word
of the benchmark. A text of 8 to 12 words is one run as a whole, and is found inside a longer one;
a shorter text is nobody's. A run that many texts of a set share is the set's frame ("Choose the
right answer and think step by step ..."), not its content, and is not indexed.

It refuses what is quoted, not what is told in other words; see docs/filters.md.

Source: Brown et al., arXiv:2005.14165, appendix C (runs of 8 to 13 words; frequent ones ignored).
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ares_coordinator.distiller.filters.base import Reject, fold
from ares_p2p.errors import ConfigFault
from ares_p2p.files import write_atomically
from ares_p2p.shards import Example

RUN_WORDS: Final = 13
MIN_WORDS: Final = 8
FRAME_TEXTS: Final = 10  # a run in more texts of a set than this,
FRAME_SHARE: Final = 0.05  # and in a larger share of them, is the set's frame
MAGIC: Final = b"ARESNGR2"
HEADER: Final = struct.Struct("<8sQ")  # MAGIC; a bit for each length of runs
SUFFIX: Final = ".ngrams"
# A word is letters and digits; where a script has no spaces (Han, kana) it is one character.
_UNSPACED: Final = "぀-ヿ㐀-䶿一-鿿豈-﫿"
_WORD: Final = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
Hashes = npt.NDArray[np.uint64]


def words_of(text: str) -> list[str]:
    """Return the words of a text, folded."""
    return _WORD.findall(fold(text))


def runs_of(words: Sequence[str], size: int) -> Iterator[int]:
    """Yield the 64-bit hashes of the runs of `size` words."""
    for place in range(len(words) - size + 1):
        run = " ".join(words[place : place + size])
        yield int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "little")


class NgramIndex:
    """The runs of some texts, sorted.

    Args:
        name: of the evaluation set; said in refusals.
        hashes: (n,), ascending, without repetition.
        sizes: how many words the runs have.
        texts: how many different texts it was made of; 0 where that is not known any more.
    """

    def __init__(
        self, name: str, hashes: Hashes, sizes: Iterable[int] = (RUN_WORDS,), *, texts: int = 0
    ) -> None:
        self.name = name
        self.sizes = tuple(sorted(sizes))
        self.texts = texts
        self._hashes = hashes

    @classmethod
    def of(cls, name: str, texts: Iterable[str]) -> NgramIndex:
        """Return the index of `texts`; a text that comes twice counts once."""
        seen: set[bytes] = set()
        sizes: set[int] = set()
        parts: list[Hashes] = [np.empty(0, np.uint64)]
        for text in texts:
            words = words_of(text)
            if len(words) < MIN_WORDS:
                continue
            digest = hashlib.sha256(" ".join(words).encode()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            size = min(RUN_WORDS, len(words))
            sizes.add(size)
            parts.append(np.unique(np.fromiter(runs_of(words, size), np.uint64)))
        hashes, found_in = np.unique(np.concatenate(parts), return_counts=True)
        frame = found_in > max(FRAME_TEXTS, FRAME_SHARE * len(seen))
        return cls(name, hashes[~frame], sizes, texts=len(seen))

    @classmethod
    def load(cls, path: Path) -> NgramIndex:
        """Return an index that `save` wrote.

        Raises: ConfigFault: it cannot be read, or is none.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigFault(f"{path} cannot be read: {error.strerror}") from error
        if not data.startswith(MAGIC) or len(data) < HEADER.size or len(data) % 8:
            raise ConfigFault(
                f"{path} is no index of runs of words",
                hint="Make one: ares-coordinator data index NAME FILE...",
            )
        _, mask = HEADER.unpack_from(data)
        sizes = [size for size in range(64) if mask >> size & 1]
        hashes = np.frombuffer(data, dtype="<u8", offset=HEADER.size)
        if bool((hashes[1:] <= hashes[:-1]).any()):
            raise ConfigFault(f"{path} is damaged: its hashes are not in order")
        if not set(sizes) <= set(range(MIN_WORDS, RUN_WORDS + 1)):
            raise ConfigFault(f"{path} is damaged: runs of {sizes} words")
        return cls(path.name.removesuffix(SUFFIX), hashes, sizes)

    def save(self, path: Path) -> None:
        """Write the index; 8 bytes a run.

        Raises: DiskFull.
        """
        mask = sum(1 << size for size in self.sizes)
        data = HEADER.pack(MAGIC, mask) + self._hashes.astype("<u8").tobytes()
        write_atomically(path, data, durable=True)

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
    """Leaves out rows that share a run of words with one of the indices.

    System prompts are not looked at: they are the same in many rows.
    """

    def __init__(self, indices: Iterable[NgramIndex]) -> None:
        self._indices = tuple(indices)
        self._sizes = sorted({size for index in self._indices for size in index.sizes})

    def __call__(self, example: Example) -> Reject | None:
        """Return why a row is left out; the evaluation set's name is its `source`."""
        if not self._indices:
            return None
        said = [words_of(one.content) for one in example.messages if one.role != "system"]
        found = {run for words in said for size in self._sizes for run in runs_of(words, size)}
        runs = np.fromiter(found, dtype=np.uint64, count=len(found))
        for index in self._indices:
            if index.has_any(runs):
                return Reject("contaminated", f"a run of words of {index.name}", index.name)
        return None
