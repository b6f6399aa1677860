"""The rows of `log_nodes`: reading a node, and growing the tree by new leaves."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, func, insert, or_, select

from ares_coordinator.store import tables as t
from ares_p2p.crypto.merkle import NodeReader, frontier_places, nodes_of_next
from ares_p2p.errors import LedgerTampered
from ares_p2p.ids import Digest


def log_size(connection: Connection) -> int:
    """Return how many postings are stored: their ids count from 1 without gaps."""
    return int(connection.execute(select(func.coalesce(func.max(t.postings.c.id), 0))).scalar_one())


def node_reader(connection: Connection) -> NodeReader:
    """Return a reader of the log's nodes, for the time of a transaction.

    The reader raises LedgerTampered for a node that must be there and is not.
    """
    c, known = t.log_nodes.c, dict[tuple[int, int], Digest]()

    def read(level: int, position: int) -> Digest:
        if (level, position) not in known:
            query = select(c.sha256).where(c.level == level, c.position == position)
            digest = connection.execute(query).scalar()
            if digest is None:
                raise LedgerTampered(f"log_nodes has no row level {level} position {position}")
            known[level, position] = digest
        return known[level, position]

    return read


def append_leaves(connection: Connection, size: int, leaf_hashes: Sequence[Digest]) -> None:
    """Store the leaves after the first `size`, and every subtree that they complete.

    Raises: LedgerTampered: the stored log has another size.
    """
    c = t.log_nodes.c
    places = frontier_places(size)
    one_of = or_(
        *(and_(c.level == level, c.position == position) for level, position in places),
        and_(c.level == 0, c.position == size),
    )
    rows = connection.execute(select(c.level, c.position, c.sha256).where(one_of))
    known = {(level, position): digest for level, position, digest in rows}
    if (0, size) in known or len(known) != len(places):
        raise LedgerTampered(
            f"the log does not end with posting {size}, the newest: rows of postings or log_nodes "
            "are missing",
            hint="ares-coordinator ledger verify",
        )
    new = []
    for index, digest in enumerate(leaf_hashes, start=size):
        for node in nodes_of_next(index, digest, lambda level, position: known[level, position]):
            known[node[:2]] = node[2]
            new.append(dict(zip(("level", "position", "sha256"), node, strict=True)))
    connection.execute(insert(t.log_nodes), new)
