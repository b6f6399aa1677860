"""Merkle trees of RFC 9162 (Certificate Transparency 2.0): roots, inclusion and consistency.

Leaves and nodes hash under different prefixes, so a node can never pass as a leaf.

A log that only grows keeps the root of every complete subtree: (level k, position p) covers the
leaves [p * 2^k, (p + 1) * 2^k) and never changes again. Whoever can read those nodes (a
`NodeReader`: a table, a list in memory, a page of the log) makes any root and any proof with
O(log n) reads. The *frontier* of a size are the roots of the largest complete subtrees that cover
its leaves, one for each binary digit that is 1, largest first: all that is needed to go on.

Source: RFC 9162, sections 2.1.1 to 2.1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ares_p2p.errors import HashMismatch
from ares_p2p.ids import Digest, sha256

NodeReader = Callable[[int, int], Digest]  # (level, position) -> root of that complete subtree
MAX_LEVELS = 64  # of a tree; more leaves than anybody can write down


def leaf_hash(entry: bytes) -> Digest:
    """Return HASH(0x00 || entry)."""
    return sha256(b"\x00", entry)


def node_hash(left: Digest, right: Digest) -> Digest:
    """Return HASH(0x01 || left || right)."""
    return sha256(b"\x01", left, right)


def _split(count: int) -> int:
    """Return the largest power of two smaller than `count` (>= 2)."""
    return 1 << ((count - 1).bit_length() - 1)


# --- trees in memory ---------------------------------------------------------------------------


def tree_root(entries: Sequence[bytes]) -> Digest:
    """Return the tree's head; the empty tree's is the hash of nothing."""
    return root_of_hashes([leaf_hash(entry) for entry in entries])


def root_of_hashes(leaf_hashes: Sequence[Digest]) -> Digest:
    """Return the head of the tree over leaves whose hashes are known."""
    if not leaf_hashes:
        return sha256(b"")
    level = list(leaf_hashes)
    while len(level) > 1:  # pairing from the left and carrying an odd one up is the RFC's tree
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def reader_of(entries: Sequence[bytes]) -> NodeReader:
    """Return a reader of the complete subtrees over `entries`; costs one pass over them."""
    levels = [[leaf_hash(entry) for entry in entries]]
    while len(below := levels[-1]) > 1:
        levels.append([node_hash(*below[i : i + 2]) for i in range(0, len(below) - 1, 2)])

    def read(level: int, position: int) -> Digest:
        return levels[level][position]

    return read


def inclusion_proof(entries: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """Return the audit path of `entries[index]`, leaf upwards.

    Raises: IndexError: there is no such entry.
    """
    return inclusion_path(index, count=len(entries), read=reader_of(entries))


def consistency_proof(entries: Sequence[bytes], first: int) -> tuple[Digest, ...]:
    """Return the proof that the tree of the first `first` entries is the start of this one.

    Raises: IndexError: more entries than there are.
    """
    return consistency_path(first, second=len(entries), read=reader_of(entries))


# --- the same from complete subtrees -----------------------------------------------------------


def range_root(begin: int, end: int, read: NodeReader) -> Digest:
    """Return MTH(D[begin:end]) for a range that the RFC's splitting leads to, not an empty one."""
    count = end - begin
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return read(level, begin >> level)
    middle = begin + _split(count)
    return node_hash(range_root(begin, middle, read), range_root(middle, end, read))


def root_at(size: int, read: NodeReader) -> Digest:
    """Return the head of the log's first `size` leaves."""
    return range_root(0, size, read) if size else sha256(b"")


def inclusion_path(index: int, *, count: int, read: NodeReader) -> tuple[Digest, ...]:
    """Return the audit path of leaf `index` in the tree of `count` leaves, leaf upwards.

    Raises: IndexError: the tree has no such leaf.
    Source: RFC 9162, section 2.1.3.1.
    """
    if not 0 <= index < count:
        raise IndexError(f"leaf {index} of {count}")
    path: list[Digest] = []
    begin, end = 0, count
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(range_root(middle, end, read))
            end = middle
        else:
            path.append(range_root(begin, middle, read))
            begin = middle
    return tuple(reversed(path))


