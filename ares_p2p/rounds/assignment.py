"""Who trains on what: a public pseudo-random order of the examples per (cycle, round, peer).

Each peer walks its own permutation of the training set, epoch after epoch; nobody chooses data,
nobody asks for it, anyone can recompute it. The permutation is a Feistel network with cycle
walking, so the n-th example costs a few hashes and no memory, whatever the size of the set.

Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002), method 3.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

from ares_p2p.ids import PeerId

_FEISTEL_ROUNDS = 6  # more than the four that a pseudo-random permutation needs


class _Permutation:
    """A keyed permutation of range(size)."""

    def __init__(self, key: bytes, size: int) -> None:
        self._key = key
        self._size = size
        self._half_bits = max(1, (max(1, size - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half_bits) - 1

    def _round(self, number: int, half: int) -> int:
        message = number.to_bytes(1, "little") + half.to_bytes(8, "little")
        digest = hashlib.blake2b(message, key=self._key, digest_size=8).digest()
        return int.from_bytes(digest, "little") & self._mask

    def __getitem__(self, index: int) -> int:
        value = index
        while True:
            left, right = value >> self._half_bits, value & self._mask
            for number in range(_FEISTEL_ROUNDS):
                left, right = right, left ^ self._round(number, right)
            value = left << self._half_bits | right
            if value < self._size:  # walk the cycle back into the domain
                return value


def assigned_examples(
    assignment_key: bytes, *, round_number: int, peer: PeerId, examples: int
) -> Iterator[int]:
    """Yield the endless stream of example indices that `peer` trains on in a round.

    Args:
        assignment_key: the cycle's public key, at most 64 bytes.
        examples: size of the training set, at least 1.
    Yields: indices in range(examples); every epoch holds each of them once.
    Raises: ValueError: an empty training set.
    """
    if examples < 1:
        raise ValueError("an empty training set has no assignment")
    for epoch in itertools.count():
        seed = b"%d/%d/%b" % (round_number, epoch, peer.encode())
        key = hashlib.blake2b(seed, key=assignment_key, digest_size=32, person=b"ares-assign-v1")
        permutation = _Permutation(key.digest(), examples)
        for index in range(examples):
            yield permutation[index]


def first_example(assignment_key: bytes, *, round_number: int, peer: PeerId, examples: int) -> int:
    """Return the first index of the stream: what a Commit must name."""
    return next(
        assigned_examples(assignment_key, round_number=round_number, peer=peer, examples=examples)
    )
