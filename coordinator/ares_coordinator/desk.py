"""Where commits are handed in while a round is open: checked, stored, acknowledged.

A commit counts when it is in the database; only then is the acknowledgement signed away. What is
in the book and what is in the database never differ: a commit that cannot be stored leaves the
book again, also when its sender hangs up in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from ares_coordinator.context import RunningCycle
from ares_coordinator.herald import Herald
from ares_coordinator.seating import Seating
from ares_coordinator.store.rows import CommitResult, CommitRow, RecordRow, RoundState
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import Commit, CommitAck, CommitSet, RoundPlan
from ares_p2p.errors import (
    AresError,
    CommitLate,
    CoordinatorAway,
    Equivocation,
    PayloadMalformed,
    PeerFault,
    RateLimited,
)
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.records import Records
from ares_p2p.rounds.commits import CommitBook, SignedCommit, open_commit
from ares_p2p.rounds.seedchain import revealed_seed
from ares_p2p.wire.codec import class_of, decode_envelope, encode_envelope

OwnCommit = Callable[[CommitBook], Awaitable[Envelope]]  # signs it once its place is sure

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class CommitDesk:
    """The open round's book and who may write into it. One per cycle."""

    cycle: RunningCycle
    herald: Herald
    db: StoreThread
    clock: Clock
    seating: Seating | None = None  # None: first come, first served
    book: CommitBook | None = None
    refused: set[PeerId] = field(default_factory=set)  # the round does not wait for these
    _own: OwnCommit | None = None  # a commit of ours that goes in after the first of a peer
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _taking: set[asyncio.Task[Envelope]] = field(default_factory=set)

    async def open(
        self, plan: RoundPlan, plan_sha256: Digest, *, stored: Sequence[CommitRow] = ()
    ) -> CommitBook:
        """Open a round's book, with what the database already holds of it."""
        book = CommitBook(self.cycle.config, plan, plan_sha256, self.cycle.examples)
        for row in stored:
            book.add(decode_envelope(row.envelope), now_ms=plan.opens_ms)
        async with self._lock:
            self.refused.clear()
            self.book, self._own = book, None
        return book

    async def take(self, envelope: Envelope, remote: PeerId) -> Envelope:
        """Return the acknowledgement of a commit.

        Raises: PeerFault: why it is refused. CoordinatorAway: no round is open just now.
        """
        if class_of(envelope) is not Commit:
            raise PayloadMalformed(f"a {class_of(envelope).__name__} is nothing that peers submit")
        task = asyncio.create_task(self._take(envelope, remote))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        return await asyncio.shield(task)  # the sender may hang up; the commit still is taken

    async def _take(self, envelope: Envelope, remote: PeerId) -> Envelope:
        async with self._lock:
            book, now_ms = self.book, self.clock.now_ms()
            if book is None:
                await self._say_why_closed(envelope)
                raise CoordinatorAway("no round is open just now")
            try:
                await self._check_not_late(envelope, book)
                await self._check_seat(book, envelope.signer, sender=remote)
                signed = book.add(envelope, now_ms=now_ms, sender=remote)
            except PeerFault as fault:
                await self._refuse(book, remote, fault)
                await self._keep_evidence(envelope, fault, now_ms=now_ms)
                raise
            ack = await self._acknowledge(signed, book, now_ms=now_ms)
            await self._enter_own(book)
            return ack

    async def _check_seat(self, book: CommitBook, peer: PeerId, *, sender: PeerId) -> None:
        """Keep the last seats for those for whom they are held; see `seating`.

        Raises: RateLimited.
        """
        if self.seating is None:
            return
        try:
            await self.seating.check(peer, seated=book.commits)
        except RateLimited as fault:
            book.refuse(sender, fault)
            raise

    async def _acknowledge(
        self, signed: SignedCommit, book: CommitBook, *, now_ms: int
    ) -> Envelope:
        place = (self.cycle.number, book.plan.header.round)
        try:
            header = await self.herald.header(CommitAck, cycle=place[0], round_number=place[1])
            payload = CommitAck(header, signed.sha256, signed.peer)
            ack = self.herald.signed(payload, peer=signed.peer)
            result = await self._store(signed, now_ms=now_ms, ack=ack)
        except BaseException:
            book.commits.pop(signed.peer, None)  # not stored, so not in the round
            raise
        if result is CommitResult.DUPLICATE:
            stored = await self.db.call(self.db.store.record, "ack", *place, signed.peer)
            ack = ack if stored is None else stored
        log.info("commit", round=place[1], peer=signed.peer, tokens=signed.commit.tokens)
        return decode_envelope(ack.envelope)

    async def _store(
        self, signed: SignedCommit, *, now_ms: int, ack: RecordRow | None = None
    ) -> CommitResult:
        header = signed.commit.header
        envelope = encode_envelope(signed.envelope)
        row = CommitRow(signed.sha256, header.cycle, header.round, signed.peer, envelope, now_ms)
        return await self.db.call(self.db.store.add_commit, row, ack=ack)

    # --- a commit of ours ----------------------------------------------------------------------

    async def place(self, plan_sha256: Digest, commit: OwnCommit) -> None:
        """Enter a commit of the coordinator's own once a peer's is in; see `audit.decoys`.

        A round that nobody else works on stays empty, and one without a free seat beside the last
        stays as it is. Forgotten when the round closes first.
        """
        async with self._lock:
            book = self.book
            if book is None or book.plan_sha256 != plan_sha256:
                return
            self._own = commit
            await self._enter_own(book)

    async def _enter_own(self, book: CommitBook) -> None:
        commit, seats = self._own, self.cycle.config.limits.max_peers_per_round
        if commit is None or not book.commits:
            return
        self._own = None
        if len(book.commits) + 1 >= seats:
            return
        try:
            signed = book.add(await commit(book), now_ms=self.clock.now_ms())
            await self._acknowledge(signed, book, now_ms=self.clock.now_ms())
        except AresError as fault:  # whoever commits now is not to be refused for that
            log.warning("own_commit_failed", code=fault.code, why=fault.message)

    # --- refusals ------------------------------------------------------------------------------

    async def _say_why_closed(self, envelope: Envelope) -> None:
        """Refuse a commit whose round is over for good.

        Raises: CommitLate.
        """
        signed = open_commit(envelope, network_id=self.herald.network_id)
        latest = await self.db.call(self.db.store.latest_round, self.cycle.number)
        if latest is None or signed.commit.header.cycle != self.cycle.number:
            return
        header = signed.commit.header
        if header.round < latest.round or latest.state is not RoundState.OPEN:
            raise CommitLate(f"round {header.round} was over before this commit came")

    async def _check_not_late(self, envelope: Envelope, book: CommitBook) -> None:
        """Tell a commit that comes after its round from a replay of one that was taken.

        Raises: CommitLate.
        """
        signed = open_commit(envelope, network_id=self.herald.network_id)
        header, plan = signed.commit.header, book.plan.header
        earlier = header.cycle == plan.cycle and header.round <= plan.round
        if not earlier or signed.commit.plan_sha256 == book.plan_sha256:
            return
        taken = await self.db.call(self.db.store.commits, header.cycle, header.round)
        if all(row.commit_sha256 != signed.sha256 for row in taken):
            raise CommitLate(f"round {header.round} was over before this commit came")

    async def _refuse(self, book: CommitBook, culprit: PeerId, fault: PeerFault) -> None:
        """Count a refusal under who sent it: a signature may be forged, a connection is not."""
        if culprit not in book.commits and not isinstance(fault, CommitLate):
            self.refused.add(culprit)  # a late one is only slow: this round waits for it
        log.info("commit_refused", peer=culprit, code=fault.code, reason=fault.message)
        await self.db.call(
            self.db.store.add_refusal,
            self.cycle.number,
            book.plan.header.round,
            culprit,
            code=fault.code,
            message=fault.message,
            now_ms=self.clock.now_ms(),
        )

    async def _keep_evidence(self, envelope: Envelope, fault: PeerFault, *, now_ms: int) -> None:
        """Store a second, different commit beside the first: two signatures prove it."""
        if isinstance(fault, Equivocation):
            signed = open_commit(envelope, network_id=self.herald.network_id)
            with contextlib.suppress(Equivocation):
                await self._store(signed, now_ms=now_ms)

    # --- the end -------------------------------------------------------------------------------

    async def take_from_dht(self, records: Records) -> None:
        """Enter commits whose senders could not reach us in time but left them in the DHT."""
        book = self.book
        assert book is not None
        place = (self.cycle.number, book.plan.header.round)
        for item in await records.fetch_peers(Commit, cycle=place[0], round=place[1]):
            commit, peer = item.payload, item.signer
            in_time = commit.header.issued_ms <= book.plan.commit_deadline_ms
            if commit.plan_sha256 != book.plan_sha256 or not in_time:
                continue  # of a plan that was given up, or too late
            async with self._lock:
                if peer in book.commits or peer in self.refused:
                    continue
                try:
                    signed = book.add(item.envelope, now_ms=commit.header.issued_ms)
                except PeerFault as fault:
                    await self._refuse(book, peer, fault)
                else:
                    await self._acknowledge(signed, book, now_ms=self.clock.now_ms())

    async def close(self) -> RecordRow:
        """Close the book in memory and in the database; return the signed CommitSet."""
        async with self._lock:  # a commit that is being stored gets in
            book = self.book
            assert book is not None
            place = (self.cycle.number, book.plan.header.round)
            header = await self.herald.header(CommitSet, cycle=place[0], round_number=place[1])
            seed = revealed_seed(
                self.cycle.row.secret_seed,
                rounds=self.cycle.config.rounds,
                round_number=place[1],
            )
            record = self.herald.signed(book.close(header=header, seed=seed))
            now_ms = self.clock.now_ms()
            await self.db.call(self.db.store.close_round, *place, now_ms=now_ms, records=[record])
            self.book = None
            return record
