"""What a node stores again, and when: hivemind's DHT forgets whatever nobody repeats.

A record is due every third of its lifetime; a newer record under the same key takes its place.
Chunks are due as often, spread out by their hash, so that the holders of a dataset do not all
look at the same moment. Of records per round only the latest rounds are kept. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import Header, Payload
from ares_p2p.ids import Digest
from ares_p2p.network.record_keys import RecordKey, Scope, record_kind
from ares_p2p.network.records import ReadChunk

KEPT_ROUNDS = 64  # of each kind per round; older rounds live on in the coordinator's database


@dataclass(slots=True)
class KeptRecord:
    """An envelope that this node published."""

    envelope: Envelope
    key: RecordKey
    header: Header
    kind: type[Payload]
    period_s: float
    due_s: float


@dataclass(slots=True)
class HeldChunk:
    """A chunk that this node looks after."""

    digest: Digest
    read: ReadChunk
    period_s: float
    due_s: float


class Keeper:
    """The list of both, with their due times in seconds since the epoch."""

    def __init__(self) -> None:
        self._records: dict[RecordKey, KeptRecord] = {}
        self._chunks: dict[Digest, HeldChunk] = {}

    def keep_record(
        self,
        envelope: Envelope,
        payload: Payload,
        key: RecordKey,
        *,
        now_s: float,
        lifetime_s: float,
    ) -> None:
        """Store `envelope` again from now on, instead of an older one under its key."""
        period_s = lifetime_s / 3
        kept = KeptRecord(envelope, key, payload.header, type(payload), period_s, now_s + period_s)
        self._records[key] = kept
        if record_kind(kept.kind).scope is Scope.ROUND:
            self._drop_old_rounds(kept.kind)

    def _drop_old_rounds(self, kind: type[Payload]) -> None:
        same = [kept for kept in self._records.values() if kept.kind is kind]
        same.sort(key=lambda kept: (kept.header.cycle, kept.header.round))
        for kept in same[:-KEPT_ROUNDS]:
            del self._records[kept.key]

    def keep_chunk(
        self, digest: Digest, read: ReadChunk, *, now_s: float, lifetime_s: float
    ) -> None:
        """Look after a chunk from now on."""
        period_s = lifetime_s / 3
        spread = int.from_bytes(digest[:4], "big") / 2**32  # 0..1, another for every chunk
        self._chunks[digest] = HeldChunk(
            digest, read, period_s, now_s + period_s * (0.5 + spread / 2)
        )

    def drop_chunk(self, digest: Digest) -> None:
        """Stop looking after a chunk."""
        self._chunks.pop(digest, None)

    def due_records(self, now_s: float) -> Iterator[KeptRecord]:
        """Return the records that are due."""
        return iter([kept for kept in self._records.values() if kept.due_s <= now_s])

    def due_chunks(self, now_s: float) -> Iterator[HeldChunk]:
        """Return the chunks that are due."""
        return iter([held for held in self._chunks.values() if held.due_s <= now_s])

    def mark_record(self, kept: KeptRecord, *, now_s: float) -> None:
        """The record was stored: due again after its period."""
        kept.due_s = now_s + kept.period_s

    def mark_chunk(self, held: HeldChunk, *, now_s: float) -> None:
        """The chunk was looked after: due again after its period."""
        held.due_s = now_s + held.period_s
