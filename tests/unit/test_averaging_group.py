"""Groups that average on hivemind: names, numbers, and what is refused before it is added."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hivemind.averaging.allreduce import AllreduceException
from hivemind.averaging.group_info import GroupInfo
from hivemind.p2p import PeerID
from hivemind.proto import runtime_pb2

from ares_p2p.averaging.allreduce import CLIENT, AresAveragerV1
from ares_p2p.averaging.allreduce_runner import (
    MAX_PART_ELEMENTS,
    MAX_WAVE_ELEMENTS,
    CheckedContainer,
    CheckedReducer,
    Losses,
    encode_part,
    open_part,
    part_elements,
)
from ares_p2p.averaging.group import (
    Group,
    Timing,
    decode_half,
    encode_half,
    group_key,
    group_of,
    half_bytes,
    timing_of,
)
from ares_p2p.domain import CycleConfig, RoundPlan
from ares_p2p.errors import AverageFailed, BeyondReach, NonFinite, PayloadMalformed, ShapeMismatch
from ares_p2p.ids import PeerId
from ares_p2p.rounds.strategy import GATHER, HIVEMIND, averages_in_group
from payloads import identity, sample

PLAN, ROOT = b"\x01" * 32, b"\x02" * 32
LEADER, ALICE, BOB, MALLORY = (identity(number).peer_id for number in (1, 2, 3, 4))
REACH = 0.05


def key_of(plan: RoundPlan, *, plan_sha256: bytes = PLAN, root: bytes = ROOT) -> str:
    return group_key(plan, plan_sha256=plan_sha256, commits_root=root)


# --- names -------------------------------------------------------------------------------------


def test_group_is_of_one_network_cycle_round_plan_and_set_of_commits() -> None:
    plan = sample(RoundPlan)
    header = plan.header
    others = [
        key_of(dataclasses.replace(plan, header=changed))
        for changed in (
            dataclasses.replace(header, network_id=header.network_id + "x"),
            dataclasses.replace(header, cycle=header.cycle + 1),
            dataclasses.replace(header, round=header.round + 1),
        )
    ]
    others += [key_of(plan, plan_sha256=b"\x03" * 32), key_of(plan, root=b"\x03" * 32)]
    assert len({key_of(plan), *others}) == 6
    assert key_of(plan) == key_of(plan)
    assert "." not in key_of(plan)  # hivemind's own separator


def test_group_of_a_round_is_what_its_records_say() -> None:
    plan = dataclasses.replace(sample(RoundPlan), max_steps=10, inner_lr=0.003)
    config = sample(CycleConfig)
    training = dataclasses.replace(config.training, beta2=0.99)
    config = dataclasses.replace(config, training=training)
    group = group_of(
        plan, plan_sha256=PLAN, commits_root=ROOT, peers=[ALICE, BOB], config=config, leader=LEADER
    )
    assert (group.leader, group.peers, group.size) == (LEADER, {ALICE, BOB}, config.parameters)
    # RMSProp's first step is the learning rate, and no later one is shorter
    assert 10 * 0.003 <= group.reach < 10 * 0.003 * 10


def test_an_average_has_the_time_that_a_round_has_to_serve() -> None:
    plan = dataclasses.replace(sample(RoundPlan), commit_deadline_ms=0, serve_deadline_ms=90_000)
    assert timing_of(plan).reduce_s == 90.0


@pytest.mark.parametrize(("name", "in_group"), [(GATHER, False), (HIVEMIND, True)])
def test_strategies_have_names(name: str, in_group: bool) -> None:
    config = dataclasses.replace(sample(CycleConfig), averaging=name)
    assert averages_in_group(config) is in_group


def test_a_strategy_of_another_version_is_refused() -> None:
    with pytest.raises(PayloadMalformed, match="telepathy"):
        averages_in_group(dataclasses.replace(sample(CycleConfig), averaging="telepathy"))


# --- numbers -----------------------------------------------------------------------------------


def test_half_is_read_back_as_it_was_rounded() -> None:
    vector = np.array([0.0, 1e-3, -0.03, 6e-8], dtype=np.float32)
    data = encode_half(vector)
    assert len(data) == half_bytes(vector.size) == 8
    again = decode_half(data, size=4)
    assert np.abs(again - vector).max() <= 0.03 * 2**-11
    assert encode_half(again) == data  # what was committed to is what is sent


def test_half_refuses_what_it_cannot_hold() -> None:
    for number in (1e6, float("nan"), float("inf")):
        with pytest.raises(NonFinite):
            encode_half(np.array([number], dtype=np.float32))
    with pytest.raises(ShapeMismatch):
        decode_half(b"\0" * 8, size=3)


@pytest.mark.parametrize(("size", "reducers"), [(1, 5), (7, 3), (10**6, 4), (10**7, 4)])
def test_every_reducer_has_a_part_where_there_are_enough_elements(size: int, reducers: int) -> None:
    elements = part_elements(size, reducers=reducers)
    assert 1 <= elements <= MAX_PART_ELEMENTS
    assert -(-size // elements) >= min(size, reducers)


def test_a_part_for_each_of_many_reducers_is_soon_sent() -> None:
    assert 100 * part_elements(10**9, reducers=100) <= MAX_WAVE_ELEMENTS


# --- what is refused ---------------------------------------------------------------------------


def good_part() -> Any:
    return encode_part(torch.tensor([0.01, -0.02], dtype=torch.float16))


def test_a_good_part_is_read() -> None:
    part = open_part(good_part(), shape=torch.Size([2]), reach=REACH)
    assert part.dtype == torch.float32
    assert part.tolist() == pytest.approx([0.01, -0.02], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"compression": runtime_pb2.CompressionType.NONE}, PayloadMalformed),
        ({"buffer": b"\0" * 6}, ShapeMismatch),
        ({"buffer": b""}, ShapeMismatch),
        ({"buffer": np.array([0.01, np.nan], dtype="<f2").tobytes()}, NonFinite),
        ({"buffer": np.array([0.01, -np.inf], dtype="<f2").tobytes()}, NonFinite),
        ({"buffer": np.array([0.01, -0.06], dtype="<f2").tobytes()}, BeyondReach),
    ],
)
def test_bad_parts_are_refused(changes: dict[str, Any], fault: type[Exception]) -> None:
    message = good_part()
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(fault):
        open_part(message, shape=torch.Size([2]), reach=REACH)


def test_a_part_that_lies_about_its_shape_is_refused() -> None:
    message = good_part()
    message.size[:] = [1, 2]
    with pytest.raises(ShapeMismatch):
        open_part(message, shape=torch.Size([2]), reach=REACH)


async def test_weights_are_those_of_the_group() -> None:
    reducer = CheckedReducer((torch.Size([1]),), [0.0, 1.0, 1.0], Losses())
    results = await asyncio.gather(
        reducer.accumulate_part(0, 0, torch.tensor([9.0]), weight=1e6),
        reducer.accumulate_part(1, 0, torch.tensor([1.0]), weight=-3.0),
        reducer.accumulate_part(2, 0, torch.tensor([2.0]), weight=float("nan")),
    )
    assert [float(result) for result in results] == [1.5, 1.5, 1.5]
    assert results[0].dtype == torch.float16  # what all members hold, the reducer too


async def test_an_average_of_nobody_is_no_change_and_counts_as_missing() -> None:
    losses = Losses()
    reducer = CheckedReducer((torch.Size([3]),), [0.0, 1.0], losses)
    future = reducer.current_part_future
    reducer.on_sender_failed(1)
    await reducer.accumulate_part(0, 0, torch.ones(3))
    assert future.result().tolist() == [0.0, 0.0, 0.0]
    assert losses.missing == 3


@pytest.mark.parametrize(
    "average",
    [
        torch.tensor([0.01, float("nan")]),
        torch.tensor([0.01, 1.0]),
        torch.tensor([0.01]),
        torch.tensor([0.01, 0.01], dtype=torch.float64),
    ],
)
async def test_averages_that_cannot_be_are_refused(average: torch.Tensor) -> None:
    container = CheckedContainer(
        torch.tensor([0.02, 0.03]), reach=REACH, peer_fractions=(1.0,), part_size_bytes=8
    )
    with pytest.raises(AllreduceException):
        container.register_processed_part(0, 0, average)
    container.register_failed_reducer(0)
    assert container.failed_size == 2


# --- who may be in a group ---------------------------------------------------------------------


def averager_of(*peers: PeerId) -> AresAveragerV1:
    """Return Alice's averager in a group of these peers."""
    averager = object.__new__(AresAveragerV1)
    averager._parent_pid = -1  # nothing to end: it never began
    averager._group = Group("k" * 64, LEADER, frozenset(peers), 8, REACH)
    averager._timing = Timing()
    averager._leader = PeerID.from_base58(LEADER)
    averager._members = {PeerID.from_base58(peer) for peer in (LEADER, *peers)}
    averager._p2p = SimpleNamespace(peer_id=PeerID.from_base58(ALICE))
    return averager


