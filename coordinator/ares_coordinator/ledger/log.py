"""The Merkle log against the postings: leaves, nodes, signed heads, pages.

A leaf or a node that is not what is stored is laid to the row that the node above contradicts.
What somebody computed anew all the way up is found by the signed heads: by their roots, and by the
pages whose blob ids the heads' rows and the signed settlements name.

Pure; reads a `LogReader`. Source: RFC 9162, section 2.1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from ares_coordinator.ledger.findings import Finding, by_id, by_node, by_size, unreadable
from ares_coordinator.store.credit_rows import HeadRow, Unreadable
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.merkle import fold_frontier, frontier_places, leaf_hash, node_hash
from ares_p2p.domain import LedgerHead, Posting
from ares_p2p.errors import PeerFault
from ares_p2p.ids import Digest, PeerId, blob_id_of
from ares_p2p.proofs.ledger import MAX_LEAVES, LedgerPage, encode_page, leaf_of
from ares_p2p.wire.codec import decode_envelope, open_envelope

BATCH = 2048  # leaves whose nodes are read together
Progress = Callable[[int], None]  # told how many more rows are done


class LogReader(Protocol):
    """One moment of the log's tables."""

    def all_postings(self) -> Iterator[Posting | Unreadable]:
        """Yield all postings in the order of their ids."""
        ...

    def all_heads(self) -> Iterator[HeadRow | Unreadable]:
        """Yield the signed heads, the smallest log first."""
        ...

    def nodes(self, level: int, begin: int, end: int) -> Mapping[int, Digest]:
        """Return the stored nodes of a level at positions `begin` to `end - 1`."""
        ...

    def nodes_beyond(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield (level, position) of nodes that a log of `size` leaves cannot have."""
        ...


def verify_log(
    reader: LogReader, *, coordinator: PeerId, network_id: str, progress: Progress
) -> Iterator[Finding]:
    """Yield what is wrong with postings, log_nodes and log_heads, as one tree.

    Args:
        coordinator: whose signature the heads must bear.
        progress: told of every batch of postings.
    """
    heads = _Heads(reader.all_heads(), coordinator, network_id)
    tree = _Tree(reader)
    yield from heads.start()
    postings = reader.all_postings()
    while batch := list(islice(postings, BATCH)):
        tree.read_nodes(len(batch))
        for posting in batch:
            yield from tree.add(posting)
            yield from heads.check_at(tree)
        progress(len(batch))
    yield from _beyond(reader, tree.size)
    yield from heads.finish(tree)


def _beyond(reader: LogReader, size: int) -> Iterator[Finding]:
    nodes = list(reader.nodes_beyond(size))
    leaves = [position for level, position in nodes if level == 0]
    for position in leaves:
        yield by_id(
            position + 1, f"is missing: log_nodes has its leaf, level 0 position {position}"
        )
    if not leaves:  # with leaves, the nodes above them follow
        for level, position in nodes:
            yield by_node(level, position, f"is beyond a log of {size} postings")


# --- the tree ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tree:
    """The log as the postings make it, beside the nodes that are stored.

    Attributes:
        size: leaves so far.
        frontier: of the tree that is right: where postings and nodes differ, what fits above.
        recent: the newest leaves, as a page needs them; None for one that cannot be written.
    """

    reader: LogReader
    size: int = 0
    frontier: list[Digest] = field(default_factory=list)
    recent: deque[bytes | None] = field(default_factory=lambda: deque(maxlen=MAX_LEAVES))
    _stored: dict[tuple[int, int], Digest] = field(default_factory=dict)

    def read_nodes(self, count: int) -> None:
        """Read the nodes that the next `count` leaves complete."""
        self._stored.clear()
        end = self.size + count
        for level in range(end.bit_length()):
            first, last = self.size >> level, end >> level
            if first < last:
                nodes = self.reader.nodes(level, first, last)
                self._stored |= {(level, at): digest for at, digest in nodes.items()}

    def stored(self, level: int, position: int) -> Digest | None:
        """Return a stored node, of this batch or of any other."""
        found = self._stored.get((level, position))
        if found is None:
            found = self.reader.nodes(level, position, position + 1).get(position)
        return found

    def add(self, posting: Posting | Unreadable) -> Iterator[Finding]:
        """Add the next leaf and all nodes that it completes."""
        number = posting.key[0] if isinstance(posting, Unreadable) else posting.id
        assert isinstance(number, int), "the primary key"
        while self.size + 1 < number and (digest := self.stored(0, self.size)) is not None:
            yield by_id(self.size + 1, "is missing")
            yield from self._go_on(None, digest)
        if self.size + 1 != number:
            yield by_id(number, f"is beyond the log, which ends with id {self.size}")
            return
        leaf, problem = _leaf(posting)
        computed = None if leaf is None else leaf_hash(leaf)
        digest, found = self._judge_leaf(computed)
        yield from found if problem is None else (problem,)
        yield from self._go_on(leaf if digest == computed else None, digest)

    def _judge_leaf(self, computed: Digest | None) -> tuple[Digest, list[Finding]]:
        """Return the next leaf's hash as the log goes on with it, and what is wrong with it."""
        index, number, stored = self.size, self.size + 1, self.stored(0, self.size)
        if computed is None or computed == stored:
            return stored or bytes(32), []
        node = f"log_nodes level 0 position {index}"
        is_missing = "is missing" if stored is None else "was changed"
        blames_node = by_node(0, index, f"{is_missing}: it is the leaf of posting {number}")
        if stored is None:
            blames_posting = by_id(number, f"has no leaf in the log: there is no {node}")
        else:
            text = f"was changed: it does not hash to its leaf in the log, {node}"
            blames_posting = by_id(number, text)
        if self._fits_above(0, index, computed):
            return computed, [blames_node]
        if self.stored(1, index >> 1) is None:  # nothing above says which of the two it was
            return stored or computed, [blames_posting, blames_node]
        return stored or computed, [blames_posting]

    def _go_on(self, leaf: bytes | None, digest: Digest) -> Iterator[Finding]:
        index = self.size
        self.recent.append(leaf)
        self.size += 1
        yield from self._climb(index, digest)

    def _climb(self, index: int, current: Digest) -> Iterator[Finding]:
        level, position = 0, index
        while position & 1:
            computed = node_hash(self.frontier.pop(), current)
            level, position = level + 1, position >> 1
            stored, current = self.stored(level, position), computed
            if stored is None:
                yield by_node(level, position, "is missing")
            elif stored != computed and self._fits_above(level, position, stored):
                first, last = (position << level) + 1, (position + 1) << level
                yield Finding(
                    "postings",
                    f"id {first} to {last}",
                    f"one was changed together with its leaf: log_nodes level {level} position "
                    f"{position} and all above know another content",
                )
                current = stored
            elif stored != computed:
                yield by_node(level, position, "is not the hash of the two nodes below it")
        self.frontier.append(current)

    def _fits_above(self, level: int, position: int, digest: Digest) -> bool:
        """Return whether the stored parent of a node was made from `digest`."""
        parent = self.stored(level + 1, position >> 1)
        sibling = self.stored(level, position ^ 1)
        if parent is None or sibling is None:
            return False
        pair = (sibling, digest) if position & 1 else (digest, sibling)
        return node_hash(*pair) == parent


def _leaf(posting: Posting | Unreadable) -> tuple[bytes | None, Finding | None]:
    if isinstance(posting, Unreadable):
        return None, unreadable(posting)
    try:
        return leaf_of(posting), None
    except PeerFault as fault:
        return None, by_id(posting.id, f"was changed: {fault.message}")


# --- the heads ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Heads:
    """The signed heads, the smallest first, each checked when the tree has its size."""

    rows: Iterator[HeadRow | Unreadable]
    coordinator: PeerId
    network_id: str
    _next: HeadRow | None = None
    _seq: int = -1
    _before: int = 0  # size of the signed head before
    _frontier: tuple[Digest, ...] | None = ()  # of that size; None: the tree was not there
    _is_broken: bool = False  # a root did not fit; those that follow cannot fit either

    def start(self) -> Iterator[Finding]:
        """Look at the next head."""
        self._next = None
        for row in self.rows:
            if not isinstance(row, Unreadable):
                self._next = row
                return
            yield unreadable(row)

    def check_at(self, tree: _Tree) -> Iterator[Finding]:
        """Check the head of the tree's size, if there is one."""
        while (row := self._next) is not None and row.size <= tree.size:
            yield from self._check(row, tree)
            yield from self.start()

    def finish(self, tree: _Tree) -> Iterator[Finding]:
        """Report heads that the tree never came to."""
        while (row := self._next) is not None:
            yield by_size(row.size, f"there are {tree.size} postings: the newest are missing")
            yield from self.start()

    def _check(self, row: HeadRow, tree: _Tree) -> Iterator[Finding]:
        try:
            envelope = decode_envelope(row.envelope)
            head = open_envelope(
                envelope, LedgerHead, signer=self.coordinator, network_id=self.network_id
            )
        except PeerFault as fault:
            yield by_size(row.size, f"its envelope is not what was signed: {fault.message}")
            self._before, self._frontier = row.size, tuple(tree.frontier)
            return
        signed = {
            "size": head.size,
            "root": head.root,
            "cycle": head.header.cycle,
            "round": head.header.round,
            "at_ms": head.header.issued_ms,
        }
        wrong = [name for name, value in signed.items() if getattr(row, name) != value]
        if wrong:
            yield by_size(row.size, f"{', '.join(wrong)} differ from the signed head")
        if head.header.seq <= self._seq:
            yield by_size(row.size, "was signed before the head of fewer postings")
        self._seq = head.header.seq
        is_here = head.size == tree.size
        if is_here and not self._is_broken:
            yield from self._check_tree(row, head, envelope, tree)
        self._before, self._frontier = head.size, tuple(tree.frontier) if is_here else None

    def _check_tree(
        self, row: HeadRow, head: LedgerHead, envelope: Envelope, tree: _Tree
    ) -> Iterator[Finding]:
        root = fold_frontier(tree.frontier)
        if root != head.root:
            self._is_broken = True
            yield Finding(
                "postings",
                f"id {self._before + 1} to {row.size}",
                f"one was changed and the log computed anew: it comes to root {root.hex()[:16]}, "
                f"the signed head of {row.size} postings says {head.root.hex()[:16]}",
            )
            return
        page = self._page(envelope, tree)
        if page is None:
            return  # what stands in its way is reported already
        if (row.page_blob_id, row.page_size_bytes) != (blob_id_of(page), len(page)):
            yield by_size(row.size, "page_blob_id or page_size_bytes is not that of its page")

    def _page(self, envelope: Envelope, tree: _Tree) -> bytes | None:
        first, frontier = self._before, self._frontier
        if tree.size - first > MAX_LEAVES:
            first = tree.size - MAX_LEAVES
            nodes = [tree.stored(level, position) for level, position in frontier_places(first)]
            frontier = None if None in nodes else tuple(node for node in nodes if node is not None)
        count = tree.size - first
        newest = list(islice(tree.recent, len(tree.recent) - count, None)) if count > 0 else []
        leaves = tuple(leaf for leaf in newest if leaf is not None)
        if frontier is None or len(leaves) != count:
            return None
        return encode_page(LedgerPage(envelope, first, frontier, leaves))
