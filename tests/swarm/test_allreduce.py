"""Averaging in a group on hivemind's averager: real p2pd, honest members and others."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any, TypeGuard

import numpy as np
import pytest

from allreduce_attacks import BAD_PARTS, BadReducer, Silent, TooMany, with_weight
from allreduce_rig import QUICK, REACH, average_of, group_of, id_of, p2p_network, vectors_of
from ares_p2p.averaging.allreduce import GroupMember
from ares_p2p.averaging.allreduce_runner import MAX_PART_ELEMENTS, GroupRunner
from ares_p2p.averaging.group import Averaged, Group
from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import GroupMissed

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(120)]


@contextlib.asynccontextmanager
async def seats(nodes: list[Any], group: Group) -> AsyncIterator[list[GroupMember]]:
    """One seat for each node."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(GroupMember(p2p, group, QUICK)) for p2p in nodes]


def make_hostile(member: GroupMember, runner: type[GroupRunner]) -> None:
    """Let a member run another runner from now on."""
    assert member._averager is not None
    member._averager.runner = runner


def mean_of(vectors: list[Vector]) -> Vector:
    mean: Vector = np.mean(np.stack(vectors), axis=0, dtype=np.float64).astype(np.float32)
    return mean


def is_near(total: Vector, wanted: Vector) -> bool:
    # two float16 roundings, 2^-11 of a number each, of numbers up to REACH
    return bool(np.abs(total - wanted).max() <= 2 * REACH * 2**-11)


def same_sum(results: list[Averaged | BaseException]) -> Vector:
    """Return the sum that all have, bit for bit."""
    totals = []
    for result in results:
        assert isinstance(result, Averaged), result
        assert result.is_complete
        totals.append(result.total)
    assert len({total.tobytes() for total in totals}) == 1
    return totals[0]


def not_failed(result: Averaged | BaseException) -> TypeGuard[Averaged]:
    return isinstance(result, Averaged)


async def test_members_hold_the_same_bits_of_the_mean_and_the_leader_weighs_nothing() -> None:
    async with p2p_network(5) as nodes:
        group, vectors = group_of(nodes), vectors_of(nodes)
        before = [vector.copy() for vector in vectors]
        async with seats(nodes, group) as members:
            started = time.monotonic()
            results = await average_of(members, vectors)
            print(f"five members met and averaged in {time.monotonic() - started:.2f} s")
            assert is_near(same_sum(results), mean_of(vectors[1:]))
            for result in results:
                assert isinstance(result, Averaged)
                assert result.peers == group.peers
            same_sum(await average_of(members, vectors))  # as often as the round needs it
        for vector, kept in zip(vectors, before, strict=True):
            assert vector.tobytes() == kept.tobytes()


async def test_vectors_of_many_parts_with_a_member_that_nobody_can_reach() -> None:
    size = 3 * MAX_PART_ELEMENTS + 1_001
    async with p2p_network(3) as nodes:
        group, vectors = group_of(nodes, size=size), vectors_of(nodes, size=size)
        async with seats(nodes[:2], group) as members:
            hidden = GroupMember(nodes[2], group, QUICK, can_reduce=False)
            async with hidden:
                results = await average_of([*members, hidden], vectors)
        assert is_near(same_sum(results), mean_of(vectors[1:]))
        counted = [(one.sent_bytes, one.received_bytes) for one in results if not_failed(one)]
        assert sum(sent for sent, _ in counted) == sum(received for _, received in counted)
        assert counted[2] == (2 * size, 2 * size)  # it only sends its vector, and gets the sum


async def test_declared_weights_count_for_nothing() -> None:
    async with p2p_network(4) as nodes:
        vectors = vectors_of(nodes)
        for number, weight in enumerate((1e6, -3.0, float("nan"), 0.0)):
            group = group_of(nodes, key=f"{number:064}")
            async with seats(nodes, group) as members:
                make_hostile(members[2], with_weight(weight))
                results = await average_of(members, vectors)
                assert is_near(same_sum(results), mean_of(vectors[1:])), weight


