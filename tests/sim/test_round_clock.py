"""The round's clock with real sessions and the real keeper: it learns from work, not from words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ares_coordinator.roundclock import MIN_SERVE_S, MIN_TRAIN_S
from ares_p2p.domain import PeerStatus, RoundPlan
from ares_peer.announcer import Presence
from ares_peer.session import Session
from sim.keeper_world import KeeperWorld
from sim.samples import CYCLE
from sim.session_world import Peer

STEP_S = 0.02  # of the toy; here one peer trains after the other
ROUNDS = 60
CAP_S = (60, 20)  # of `KeeperWorld`


class Liar(Session):
    """Trains as everybody does, and says that it makes one token a second."""

    def _presence(self) -> Presence:
        return dataclasses.replace(Session._presence(self), tokens_per_s=1.0)


def quick(world: KeeperWorld, session: type[Session] = Session) -> Peer:
    peer = world.peer()
    peer.rig.step_s = STEP_S
    peer.session_class = session
    return peer.start()


async def plan_of(world: KeeperWorld, number: int) -> RoundPlan:
    async def there() -> RoundPlan | None:
        found = await world.host.links.records.fetch(RoundPlan, cycle=CYCLE)
        is_it = found is not None and found.payload.header.round == number
        return found.payload if found is not None and is_it else None

    while (plan := await there()) is None:
        await world.pass_s(0.1)
    return plan


def lasts_s(plan: RoundPlan) -> tuple[float, float]:
    return (
        (plan.commit_deadline_ms - plan.opens_ms) / 1000,
        (plan.serve_deadline_ms - plan.commit_deadline_ms) / 1000,
    )


async def announced(world: KeeperWorld) -> None:
    """Wait until everybody has said how fast it is: every 15 s."""
    await world.pass_s(16)


async def test_clock_learns_from_the_first_rounds_and_no_peer_loses_one(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3, clock="measured") as world:
        peers = [quick(world) for _ in range(3)]
        world.start()
        assert lasts_s(await plan_of(world, 0)) == (CAP_S[0], MIN_SERVE_S)
        await world.until(lambda: all(peer.rig.trained for peer in peers))
        await announced(world)
        number = world.rows()[-1].round + 1
        assert lasts_s(await plan_of(world, number)) == (MIN_TRAIN_S, MIN_SERVE_S)
        manifests = [await world.finished(each) for each in range(number + 2)]
        assert [len(manifest.entries) for manifest in manifests] == [3] * (number + 2)


async def test_peer_that_dies_costs_the_measured_time_and_not_the_longest(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3, clock="measured") as world:
        peers = [quick(world, Liar if number == 2 else Session) for number in range(4)]
        world.start()
        await announced(world)
        number = world.rows()[-1].round + 1
        assert lasts_s(await plan_of(world, number)) == (MIN_TRAIN_S, MIN_SERVE_S)
        await peers[0].kill()
        await world.finished(number + 1)
        durations = [
            (row.closed_ms - row.opened_ms) / 1000
            for row in world.rows()
            if row.closed_ms is not None and row.round >= number
        ]
        assert max(durations) <= MIN_TRAIN_S + 1


async def test_fixed_clock_keeps_its_times_whatever_peers_say(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=2, clock="fixed") as world:
        for _ in range(2):
            quick(world)
        world.start()
        await announced(world)
        assert lasts_s(await plan_of(world, world.rows()[-1].round + 1)) == CAP_S


async def test_peers_say_how_fast_their_lines_are(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=1, peers=2, clock="measured") as world:
        peer = quick(world)
        peer.links.blobs.traffic.upload.note(20_000_000, 8.0)
        await announced(world)
        found = await world.host.links.records.fetch_peers(PeerStatus)
        assert [item.payload.upload_bytes_per_s for item in found] == [2_500_000.0]
