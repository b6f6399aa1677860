"""A coordinator's ledger for tests: signed heads and settlements over a real store."""

from __future__ import annotations

from collections.abc import Sequence

from ares_coordinator.store.base import Store
from ares_coordinator.store.credit_rows import PageToSign, SealRow
from ares_coordinator.store.rows import RecordRow
from ares_p2p.domain import (
    Header,
    LedgerHead,
    Payload,
    Posting,
    PostingKind,
    PostingState,
    RoundSettlement,
    SettlementEntry,
)
from ares_p2p.ids import Digest, PeerId
from ares_p2p.wire.codec import encode_envelope, kind_of, seal
from payloads import identity
from store_samples import NOW, digest

COORDINATOR = identity(9)
NETWORK = "net-1"
MANIFEST = digest("manifest")


def header(cycle: int, round_number: int, *, seq: int = 1) -> Header:
    """Return the header of something that the coordinator signs."""
    return Header(NETWORK, cycle, round_number, seq, NOW + seq)


def signed(payload: Payload) -> RecordRow:
    """Return a payload as the coordinator signs and stores it."""
    envelope = seal(COORDINATOR, payload)
    return RecordRow(
        kind=kind_of(payload),
        cycle=payload.header.cycle,
        round=payload.header.round,
        peer="",
        seq=payload.header.seq,
        payload_sha256=envelope.payload_sha256,
        envelope=encode_envelope(envelope),
        in_dht=True,
        saved_ms=payload.header.issued_ms,
    )


def seal_round(
    store: Store,
    cycle: int,
    round_number: int,
    postings: Sequence[Posting] = (),
    *,
    entries: Sequence[SettlementEntry] = (),
    manifest: Digest = MANIFEST,
) -> SealRow:
    """Settle a round with these postings."""
    number = header(cycle, round_number, seq=100 * cycle + round_number + 1)

    def sign_head(size: int, root: Digest) -> RecordRow:
        return signed(LedgerHead(number, size, root))

    def sign_settlement(page: PageToSign) -> RecordRow:
        settlement = RoundSettlement(
            number, manifest, tuple(entries), (), page.blob_id, page.size_bytes
        )
        return signed(settlement)

    return store.seal(
        cycle, round_number, postings, sign_head=sign_head, sign_settlement=sign_settlement
    )


def posting(
    worker: PeerId,
    commit: Digest,
    state: PostingState = PostingState.PENDING,
    *,
    kind: PostingKind = PostingKind.CPU_TRAINING,
    ucredits: int = 1000,
    cycle: int = 1,
    round_number: int = 0,
    code: str = "",
    at_ms: int = NOW,
    key: str | None = None,
) -> Posting:
    """Return a posting with the key that its content has, unless another is given."""
    usual = f"{state}:{kind}:{commit.hex()}:{worker}"
    return Posting(
        key=usual if key is None else key,
        worker=worker,
        kind=kind,
        state=state,
        amount_ucredits=ucredits,
        cycle=cycle,
        round=round_number,
        commit_sha256=commit,
        code=code,
        at_ms=at_ms,
    )
