"""One peer in the exchange of a round by parts: reduce what the seed says, fetch everything else.

From the moment when the commits are closed a reducer and a spare fetch their piece of every
contribution, chunk by chunk, from its author; when the manifest says the coefficients, they
add the pieces up and serve the part. Everybody fetches every part by the digest that the manifest
names: from its reducer and its spare, then also from whoever has it by now, and from the coordinator
last, while nothing comes from anybody else.

What a reducer makes is what the manifest names, or somebody is wrong: `StateMismatch`, with the
part. The coordinator signed it, so that a lie about a part is found by two peers whom it could not
choose. A peer that comes late, or gets no pieces, does without reducing and fetches all parts.

Source: docs/adr/0007; the swarm protocol, "A round", step 6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ares_p2p.averaging.vectors import Vector
from ares_p2p.clock import Clock
from ares_p2p.domain import CycleConfig, PartRef, RoundManifest, RoundPlan
from ares_p2p.errors import BlobUnavailable, StateMismatch
from ares_p2p.ids import Digest, PeerId, blob_id_of
from ares_p2p.network.blob_store import chunks_of_range
from ares_p2p.network.blobs import Progress
from ares_p2p.rounds.commits import SignedCommit
from ares_p2p.rounds.parts import grace_ms, jobs_of, ranked_reducers, sources_of_part
from ares_p2p.training.roundsum import (
    PartLayout,
    join_parts,
    open_piece,
    range_of_part,
    reduce_part,
)
from ares_peer.exchange import GRACE_MS, Total
from ares_peer.links import UNREACHABLE_WAY, Links

T = TypeVar("T")

FIRST_PAUSE_S, MAX_PAUSE_S = 0.3, 2.0  # between two questions for a part that nobody has yet
TRY_S = 60.0  # then it is asked for anew, of others too; what came is kept
AT_ONCE = 12  # downloads; more of them on a slow line, and none gets a chunk in time
OTHERS_ASKED = 6  # at a time, besides the reducer and the spare


@dataclass(slots=True)
class PartExchange:
    """The parts of one round. `start`, then `sum_of` the manifest, then `stop`.

    Args:
        plan: of the round that is exchanged: its times count.
        seed: that was revealed with the commits.
        parts: of the sum of these commits.
        keep: told the parts' blobs, which the round brings here.
        say: told at once when a part is not what the contributions lead to.
    """

    links: Links
    config: CycleConfig
    plan: RoundPlan
    commits: Sequence[SignedCommit]
    seed: Digest
    parts: Sequence[PartLayout]
    keep: Callable[[Digest], None]
    say: Callable[[StateMismatch], None]
    _ranking: tuple[tuple[PeerId, ...], ...] = ()
    _jobs: tuple[int, ...] = ()
    _pieces: dict[Digest, asyncio.Task[None]] = field(default_factory=dict)  # by commit
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _is_decided: bool = False  # the manifest is here: the coordinator has what it counts

    @property
    def _me(self) -> PeerId:
        return self.links.identity.peer_id

    def start(self) -> None:
        """Begin to fetch the pieces of the parts that are ours, while the coordinator decides."""
        peers = [signed.peer for signed in self.commits]
        self._ranking = ranked_reducers(self.seed, peers, parts=len(self.parts))
        if self.links.way() != UNREACHABLE_WAY:  # who can serve no part does not make one
            self._jobs = jobs_of(self._me, self._ranking)
        if not self._jobs:
            return
        for signed in self._from_me_on(self.commits, peers):
            fetching = asyncio.create_task(self._fetch_pieces(signed))
            self._pieces[signed.sha256] = fetching

    async def stop(self) -> None:
        """End what is still under way."""
        tasks = [*self._pieces.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def sum_of(self, manifest: RoundManifest) -> Total:
        """Return what makes the round's sum; by then every part of it is here.

        Raises: StateMismatch: a part that we made ourselves is not the one that was signed.
            BlobUnavailable: nobody serves a part. PeerFault: the manifest counts something that is
            no contribution.
        """
        if not manifest.parts:
            return lambda: None
        self._is_decided = True
        for ref in manifest.parts:
            self.keep(ref.blob_id)
        self._tasks = [
            asyncio.create_task(self._bring(number, manifest))
            for number in self._from_me_on(range(len(self.parts)), self._first_makers())
        ]
        # all of them to their end: a lie about one part is no reason not to serve the others
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        faults = [end for end in ends if isinstance(end, BaseException)]
        for fault in sorted(faults, key=lambda fault: not isinstance(fault, StateMismatch)):
            raise fault
        return lambda: self._joined(manifest.parts)

    def _first_makers(self) -> list[PeerId]:
        return [ranked[0] for ranked in self._ranking]

    def _from_me_on(self, things: Sequence[T], owners: Sequence[PeerId]) -> list[T]:
        """Return things in a circle that begins with our own, so that not all ask the same one."""
        place = owners.index(self._me) if self._me in owners else 0
        return [*things[place:], *things[:place]]

    def _joined(self, refs: Sequence[PartRef]) -> Vector:
        store = self.links.blobs.store
        data = [store.read(ref.blob_id) for ref in refs]
        return join_parts(data, self.config.training, self.parts)

    async def _bring(self, number: int, manifest: RoundManifest) -> None:
        """Make a part, if it is ours to make, or fetch it."""
        left_ms = manifest.header.issued_ms + grace_ms(self.plan) - self.links.clock.now_ms()
        if number in self._jobs and left_ms > 0:
            try:
                await self._reduce(number, manifest, limit_s=left_ms / 1000)
            except BlobUnavailable:
                pass  # not all pieces came in time: we are no reducer this time
            else:
                return
        await self._fetch(number, manifest)

    # --- reducing ------------------------------------------------------------------------------

    async def _reduce(self, number: int, manifest: RoundManifest, *, limit_s: float) -> None:
        """Make a part from the pieces of all contributions that count, and serve it.

        Raises: BlobUnavailable: a piece is not here in time. StateMismatch. PeerFault.
        """
        counted = [
            (signed, entry.coefficient)
            for signed, entry in zip(self.commits, manifest.entries, strict=True)
            if entry.coefficient
        ]
        await self._pieces_of([signed for signed, _ in counted], limit_s=limit_s)
        data = await asyncio.to_thread(self._reduced, number, counted)
        ours, signed_id = blob_id_of(data), manifest.parts[number].blob_id
        if ours != signed_id:
            fault = StateMismatch(
                f"round {self.plan.header.round}, part {number} of {len(self.parts)}: from the "
                f"contributions it is {ours.hex()[:12]}, the coordinator signed "
                f"{signed_id.hex()[:12]}",
                hint="Fetching the signed snapshot; report this if it goes on.",
            )
            self.say(fault)
            raise fault
        await asyncio.to_thread(self.links.blobs.store.put, data)

    def _reduced(self, number: int, counted: Sequence[tuple[SignedCommit, float]]) -> bytes:
        part, training, store = self.parts[number], self.config.training, self.links.blobs.store
        start, stop = range_of_part(part, training)
        pieces = [
            (
                open_piece(
                    store.read_range(signed.commit.blob_id, start, stop),
                    part=part,
                    training=training,
                ),
                coefficient,
            )
            for signed, coefficient in counted
        ]
        return reduce_part(pieces, training, part)

    async def _pieces_of(self, counted: Sequence[SignedCommit], *, limit_s: float) -> None:
        waiting = {self._pieces[signed.sha256] for signed in counted}
        timer = asyncio.create_task(self.links.clock.sleep(limit_s))
        try:
            while waiting:
                done, _ = await asyncio.wait({*waiting, timer}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                waiting -= done
                if waiting and timer in done:
                    raise BlobUnavailable(f"{len(waiting)} pieces are not here in time")
        finally:
            timer.cancel()

    async def _fetch_pieces(self, signed: SignedCommit) -> None:
        """Bring the chunks of a contribution that hold the parts that are ours to make.

        Its author serves them. Once the manifest is there the coordinator has them too, if they
        count; it is asked only when nothing comes from the author.
        """
        ranges = (range_of_part(self.parts[job], self.config.training) for job in self._jobs)
        chunks = {chunk for bounds in ranges for chunk in chunks_of_range(*bounds)}
        commit, limit = signed.commit, self.config.limits.max_blob_bytes

        async def fetch(sources: list[PeerId], progress: Progress) -> None:
            await self.links.blobs.fetch_chunks(
                commit.blob_id,
                chunks=chunks,
                sources=sources,
                max_bytes=min(commit.blob_size_bytes, limit),
                timeout_s=TRY_S,
                progress=progress,
            )

        patience = _Patience(self.links.clock, self._slots)
        while not await patience.has_fetched(
            fetch, [signed.peer], self.links.coordinator if self._is_decided else None
        ):
            pass

    # --- fetching ------------------------------------------------------------------------------

    async def _fetch(self, number: int, manifest: RoundManifest) -> None:
        """Bring a part here from whoever made it, whoever has it by now, or the coordinator."""
        ref, clock = manifest.parts[number], self.links.clock
        makers, others = sources_of_part(self._ranking[number], self._me)
        issued_ms, grace = manifest.header.issued_ms, grace_ms(self.plan)
        serve_ms = self.plan.serve_deadline_ms - self.plan.commit_deadline_ms
        deadline_ms = GRACE_MS + max(issued_ms + serve_ms, clock.now_ms())

        async def fetch(sources: list[PeerId], progress: Progress) -> None:
            await self.links.blobs.fetch(
                ref.blob_id,
                sources=sources,
                max_bytes=ref.size_bytes,
                timeout_s=TRY_S,
                progress=progress,
            )

        patience = _Patience(clock, self._slots)
        while True:
            age_ms = clock.now_ms() - issued_ms
            asked = list(makers)
            if 2 * age_ms >= grace:
                asked += others[:OTHERS_ASKED]
                others = [*others[OTHERS_ASKED:], *others[:OTHERS_ASKED]]
            last = self.links.coordinator if age_ms >= grace else None
            if await patience.has_fetched(fetch, asked, last):
                return
            if clock.now_ms() >= deadline_ms:
                raise BlobUnavailable(f"nobody served part {number}: {patience.why}")


class _Patience:
    """One blob that is asked for again and again; the last resort only when nothing comes."""

    def __init__(self, clock: Clock, slots: asyncio.Semaphore) -> None:
        self._clock = clock
        self._slots = slots
        self._pause_s = FIRST_PAUSE_S
        self._has_come = True
        self.why = ""

    async def has_fetched(
        self,
        fetch: Callable[[list[PeerId], Progress], Awaitable[None]],
        sources: Sequence[PeerId],
        last_resort: PeerId | None,
    ) -> bool:
        """Try once; after a try that failed, wait a little longer each time."""
        asked = list(sources)
        if last_resort is not None and not self._has_come:
            asked.append(last_resort)
        seen: list[int] = []  # what is here at the beginning of the try, and after each chunk
        try:
            async with self._slots:
                await fetch(asked, lambda here_bytes, _: seen.append(here_bytes))
        except BlobUnavailable as fault:
            self.why = fault.message
        else:
            return True
        self._has_come = len(seen) > 1
        await self._clock.sleep(self._pause_s)
        self._pause_s = min(MAX_PAUSE_S, 1.5 * self._pause_s)
        return False
