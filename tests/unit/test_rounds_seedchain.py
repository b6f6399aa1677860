"""The chain of seeds: known links, every round verifies, and nothing else does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ares_p2p.errors import HashMismatch
from ares_p2p.ids import sha256
from ares_p2p.rounds.seedchain import check_revealed_seed, revealed_seed, seed_anchor

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "rounds.json").read_text(encoding="utf-8")
)["seedchain"]
SECRET = bytes.fromhex(VECTOR["secret"])
ANCHOR = seed_anchor(SECRET, rounds=50)


def test_golden_vector() -> None:
    rounds = VECTOR["rounds"]
    assert seed_anchor(SECRET, rounds=rounds).hex() == VECTOR["anchor"]
    revealed = [revealed_seed(SECRET, rounds=rounds, round_number=r).hex() for r in range(rounds)]
    assert revealed == VECTOR["revealed"]


def test_every_round_verifies_and_no_other_does() -> None:
    seeds = [revealed_seed(SECRET, rounds=50, round_number=number) for number in range(50)]
    assert len(set(seeds)) == 50
    for number, seed in enumerate(seeds):
        check_revealed_seed(seed, anchor=ANCHOR, round_number=number)
        for wrong in (number - 1, number + 1):
            with pytest.raises(HashMismatch):
                check_revealed_seed(seed, anchor=ANCHOR, round_number=wrong)


def test_the_chain_runs_backwards() -> None:
    """What is revealed hashes to what was known; the next link is its preimage, not its image."""
    known = ANCHOR
    for number in range(50):
        seed = revealed_seed(SECRET, rounds=50, round_number=number)
        assert hashlib.sha256(b"ares/seed-chain/v1" + seed).digest() == known
        forward = hashlib.sha256(b"ares/seed-chain/v1" + known).digest()
        assert seed not in (known, forward)
        known = seed


@pytest.mark.parametrize("bad", [b"", bytes(32), SECRET, ANCHOR, b"secret" + SECRET], ids=range(5))
def test_other_bytes_are_refused(bad: bytes) -> None:
    for number in (0, 1, 49):
        with pytest.raises(HashMismatch):
            check_revealed_seed(bad, anchor=ANCHOR, round_number=number)


def test_one_flipped_bit_is_refused() -> None:
    seed = bytearray(revealed_seed(SECRET, rounds=50, round_number=7))
    seed[31] ^= 1
    with pytest.raises(HashMismatch):
        check_revealed_seed(bytes(seed), anchor=ANCHOR, round_number=7)


def test_secret_and_length_decide_the_anchor() -> None:
    assert seed_anchor(SECRET, rounds=49) != ANCHOR
    assert seed_anchor(sha256(SECRET), rounds=50) != ANCHOR


@pytest.mark.parametrize("number", [-1, 50, 51])
def test_rounds_outside_the_chain_have_no_seed(number: int) -> None:
    with pytest.raises(ValueError, match="chain"):
        revealed_seed(SECRET, rounds=50, round_number=number)