async def test_bad_parts_drop_their_sender_and_nobody_else() -> None:
    async with p2p_network(4) as nodes:
        vectors = vectors_of(nodes)
        bad = id_of(nodes[2])
        attacks = {**BAD_PARTS, "too many parts": TooMany}
        for number, (name, runner) in enumerate(attacks.items()):
            group = group_of(nodes, key=f"{number:064}")
            async with seats(nodes, group) as members:
                make_hostile(members[2], runner)
                results = await average_of(members, vectors, barred=[bad])
            honest = [result for index, result in enumerate(results) if index != 2]
            total = same_sum(honest)
            counted = vectors[1:] if runner is TooMany else [vectors[1], vectors[3]]
            assert is_near(total, mean_of(counted)), name
            leader = honest[0]
            assert isinstance(leader, Averaged)
            assert set(leader.refused) == {bad}, name
            print(f"{name}: {leader.refused[bad].code} {leader.refused[bad].message}")


async def test_a_sender_that_falls_silent_costs_a_bounded_time() -> None:
    async with p2p_network(4) as nodes:
        vectors = vectors_of(nodes)
        async with seats(nodes, group_of(nodes)) as members:
            make_hostile(members[2], Silent)
            started = time.monotonic()
            results = await average_of(members, vectors, barred=[id_of(nodes[2])])
            took_s = time.monotonic() - started
        total = same_sum([results[0], results[1], results[3]])
        assert is_near(total, mean_of([vectors[1], vectors[3]]))
        assert took_s < QUICK.reduce_s
        print(f"a silent sender cost {took_s:.1f} s")


async def test_a_bad_reducer_is_found_and_does_not_reduce_again() -> None:
    async with p2p_network(4) as nodes:
        vectors, bad = vectors_of(nodes), id_of(nodes[2])
        async with seats(nodes, group_of(nodes)) as members:
            make_hostile(members[2], BadReducer)
            first = await average_of(members, vectors)
            for index in (0, 1, 3):
                result = first[index]
                assert isinstance(result, Averaged)
                assert not result.is_complete
                assert result.failed == {bad}
                assert np.isfinite(result.total).all()
            second = await average_of(members, vectors, barred=[bad])
            assert is_near(same_sum(second), mean_of(vectors[1:]))


async def test_strangers_are_not_let_in() -> None:
    async with p2p_network(4) as nodes:
        group = group_of(nodes[:3])
        guest = id_of(nodes[3])
        invited = dataclasses.replace(group, peers=group.peers | {guest})  # as it would like it
        vectors = vectors_of(nodes)
        async with seats(nodes[:3], group) as members, GroupMember(nodes[3], invited) as stranger:
            intruding = asyncio.create_task(stranger.average(vectors[3], within_s=4.0))
            results = await average_of(members, vectors[:3])
            assert is_near(same_sum(results), mean_of(vectors[1:3]))
            with pytest.raises(GroupMissed):
                await intruding


async def test_another_round_is_another_group() -> None:
    async with p2p_network(3) as nodes:
        vectors = vectors_of(nodes)
        now, other = group_of(nodes), group_of(nodes, key="b" * 64)
        async with seats(nodes[:2], now) as members, GroupMember(nodes[2], other, QUICK) as lost:
            late = asyncio.create_task(lost.average(vectors[2], within_s=4.0))
            results = await average_of(members, vectors[:2], wanted=2)
            assert is_near(same_sum(results), vectors[1])
            with pytest.raises(GroupMissed):
                await late


class Dying(GroupRunner):
    """Takes part until its p2pd is killed in the middle of the average."""

    async def _generate_input_for_peer(self, peer_index: int) -> AsyncIterator[Any]:
        os.kill(self._p2p._child.pid, signal.SIGKILL)
        async for message in super()._generate_input_for_peer(peer_index):
            yield message


async def test_survivors_of_a_death_go_on() -> None:
    async with p2p_network(5) as nodes:
        vectors, dead = vectors_of(nodes), id_of(nodes[2])
        async with seats(nodes, group_of(nodes)) as members:
            make_hostile(members[2], Dying)
            started = time.monotonic()
            first = await average_of(members, vectors)
            leader = first[0]
            assert isinstance(leader, Averaged)
            left = [index for index in range(5) if index != 2]
            if not leader.is_complete:  # it died before it had returned what it reduces
                seated = [members[index] for index in left]
                theirs = [vectors[index] for index in left]
                again = await average_of(seated, theirs, barred=leader.failed | {dead}, wanted=4)
                assert is_near(same_sum(again), mean_of([vectors[index] for index in left[1:]]))
            print(f"a death cost {time.monotonic() - started:.1f} s")
            assert time.monotonic() - started < 4 * QUICK.part_s
