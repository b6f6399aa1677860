"""The ledger as a volunteer sees it: leaves, and the pages in which they are published.

A *leaf* is the canonical text of one posting; posting `id` is leaf `id - 1` of the Merkle log.
A *page* holds the leaves between two signed heads and the frontier of the log before them. It
proves by itself: the frontier folds to the root of the head before, and frontier and leaves
together give the root of this head. So whoever follows the pages checks that every posting of its
own is in the log, and that the log only ever grew, without asking anybody.

It refuses: a leaf in any but its canonical form, leaf ids that do not count up, a frontier of
another length, a head of another network or signer, a root that does not come out, a page or a
leaf that is too large, and a page that contradicts a head that was seen before.

Pure. `ares_p2p.proofs.export` is the whole ledger in one file.
Source: RFC 9162, section 2.1; docs/adr/0001, "Ledger".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.merkle import (
    NodeReader,
    extend_frontier,
    fold_frontier,
    frontier_places,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_at,
)
from ares_p2p.domain import LedgerHead, Posting, PostingKind, PostingState
from ares_p2p.errors import EvidenceBroken, Oversize, PayloadMalformed, PeerFault
from ares_p2p.ids import DIGEST_BYTES, Digest, PeerId, public_key_of
from ares_p2p.wire.codec import MAX_INT, decode_envelope, encode_envelope, open_envelope
from ares_p2p.wire.v1 import ares_pb2 as pb

MAX_LEAF_BYTES = 1024  # 3x the largest; bounds one line of an export too
MAX_LEAVES = (
    65_536  # postings between two heads: 100 peers, each with 600 that one audit takes back
)
MAX_PAGE_BYTES = 32 * 1024 * 1024  # MAX_LEAVES of them; bounds the memory of a volunteer
_FORMAT = "ares-posting/1"
_FIELDS = 11  # lines of a leaf


class HeadsContradict(EvidenceBroken):
    """Two signed heads of which at most one can be true: the coordinator rewrote its log."""


# --- leaves ------------------------------------------------------------------------------------


def leaf_of(posting: Posting) -> bytes:
    """Return the bytes of a stored posting that the log hashes.

    Raises: PayloadMalformed: a field that no reader would accept, or no id yet.
    """
    leaf = _text_of(posting).encode()
    if read_leaf(leaf) != posting:
        raise PayloadMalformed(f"posting {posting.id} cannot be written as a leaf")
    return leaf


def _text_of(posting: Posting) -> str:
    fields = (
        _FORMAT,
        posting.id,
        posting.key,
        posting.worker,
        posting.kind,
        posting.state,
        posting.amount_ucredits,
        posting.cycle,
        posting.round,
        posting.commit_sha256.hex(),
        posting.code,
        posting.at_ms,
    )
    return "\n".join(str(field) for field in fields)


def read_leaf(leaf: bytes) -> Posting:
    """Return the posting of a leaf.

    Raises: PayloadMalformed: not the one form in which that posting is written.
    """
    if len(leaf) > MAX_LEAF_BYTES:
        raise PayloadMalformed(f"a leaf of {len(leaf)} bytes, at most {MAX_LEAF_BYTES}")
    try:
        lines = leaf.decode().split("\n")
        if len(lines) != _FIELDS + 1 or lines[0] != _FORMAT:
            raise ValueError(f"{len(lines)} lines that begin with {lines[0][:20]!r}")
        number, key, worker, kind, state, amount, cycle, round_number, commit, code, at_ms = lines[
            1:
        ]
        public_key_of(worker)
        posting = Posting(
            key=key,
            worker=PeerId(worker),
            kind=PostingKind(kind),
            state=PostingState(state),
            amount_ucredits=_number(amount),
            cycle=_number(cycle),
            round=_number(round_number),
            commit_sha256=bytes.fromhex(commit),
            code=code,
            at_ms=_number(at_ms),
            id=_number(number),
        )
    except ValueError as error:
        raise PayloadMalformed(f"no leaf of the ledger: {str(error)[:120]}") from error
    if not (key + code).isprintable() or len(posting.commit_sha256) != DIGEST_BYTES:
        raise PayloadMalformed("a leaf with an unprintable text, or a commit that is no digest")
    if posting.id == 0 or _text_of(posting).encode() != leaf:
        raise PayloadMalformed("a leaf that is not in its canonical form")
    return posting


def _number(text: str) -> int:
    value = int(text)
    if not 0 <= value <= MAX_INT:
        raise ValueError(f"{text[:20]} is outside 0..2^53")
    return value


# --- pages -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """The leaves between two heads. Not yet verified: call `check_page`.

    Attributes:
        head: the signed `LedgerHead` that the page leads to.
        first: index of the first leaf in here: the size of the log before.
        frontier: roots of the full subtrees over the leaves before, largest first.
        leaves: as they were hashed, index `first` to the head's size.
    """

    head: Envelope
    first: int
    frontier: tuple[Digest, ...]
    leaves: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Leaves of the log after this page."""
        return self.first + len(self.leaves)

    @property
    def root_before(self) -> Digest:
        """The root of the log before this page, as its frontier says."""
        return fold_frontier(self.frontier)

    def root_after(self) -> Digest:
        """Return the root of the log after this page, as frontier and leaves say."""
        hashes = [leaf_hash(leaf) for leaf in self.leaves]
        return fold_frontier(extend_frontier(self.frontier, self.first, hashes))


def encode_page(page: LedgerPage) -> bytes:
    """Return the page's bytes: the blob that a settlement names.

    Raises: Oversize: nobody would accept it.
    """
    _check_counts(len(page.leaves), len(page.frontier))
    data = pb.LedgerPage(
        head=encode_envelope(page.head),
        first=page.first,
        frontier=page.frontier,
        leaves=page.leaves,
    ).SerializeToString(deterministic=True)
    if len(data) > MAX_PAGE_BYTES:
        raise Oversize(f"a ledger page of {len(data)} bytes, at most {MAX_PAGE_BYTES}")
    return data


