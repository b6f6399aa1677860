"""Follows the coordinator's ledger: settlements and their pages, and the signed head in the DHT.

Of every round that this peer followed it wants the settlement and the ledger page, its own
rounds and the others: page after page they show that the log only grows. A page is checked when
it comes, against the heads that were seen before, and what it proves goes into the evidence.
What is away is asked for again; a peer that was away asks for what it missed, as long as the
coordinator has it.

A head that contradicts an earlier one is the one thing that must not pass quietly: both are kept
in a file, and the person is told where it is and what it means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import (
    NO_PAGE,
    AuditPlan,
    CommitSet,
    CycleConfig,
    DatasetManifest,
    LedgerHead,
    PostingState,
    RoundManifest,
    RoundSettlement,
)
from ares_p2p.errors import EvidenceBroken, NetworkFault, NodeDied, PeerFault
from ares_p2p.network.records import Verified
from ares_p2p.proofs.check import Contradiction, check_heads_agree
from ares_p2p.proofs.evidence import RoundEvidence
from ares_p2p.proofs.ledger import (
    MAX_PAGE_BYTES,
    HeadsContradict,
    LedgerPage,
    check_page,
    decode_page,
    open_head,
    read_leaf,
)
from ares_p2p.wire.codec import decode_envelope, decode_payload
from ares_peer.events import CreditTaken, ErrorRaised, Event
from ares_peer.evidence import EvidenceStore
from ares_peer.links import Links
from ares_peer.memory import RoundKey, SessionMemory

R = TypeVar("R", CommitSet, RoundManifest, AuditPlan)

LOOK_MS = 4_000  # between two looks for what is due: nobody waits for it
HEAD_MS = 60_000  # between two looks at the log's head in the DHT
PAGE_TIMEOUT_S = 30.0  # of one try; a page has some kilobytes
MAX_FAILURES = 40  # tries for a page or a settlement that must have been there
_TAKEN = (PostingState.VOID, PostingState.CLAWBACK)


@dataclass(slots=True)
class LedgerWatch:
    """One per session."""

    links: Links
    memory: SessionMemory
    evidence: EvidenceStore
    emit: Callable[[Event], None]
    _look_ms: int = 0
    _head_ms: int = 0
    _failures: dict[RoundKey, int] = field(default_factory=dict)
    _newest_settled: RoundKey = (-1, -1)
    _accused: set[tuple[int, int]] = field(default_factory=set)
    _is_ready: bool = False
    _is_following: bool = False

    async def begin_cycle(self, found: Verified[CycleConfig]) -> None:
        """Keep a cycle's configuration and data set as evidence; follow the ledger from now on.

        To be called when the blob store is tidy: what is tidied away could be a page on its way.
        Raises: NodeDied.
        """
        self._is_ready = True
        cycle = found.payload.header.cycle
        dataset: Verified[DatasetManifest] | None = None
        try:
            dataset = await self.links.records.fetch(DatasetManifest, cycle=cycle)
        except NodeDied:
            raise
        except NetworkFault:
            pass  # the check then names the gap
        envelope = None if dataset is None else dataset.envelope
        self.evidence.keep_cycle(cycle, config=found.envelope, dataset=envelope)

    def hurry(self) -> None:
        """Look for what is due with the next call."""
        self._look_ms = 0

    @property
    def is_behind(self) -> bool:
        """Whether the page of a settlement that was seen is still to come."""
        return any(self.evidence.round(key).settlement for key in self.memory.due)

    async def follow(self) -> None:
        """Look for settlements, pages and the head, when it is time. Raises: NodeDied."""
        if self._is_following or not self._is_ready:  # another task is at it, or it is early
            return
        self._is_following = True
        try:
            await self._follow(self.links.clock.now_ms())
        except NodeDied:
            raise
        except NetworkFault:
            return  # the next look is soon
        finally:
            self._is_following = False

    async def _follow(self, now_ms: int) -> None:
        if now_ms >= self._look_ms:
            self._look_ms = now_ms + LOOK_MS
            for key in sorted(self.memory.due, reverse=True):
                await self._collect(key)
        if now_ms >= self._head_ms:
            self._head_ms = now_ms + HEAD_MS
            await self._look_at_head()

    # --- settlements and pages -----------------------------------------------------------------

    async def _collect(self, key: RoundKey) -> None:
        """Bring what is missing of a round's evidence; raises NetworkFault when nobody answers."""
        settlement = await self._settlement(key)
        if settlement is None:
            if key < self._newest_settled:
                self._count_failure(key)
            return
        self._newest_settled = max(self._newest_settled, key)
        await self._fill(key, settlement)
        if settlement.page == NO_PAGE or self.evidence.round(key).link is not None:
            self._done(key)
            return
        try:
            page = await self._page(settlement)
            self._take(key, page)
        except NodeDied:
            raise
        except NetworkFault:
            self._count_failure(key)
        except PeerFault as fault:
            self._tell(
                f"the ledger page of round {key[1] + 1} of cycle {key[0]} does not hold: "
                f"{fault.message}"
            )
            self._done(key)

    async def _settlement(self, key: RoundKey) -> RoundSettlement | None:
        data = self.evidence.round(key).settlement
        if data:
            envelope = decode_envelope(data)
            return decode_payload(envelope.payload_type, envelope.payload, RoundSettlement)
        found = await self.links.records.fetch(RoundSettlement, cycle=key[0], round=key[1])
        if found is None:
            return None
        self.evidence.keep(key, durable=True, settlement=found.envelope)
        return found.payload

    async def _fill(self, key: RoundKey, settlement: RoundSettlement) -> None:
        """Fetch the records of a round whose end this peer did not see, or whose work it audited.

        Without them what the settlement pays could not be checked.
        """
        me, held = self.links.identity.peer_id, self.evidence.round(key)
        audited = [pay for pay in settlement.audits if pay.auditor == me]
        for pay in audited:
            report = self.memory.report_on(pay.commit_sha256)
            if report is not None:
                self.evidence.keep_report(key, report.envelope)
        if not audited and not held.commit:
            return
        if not held.commit_set:
            self.evidence.keep(key, commit_set=await self._record(CommitSet, key))
        if not held.manifest:
            self.evidence.keep(key, manifest=await self._record(RoundManifest, key))
        if audited and not held.audit_plan:
            self.evidence.keep(key, audit_plan=await self._record(AuditPlan, key))

    async def _record(self, cls: type[R], key: RoundKey) -> Envelope | None:
        found = await self.links.records.fetch(cls, cycle=key[0], round=key[1])
        return None if found is None else found.envelope

    async def _page(self, settlement: RoundSettlement) -> LedgerPage:
        """Return the page that a settlement names; raises BlobUnavailable, PeerFault."""
        blobs = self.links.blobs
        path = await blobs.fetch(
            settlement.page,
            sources=[self.links.coordinator],
            max_bytes=min(settlement.page_size_bytes, MAX_PAGE_BYTES),
            timeout_s=PAGE_TIMEOUT_S,
        )
        page = await asyncio.to_thread(lambda: decode_page(path.read_bytes()))
        await asyncio.to_thread(blobs.store.delete, settlement.page)
        return page

    def _take(self, key: RoundKey, page: LedgerPage) -> None:
        """Check a page, and keep what it proves. Raises: PeerFault."""
        coordinator, network_id = self.links.coordinator, self.links.network_id
        within = [size for size in self.evidence.heads if page.first <= size <= page.size]
        before = self.evidence.heads[max(within)] if within else None
        try:
            head = check_page(
                page,
                coordinator=coordinator,
                network_id=network_id,
                head_before=before and before[0],
            )
        except HeadsContradict as fault:
            assert before is not None
            head = open_head(page.head, coordinator=coordinator, network_id=network_id)
            contradiction = Contradiction(before[1], page.head, page)
            self._accuse(contradiction, (before[0].size, head.size), fault)
        if (head.header.cycle, head.header.round) != key:
            raise EvidenceBroken(
                f"its head seals round {head.header.round + 1} of cycle {head.header.cycle}"
            )
        follows = not page.first or page.first in self.evidence.paged
        if self.evidence.keep_page(key, page, head):
            self._done(key)
        self._tell_losses(key, self.evidence.round(key))
        cycle, number = key
        if not follows and number and self.evidence.round((cycle, number - 1)).link is None:
            self.memory.expect_page((cycle, number - 1))  # what lies between was missed

    def _tell_losses(self, key: RoundKey, evidence: RoundEvidence) -> None:
        """Say what a page takes back of rounds that were settled before."""
        for item in evidence.leaves:
            posting = read_leaf(item.leaf)
            place = (posting.cycle, posting.round)
            if posting.state in _TAKEN and place < key and self.evidence.round(place).settlement:
                self.emit(CreditTaken(*place, posting.amount_ucredits, posting.code))

    def _count_failure(self, key: RoundKey) -> None:
        self._failures[key] = self._failures.get(key, 0) + 1
        if self._failures[key] >= MAX_FAILURES:
            self._done(key)

    def _done(self, key: RoundKey) -> None:
        self._failures.pop(key, None)
        self.memory.forget_page(key)

    # --- the head in the DHT -------------------------------------------------------------------

    async def _look_at_head(self) -> None:
        found = await self.links.records.fetch(LedgerHead)
        if found is None:
            return
        head, envelope = found.payload, found.envelope
        known = self.evidence.heads.get(head.size) or self.evidence.newest_head
        if known is not None:
            pair = sorted([(head, envelope), known], key=lambda one: one[0].header.seq)
            try:
                check_heads_agree(pair[0][0], pair[1][0])
            except HeadsContradict as fault:
                sizes = (pair[0][0].size, pair[1][0].size)
                self._accuse(Contradiction(pair[0][1], pair[1][1]), sizes, fault)
                return
        newest = self.evidence.newest_head
        if newest is None or head.size > newest[0].size:
            self.evidence.keep_head(head, envelope)

    def _accuse(self, found: Contradiction, sizes: tuple[int, int], fault: HeadsContradict) -> None:
        """Keep the proof that the ledger was rewritten, and say so, once."""
        if sizes in self._accused:
            return
        self._accused.add(sizes)
        path = self.evidence.keep_contradiction(found, sizes=sizes)
        self._tell(
            f"THE COORDINATOR'S LEDGER WAS REWRITTEN: {fault.message}. Both signed heads are in "
            f"{path}",
            hint=f"Show {path} to the other volunteers: anybody can check the two signatures.",
        )

    def _tell(self, message: str, *, hint: str = "ares-peer credits verify") -> None:
        self.emit(ErrorRaised(EvidenceBroken.code, message, hint))
