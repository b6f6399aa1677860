"""A swarm of any size: the real coordinator's rounds, real sessions, mixed machines, churn.

It is `tests/sim/keeper_world` on another loop, with lines. The training is played: the vector is
a common direction plus noise of the peer's own, made at once, and takes the time of its steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "tests")) if path not in sys.path]

from ares_coordinator.settings import AveragingSection  # noqa: E402
from ares_p2p.crypto.envelope import Envelope  # noqa: E402
from ares_p2p.crypto.keys import Identity  # noqa: E402
from ares_p2p.domain import RoundManifest  # noqa: E402
from ares_p2p.ids import Digest, PeerId  # noqa: E402
from ares_p2p.network.blob_store import BlobStore  # noqa: E402
from ares_p2p.network.blobs_memory import InMemoryBlobs  # noqa: E402
from ares_p2p.network.records_memory import InMemoryRecords  # noqa: E402
from ares_p2p.training.layout import Layout, layout_of_shapes  # noqa: E402
from ares_peer.events import CommitSent, Event, RoundDone  # noqa: E402
from ares_peer.links import Links  # noqa: E402
from benchmarks.scale.links import (  # noqa: E402
    BlobsAsSeenBy,
    Line,
    Lines,
    PlayedControl,
    RecordsAsSeenBy,
)
from benchmarks.scale.loop import PlayedLoop, role  # noqa: E402
from sim import keeper_world, session_world  # noqa: E402
from sim.samples import COORDINATOR  # noqa: E402

FRAME = 65_536  # elements of a codec frame: what a part of the sum is made of
NOISES = 16
MBIT = 1e6 / 8
COORDINATOR_LINE = (100 * MBIT, 100 * MBIT, 0.01)
SEATS = 100  # the most that the settings allow; a CommitSet holds about 110 commits


@dataclass(frozen=True, slots=True)
class Mix:
    """What machines and lines the peers have: medians and spreads of log-normal draws."""

    tokens_per_s: float = 32.0  # of the toy: 64 tokens a step, ten steps in 20 s
    speed_spread: float = 0.5  # nine of ten within a factor of 2.3 of the median
    up_bytes_per_s: float = 20 * MBIT
    up_spread: float = 0.5
    down_over_up: float = 5.0
    delays_s: tuple[float, float] = (0.01, 0.06)  # one way, to the middle of the network


class VectorTask:
    """What the sessions and the keeper need of a task: a layout."""

    def __init__(self, frames: int) -> None:
        self.layout: Layout = layout_of_shapes({"vector.weight": (frames, FRAME)})
        rng = np.random.default_rng(0)
        self.common = rng.choice(np.float32([-1, 1]), self.layout.size)
        self.noises = rng.standard_normal((NOISES, self.layout.size), dtype=np.float32).clip(-1, 1)


@contextlib.contextmanager
def toy_of(frames: int) -> Iterator[VectorTask]:
    """Let the simulated world train a vector of so many frames."""
    task = VectorTask(frames)
    with patch.object(session_world, "the_task", lambda _rank: task):
        yield task


class VectorRig(session_world.ToyRig):
    """Takes the time of its steps, and gives a vector."""

    def train(
        self,
        start: Any,
        *,
        round_number: int,
        peer: PeerId,
        lr: float,
        min_steps: int,
        max_steps: int,
        on_step: Any = None,
    ) -> Any:
        self.trained.append(round_number)
        training, steps = self.config.training, 0
        tokens = training.sequences_per_step * training.sequence_length
        for step in range(1, max_steps + 1):
            self.clock.pass_s(self.step_s)
            steps = step
            if on_step is not None and not on_step(step, 2.0, tokens) and step >= min_steps:
                break
        task: Any = self.task
        noise = task.noises[zlib.crc32(f"{peer} {round_number}".encode()) % NOISES]
        moved = np.float32(0.3 * lr * steps) * (task.common + noise)
        return session_world.Trained(
            start - moved, steps, steps * tokens, steps * tokens, 2.0, steps
        )


class ScalePeer(session_world.Peer):
    """One volunteer, and when it did what, in played seconds."""

    def __init__(self, world: ScaleWorld, number: int, step_s: float) -> None:
        super().__init__(world, number)
        self.rig = VectorRig(world.clock, world.host.config, step_s, world.task)
        self.started_s = self.accepted_s = math.nan
        self.refused: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.done = 0
        self.on_event = self._note

    def _note(self, event: Event) -> None:
        self.events.clear()  # a thousand peers' steps are too many to keep
        if isinstance(event, CommitSent):
            if not event.accepted:
                self.refused[event.code] += 1
            elif math.isnan(self.accepted_s):
                self.accepted_s = asyncio.get_running_loop().time()
        if isinstance(event, RoundDone):
            self.done += 1
            if event.status not in ("accepted", "clipped"):
                self.lost[event.code or event.status] += 1

    def begin(self) -> ScalePeer:
        """Start the session now."""
        self.started_s = asyncio.get_running_loop().time()
        context = copy_context()
        context.run(role.set, "peers")
        context.run(self.start)
        return self


class ScaleWorld(keeper_world.KeeperWorld):
    """The swarm. Make it inside `toy_of`, on a `PlayedLoop`."""

    def __init__(
        self,
        folder: Path,
        loop: PlayedLoop,
        *,
        rounds: int,
        peers: int,
        blob_bytes: int,
        mix: Mix,
        seed: int,
        exchange: Literal["auto", "gather", "butterfly"] = "auto",
        seats: int = SEATS,
    ) -> None:
        self.loop = loop
        self.lines = Lines()
        self.reads: Counter[str] = Counter()
        self.sent: dict[PeerId, Counter[Digest]] = {COORDINATOR.peer_id: Counter()}
        self.mix = mix
        self.rng = random.Random(seed)
        with patch.object(session_world, "VirtualClock", lambda: loop.clock):
            super().__init__(
                folder,
                rounds=rounds,
                peers=min(peers, seats),
                training={"min_steps": 2, "max_steps": 10},
                averaging=AveragingSection(exchange=exchange),
                clock="measured",
                train_s=300,
                serve_s=120,
                max_peers=seats,
                held_out_every=1_000_000,
            )
        config = self.host.config
        limits = replace(config.limits, max_peers_per_round=seats)
        self.host.config = replace(config, limits=limits)
        self.lines.scale = blob_bytes / limits.max_blob_bytes if blob_bytes else 1.0
        self.swarm: list[ScalePeer] = []
        self.gone: list[ScalePeer] = []

    # --- lines ---------------------------------------------------------------------------------

    def _line_of(self, who: PeerId) -> Line:
        if who not in self.lines.of:
            if who == COORDINATOR.peer_id:
                self.lines.of[who] = Line(*COORDINATOR_LINE)
            else:
                up = self.mix.up_bytes_per_s * math.exp(self.rng.gauss(0, self.mix.up_spread))
                delay_s = self.rng.uniform(*self.mix.delays_s)
                self.lines.of[who] = Line(up, self.mix.down_over_up * up, delay_s)
        return self.lines.of[who]

    def links(self, who: Identity, folder: Path) -> Links:
        line = self._line_of(who.peer_id)
        control = PlayedControl(self.control, peer_id=who.peer_id, coordinator=COORDINATOR.peer_id)
        control.lines = self.lines
        return Links(
            identity=who,
            network_id=session_world.NETWORK.network_id,
            coordinator=COORDINATOR.peer_id,
            records=InMemoryRecords(RecordsAsSeenBy(self.records, line, self.reads), identity=who),
            blobs=InMemoryBlobs(
                BlobsAsSeenBy(self.blobs, self.lines, who.peer_id, self.sent),
                peer_id=who.peer_id,
                store=BlobStore(folder),
                monotonic=self.loop.time,
            ),
            control=control,
            clock=self.clock,
        )

    # --- people --------------------------------------------------------------------------------

    def join(self) -> ScalePeer:
        """Start one more peer, of a machine and a line that the mix gives."""
        rate = self.mix.tokens_per_s * math.exp(self.rng.gauss(0, self.mix.speed_spread))
        training = self.host.config.training
        step_s = training.sequences_per_step * training.sequence_length / rate
        peer = ScalePeer(self, next(self._ids), step_s)
        self.swarm.append(peer)
        return peer.begin()

    async def churn(self, share: float) -> int:
        """Kill a share of the peers, as a pulled plug would, and let as many new ones join."""
        count = round(share * len(self.swarm))
        for peer in self.rng.sample(self.swarm, count):
            self.swarm.remove(peer)
            self.gone.append(peer)
            assert peer.task is not None
            self.tasks.remove(peer.task)
            await peer.kill()
        for _ in range(count):
            self.join()
        return count

    # --- the coordinator -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin the coordinator; what it spends is booked as its own."""
        context = copy_context()
        context.run(role.set, "coordinator")
        context.run(super().start)
        handle = self.control.handlers[COORDINATOR.peer_id]
        assert handle is not None

        async def booked(envelope: Envelope, remote: PeerId) -> Envelope:
            return await asyncio.create_task(handle(envelope, remote), context=context.copy())

        self.control.handlers[COORDINATOR.peer_id] = booked

    def sent_by_kind(self) -> Counter[str]:
        """Return the bytes of blobs that the coordinator sent, by what they were."""
        kinds: dict[Digest, str] = {}
        for row in self.rows():
            kinds[row.state_digest] = "states"
            for signed in self.signed_commits(row.round):
                kinds[signed.commit.blob_id] = "contributions"
            record = self.store.record("manifest", row.cycle, row.round)
            if record is not None:
                manifest = keeper_world.payload_of(record, RoundManifest)
                kinds |= {part.blob_id: "parts" for part in manifest.parts}
                kinds.setdefault(manifest.next_state, "states")
        found: Counter[str] = Counter({"contributions": 0, "parts": 0, "states": 0, "base": 0})
        for blob_id, size_bytes in self.sent[COORDINATOR.peer_id].items():
            found[kinds.get(blob_id, "base")] += size_bytes
        return found

    @property
    def coordinator_line(self) -> Line:
        """The coordinator's line."""
        return self.lines.of[COORDINATOR.peer_id]

    async def __aenter__(self) -> ScaleWorld:
        threads = self.loop._default_executor
        await super().__aenter__()
        self.loop.set_default_executor(threads)
        return self
