"""Merkle trees: the reference tree of Certificate Transparency, all proofs, no tampered one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.crypto.merkle import (
    check_inclusion,
    inclusion_proof,
    leaf_hash,
    node_hash,
    tree_root,
)
from ares_p2p.errors import HashMismatch
from ares_p2p.ids import sha256

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "crypto.json").read_text(encoding="utf-8")
)["merkle"]
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]


@pytest.mark.parametrize("count", range(9))
def test_roots_of_the_reference_tree(count: int) -> None:
    assert tree_root(LEAVES[:count]).hex() == VECTORS["roots"][count]


@pytest.mark.parametrize("vector", VECTORS["inclusion"], ids=lambda v: f"{v['index']}-{v['count']}")
def test_proofs_of_the_reference_tree(vector: dict[str, Any]) -> None:
    index, count = vector["index"], vector["count"]
    proof = tuple(bytes.fromhex(node) for node in vector["proof"])
    assert inclusion_proof(LEAVES[:count], index) == proof
    root = bytes.fromhex(VECTORS["roots"][count])
    check_inclusion(LEAVES[index], index=index, count=count, proof=proof, root=root)


def _recursive_root(entries: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word by word: the definition that the fast way must equal."""
    if not entries:
        return sha256(b"")
    if len(entries) == 1:
        return leaf_hash(entries[0])
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return node_hash(_recursive_root(entries[:split]), _recursive_root(entries[split:]))


@pytest.mark.parametrize("count", range(1, 41))
def test_every_proof_fits_its_place_only(count: int) -> None:
    entries = [b"entry %d" % i for i in range(count)]
    root = tree_root(entries)
    assert root == _recursive_root(entries)
    for index in range(count):
        proof = inclusion_proof(entries, index)
        check_inclusion(entries[index], index=index, count=count, proof=proof, root=root)
        for other in range(-1, count + 2):
            if other != index:
                with pytest.raises(HashMismatch):
                    check_inclusion(
                        entries[index], index=other, count=count, proof=proof, root=root
                    )


@pytest.mark.parametrize("count", range(1, 41))
def test_tampered_proofs_are_refused(count: int) -> None:
    entries = [b"entry %d" % i for i in range(count)]
    root = tree_root(entries)
    for index in range(count):
        proof = inclusion_proof(entries, index)
        tampered = [
            (b"another", proof, root),
            (entries[index], proof, sha256(b"another root")),
            (entries[index], (*proof, bytes(32)), root),
            (entries[index], (*proof, *proof), root) if proof else (b"", proof, root),
            *((entries[index], proof[:i] + proof[i + 1 :], root) for i in range(len(proof))),
            *(
                (entries[index], (*proof[:i], sha256(proof[i]), *proof[i + 1 :]), root)
                for i in range(len(proof))
            ),
        ]
        for entry, nodes, head in tampered:
            with pytest.raises(HashMismatch):
                check_inclusion(entry, index=index, count=count, proof=nodes, root=head)


def test_inner_node_cannot_pass_as_leaf() -> None:
    root = tree_root(LEAVES[:4])
    left = leaf_hash(LEAVES[0]) + leaf_hash(LEAVES[1])
    right = node_hash(leaf_hash(LEAVES[2]), leaf_hash(LEAVES[3]))
    with pytest.raises(HashMismatch):
        check_inclusion(left, index=0, count=2, proof=(right,), root=root)


def test_nothing_is_in_the_empty_tree() -> None:
    with pytest.raises(HashMismatch):
        check_inclusion(b"", index=0, count=0, proof=(), root=tree_root([]))


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=70), st.data())
def test_random_trees(entries: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(entries) - 1))
    proof, root = inclusion_proof(entries, index), tree_root(entries)
    assert root == _recursive_root(entries)
    check_inclusion(entries[index], index=index, count=len(entries), proof=proof, root=root)


@pytest.mark.parametrize("index", [-1, 3])
def test_proof_of_no_leaf(index: int) -> None:
    with pytest.raises(IndexError):
        inclusion_proof(LEAVES[:3], index)


def test_proof_of_a_larger_tree_is_refused() -> None:
    # the path goes on above where a tree of `count` leaves ends
    proof = (leaf_hash(LEAVES[0]),)
    with pytest.raises(HashMismatch):
        check_inclusion(LEAVES[1], index=0, count=1, proof=proof, root=tree_root(LEAVES[:2]))
