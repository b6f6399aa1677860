"""Fetching a round's contributions once its commits are closed: each by its hash, all at once.

That is the exchange of a round in which everybody fetches everything; `butterfly` is the other one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.domain import CommitSet, CycleConfig, RoundManifest, RoundPlan
from ares_p2p.errors import BlobUnavailable
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.blobs import fetch_until
from ares_p2p.rounds.commits import SignedCommit
from ares_p2p.training.replica import BoundLayout, open_contribution
from ares_p2p.training.roundsum import round_sum
from ares_peer.links import Links

Total = Callable[[], Vector | None]  # makes the round's sum; None when nothing was accepted

GRACE_MS = 10_000  # the coordinator's own, where the deadline is over before the fetching begins


@dataclass(slots=True)
class Exchange:
    """The contributions of one round. `start`, then `sum_of` the manifest, then `stop`.

    Args:
        layout_of: the layout that a peer's contribution must carry.
    """

    links: Links
    config: CycleConfig
    plan: RoundPlan
    commits: Sequence[SignedCommit]
    commit_set: CommitSet
    layout_of: Callable[[PeerId], BoundLayout]
    _fetching: tuple[asyncio.Task[VectorSource], ...] = ()

    def start(self) -> None:
        """Begin to fetch everything, while the coordinator does so too and decides."""
        deadline_ms = self._deadline_ms()
        self._fetching = tuple(
            asyncio.create_task(self._fetch(signed, deadline_ms)) for signed in self.commits
        )

    async def stop(self) -> None:
        """End what is still under way."""
        for task in self._fetching:
            task.cancel()
        await asyncio.gather(*self._fetching, return_exceptions=True)

    async def sum_of(self, manifest: RoundManifest) -> Total:
        """Return what makes the round's sum; by then everything it needs is here.

        Raises: BlobUnavailable. PeerFault: the manifest counts something that is no contribution.
        """
        vectors = await self.vectors_of(manifest)
        used = [
            (vectors[entry.commit_sha256], entry.coefficient)
            for entry in manifest.entries
            if entry.coefficient
        ]
        return lambda: round_sum(used, self.config.training) if used else None

    async def vectors_of(self, manifest: RoundManifest) -> dict[Digest, VectorSource]:
        """Return, by commit, the contributions that the manifest counts.

        What could not be had before is tried once more: the coordinator has it by now.

        Raises: BlobUnavailable. PeerFault: it counts something that is no contribution.
        """
        vectors = {}
        for signed, entry, task in zip(self.commits, manifest.entries, self._fetching, strict=True):
            if not entry.coefficient:
                continue
            try:
                vectors[signed.sha256] = await task
            except BlobUnavailable:
                again_until_ms = self.links.clock.now_ms() + GRACE_MS
                vectors[signed.sha256] = await self._fetch(signed, again_until_ms)
        return vectors

    def _deadline_ms(self) -> int:
        """Return until when contributions are served: earlier when the round closed early."""
        serve_ms = self.plan.serve_deadline_ms - self.plan.commit_deadline_ms
        early_ms = self.commit_set.header.issued_ms + serve_ms
        deadline_ms = min(self.plan.serve_deadline_ms, early_ms)
        return max(deadline_ms, self.links.clock.now_ms() + GRACE_MS)

    async def _fetch(self, signed: SignedCommit, deadline_ms: int) -> VectorSource:
        """Return one checked contribution, from its author or whoever has it by now."""
        me = self.links.identity.peer_id
        others = [c.peer for c in self.commits if c.peer not in (signed.peer, me)]
        limit = self.config.limits.max_blob_bytes
        path = await fetch_until(
            self.links.blobs,
            signed.commit.blob_id,
            sources=[signed.peer, *others, self.links.coordinator],
            max_bytes=min(signed.commit.blob_size_bytes, limit),
            clock=self.links.clock,
            deadline_ms=deadline_ms,
        )
        layout, training = self.layout_of(signed.peer), self.config.training
        return await asyncio.to_thread(
            lambda: open_contribution(path.read_bytes(), layout=layout, training=training)
        )
