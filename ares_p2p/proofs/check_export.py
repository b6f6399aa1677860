"""A whole ledger (`ares_p2p.proofs.export`) against what a volunteer holds, and against itself.

Every row is hashed anew and the tree is grown from the hashes, so the root at each head can be
computed and compared: with the heads in the file, and with those that the volunteer kept. A row
that differs from the volunteer's own copy, or from the hash beside it, is named. Where only a
root is wrong, the rows since the last right one are named, narrowed down by the subtrees that
the volunteer knows from its pages.

Pure; reads line by line in bounded memory. Source: RFC 9162, section 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ares_p2p.crypto.merkle import extend_frontier, fold_frontier, frontier_places, leaf_hash
from ares_p2p.domain import LedgerHead, Posting
from ares_p2p.errors import PayloadMalformed, PeerFault
from ares_p2p.ids import Digest
from ares_p2p.proofs.checked import CheckedHead
from ares_p2p.proofs.export import (
    ExportedHead,
    ExportedLeaf,
    ExportStart,
    read_line,
)
from ares_p2p.proofs.findings import Finding, Link, Severity, Volunteer
from ares_p2p.proofs.ledger import open_head, read_leaf

MAX_FINDINGS = 1000  # of one file; a file of garbage must not fill the memory


@dataclass(slots=True)
class ExportCheck:
    """Give it every line in order, then ask `finish`.

    Args:
        own: the volunteer's own leaves by index, as they are in verified pages.
        heads: signed heads that the volunteer holds and that were verified.
        file: the file's name, for messages.
    Attributes:
        rows: leaves so far.
        heads_checked: roots that were compared with a signed head.
        own_rows: rows of this volunteer, whether it holds them or not.
    """

    volunteer: Volunteer
    own: Mapping[int, bytes]
    heads: Iterable[CheckedHead]
    file: str = ""
    rows: int = 0
    heads_checked: int = 0
    own_rows: int = 0
    findings: list[Finding] = field(default_factory=list)
    _lines: int = 0
    _right: int = 0  # rows up to the last head from which the tree is known to be right
    _frontier: tuple[Digest, ...] | None = ()  # None: not known since a row is missing or wrong
    _roots: dict[int, tuple[Digest, str]] = field(default_factory=dict)
    _frontiers: dict[int, tuple[Digest, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for head in self.heads:
            self._roots.setdefault(head.size, (head.root, head.origin))
            if head.first:
                self._frontiers[head.first] = head.frontier
                self._roots.setdefault(head.first, (head.root_before, head.origin))

    def line(self, data: bytes) -> None:
        """Check the next line."""
        self._lines += 1
        try:
            item = read_line(data)
        except PayloadMalformed as fault:
            self._broken(Link.FILE, f"line {self._lines}: {fault.message}")
            return
        if (self._lines == 1) != isinstance(item, ExportStart):
            self._broken(Link.FILE, f"line {self._lines}: the file must begin with its format")
        match item:
            case ExportStart():
                self._start(item)
            case ExportedLeaf():
                self._leaf(item)
            case ExportedHead():
                self._head(item)

    def finish(self) -> tuple[Finding, ...]:
        """Return all findings, after the last line."""
        missing = max((size for size in self._roots if size > self.rows), default=None)
        if missing is not None:
            self._broken(
                Link.POSTING,
                f"the file ends with row {self.rows}, a signed head has {missing}: "
                f"{_rows(self.rows + 1, missing)} missing",
            )
        return tuple(self.findings)

    def _broken(self, link: Link, message: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(Severity.BROKEN, link, message, file=self.file))

    # --- lines ---------------------------------------------------------------------------------

    def _start(self, item: ExportStart) -> None:
        wanted = (self.volunteer.network_id, self.volunteer.coordinator)
        if (item.network_id, item.coordinator) != wanted:
            self._broken(
                Link.FILE,
                f"the ledger of network {item.network_id[:40]} and coordinator "
                f"{item.coordinator}, {wanted[0]} and {wanted[1]} expected",
            )

    def _leaf(self, item: ExportedLeaf) -> None:
        try:
            posting = read_leaf(item.leaf)
        except PayloadMalformed as fault:
            self._broken(Link.POSTING, f"row {self.rows + 1}: {fault.message}")
            posting = None
        if posting is not None and posting.id != self.rows + 1 and not self._goes_on(posting):
            return
        row, index = self.rows + 1, self.rows
        if leaf_hash(item.leaf) != item.sha256:
            self._broken(
                Link.POSTING,
                f"row {row} does not hash to what the log has for it: its content was changed "
                "after it was sealed",
            )
        held = self.own.get(index)
        if held is not None and held != item.leaf:
            self._broken(Link.POSTING, f"row {row}: {_differences(held, item.leaf)}")
        if posting is not None and posting.worker == self.volunteer.peer:
            self.own_rows += 1
        if self._frontier is not None:
            known = item.sha256 if held is None else leaf_hash(held)
            self._frontier = extend_frontier(self._frontier, index, [known])
        self.rows = row
        self._compare(row)

    def _goes_on(self, posting: Posting) -> bool:
        """Note rows that are missing, and go on behind them; False for one that is too many."""
        expected = self.rows + 1
        if posting.id < expected:
            self._broken(Link.POSTING, f"row {expected} is posting {posting.id} once more")
            return False
        last = posting.id - 1
        self._broken(Link.POSTING, f"{_rows(expected, last)} missing: posting {posting.id} follows")
        self.rows, self._frontier = last, self._frontiers.get(last)
        return True

    def _head(self, item: ExportedHead) -> None:
        coordinator, network_id = self.volunteer.coordinator, self.volunteer.network_id
        try:
            head: LedgerHead = open_head(
                item.envelope, coordinator=coordinator, network_id=network_id
            )
        except PeerFault as fault:
            self._broken(Link.HEAD, f"line {self._lines}: {fault.message}")
            return
        if head.size > self.rows:
            self._broken(
                Link.HEAD, f"line {self._lines}: a head of {head.size} after row {self.rows}"
            )
        root, origin = self._roots.get(head.size, (head.root, ""))
        if root != head.root:
            self._broken(
                Link.HEAD,
                f"two signed heads of {head.size} postings with different roots: "
                f"{head.root.hex()[:12]} in line {self._lines}, {root.hex()[:12]} in {origin}",
            )
        elif head.size not in self._roots:
            self._roots[head.size] = (head.root, f"line {self._lines}")
            self._compare(head.size)

    # --- roots ---------------------------------------------------------------------------------

    def _compare(self, size: int) -> None:
        """Compare the root at a size with the signed one, and go on from what is right."""
        if size not in self._roots or size != self.rows:
            return
        root, origin = self._roots[size]
        if self._frontier is None:
            self._frontier = self._frontiers.get(size)
            return
        self.heads_checked += 1
        if fold_frontier(self._frontier) == root:
            self._right = size
            return
        for first, last in self._wrong_ranges(size):
            rows = f"row {first}" if first == last else f"one of the rows {first} to {last}"
            self._broken(
                Link.CONSISTENCY,
                f"{rows} is not what was sealed: {size} rows come to root "
                f"{fold_frontier(self._frontier).hex()[:12]}, the signed head in {origin} says "
                f"{root.hex()[:12]}",
            )
        self._frontier = self._frontiers.get(size)
        if self._frontier is not None:
            self._right = size

    def _wrong_ranges(self, size: int) -> list[tuple[int, int]]:
        """Return the ranges of rows (from one) of which one must be wrong."""
        known, first = self._frontiers.get(size), self._right + 1
        if known is None or self._frontier is None:
            return [(first, size)]
        ranges = []
        places = zip(frontier_places(size), known, self._frontier, strict=True)
        for (level, position), right, found in places:
            begin, end = (position << level) + 1, (position + 1) << level
            if right != found and end >= first:
                ranges.append((max(begin, first), end))
        return ranges or [(first, size)]


def _rows(first: int, last: int) -> str:
    return f"row {first} is" if first == last else f"rows {first} to {last} are"


def _differences(held: bytes, found: bytes) -> str:
    """Return what a row says in the file and in the volunteer's own copy."""
    try:
        mine, theirs = read_leaf(held), read_leaf(found)
    except PayloadMalformed:
        return "it is not what this volunteer holds of it"
    names = ("worker", "kind", "state", "amount_ucredits", "cycle", "round", "code", "at_ms")
    changed = [
        f"{name} {str(getattr(theirs, name))[:60]!r} in the file, "
        f"{str(getattr(mine, name))[:60]!r} in the own page"
        for name in (*names, "key", "commit_sha256", "id")
        if getattr(theirs, name) != getattr(mine, name)
    ]
    return "; ".join(changed)
