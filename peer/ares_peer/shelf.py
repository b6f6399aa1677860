"""The blobs a peer keeps: a few states, the contributions of two rounds, and nothing else.

Without it the disk would fill by every contribution of every peer of every round. What is held
is served: the states to late joiners, the contributions to whoever still fetches the last round.
Its methods do the disk's work in threads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable

from ares_p2p.ids import DIGEST_BYTES, Digest
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.training.state import TrainingState, encode_snapshot
from ares_peer.memory import SessionMemory

KEPT_STATES = 3  # snapshots served to late joiners
KEPT_ROUNDS = 2  # contributions of the last round are fetched while the next one runs


class Shelf:
    """What of the blob store is in use. One per session."""

    def __init__(self, store: BlobStore, memory: SessionMemory) -> None:
        self._store = store
        self._memory = memory
        self._rounds: deque[set[Digest]] = deque()

    @property
    def states(self) -> tuple[Digest, ...]:
        """The snapshots that are held, oldest first."""
        return self._memory.states

    async def put_state(self, state: TrainingState) -> Digest:
        """Store a state's snapshot, to be served; return its digest."""
        digest = await asyncio.to_thread(lambda: self._store.put(encode_snapshot(state)))
        await self.keep_state(digest)
        return digest

    async def keep_state(self, digest: Digest) -> None:
        """Keep a snapshot that is in the store already, and let go of the oldest."""
        states = (*(other for other in self.states if other != digest), digest)
        self._memory.remember_states(states[-KEPT_STATES:])
        await asyncio.to_thread(self._delete, states[:-KEPT_STATES])

    async def keep_round(self, contributions: Collection[Digest]) -> None:
        """Keep a round's contributions, own and others', and let go of those before the last."""
        self._rounds.append(set(contributions))
        while len(self._rounds) > KEPT_ROUNDS:
            old = self._rounds.popleft()
            await asyncio.to_thread(self._delete, old.difference(*self._rounds))

    async def clean(self, needed: Iterable[Digest]) -> None:
        """Delete everything that an earlier run left, except what is needed.

        States that are still held and the remembered commit's blob are always needed.
        """
        kept = {*needed, *self.states}
        if self._memory.kept_commit is not None:
            kept.add(self._memory.kept_commit.blob_id)
        await asyncio.to_thread(self._clean, kept)

    def _clean(self, kept: Collection[Digest]) -> None:
        self._delete(self._found() - set(kept))
        self._memory.remember_states(tuple(one for one in self.states if self._store.has(one)))

    def _found(self) -> set[Digest]:
        """Return every blob of which there is anything: whole, begun, or a mark."""
        found = set()
        for path in self._store.folder.iterdir():
            try:
                digest = bytes.fromhex(path.stem)
            except ValueError:
                continue
            if len(digest) == DIGEST_BYTES:
                found.add(digest)
        return found

    def _delete(self, digests: Iterable[Digest]) -> None:
        for digest in digests:
            self._store.delete(digest)
