"""Bytes of one round, from 4 to 32 peers: by parts they stay, fetched by everybody they grow.

The exchange is the peers' own code over blobs in memory; what is trained is nobody's business here,
so that contributions can be large: a part must be a chunk at least, or there is nothing to show.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ares_p2p.averaging.vectors import FLOAT32
from ares_p2p.domain import EntryStatus, ManifestEntry, PartRef
from ares_p2p.ids import CHUNK_BYTES, blob_id_of
from ares_p2p.network.blobs_memory import InMemoryBlobs
from ares_p2p.rounds.manifest import build_manifest
from ares_p2p.rounds.seedchain import revealed_seed
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.replica import bind_layout, encode_contribution, open_contribution
from ares_p2p.training.roundsum import encode_sum, join_parts, parts_of, round_sum
from ares_peer.butterfly import PartExchange
from ares_peer.exchange import Exchange
from payloads import identity
from sim.samples import LIMITS, SECRET, TRAINING, header, open_round, payload_sha256
from sim.session_world import World

pytestmark = pytest.mark.timeout(300)  # it moves two gigabytes
BITS = 8  # so that few elements are many bytes


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls a plug here, so nothing waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@dataclass(frozen=True)
class Moved:
    """Bytes of a round, in contributions: what a peer sends and gets is the most of any."""

    coordinator_up: float
    peer_up: float
    peer_down: float


async def moved(folder: Path, *, peers: int, frames: int, parts: int) -> Moved:
    """Play the exchange of one round; every peer must come to the same sum."""
    layout = layout_of_shapes({"a": (frames, 65_536)})
    training = dataclasses.replace(TRAINING, codec_bits=BITS, down_bits=BITS)
    round_ = open_round(
        training=training,
        parameters=layout.size,
        limits=dataclasses.replace(LIMITS, max_blob_bytes=1 << 30),
    )
    plan = dataclasses.replace(round_.plan, parts=parts)
    round_ = dataclasses.replace(round_, plan=plan, plan_sha256=payload_sha256(plan, "plan"))
    people = [identity(number) for number in range(peers)]
    async with World(folder) as world:
        links = {who.peer_id: world.links(who, folder / who.peer_id) for who in people}
        book, blobs = round_.book(), {}
        rng = np.random.default_rng(1)
        vector = rng.standard_normal(layout.size, dtype=FLOAT32) * np.float32(1e-3)
        for who in people:
            bound = bind_layout(layout, plan_sha256=round_.plan_sha256, peer=who.peer_id)
            data = encode_contribution(vector, -vector, layout=bound, training=training)
            blob_id = links[who.peer_id].blobs.store.put(data)
            sealed = round_.sealed(who, blob_id=blob_id, blob_size_bytes=len(data))
            book.add(sealed, now_ms=plan.opens_ms + 1)
            blobs[who.peer_id] = (bound, data)
        size = len(data)
        seed = revealed_seed(SECRET, rounds=round_.config.rounds, round_number=0)
        commit_set, commits = book.close(header=header(), seed=seed), book.in_order()
        split = parts_of(layout, plan=plan, plan_sha256=round_.plan_sha256)
        exchanges: list[Exchange | PartExchange] = []
        for who in people:
            own = links[who.peer_id]
            if split:
                exchanges.append(
                    PartExchange(
                        own,
                        round_.config,
                        plan,
                        commits,
                        commit_set.revealed_seed,
                        split,
                        keep=lambda blob_id: None,
                        say=lambda fault: None,
                    )
                )
            else:
                exchanges.append(
                    Exchange(
                        own,
                        round_.config,
                        plan,
                        commits,
                        commit_set,
                        lambda peer: blobs[peer][0],
                    )
                )
            exchanges[-1].start()
        coordinator = world.host.links.blobs
        up_before = coordinator.traffic.up_bytes
        for signed in commits:
            await coordinator.fetch(
                signed.commit.blob_id, sources=[signed.peer], max_bytes=size, timeout_s=60
            )
        coefficient = float(np.float32(1 / peers))
        used = [
            (
                open_contribution(blobs[c.peer][1], layout=blobs[c.peer][0], training=training),
                coefficient,
            )
            for c in commits
        ]
        refs, encoded = [], encode_sum(used, training, split)
        for data in encoded:
            coordinator.withhold(blob_id_of(data))
            refs.append(PartRef(coordinator.store.put(data), len(data)))
        manifest = build_manifest(
            header=header(issued_ms=world.clock.now_ms()),
            plan_sha256=round_.plan_sha256,
            commit_set_sha256=payload_sha256(commit_set, "commits"),
            entries=[
                ManifestEntry(c.sha256, c.peer, coefficient, EntryStatus.ACCEPTED, "", "")
                for c in commits
            ],
            next_state=bytes(32),
            next_state_size_bytes=1,
            final=False,
            parts=refs,
        )
        totals = await asyncio.gather(*(one.sum_of(manifest) for one in exchanges))
        expected = join_parts(encoded, training, split) if split else round_sum(used, training)
        total = totals[0]()
        assert total is not None
        assert total.tobytes() == expected.tobytes()
        for one in exchanges:
            await one.stop()
        traffic = [own.blobs.traffic for own in links.values()]
        found = Moved(
            (coordinator.traffic.up_bytes - up_before) / size,
            max(one.up_bytes for one in traffic) / size,
            max(one.down_bytes for one in traffic) / size,
        )
        assert isinstance(coordinator, InMemoryBlobs)
    shutil.rmtree(folder)
    return found


async def test_by_parts_nobodys_bytes_grow_with_the_peers(tmp_path: Path) -> None:
    """A part is no more than a chunk here, and every piece of it two: the worst there can be."""
    frames = 32 * CHUNK_BYTES // (65_536 + 1024)
    few = await moved(tmp_path / "few", peers=4, frames=frames, parts=4)
    many = await moved(tmp_path / "many", peers=32, frames=frames, parts=32)
    assert few.coordinator_up == many.coordinator_up == 0.0
    assert many.peer_up < 2 * few.peer_up
    assert many.peer_down < 2 * few.peer_down


async def test_fetched_by_everybody_the_bytes_grow_with_the_peers(tmp_path: Path) -> None:
    few = await moved(tmp_path / "few", peers=4, frames=1, parts=0)
    many = await moved(tmp_path / "many", peers=32, frames=1, parts=0)
    assert few.peer_down == pytest.approx(3, rel=0.1)
    assert many.peer_down == pytest.approx(31, rel=0.1)
    assert many.peer_up > 6 * few.peer_up
