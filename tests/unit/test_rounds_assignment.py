"""Who trains on what: known streams, permutations of every size, nobody like another."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ares_p2p.ids import PeerId
from ares_p2p.rounds.assignment import assigned_examples, first_example
from payloads import identity

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "rounds.json").read_text(encoding="utf-8")
)["assignment"]
KEY = bytes.fromhex(VECTOR["key"])
PEERS = [identity(number).peer_id for number in range(200)]


def stream(
    count: int,
    *,
    examples: int,
    key: bytes = KEY,
    round_number: int = 0,
    peer: PeerId = PEERS[0],
) -> list[int]:
    """Return the first `count` indices."""
    found = assigned_examples(key, round_number=round_number, peer=peer, examples=examples)
    return list(itertools.islice(found, count))


@pytest.mark.parametrize(
    "vector", VECTOR["streams"], ids=lambda vector: f"{vector['examples']}-{vector['round']}"
)
def test_golden_vectors(vector: dict[str, Any]) -> None:
    peer, first = PeerId(VECTOR["peer"]), vector["first"]
    found = stream(len(first), examples=vector["examples"], round_number=vector["round"], peer=peer)
    assert found == first


@given(
    examples=st.integers(1, 300),
    round_number=st.integers(0, 2**32),
    key=st.binary(min_size=1, max_size=64),
)
@example(examples=1, round_number=0, key=KEY)
@example(examples=2, round_number=0, key=KEY)
@example(examples=3, round_number=0, key=KEY)
@example(examples=4, round_number=0, key=KEY)
@example(examples=5, round_number=0, key=KEY)
@example(examples=255, round_number=0, key=KEY)
@example(examples=256, round_number=0, key=KEY)
@example(examples=257, round_number=0, key=KEY)
def test_every_epoch_holds_each_index_once(examples: int, round_number: int, key: bytes) -> None:
    found = stream(3 * examples, examples=examples, key=key, round_number=round_number)
    for start in range(0, len(found), examples):
        epoch = found[start : start + examples]
        assert sorted(epoch) == list(range(examples))


@pytest.mark.parametrize("examples", [1, 2, 3, 1000, 10**6, 2**32 + 1, 2**48])
def test_large_sets_cost_nothing_and_stay_in_range(examples: int) -> None:
    found = stream(50, examples=examples)
    assert all(0 <= index < examples for index in found)
    assert len(set(found)) == min(50, examples)


def test_epochs_rounds_peers_and_keys_have_their_own_order() -> None:
    first = stream(100, examples=100)
    others = [
        stream(200, examples=100)[100:],
        stream(100, examples=100, round_number=1),
        stream(100, examples=100, peer=PEERS[1]),
        stream(100, examples=100, key=KEY[::-1]),
    ]
    orders = [first, *others]
    for one, other in itertools.combinations(orders, 2):
        assert sum(a == b for a, b in zip(one, other, strict=True)) < 15  # by chance about 1


def test_digits_of_round_and_epoch_cannot_be_mixed_up() -> None:
    """Round 1 epoch 10 and round 11 epoch 0 are different orders, however they are written."""
    late = stream(11 * 64, examples=64, round_number=1)[10 * 64 :]
    assert late != stream(64, examples=64, round_number=11)
    assert late != stream(64, examples=64, round_number=110)


@pytest.mark.parametrize("examples", [5, 37, 256])
def test_first_examples_of_many_peers_are_spread_evenly(examples: int) -> None:
    drawn = [
        first_example(KEY, round_number=number, peer=peer, examples=examples)
        for number in range(40)
        for peer in PEERS
    ]
    counts = np.bincount(drawn, minlength=examples)
    expected = len(drawn) / examples
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    degrees = examples - 1
    assert abs(chi_square - degrees) < 4 * (2 * degrees) ** 0.5  # four standard deviations


def test_every_place_of_a_small_order_is_spread_evenly() -> None:
    """A Feistel network with few bits is where a bias would show: all 24 orders of 4 appear."""
    orders = [
        tuple(stream(4, examples=4, round_number=number, peer=peer))
        for number in range(20)
        for peer in PEERS
    ]
    counts = np.unique([hash(order) for order in orders], return_counts=True)[1]
    assert len(counts) == 24
    assert counts.min() > 0.7 * len(orders) / 24
    assert counts.max() < 1.3 * len(orders) / 24


def test_first_example_is_the_first_of_the_stream() -> None:
    for examples in (1, 2, 3, 777):
        first = first_example(KEY, round_number=4, peer=PEERS[3], examples=examples)
        assert first == stream(1, examples=examples, round_number=4, peer=PEERS[3])[0]


@pytest.mark.parametrize("examples", [0, -1])
def test_an_empty_set_has_no_assignment(examples: int) -> None:
    with pytest.raises(ValueError, match="empty"):
        stream(1, examples=examples)
