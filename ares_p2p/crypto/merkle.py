"""Merkle trees of RFC 9162 (Certificate Transparency 2.0): roots and inclusion proofs.

Leaves and nodes hash under different prefixes, so a node can never pass as a leaf.

Source: RFC 9162, sections 2.1.1 to 2.1.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from ares_p2p.errors import HashMismatch
from ares_p2p.ids import Digest, sha256


def leaf_hash(entry: bytes) -> Digest:
    """Return HASH(0x00 || entry)."""
    return sha256(b"\x00", entry)


def node_hash(left: Digest, right: Digest) -> Digest:
    """Return HASH(0x01 || left || right)."""
    return sha256(b"\x01", left, right)


def _split(count: int) -> int:
    """Return the largest power of two smaller than `count` (>= 2)."""
    return 1 << ((count - 1).bit_length() - 1)


def tree_root(entries: Sequence[bytes]) -> Digest:
    """Return the tree's head; the empty tree's is the hash of nothing."""
    if not entries:
        return sha256(b"")
    level = [leaf_hash(entry) for entry in entries]
    while len(level) > 1:  # pairing from the left and carrying an odd one up is the RFC's tree
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def inclusion_proof(entries: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """Return the audit path of `entries[index]`, leaf upwards."""
    if not 0 <= index < len(entries):
        raise IndexError(f"leaf {index} of {len(entries)}")
    if len(entries) == 1:
        return ()
    split = _split(len(entries))
    if index < split:
        return (*inclusion_proof(entries[:split], index), tree_root(entries[split:]))
    return (*inclusion_proof(entries[split:], index - split), tree_root(entries[:split]))


def check_inclusion(
    entry: bytes, *, index: int, count: int, proof: Sequence[Digest], root: Digest
) -> None:
    """Verify that `entry` is leaf `index` of the tree of `count` leaves with head `root`.

    Raises: HashMismatch: it is not, or the proof has another length.
    Source: RFC 9162, section 2.1.3.2.
    """
    first, last, current = index, count - 1, leaf_hash(entry)
    fits = 0 <= index < count
    for sibling in proof:
        fits = fits and last > 0
        if first & 1 or first == last:
            current = node_hash(sibling, current)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        first, last = first >> 1, last >> 1
    if not fits or last != 0 or current != root:
        raise HashMismatch(f"entry {index} of {count} is not under root {root.hex()[:12]}")
