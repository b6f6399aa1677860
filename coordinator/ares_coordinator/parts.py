"""Rounds by parts, as the coordinator plays them: it signs what every part must be, and serves last.

It holds all contributions, so it makes every part of the sum itself and names its digest in the
manifest: that needs no upload. The parts travel between the peers; until a grace is over
the coordinator withholds its own copies, so that what it sends does not grow with the round. After
that it is the last source, for parts whose reducer and spare are both gone.

Source: docs/adr/0007.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from ares_coordinator.alarm.correct import corrected_vectors
from ares_coordinator.alarm.past import PastRound
from ares_coordinator.alarm.remake import used_vectors
from ares_coordinator.context import RunningCycle
from ares_coordinator.judge import Judged
from ares_p2p.averaging.runs import part_sizes
from ares_p2p.clock import Clock
from ares_p2p.domain import PartRef, RoundCorrection, RoundManifest, RoundPlan
from ares_p2p.ids import Digest, blob_id_of
from ares_p2p.network.blobs import Blobs
from ares_p2p.rounds.parts import (
    DOWN_BITS,
    ExchangeChoice,
    ExchangeSizes,
    choose_exchange,
    grace_ms,
)
from ares_p2p.training.replica import next_state, state_after
from ares_p2p.training.roundsum import (
    PartLayout,
    Weighted,
    encode_sum,
    join_parts,
    parts_of,
)
from ares_p2p.training.state import TrainingState, encode_snapshot

log = structlog.get_logger(__name__)


class PartDesk:
    """The parts of one cycle's rounds."""

    def __init__(self, cycle: RunningCycle, blobs: Blobs, clock: Clock) -> None:
        self._cycle = cycle
        self._blobs = blobs
        self._clock = clock
        self._releasing: set[asyncio.Task[None]] = set()

    def choose(self, *, peers: int, upload_bytes_per_s: Sequence[float]) -> ExchangeChoice:
        """Return how a round of so many peers is exchanged."""
        training, layout = self._cycle.config.training, self._cycle.layout
        averaging = self._cycle.settings.averaging
        has_codec = training.down_bits in DOWN_BITS
        sizes = ExchangeSizes(
            layout.size, self._cycle.config.limits.max_blob_bytes, self.sum_bytes()
        )
        return choose_exchange(
            averaging.exchange if has_codec else "gather",
            peers=max(1, peers),
            sizes=sizes,
            upload_bytes_per_s=upload_bytes_per_s,
            parts=averaging.parts,
        )

    def sum_bytes(self) -> int:
        """Return the bytes of the encoded sum of a round."""
        training, layout = self._cycle.config.training, self._cycle.layout
        bits, block = training.down_bits, training.codec_block
        return sum(part_sizes(layout.size, 1, bits=bits, block=block)) if bits else 0

    def end(
        self, plan: RoundPlan, plan_sha256: Digest, state: TrainingState, judged: Sequence[Judged]
    ) -> tuple[Digest, tuple[PartRef, ...]]:
        """Make a round's next state and the parts that led to it, and keep both; blocks.

        Returns: the state's digest, and the parts as the manifest names them.
        """
        parts = parts_of(self._cycle.layout, plan=plan, plan_sha256=plan_sha256)
        following, refs = self._after(state, used_vectors(judged), parts)
        return self._blobs.store.put(encode_snapshot(following)), refs

    def end_corrected(
        self, past: PastRound, correction: RoundCorrection
    ) -> tuple[Digest, tuple[PartRef, ...]]:
        """Make the state that a correction leads to, as `end` does; blocks."""
        used = corrected_vectors(past, correction)
        following, refs = self._after(past.start, used, past.parts)
        following = replace(following, round=past.start.round + 2)
        return self._blobs.store.put(encode_snapshot(following)), refs

    def _after(
        self, state: TrainingState, used: Sequence[Weighted], parts: Sequence[PartLayout]
    ) -> tuple[TrainingState, tuple[PartRef, ...]]:
        training = self._cycle.config.training
        if not parts or not used:
            return next_state(state, used, training), ()
        encoded = encode_sum(used, training, parts)
        following = state_after(state, join_parts(encoded, training, parts), training)
        return following, tuple(self._kept(data) for data in encoded)

    def _kept(self, data: bytes) -> PartRef:
        blob_id = blob_id_of(data)
        self._blobs.withhold(blob_id)  # before it is there: no moment in which it is served
        self._blobs.store.put(data)
        return PartRef(blob_id, len(data))

    # --- serving -------------------------------------------------------------------------------

    def serve_later(self, plan: RoundPlan, manifest: RoundManifest) -> None:
        """Serve the parts of a round once the peers had their time with them."""
        if manifest.parts:
            wait_s = grace_ms(plan) / 1000
            task = asyncio.create_task(self._release_after(wait_s, manifest), name="parts")
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    def serve(self, manifest: RoundManifest) -> None:
        """Serve the parts of a round from now on: after a restart nobody knows since when."""
        for part in manifest.parts:
            self._blobs.release(part.blob_id)

    async def drain(self) -> None:
        """Wait until the parts of all rounds are served."""
        await asyncio.gather(*self._releasing)

    async def close(self) -> None:
        """End what is under way; the next start serves what is left."""
        for task in self._releasing:
            task.cancel()
        await asyncio.gather(*self._releasing, return_exceptions=True)

    async def _release_after(self, wait_s: float, manifest: RoundManifest) -> None:
        await self._clock.sleep(wait_s)
        self.serve(manifest)
        log.info("parts_served", round=manifest.header.round, parts=len(manifest.parts))
