"""The hash chain behind the rounds' seeds: fixed when the cycle starts, revealed link by link.

link[n] = H(secret), link[i] = H(link[i+1]); the anchor link[0] stands in the CycleConfig and
round r reveals link[r+1]. Nobody can predict a seed, and the coordinator cannot choose one.
"""

from __future__ import annotations

from ares_p2p.errors import HashMismatch
from ares_p2p.ids import Digest, sha256

_DOMAIN = b"ares/seed-chain/v1"


def _previous(link: Digest) -> Digest:
    return sha256(_DOMAIN, link)


def seed_anchor(secret: bytes, *, rounds: int) -> Digest:
    """Return the public anchor of a chain that serves `rounds` rounds."""
    return _link(secret, rounds=rounds, index=0)


def revealed_seed(secret: bytes, *, rounds: int, round_number: int) -> Digest:
    """Return what round `round_number` (0-based) reveals.

    Raises: ValueError: the chain is shorter than that.
    """
    if not 0 <= round_number < rounds:
        raise ValueError(f"round {round_number} of a chain for {rounds}")
    return _link(secret, rounds=rounds, index=round_number + 1)


def _link(secret: bytes, *, rounds: int, index: int) -> Digest:
    link = sha256(_DOMAIN, b"secret", secret)
    for _ in range(rounds - index):
        link = _previous(link)
    return link


def check_revealed_seed(seed: Digest, *, anchor: Digest, round_number: int) -> None:
    """Verify that `seed` is the link that round `round_number` must reveal.

    Raises: HashMismatch.
    """
    link = seed
    for _ in range(round_number + 1):
        link = _previous(link)
    if link != anchor:
        raise HashMismatch(f"the seed of round {round_number} is not of the cycle's chain")
