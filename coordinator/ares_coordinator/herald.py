"""Signs what the coordinator says, remembers it, and keeps it in the DHT.

The order is: sign, store in the same transaction as the event it announces, publish. After a kill
the stored bytes are published again; nothing is ever signed twice for one place. Peers that wait
at the board are told at once; of a large record when the DHT has it, because they read it there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from ares_coordinator.board import RecordBoard
from ares_coordinator.store.rows import RecordRow
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import CommitAck, Header, LedgerHead, Payload, RoundPlan
from ares_p2p.errors import InternalFault, NetworkFault, StaleSequence
from ares_p2p.ids import PeerId
from ares_p2p.network.records import Records
from ares_p2p.network.watching import INLINE_BYTES
from ares_p2p.wire.codec import (
    decode_envelope,
    decode_payload,
    encode_envelope,
    kind_of,
    seal,
)

PUBLISH_RETRY_S = 1.0
PUBLISH_TRIES = 30  # half a minute of an unreachable DHT; republication goes on after that

T = TypeVar("T")
P = TypeVar("P", bound=Payload)
PLAN_KIND = kind_of(RoundPlan)
HEAD_KIND = kind_of(LedgerHead)
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Herald:
    """One per coordinator."""

    identity: Identity
    network_id: str
    db: StoreThread
    records: Records
    clock: Clock
    board: RecordBoard | None = None

    async def header(self, kind: type[Payload], *, cycle: int = 0, round_number: int = 0) -> Header:
        """Return the header of the next payload of a kind; its sequence is never used again."""
        now_ms = self.clock.now_ms()
        seq = await self.db.call(self.db.store.next_seq, kind_of(kind), now_ms)
        return Header(self.network_id, cycle, round_number, seq, now_ms)

    def signed(self, payload: Payload, *, peer: PeerId | None = None) -> RecordRow:
        """Return the signed record, to be stored with its event."""
        envelope = seal(self.identity, payload)
        return RecordRow(
            kind=kind_of(payload),
            cycle=payload.header.cycle,
            round=payload.header.round,
            peer=peer or "",
            seq=payload.header.seq,
            payload_sha256=envelope.payload_sha256,
            envelope=encode_envelope(envelope),
            in_dht=peer is None,
            saved_ms=payload.header.issued_ms,
        )

    def receipt(self, envelope: Envelope) -> Envelope:
        """Return a signed answer to an announcement: nothing follows from it, nothing is stored."""
        now_ms = self.clock.now_ms()
        header = Header(self.network_id, 0, 0, now_ms, now_ms)
        ack = CommitAck(header, envelope.payload_sha256, envelope.signer)
        return seal(self.identity, ack)

    async def publish(self, record: RecordRow) -> None:
        """Put a stored record into the DHT and keep it there; patient while the DHT is away."""
        envelope, board = decode_envelope(record.envelope), self.board
        is_early = len(record.envelope) <= INLINE_BYTES
        if board is not None and is_early:
            board.post(envelope)
        try:
            await self.patiently(lambda: self.records.publish(envelope), what=record.kind)
        except StaleSequence:
            if board is not None:
                board.forget(envelope)
            raise
        if board is not None and not is_early:
            board.post(envelope)

    async def patiently(self, act: Callable[[], Awaitable[T]], *, what: str) -> T:
        """Return what `act` returns, trying again while the network is away.

        Raises: NetworkFault: after the last try. PeerFault: at once.
        """
        for left in reversed(range(PUBLISH_TRIES)):
            try:
                return await act()
            except NetworkFault as fault:  # a PeerFault would be one the next time, too
                log.warning("publish_failed", what=what, code=fault.code, reason=fault.message)
                if not left:
                    raise
                await asyncio.sleep(PUBLISH_RETRY_S)
        raise AssertionError("the last try returns or raises")

    async def republish(self, cycle: int, *, from_round: int) -> None:
        """Publish again what the network needs of a cycle, after a start.

        Args:
            from_round: records of earlier rounds are left to expire: nobody waits for them.
        """
        rows = await self.db.call(self.db.store.records_to_publish, cycle, from_round=from_round)
        head = await self.db.call(self.db.store.latest_record, HEAD_KIND)
        if head is not None and head.cycle < cycle:  # of the cycle before, until the first page
            rows = (head, *rows)
        newest_plan = max((row.seq for row in rows if row.kind == PLAN_KIND), default=0)
        for row in rows:
            if row.kind == PLAN_KIND and row.seq < newest_plan:
                continue  # all plans of a cycle share one place in the DHT
            with contextlib.suppress(StaleSequence):
                await self.publish(row)


async def stored_record(db: StoreThread, kind: str, cycle: int, round_number: int) -> RecordRow:
    """Return a record that must be there.

    Raises: InternalFault: it is not.
    """
    record = await db.call(db.store.record, kind, cycle, round_number)
    if record is None:
        raise InternalFault(f"cycle {cycle} round {round_number} has no {kind} record")
    return record


def payload_of(record: RecordRow, cls: type[P]) -> P:
    """Return the payload of one of our own stored records."""
    envelope = decode_envelope(record.envelope)
    return decode_payload(envelope.payload_type, envelope.payload, cls)
