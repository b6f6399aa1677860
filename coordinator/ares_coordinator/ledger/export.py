"""The whole ledger as lines of a file that everybody can check; see `ares_p2p.proofs.export`.

Leaf hashes are those that the log stores, not computed anew: a reader finds a changed posting by
comparing the two. Pure; reads one moment of the database, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ares_coordinator.ledger.log import LogReader
from ares_coordinator.ledger.signed import Authority
from ares_coordinator.store.credit_rows import HeadRow, Unreadable
from ares_p2p.errors import LedgerTampered, PeerFault
from ares_p2p.proofs.export import head_line, leaf_line, start_line
from ares_p2p.proofs.ledger import leaf_of
from ares_p2p.wire.codec import decode_envelope

BATCH = 1000  # leaves whose hashes are read together
VERIFY = "ares-coordinator ledger verify"


def export_lines(reader: LogReader, authority: Authority) -> Iterator[str]:
    """Yield the lines of the file, without their ends.

    Raises: LedgerTampered: a row that cannot be written, or the log is not complete.
    """
    yield start_line(authority.network_id, authority.coordinator)
    heads = reader.all_heads()
    head = next(heads, None)
    postings, size = reader.all_postings(), 0
    while batch := list(islice(postings, BATCH)):
        hashes = reader.nodes(0, size, size + len(batch))
        for posting in batch:
            digest = hashes.get(size)
            if isinstance(posting, Unreadable) or posting.id != size + 1 or digest is None:
                text = f"row id {size + 1} of postings, or its leaf in log_nodes, is missing"
                raise LedgerTampered(f"{text} or unreadable", hint=VERIFY)
            try:
                yield leaf_line(leaf_of(posting), digest)
            except PeerFault as fault:
                raise LedgerTampered(fault.message, hint=VERIFY) from fault
            size += 1
            while head is not None and _size(head) == size:
                yield _head_line(head)
                head = next(heads, None)
    if head is not None:
        text = f"log_heads has a head of {_size(head)} postings, there are {size}"
        raise LedgerTampered(text, hint=VERIFY)


def _size(head: HeadRow | Unreadable) -> int:
    return -1 if isinstance(head, Unreadable) else head.size


def _head_line(head: HeadRow | Unreadable) -> str:
    if isinstance(head, Unreadable):
        raise LedgerTampered(f"log_heads: {head.problem}", hint=VERIFY)
    try:
        return head_line(decode_envelope(head.envelope))
    except PeerFault as fault:
        text = f"row size {head.size} of log_heads: {fault.message}"
        raise LedgerTampered(text, hint=VERIFY) from fault