def decode_page(data: bytes) -> LedgerPage:
    """Return the page in `data`; only its form is checked.

    Raises: Oversize, PayloadMalformed, EnvelopeMalformed.
    """
    if len(data) > MAX_PAGE_BYTES:
        raise Oversize(f"a ledger page of {len(data)} bytes, at most {MAX_PAGE_BYTES}")
    message = pb.LedgerPage()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise PayloadMalformed("the bytes are no ledger page") from error
    _check_counts(len(message.leaves), len(message.frontier))
    if message.first > MAX_INT or any(len(node) != DIGEST_BYTES for node in message.frontier):
        raise PayloadMalformed("a ledger page with a frontier that is no list of digests")
    page = LedgerPage(
        head=decode_envelope(message.head),
        first=message.first,
        frontier=tuple(message.frontier),
        leaves=tuple(message.leaves),
    )
    if encode_page(page) != data:
        raise PayloadMalformed("a ledger page with something more in it")
    return page


def _check_counts(leaves: int, frontier: int) -> None:
    if leaves > MAX_LEAVES:
        raise Oversize(f"a ledger page of {leaves} leaves, at most {MAX_LEAVES}")
    if frontier > MAX_INT.bit_length():
        raise Oversize(f"a ledger page with a frontier of {frontier} nodes")


def check_page(
    page: LedgerPage,
    *,
    coordinator: PeerId,
    network_id: str,
    head_before: LedgerHead | None = None,
) -> LedgerHead:
    """Verify a page: its head is the coordinator's, and follows from frontier and leaves.

    Args:
        head_before: a head that was verified earlier. When the page covers its size, the page
            must come to the very same root there; otherwise it says nothing about this page.
    Returns: the head.
    Raises: EvidenceBroken: what is wrong. HeadsContradict: the page is in order, and shows that
        the log was rewritten since `head_before`.
    """
    head = open_head(page.head, coordinator=coordinator, network_id=network_id)
    if head.size != page.size:
        raise EvidenceBroken(
            f"ledger page: {page.first} + {len(page.leaves)} leaves, its head says {head.size}"
        )
    if len(page.frontier) != page.first.bit_count():
        raise EvidenceBroken(
            f"ledger page: {len(page.frontier)} nodes before leaf {page.first}, "
            f"{page.first.bit_count()} expected"
        )
    for index, leaf in enumerate(page.leaves, start=page.first):
        try:
            posting = read_leaf(leaf)
        except PeerFault as fault:
            raise EvidenceBroken(f"ledger page: leaf {index}: {fault.message}") from fault
        if posting.id != index + 1:
            raise EvidenceBroken(f"ledger page: leaf {index} is posting {posting.id}")
    root = page.root_after()
    if root != head.root:
        raise EvidenceBroken(
            f"ledger page: its {head.size} leaves come to root {root.hex()[:12]}, "
            f"the head says {head.root.hex()[:12]}"
        )
    if head_before is not None and page.first <= head_before.size <= page.size:
        root = root_in_page(page, head_before.size)
        if root != head_before.root:
            raise HeadsContradict(
                f"the ledger of {head_before.size} postings had root "
                f"{head_before.root.hex()[:12]} in an earlier signed head, and has "
                f"{root.hex()[:12]} in the page of the head of {head.size}"
            )
    return head


def open_head(envelope: Envelope, *, coordinator: PeerId, network_id: str) -> LedgerHead:
    """Return the head in an envelope after verifying whose it is.

    Raises: EvidenceBroken.
    """
    try:
        return open_envelope(envelope, LedgerHead, signer=coordinator, network_id=network_id)
    except PeerFault as fault:
        raise EvidenceBroken(f"ledger head: {fault.message}") from fault


def page_reader(page: LedgerPage) -> NodeReader:
    """Return a reader of all complete subtrees that a page can speak of.

    The reader raises KeyError for a subtree that lies below the page's frontier.
    """
    known: dict[tuple[int, int], Digest] = dict(
        zip(frontier_places(page.first), page.frontier, strict=True)
    )
    known |= {(0, page.first + at): leaf_hash(leaf) for at, leaf in enumerate(page.leaves)}

    def read(level: int, position: int) -> Digest:
        place = (level, position)
        if place not in known:
            if (position + 1) << level <= page.first or level == 0:
                raise KeyError(place)
            below = level - 1
            known[place] = node_hash(read(below, 2 * position), read(below, 2 * position + 1))
        return known[place]

    return read


def root_in_page(page: LedgerPage, size: int) -> Digest:
    """Return the root that the log had at a size which the page covers.

    Raises: ValueError: the page does not cover it.
    """
    if not page.first <= size <= page.size:
        raise ValueError(f"a page of leaves {page.first} to {page.size} and a size of {size}")
    return root_at(size, page_reader(page))


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """A leaf with its audit path under the page's head (RFC 9162)."""

    index: int
    leaf: bytes
    proof: tuple[Digest, ...]

    @property
    def posting(self) -> Posting:
        """The posting. Raises: PayloadMalformed."""
        return read_leaf(self.leaf)


def proven_leaves(page: LedgerPage, worker: PeerId) -> Iterator[ProvenLeaf]:
    """Yield a worker's own leaves of a page that was checked, each with its inclusion proof."""
    read = page_reader(page)
    for index, leaf in enumerate(page.leaves, start=page.first):
        if read_leaf(leaf).worker == worker:
            yield ProvenLeaf(index, leaf, inclusion_path(index, count=page.size, read=read))
