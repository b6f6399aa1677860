"""Rounds that a group averages: what the manifest says, when the group is called again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ares_coordinator.context import RunningCycle
from ares_coordinator.reducedrounds import MAX_CALLS, ReducedKeeper, judge_members
from ares_p2p.averaging.group import Averaged, Group, Timing
from ares_p2p.averaging.vectors import Vector
from ares_p2p.domain import CommitSet, EntryStatus
from ares_p2p.errors import AverageFailed, GroupMissed, NonFinite
from ares_p2p.ids import PeerId, sha256
from ares_p2p.rounds.commits import SignedCommit
from ares_p2p.rounds.manifest import build_manifest, check_manifest
from netfixtures import HandClock
from payloads import identity, sample
from sim.samples import COORDINATOR, header, open_round

ROUND = open_round()
SIZE = ROUND.config.parameters


def commits(count: int) -> list[SignedCommit]:
    made = [ROUND.signed(identity(number)) for number in range(count)]
    return sorted(made, key=lambda signed: signed.sha256)


def averaged(peers: Collection[PeerId], **changes: Any) -> Averaged:
    whole = Averaged(np.ones(SIZE, dtype=np.float32), frozenset(peers), 0, {}, frozenset())
    return dataclasses.replace(whole, **changes)


# --- the manifest ------------------------------------------------------------------------------


def check(signed: list[SignedCommit], found: Averaged | None) -> dict[PeerId, tuple[Any, ...]]:
    """Judge, and check that everybody accepts the manifest."""
    judged = judge_members(signed, found)
    manifest = build_manifest(
        header=header(),
        plan_sha256=ROUND.plan_sha256,
        commit_set_sha256=sha256(b"set"),
        entries=[item.entry for item in judged],
        next_state=sha256(b"next"),
        next_state_size_bytes=1,
        final=True,
    )
    check_manifest(
        manifest,
        commits=signed,
        plan_sha256=ROUND.plan_sha256,
        commit_set_sha256=sha256(b"set"),
    )
    entries = manifest.entries
    return {entry.peer: (entry.status, entry.coefficient, entry.code) for entry in entries}


def test_members_count_alike_and_the_others_learn_why_they_do_not() -> None:
    signed = commits(4)
    here, refused, away = [one.peer for one in signed[:2]], signed[2].peer, signed[3].peer
    found = averaged([*here, refused], refused={refused: NonFinite("a NaN")})
    entries = check(signed, found)
    assert [entries[peer] for peer in here] == [(EntryStatus.ACCEPTED, 0.5, "")] * 2
    assert entries[refused] == (EntryStatus.REFUSED, 0.0, NonFinite.code)
    assert entries[away] == (EntryStatus.REFUSED, 0.0, GroupMissed.code)


def test_without_an_average_nobody_counts() -> None:
    entries = check(commits(2), None)
    assert set(entries.values()) == {(EntryStatus.REFUSED, 0.0, AverageFailed.code)}


# --- when the group is called ------------------------------------------------------------------


class ScriptedSeat:
    """A seat in a group whose calls come to what a test says."""

    is_averaging = False

    def __init__(self, answers: list[Averaged | Exception]) -> None:
        self.answers = answers
        self.barred: list[set[PeerId]] = []
        self.vectors: list[Vector] = []
        self.group: Group | None = None

    def __call__(self, group: Group, timing: Timing) -> ScriptedSeat:
        self.group = group
        assert timing.reduce_s > 0
        return self

    async def __aenter__(self) -> ScriptedSeat:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def average(
        self,
        vector: Vector,
        *,
        within_s: float,
        wanted: int | None = None,
        barred: Collection[PeerId] = (),
    ) -> Averaged:
        assert within_s > 0
        assert wanted is None
        self.vectors.append(vector)
        self.barred.append(set(barred))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def average(seat: ScriptedSeat, signed: list[SignedCommit]) -> Averaged | None:
    keeper = object.__new__(ReducedKeeper)
    keeper.cycle = SimpleNamespace(config=ROUND.config)  # type: ignore[assignment]
    keeper.herald = SimpleNamespace(identity=COORDINATOR)  # type: ignore[assignment]
    keeper.clock, keeper.seat_in = HandClock(), seat
    closed = dataclasses.replace(sample(CommitSet), plan_sha256=ROUND.plan_sha256)
    return await keeper._average(ROUND.plan, closed, signed)


async def test_an_average_that_is_not_whole_is_made_again_without_the_reducer_that_failed() -> None:
    signed = commits(3)
    peers = [one.peer for one in signed]
    torn = averaged(peers, missing=5, failed=frozenset({peers[1]}))
    whole = averaged(peers[:1] + peers[2:])
    seat = ScriptedSeat([torn, AverageFailed("it fell apart"), whole])
    assert await average(seat, signed) is whole
    assert seat.barred == [set(), {peers[1]}, {peers[1]}]
    assert seat.group is not None
    assert (seat.group.leader, seat.group.peers) == (COORDINATOR.peer_id, set(peers))
    assert not any(vector.any() for vector in seat.vectors)  # the coordinator brings nothing


@pytest.mark.parametrize("fault", [GroupMissed("nobody"), AverageFailed("it fell apart")])
async def test_the_coordinator_gives_up_in_the_end(fault: Exception) -> None:
    seat = ScriptedSeat([fault] * MAX_CALLS)
    assert await average(seat, commits(2)) is None
    assert seat.answers == []


# --- credit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("averaging", "is_audited"), [("gather", True), ("hivemind", False)])
def test_what_a_group_averaged_is_not_audited_whatever_the_file_says(
    averaging: str, is_audited: bool
) -> None:
    config = dataclasses.replace(ROUND.config, averaging=averaging)
    settings: Any = SimpleNamespace(audit=SimpleNamespace(mode="enforce"))
    nothing: Any = None
    cycle = RunningCycle(nothing, config, bytes(32), nothing, 1, settings, nothing)
    assert cycle.is_audited is is_audited
