"""The growing log: consistency proofs, frontiers, proofs from stored nodes, hostile proofs.

The oracle is the RFC's recursive definition, written down word by word and independently of the
package: sets of leaves, no stored nodes, no frontier.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ares_p2p.crypto.merkle import (
    check_consistency,
    check_inclusion,
    consistency_path,
    consistency_proof,
    extend_frontier,
    fold_frontier,
    frontier_at,
    frontier_places,
    inclusion_path,
    leaf_hash,
    nodes_of_next,
    reader_of,
    root_at,
    tree_root,
)
from ares_p2p.errors import HashMismatch

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "merkle.json").read_text(encoding="utf-8")
)
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
MOST = 70
ENTRIES = [b"entry %d" % number for number in range(MOST)]


# --- the oracle: RFC 9162, sections 2.1.1, 2.1.3.1 and 2.1.4.1 ---------------------------------


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _k(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


_known: dict[tuple[bytes, ...], bytes] = {}


def mth(d: Sequence[bytes]) -> bytes:
    key = tuple(d)
    if key not in _known:
        n = len(d)
        if n == 0:
            value = _hash()
        elif n == 1:
            value = _hash(b"\0", d[0])
        else:
            value = _hash(b"\1", mth(d[: _k(n)]), mth(d[_k(n) :]))
        _known[key] = value
    return _known[key]


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    n = len(d)
    if n == 1:
        return []
    k = _k(n)
    if m < k:
        return [*path(m, d[:k]), mth(d[k:])]
    return [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: Sequence[bytes], *, b: bool) -> list[bytes]:
    n = len(d)
    if m == n:
        return [] if b else [mth(d)]
    k = _k(n)
    if m <= k:
        return [*subproof(m, d[:k], b=b), mth(d[k:])]
    return [*subproof(m - k, d[k:], b=False), mth(d[:k])]


# --- what is proven ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(9))
def test_oracle_and_package_give_the_reference_roots(count: int) -> None:
    assert mth(LEAVES[:count]) == tree_root(LEAVES[:count]) == ROOTS[count]


@pytest.mark.parametrize(
    "vector", VECTORS["consistency"], ids=lambda v: f"{v['first']}-{v['second']}"
)
def test_reference_consistency_proofs(vector: dict[str, Any]) -> None:
    first, second = vector["first"], vector["second"]
    proof = tuple(bytes.fromhex(node) for node in vector["proof"])
    assert consistency_proof(LEAVES[:second], first) == proof
    check_consistency(
        first=first, second=second, first_root=ROOTS[first], second_root=ROOTS[second], proof=proof
    )


def test_all_consistency_proofs_are_the_rfcs_and_hold() -> None:
    read = reader_of(ENTRIES)
    for second in range(1, MOST + 1):
        for first in range(second + 1):
            proof = consistency_path(first, second=second, read=read)
            wanted = subproof(first, ENTRIES[:second], b=True) if first else []
            assert list(proof) == wanted, (first, second)
            check_consistency(
                first=first,
                second=second,
                first_root=mth(ENTRIES[:first]),
                second_root=mth(ENTRIES[:second]),
                proof=proof,
            )


def test_all_inclusion_proofs_from_stored_nodes_are_the_rfcs_and_hold() -> None:
    read = reader_of(ENTRIES)
    for count in range(1, MOST + 1):
        root = mth(ENTRIES[:count])
        assert root_at(count, read) == root
        for index in range(count):
            proof = inclusion_path(index, count=count, read=read)
            assert list(proof) == path(index, ENTRIES[:count]), (index, count)
            check_inclusion(ENTRIES[index], index=index, count=count, proof=proof, root=root)


def test_proof_reads_few_nodes_of_a_large_log() -> None:
    size, reads = 1_000_003, []

    def read(level: int, position: int) -> bytes:
        reads.append((level, position))
        return bytes([level]) + position.to_bytes(31, "big")

    inclusion_path(777_777, count=size, read=read)
    consistency_path(654_321, second=size, read=read)
    assert len(reads) < 100
    assert all((position + 1) << level <= size for level, position in reads)


@pytest.mark.parametrize(("first", "second"), [(-1, 3), (4, 3), (1, 0)])
def test_no_consistency_proof_of_what_is_no_start(first: int, second: int) -> None:
    with pytest.raises(IndexError):
        consistency_path(first, second=second, read=reader_of(ENTRIES))


@pytest.mark.parametrize(("index", "count"), [(-1, 3), (3, 3), (0, 0)])
def test_no_inclusion_proof_of_what_is_no_leaf(index: int, count: int) -> None:
    with pytest.raises(IndexError):
        inclusion_path(index, count=count, read=reader_of(ENTRIES))


# --- the frontier ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(MOST))
def test_frontier_folds_to_the_root_and_goes_on(size: int) -> None:
    read = reader_of(ENTRIES)
    frontier = frontier_at(size, read)
    assert len(frontier) == size.bit_count()
    assert fold_frontier(frontier) == mth(ENTRIES[:size])
    for more in {0, 1, min(2, MOST - size), MOST - size}:
        hashes = [leaf_hash(entry) for entry in ENTRIES[size : size + more]]
        grown = extend_frontier(frontier, size, hashes)
        assert grown == frontier_at(size + more, read)
        assert fold_frontier(grown) == mth(ENTRIES[: size + more])


def test_frontier_of_eleven_is_eight_and_two_and_one() -> None:
    assert frontier_places(11) == ((3, 0), (1, 4), (0, 10))
    assert frontier_places(0) == ()


def test_leaf_by_leaf_every_complete_subtree_is_stored_once() -> None:
    nodes: dict[tuple[int, int], bytes] = {}

    def read(level: int, position: int) -> bytes:
        return nodes[level, position]

    for size, entry in enumerate(ENTRIES):
        for level, position, digest in nodes_of_next(size, leaf_hash(entry), read):
            assert (level, position) not in nodes
            nodes[level, position] = digest
        assert root_at(size + 1, read) == mth(ENTRIES[: size + 1])
    wanted = {
        (level, position) for level in range(MOST.bit_length()) for position in range(MOST >> level)
    }
    assert nodes.keys() == wanted
    for level, position in wanted:
        covered = ENTRIES[position << level : (position + 1) << level]
        assert nodes[level, position] == mth(covered)


@pytest.mark.parametrize(("size", "nodes"), [(0, 1), (1, 0), (5, 3), (8, 3)])
def test_nodes_that_are_no_frontier_are_refused(size: int, nodes: int) -> None:
    with pytest.raises(HashMismatch):
        extend_frontier([bytes(32)] * nodes, size, [])


# --- hostile proofs ----------------------------------------------------------------------------


def refuses(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    with pytest.raises(HashMismatch):
        check_consistency(
            first=first,
            second=second,
            first_root=first_root,
            second_root=second_root,
            proof=proof,
        )


@pytest.mark.parametrize("second", [1, 2, 3, 7, 8, 13, 32, 33])
def test_no_changed_consistency_proof_holds(second: int) -> None:
    read, other = reader_of(ENTRIES), _hash(b"another root")
    for first in range(1, second + 1):
        roots = mth(ENTRIES[:first]), mth(ENTRIES[:second])
        proof = consistency_path(first, second=second, read=read)
        refuses(first, second, other, roots[1], proof)
        refuses(first, second, roots[0], other, proof)
        refuses(first, second, *roots, (*proof, bytes(32)))
        refuses(first, second, *roots, (bytes(32), *proof))
        for place in range(len(proof)):
            refuses(first, second, *roots, proof[:place] + proof[place + 1 :])
            refuses(first, second, *roots, (*proof[:place], other, *proof[place + 1 :]))
        for size in range(second + 3):
            if size not in (first, 0):
                refuses(size, second, *roots, proof)


def test_log_that_was_rewritten_has_no_proof_at_all() -> None:
    rewritten = [*ENTRIES[:20]]
    rewritten[3] = b"another entry"
    for first in range(4, 20):
        proof = consistency_path(first, second=20, read=reader_of(rewritten))
        refuses(first, 20, mth(ENTRIES[:first]), mth(rewritten), proof)


@pytest.mark.parametrize(
    ("first", "second", "proof"),
    [
        (4, 3, ()),  # first above second
        (4, 3, (bytes(32),)),
        (-1, 3, ()),
        (3, 7, ()),  # nothing proven
        (4, 8, ()),
        (0, 5, (bytes(32),)),  # an empty log needs no proof
        (5, 5, (bytes(32),)),
        (1, 2**60, (bytes(32),) * 100_000),  # as long as you like
    ],
)
def test_impossible_claims_are_refused(first: int, second: int, proof: tuple[bytes, ...]) -> None:
    roots = [mth(ENTRIES[: max(0, min(size, MOST))]) for size in (first, second)]
    refuses(first, second, *roots, proof)


def test_empty_log_is_the_start_of_every_log_and_has_one_root() -> None:
    for second in range(5):
        check_consistency(
            first=0, second=second, first_root=mth([]), second_root=mth(ENTRIES[:second]), proof=()
        )
        if second:
            refuses(0, second, bytes(32), mth(ENTRIES[:second]), ())
    refuses(0, 0, mth([]), mth(ENTRIES[:1]), ())


@settings(max_examples=200)
@given(st.data())
def test_proof_of_other_sizes_never_holds(data: st.DataObject) -> None:
    """Any claim (first, second, proof) that is not the true one is refused."""
    sizes = st.integers(1, MOST)
    first, second, other = data.draw(sizes), data.draw(sizes), data.draw(sizes)
    first, second = min(first, second), max(first, second)
    nodes = st.lists(st.sampled_from([mth(ENTRIES[:n]) for n in range(1, 9)]), max_size=8)
    proof = tuple(data.draw(nodes))
    true = consistency_path(first, second=second, read=reader_of(ENTRIES))
    if proof != true:
        refuses(first, second, mth(ENTRIES[:first]), mth(ENTRIES[:second]), proof)
    if other != second and first != second:
        refuses(first, second, mth(ENTRIES[:first]), mth(ENTRIES[:other]), true)


def test_endless_inclusion_proof_is_refused_without_reading_it() -> None:
    with pytest.raises(HashMismatch):
        check_inclusion(
            b"x", index=0, count=2**60, proof=[bytes(32)] * 1_000_000, root=mth(ENTRIES[:1])
        )