def met(*members: tuple[PeerId, bytes]) -> GroupInfo:
    """Return a group that met: its members, and the word of each."""
    ids = tuple(PeerID.from_base58(peer) for peer, _ in members)
    return GroupInfo(b"id", ids, tuple(word for _, word in members))


def test_all_reduce_the_same_but_who_cannot_or_failed_to() -> None:
    averager = averager_of(ALICE, BOB, MALLORY)
    plain = met((BOB, b""), (LEADER, b""), (ALICE, b""))
    assert averager._fractions(plain) == (1.0, 1.0, 1.0)
    hidden = met((BOB, CLIENT), (LEADER, b""), (ALICE, b"\x93\xcb a bandwidth of 1000"))
    assert averager._fractions(hidden) == (0.0, 1.0, 1.0)
    barred = met((BOB, b""), (LEADER, f"{MALLORY} {BOB}".encode()), (ALICE, b""))
    assert averager._fractions(barred) == (0.0, 1.0, 1.0)
    alone = met((LEADER, f"{LEADER} {ALICE}".encode()), (ALICE, CLIENT))
    assert averager._fractions(alone) == (1.0, 0.0)  # the leader reduces, whatever it says


@pytest.mark.parametrize(
    "members",
    [
        [LEADER, ALICE, MALLORY],  # a stranger
        [LEADER, ALICE, BOB, BOB],  # somebody twice
        [LEADER, BOB],  # without us
        [ALICE, BOB],  # without the leader
    ],
)
def test_groups_of_others_are_refused(members: list[PeerId]) -> None:
    averager = averager_of(ALICE, BOB)
    with pytest.raises(AverageFailed):
        averager._fractions(met(*((peer, b"") for peer in members)))
