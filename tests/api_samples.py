"""A coordinator's views for tests of the API: a real store with a played cycle, a fixed moment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from ares_coordinator.api.views import LiveSnapshot
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import CategoryCount, DatasetRow, MetaKey, RecordRow
from ares_coordinator.store.thread import StoreThread
from ares_p2p.domain import AuditOutcome, Header, NetworkDescriptor
from ares_p2p.wire.codec import encode_envelope, seal
from payloads import identity
from store_samples import (
    NOW,
    begin,
    commit,
    contribution,
    judge,
    open_round,
    peer,
    play_round,
    refused,
)

ADDRESS = "/ip4/127.0.0.1/tcp/4001/p2p/" + identity(9).peer_id
DESCRIPTOR = NetworkDescriptor(
    header=Header("net-1", 0, 0, 1, NOW),
    name="test network",
    coordinator=identity(9).peer_id,
    bootstrap_addresses=(ADDRESS,),
    protocol_min=1,
    protocol_max=2,
    api_url="https://ares.example",
)
LIVE = LiveSnapshot(
    at_ms=NOW + 90_500,
    started_ms=NOW,
    state="running",
    activity="round 1",
    failure="",
    online=frozenset({peer(1)}),
    deadline_ms=NOW + 95_000,
    tokens_per_s=1234.5,
    bytes_sent=10,
    bytes_received=20,
    refused_records={"ARES-E052": 2},
    base_name="tiny",
    base_parameters=1_000_000,
    ways={peer(1): "http"},
    round_clock="3 peers: 10 s to train",
)


@dataclass(slots=True)
class FakeViews:
    """Implements `ares_coordinator.api.views.Views`."""

    db: StoreThread
    invite: str = "ares://invite"
    live: LiveSnapshot = field(default_factory=lambda: replace(LIVE))

    def snapshot(self) -> LiveSnapshot:
        """Return the fixed moment."""
        return self.live


async def empty_views(folder: Path) -> FakeViews:
    """Return the views of a coordinator that has done nothing yet."""
    return FakeViews(await StoreThread.open(folder / "ares.db"))


async def played_views(folder: Path) -> FakeViews:
    """Return the views of a coordinator in the second round of its first cycle."""
    views = await empty_views(folder)
    await views.db.call(play, views.db.store)
    return views


def play(store: Store) -> None:
    """One round: peer 1 passes on a GPU, 2 fails, 3 is refused, 4 pends; the next is open."""
    store.set_meta(MetaKey.NETWORK_ID, "net-1")
    store.set_meta(MetaKey.NETWORK_NAME, "test network")
    store.replace_record(descriptor_record())
    begin(store)
    store.save_dataset(
        DatasetRow(
            cycle=1,
            teacher="procedural 1",
            categories=(CategoryCount("code", 90, 10, 5000), CategoryCount("creative", 9, 1, 70)),
            rejected=(("duplicate", 3),),
            cost_microusd=1_250_000,
            disk_files=2,
            disk_bytes=4096,
            updated_ms=NOW,
        )
    )
    store.touch_worker(peer(1), now_ms=NOW, device="cuda", gpu=True, software="0.1")
    works = [
        contribution(commit(1, 0, 1), tokens=600_000, gpu=True),
        contribution(commit(1, 0, 2), tokens=700),
        refused(contribution(commit(1, 0, 3)), code="ARES-E070", message="points against"),
        contribution(commit(1, 0, 4), tokens=250),
    ]
    play_round(store, 1, 0, works)
    judge(store, works[0])
    judge(store, works[1], AuditOutcome.FAIL)
    store.record_look(1, 0, held_out_loss=2.25)
    open_round(store, 1, 1)
    store.add_commit(commit(1, 1, 1))
    store.add_refusal(1, 1, peer(3), code="ARES-E062", message="too late", now_ms=NOW + 50)


def descriptor_record() -> RecordRow:
    """Return the signed descriptor as the coordinator stores it."""
    envelope = seal(identity(9), DESCRIPTOR)
    return RecordRow(
        kind="network",
        cycle=0,
        round=0,
        peer="",
        seq=1,
        payload_sha256=envelope.payload_sha256,
        envelope=encode_envelope(envelope),
        in_dht=True,
        saved_ms=NOW,
    )