def consistency_path(first: int, *, second: int, read: NodeReader) -> tuple[Digest, ...]:
    """Return the proof that the tree of `first` leaves is the start of that of `second`.

    Empty for an empty first tree and for equal sizes: then there is nothing to prove.

    Raises: IndexError: the first tree is larger, or a size is negative.
    Source: RFC 9162, section 2.1.4.1.
    """
    if not 0 <= first <= second:
        raise IndexError(f"a tree of {first} leaves is no start of one of {second}")
    if first in (0, second):
        return ()
    path: list[Digest] = []
    begin, end, is_whole = 0, second, True  # the range is a complete subtree of the first tree
    while first < end:
        middle = begin + _split(end - begin)
        if first <= middle:
            path.append(range_root(middle, end, read))
            end = middle
        else:
            path.append(range_root(begin, middle, read))
            begin, is_whole = middle, False
    if not is_whole:
        path.append(range_root(begin, end, read))
    return tuple(reversed(path))


# --- the frontier: how a log goes on -----------------------------------------------------------


def frontier_places(size: int) -> tuple[tuple[int, int], ...]:
    """Return (level, position) of the subtrees in the frontier of a size, largest first."""
    levels = (level for level in reversed(range(size.bit_length())) if size >> level & 1)
    return tuple((level, (size >> level) - 1) for level in levels)


def frontier_at(size: int, read: NodeReader) -> tuple[Digest, ...]:
    """Return the frontier of the log's first `size` leaves, largest subtree first."""
    return tuple(read(level, position) for level, position in frontier_places(size))


def fold_frontier(frontier: Sequence[Digest]) -> Digest:
    """Return the head of the tree whose frontier this is."""
    if not frontier:
        return sha256(b"")
    root = frontier[-1]
    for node in reversed(frontier[:-1]):
        root = node_hash(node, root)
    return root


def nodes_of_next(
    size: int, new_leaf_hash: Digest, read: NodeReader
) -> tuple[tuple[int, int, Digest], ...]:
    """Return (level, position, root) of every subtree that leaf `size` completes, leaf first.

    Args:
        size: how many leaves the log has: the new one's index.
        read: the log's nodes as they are before the new leaf.
    """
    nodes = [(0, size, new_leaf_hash)]
    while nodes[-1][1] & 1:
        level, position, digest = nodes[-1]
        nodes.append((level + 1, position >> 1, node_hash(read(level, position - 1), digest)))
    return tuple(nodes)


def extend_frontier(
    frontier: Sequence[Digest], size: int, leaf_hashes: Sequence[Digest]
) -> tuple[Digest, ...]:
    """Return the frontier of the log after these further leaves.

    Args:
        frontier: of the log's first `size` leaves.
    Raises: HashMismatch: as many nodes are no frontier of that size.
    """
    if len(frontier) != size.bit_count():
        raise HashMismatch(f"{len(frontier)} nodes are no frontier of {size} leaves")
    nodes = list(frontier)
    for index, digest in enumerate(leaf_hashes, start=size):
        current, place = digest, index
        while place & 1:
            current, place = node_hash(nodes.pop(), current), place >> 1
        nodes.append(current)
    return tuple(nodes)


# --- verification ------------------------------------------------------------------------------


def check_inclusion(
    entry: bytes, *, index: int, count: int, proof: Sequence[Digest], root: Digest
) -> None:
    """Verify that `entry` is leaf `index` of the tree of `count` leaves with head `root`.

    Raises: HashMismatch: it is not, or the proof has another length.
    Source: RFC 9162, section 2.1.3.2.
    """
    first, last, current = index, count - 1, leaf_hash(entry)
    fits = 0 <= index < count and len(proof) <= MAX_LEVELS
    for sibling in proof[:MAX_LEVELS]:
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


def check_consistency(
    *,
    first: int,
    second: int,
    first_root: Digest,
    second_root: Digest,
    proof: Sequence[Digest],
) -> None:
    """Verify that the log of `first` leaves is the start of the one of `second`.

    The RFC asks for 0 < first < second. An empty log is the start of every log, and a log is the
    start of itself: the proof is empty then, and the roots say the rest.

    Raises: HashMismatch: it is not, or the proof has another length.
    Source: RFC 9162, section 2.1.4.2.
    """
    if not _is_consistent(first, second, first_root, second_root, proof):
        raise HashMismatch(
            f"the log of {second} entries with root {second_root.hex()[:12]} does not go on from "
            f"the one of {first} with root {first_root.hex()[:12]}"
        )


def _is_consistent(
    first: int, second: int, first_root: Digest, second_root: Digest, proof: Sequence[Digest]
) -> bool:
    if not 0 <= first <= second or len(proof) > MAX_LEVELS + 1:
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == sha256(b"")
    path = list(proof)
    if first & (first - 1) == 0:  # the first tree is a subtree of the second one: its root is known
        path.insert(0, first_root)
    if not path:
        return False
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, node)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root
