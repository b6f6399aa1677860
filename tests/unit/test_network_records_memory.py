"""Records over time, in memory: lifetimes, republication, outages, rollback."""

from __future__ import annotations

import pytest

from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import Commit, CycleConfig, PeerStatus, RoundPlan
from ares_p2p.errors import RpcTimeout, StaleSequence
from ares_p2p.network.record_keys import CHUNK_LIFETIME_S, RECORD_KINDS, key_of_kind
from ares_p2p.network.records_memory import InMemoryNetwork, InMemoryRecords
from netfixtures import ALICE, BOB, COORDINATOR, NETWORK, HandClock, signed


class Swarm:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.network = InMemoryNetwork(NETWORK, clock=self.clock)
        self.coordinator, self.alice, self.bob = map(self.join, (COORDINATOR, ALICE, BOB))

    def join(self, who: Identity) -> InMemoryRecords:
        return InMemoryRecords(self.network, identity=who)


@pytest.fixture
def swarm() -> Swarm:
    return Swarm()


async def test_records_expire_unless_they_are_stored_again(swarm: Swarm) -> None:
    lifetime_s = RECORD_KINDS[RoundPlan].lifetime_s
    await swarm.coordinator.publish(signed(COORDINATOR, RoundPlan, cycle=1))
    await swarm.coordinator.publish(signed(COORDINATOR, RoundPlan, cycle=2), keep=False)
    for _ in range(6):
        swarm.clock.pass_s(lifetime_s / 3 + 1)
        assert await swarm.coordinator.republish_due() == 1
    assert await swarm.alice.fetch(RoundPlan, cycle=1) is not None
    assert await swarm.alice.fetch(RoundPlan, cycle=2) is None
    swarm.clock.pass_s(lifetime_s + 1)
    assert await swarm.alice.fetch(RoundPlan, cycle=1) is None


async def test_a_late_republication_is_made_up_for(swarm: Swarm) -> None:
    await swarm.coordinator.publish(signed(COORDINATOR, RoundPlan, cycle=1))
    swarm.clock.pass_s(RECORD_KINDS[RoundPlan].lifetime_s)
    swarm.network.is_down = True
    assert await swarm.coordinator.republish_due() == 0
    with pytest.raises(RpcTimeout):
        await swarm.alice.fetch(RoundPlan, cycle=1)
    swarm.network.is_down = False
    assert await swarm.coordinator.republish_due() == 1
    assert await swarm.alice.fetch(RoundPlan, cycle=1) is not None


async def test_statuses_of_leavers_disappear(swarm: Swarm) -> None:
    await swarm.alice.publish(signed(ALICE, PeerStatus))
    await swarm.bob.publish(signed(BOB, PeerStatus))
    for _ in range(4):
        swarm.clock.pass_s(RECORD_KINDS[PeerStatus].lifetime_s / 3 + 1)
        await swarm.alice.republish_due()
    found = await swarm.coordinator.fetch_peers(PeerStatus)
    assert [record.signer for record in found] == [ALICE.peer_id]


async def test_chunks_outlive_their_publisher(swarm: Swarm) -> None:
    data = b"a shard's chunk"
    digest = await swarm.coordinator.publish_chunk(data, keep=False)
    swarm.bob.hold_chunks([digest], {digest: data}.get)
    for _ in range(9):
        swarm.clock.pass_s(CHUNK_LIFETIME_S / 3 + 1)
        await swarm.bob.republish_due()
    assert await swarm.alice.fetch_chunk(digest) == data


async def test_a_chunk_that_somebody_else_looks_after_is_left_alone(swarm: Swarm) -> None:
    data = b"a shard's chunk"
    digest = await swarm.coordinator.publish_chunk(data, keep=False)
    reads: list[bytes] = []
    swarm.bob.hold_chunks([digest], lambda wanted: reads.append(wanted) or data)
    swarm.clock.pass_s(CHUNK_LIFETIME_S / 3 + 1)
    await swarm.alice.publish_chunk(data, keep=False)
    assert await swarm.bob.republish_due() == 0
    assert reads == []


async def test_chunks_that_are_gone_from_disk_are_dropped(swarm: Swarm) -> None:
    digest = await swarm.coordinator.publish_chunk(b"x", keep=False)
    swarm.bob.hold_chunks([digest], lambda _: None)
    swarm.clock.pass_s(CHUNK_LIFETIME_S)
    assert await swarm.bob.republish_due() == 0
    assert await swarm.bob.republish_due() == 0


async def test_an_old_value_stored_again_does_not_win(swarm: Swarm) -> None:
    """Rollback: the attacker keeps what the coordinator once stored and stores it again."""
    key = key_of_kind(CycleConfig, network_id=NETWORK.network_id)
    await swarm.coordinator.publish(signed(COORDINATOR, CycleConfig, cycle=1))
    old = swarm.network._values[key]
    swarm.clock.pass_s(1)
    await swarm.coordinator.publish(signed(COORDINATOR, CycleConfig, cycle=2))
    swarm.network._values[key] = old  # a node that ignores every rule hands out the old one
    assert (await swarm.bob.fetch(CycleConfig)).payload.header.cycle == 1  # type: ignore[union-attr]
    await swarm.alice.fetch(CycleConfig)
    swarm.network._values[key] = None
    await swarm.coordinator.publish(signed(COORDINATOR, CycleConfig, cycle=2))
    assert (await swarm.bob.fetch(CycleConfig)).payload.header.cycle == 2  # type: ignore[union-attr]
    swarm.network._values[key] = old
    found = await swarm.bob.fetch(CycleConfig)
    assert found is not None
    assert found.payload.header.cycle == 2  # what was seen counts
    assert swarm.bob.refused_counts[StaleSequence.code] == 1


async def test_a_clock_that_goes_back_does_not_hide_new_records(swarm: Swarm) -> None:
    await swarm.coordinator.publish(signed(COORDINATOR, RoundPlan, cycle=1, seq=1))
    swarm.clock.pass_s(-20)
    await swarm.coordinator.publish(signed(COORDINATOR, RoundPlan, cycle=1, seq=2))
    assert (await swarm.bob.fetch(RoundPlan, cycle=1)).payload.header.seq == 2  # type: ignore[union-attr]


async def test_forged_entries_do_not_hide_honest_ones(swarm: Swarm) -> None:
    for who, records in ((ALICE, swarm.alice), (BOB, swarm.bob)):
        await records.publish(signed(who, Commit, cycle=1, round=1))
    for key, values in swarm.network._values.items():
        if isinstance(values, dict):
            swarm.network._values[key] = values | {"12D3KooWsomebody": (b"Egarbage", 2e9)}
    found = await swarm.coordinator.fetch_peers(Commit, cycle=1, round=1)
    assert {record.signer for record in found} == {ALICE.peer_id, BOB.peer_id}
    assert len(swarm.coordinator.refused) == 2
