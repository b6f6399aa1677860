"""The replies about the ledger's log. Digests are hex, signed envelopes base64.

With them, and the coordinator's peer id, anybody checks by RFC 9162 that a posting is in the log
and that the log only ever grew; nothing in a reply has to be believed.
"""

from __future__ import annotations

from ares_coordinator.api.schemas_base import CamelReply


class HeadReply(CamelReply):
    """A signed head: `head` is the envelope; the other fields say what is in it."""

    size: int
    root: str
    cycle: int
    round: int
    at: int
    head: str
    page: str
    page_size_bytes: int


class LedgerReply(CamelReply):
    """The log as it stands. `postings` counts those too that no head covers yet."""

    network_id: str
    postings: int
    size: int
    root: str
    cycle: int | None
    round: int | None
    head: str | None


class PostingReply(CamelReply):
    """One line of the ledger: posting `id` is leaf `id - 1` of the log."""

    id: int
    key: str
    worker_id: str
    kind: str
    state: str
    amount_ucredits: int
    credits: float
    cycle: int
    round: int
    commit: str
    code: str
    at: int


class InclusionReply(CamelReply):
    """The audit path of a posting; `leaf` holds the bytes that are hashed.

    `head` is the signed envelope of the head of `size`, null where none was signed.
    """

    posting: PostingReply
    index: int
    leaf: str
    size: int
    root: str
    proof: list[str]
    head: str | None


class ConsistencyReply(CamelReply):
    """The proof that the log of `first` postings is the start of the one of `second`."""

    first: int
    second: int
    first_root: str
    second_root: str
    proof: list[str]
