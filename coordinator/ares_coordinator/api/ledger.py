"""The ledger's log over the API: heads, proofs, postings. Public, bounded, and never trusted.

/ledger                                   the newest signed head
/ledger/heads?after=&limit=               the signed heads of more than `after` postings
/ledger/inclusion?posting=&size=          that a posting is in the log of `size`
/ledger/consistency?first=&second=        that the log of `second` goes on from that of `first`
/ledger/postings?worker=&after=&limit=    postings in the order of their ids
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from ares_coordinator.api.edge import json_list_reply, json_reply
from ares_coordinator.api.parameters import number, peer_id
from ares_coordinator.api.schemas_ledger import (
    ConsistencyReply,
    HeadReply,
    InclusionReply,
    LedgerReply,
    PostingReply,
)
from ares_coordinator.api.views import Views
from ares_coordinator.ledger.rewards import credits_of
from ares_coordinator.store.base import Store
from ares_coordinator.store.credit_rows import HeadRow
from ares_coordinator.store.rows import MetaKey
from ares_p2p.domain import Posting
from ares_p2p.errors import BadParameter
from ares_p2p.ids import PeerId
from ares_p2p.proofs.ledger import leaf_of

DEFAULT_LIMIT = 50
MAX_LIMIT = 200  # postings or heads in a reply: at most 150 kB
MAX_SIZE = 2**53 - 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LedgerRoutes:
    """The reads of the log."""

    views: Views

    def routes(self) -> list[web.RouteDef]:
        """Return what to add to a router."""
        return [
            web.get("/ledger", self.newest),
            web.get("/ledger/heads", self.heads),
            web.get("/ledger/inclusion", self.inclusion),
            web.get("/ledger/consistency", self.consistency),
            web.get("/ledger/postings", self.postings),
        ]

    async def newest(self, request: web.Request) -> web.Response:
        """The newest signed head."""
        return json_reply(request, await self._read(_newest))

    async def heads(self, request: web.Request) -> web.Response:
        """Signed heads, the smallest log first; a bare array."""
        after = number(request, "after", low=0, high=MAX_SIZE, default=0)
        limit = _limit(request)
        rows = await self._read(lambda store: store.log_heads(after_size=after, limit=limit))
        return json_list_reply(request, [_head(row) for row in rows])

    async def inclusion(self, request: web.Request) -> web.Response:
        """The audit path of a posting, under the newest head unless `size` is given."""
        posting_id = number(request, "posting", low=1, high=MAX_SIZE)
        size = number(request, "size", low=0, high=MAX_SIZE, default=0)
        reply = await self._read(lambda store: _inclusion(store, posting_id, size))
        return json_reply(request, reply)

    async def consistency(self, request: web.Request) -> web.Response:
        """The proof between two sizes; the second one is the newest head's unless given."""
        first = number(request, "first", low=0, high=MAX_SIZE)
        second = number(request, "second", low=0, high=MAX_SIZE, default=0)
        reply = await self._read(lambda store: _consistency(store, first, second))
        return json_reply(request, reply)

    async def postings(self, request: web.Request) -> web.Response:
        """Postings of a worker, or all, in the order of their ids; a bare array."""
        after = number(request, "after", low=0, high=MAX_SIZE, default=0)
        limit = _limit(request)
        worker: PeerId | None = None
        if "worker" in request.query:
            worker = peer_id(request, "worker")
        rows = await self._read(lambda store: _postings(store, worker, after, limit))
        return json_list_reply(request, [_posting(row) for row in rows])

    async def _read(self, read: Callable[[Store], T]) -> T:
        """Return what a function reads, in one call to the store's thread."""
        db = self.views.db
        return await db.call(read, db.store)


def _limit(request: web.Request) -> int:
    return number(request, "limit", low=1, high=MAX_LIMIT, default=DEFAULT_LIMIT)


def _newest(store: Store) -> LedgerReply:
    head = store.log_head()
    size = 0 if head is None else head.size
    root = store.log_root(0) if head is None else head.root
    return LedgerReply(
        network_id=store.meta(MetaKey.NETWORK_ID) or "",
        postings=store.log_size(),
        size=size,
        root=root.hex(),
        cycle=None if head is None else head.cycle,
        round=None if head is None else head.round,
        head=None if head is None else _text(head.envelope),
    )


def _inclusion(store: Store, posting_id: int, size: int) -> InclusionReply:
    size = _known_size(store, "size", size)
    posting = store.posting(posting_id)
    if posting is None or posting_id > size:
        raise BadParameter(
            f"posting={posting_id}: the log of {size} has postings 1 to {size}",
            hint="Without `size` it is the log under the newest signed head.",
        )
    signed = next(iter(store.log_heads(after_size=size - 1, limit=1)), None)
    return InclusionReply(
        posting=_posting(posting),
        index=posting_id - 1,
        leaf=_text(leaf_of(posting)),
        size=size,
        root=store.log_root(size).hex(),
        proof=[node.hex() for node in store.inclusion_proof(posting_id - 1, size)],
        head=_text(signed.envelope) if signed is not None and signed.size == size else None,
    )


def _consistency(store: Store, first: int, second: int) -> ConsistencyReply:
    second = _known_size(store, "second", second)
    if first > second:
        raise BadParameter(
            f"first={first}: at most second={second} expected", hint="Give the smaller size first."
        )
    return ConsistencyReply(
        first=first,
        second=second,
        first_root=store.log_root(first).hex(),
        second_root=store.log_root(second).hex(),
        proof=[node.hex() for node in store.consistency_proof(first, second)],
    )


def _known_size(store: Store, name: str, size: int) -> int:
    """Return a size of the log; 0 stands for that of the newest signed head.

    Raises: BadParameter: there are not so many postings.
    """
    if size == 0:
        head = store.log_head()
        return 0 if head is None else head.size
    there = store.log_size()
    if size > there:
        raise BadParameter(
            f"{name}={size}: there are {there} postings",
            hint="Leave it out for the newest signed head.",
        )
    return size


def _postings(store: Store, worker: PeerId | None, after: int, limit: int) -> tuple[Posting, ...]:
    if worker is None:
        return store.postings(after_id=after, limit=limit)
    return store.postings_of(worker, after_id=after, limit=limit)


def _head(row: HeadRow) -> HeadReply:
    return HeadReply(
        size=row.size,
        root=row.root.hex(),
        cycle=row.cycle,
        round=row.round,
        at=row.at_ms,
        head=_text(row.envelope),
        page=row.page_blob_id.hex(),
        page_size_bytes=row.page_size_bytes,
    )


def _posting(row: Posting) -> PostingReply:
    return PostingReply(
        id=row.id,
        key=row.key,
        worker_id=row.worker,
        kind=row.kind,
        state=row.state,
        amount_ucredits=row.amount_ucredits,
        credits=credits_of(row.amount_ucredits),
        cycle=row.cycle,
        round=row.round,
        commit=row.commit_sha256.hex(),
        code=row.code,
        at=row.at_ms,
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
