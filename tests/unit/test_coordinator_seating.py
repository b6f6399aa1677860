"""Seats of a full round: held for higher tiers that are there, and never more than half."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest

from ares_coordinator.ledger.tiers import Tier
from ares_coordinator.seating import Seating
from ares_coordinator.store.thread import StoreThread
from ares_coordinator.tierbook import KEPT_MS, TierBook
from ares_p2p.errors import RateLimited
from ares_p2p.ids import PeerId
from netfixtures import HandClock
from store_samples import NOW, begin, commit, contribution, judge, peer, play_round

CORE, TRAINER, CONTRIBUTOR, FREE, OTHER_FREE = map(peer, range(1, 6))
TOKENS = {1: 1_000_000, 2: 500_000, 3: 100_000, 4: 99}


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[StoreThread]:
    made = await StoreThread.open(tmp_path / "ares.db")
    await made.call(_play, made)
    yield made
    await made.close()


def _play(made: StoreThread) -> None:
    begin(made.store)
    works = [
        contribution(commit(1, 0, number), tokens=tokens, gpu=number <= 2)
        for number, tokens in TOKENS.items()
    ]
    play_round(made.store, 1, 0, works)
    for work in works:
        judge(made.store, work)


def seating(db: StoreThread, waiting: Collection[PeerId], *, seats: int = 4) -> Seating:
    return Seating(TierBook(db, HandClock(NOW)), seats, lambda: waiting)


async def test_tiers_come_from_settled_credit_and_audited_gpu_work(db: StoreThread) -> None:
    book = TierBook(db, HandClock(NOW))
    found = [await book.tier_of(worker) for worker in (CORE, TRAINER, CONTRIBUTOR, FREE, peer(99))]
    assert found == [Tier.CORE, Tier.TRAINER, Tier.CONTRIBUTOR, Tier.FREE, Tier.FREE]


async def test_a_tier_is_asked_for_again_after_a_minute(db: StoreThread) -> None:
    clock = HandClock(NOW)
    book = TierBook(db, clock)
    assert await book.tier_of(FREE) == Tier.FREE
    work = contribution(commit(1, 1, 4), tokens=200_000)

    def earn() -> None:
        play_round(db.store, 1, 1, [work])
        judge(db.store, work)

    await db.call(earn)
    assert await book.tier_of(FREE) == Tier.FREE
    clock.pass_s(KEPT_MS / 1000)
    assert await book.tier_of(FREE) == Tier.CONTRIBUTOR


async def test_a_seat_is_held_for_a_present_higher_tier(db: StoreThread) -> None:
    table = seating(db, [CORE, FREE], seats=2)
    with pytest.raises(RateLimited, match="1 are held for workers of a higher tier than FREE"):
        await table.check(FREE, seated=[OTHER_FREE])
    await table.check(CORE, seated=[OTHER_FREE])


async def test_a_seat_is_free_again_when_the_higher_one_sits_or_leaves(db: StoreThread) -> None:
    await seating(db, [CORE, FREE], seats=2).check(FREE, seated=[CORE])
    await seating(db, [FREE], seats=2).check(FREE, seated=[OTHER_FREE])


async def test_equals_hold_nothing_for_each_other(db: StoreThread) -> None:
    await seating(db, [OTHER_FREE, FREE], seats=1).check(FREE, seated=[])
    await seating(db, [CONTRIBUTOR, TRAINER], seats=1).check(TRAINER, seated=[])


async def test_never_more_than_half_of_the_seats_are_held(db: StoreThread) -> None:
    table = seating(db, [CORE, TRAINER, CONTRIBUTOR, FREE], seats=4)
    await table.check(FREE, seated=[OTHER_FREE])  # 3 free, 2 of them held
    with pytest.raises(RateLimited):
        await table.check(FREE, seated=[OTHER_FREE, peer(50)])


async def test_who_sits_already_is_never_sent_away(db: StoreThread) -> None:
    await seating(db, [CORE], seats=1).check(FREE, seated=[FREE])


async def test_nobodys_tier_is_asked_for_a_round_that_has_no_seat_left(db: StoreThread) -> None:
    """The book itself refuses then: with a thousand waiting, a thousand tiers are no use."""
    table = seating(db, [CORE, FREE], seats=2)
    await table.check(FREE, seated=[CONTRIBUTOR, OTHER_FREE])
    assert not table.tiers._known
