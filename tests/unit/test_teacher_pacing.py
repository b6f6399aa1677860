"""Pacing: how many requests at once, and who waits for what."""

from __future__ import annotations

import asyncio
import random
from email.utils import formatdate

import pytest

from ares_coordinator.distiller.pacing import MAX_PAUSE_S, Pacer, Slot, Stopped
from ares_p2p.errors import TeacherAway
from teacher_clock import JumpClock


def pacer(clock: JumpClock, *, most: int = 8) -> Pacer:
    return Pacer(most=most, clock=clock, rng=random.Random(0))


async def take(one: Pacer) -> Slot:
    async with one.slot() as slot:
        return slot


async def test_no_more_slots_than_the_limit() -> None:
    one, gate = pacer(JumpClock(), most=3), asyncio.Event()

    async def work() -> None:
        async with one.slot():
            await gate.wait()

    tasks = [asyncio.create_task(work()) for _ in range(7)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert one.busy == 3
    gate.set()
    await asyncio.gather(*tasks)
    assert one.busy == 0


async def test_a_burst_of_refusals_halves_the_limit_once() -> None:
    one = pacer(JumpClock())
    burst = [await take(one) for _ in range(5)]
    for slot in burst:
        one.refused(slot, {"retry-after": "1"})
    assert one.limit == 4
    one.refused(await take(one), {"retry-after": "1"})
    assert one.limit == 2
    for _ in range(9):
        one.refused(await take(one), {"retry-after": "1"})
    assert one.limit == 1


async def test_the_limit_grows_slowly_and_not_above_the_most() -> None:
    one = pacer(JumpClock())
    one.refused(await take(one), {"retry-after": "0"})
    one.refused(await take(one), {"retry-after": "0"})
    limits = []
    for _ in range(60):
        one.answered({}, next_tokens=1)
        limits.append(one.limit)
    assert limits[:4] == [2, 2, 3, 3]  # about one more for every round of answers
    assert limits[-1] == 8


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_everybody_waits_as_long_as_the_provider_asks(form: str) -> None:
    clock = JumpClock()
    one = pacer(clock)
    begin_s = clock.now_ms() // 1000
    value = "30" if form == "seconds" else formatdate(begin_s + 30, usegmt=True)
    one.refused(await take(one), {"retry-after": value})
    await take(one)
    assert 29 <= clock.now_ms() / 1000 - begin_s <= 30.1


async def test_without_a_word_the_pauses_double_up_to_a_minute() -> None:
    clock = JumpClock()
    one = pacer(clock)
    pauses = []
    for _ in range(9):
        slot = await take(one)
        before = clock.now_ms()
        one.refused(slot, {})
        await take(one)
        pauses.append((clock.now_ms() - before) / 1000)
    for pause, most in zip(pauses, (1, 2, 4, 8, 16, 32, 60, 60, 60), strict=True):
        assert 0.75 * most <= pause <= most + 0.001
    one.answered({}, next_tokens=1)
    slot = await take(one)
    before = clock.now_ms()
    one.refused(slot, {})
    await take(one)
    assert clock.now_ms() - before <= 1001  # an answer begins the count anew


async def test_a_pause_of_hours_ends_the_run_instead() -> None:
    one = pacer(JumpClock())
    with pytest.raises(TeacherAway, match=r"3\.0 hours"):
        one.refused(await take(one), {"retry-after": "10800"})


@pytest.mark.parametrize(
    ("kind", "left", "pauses"),
    [
        ("requests", "0", True),
        ("requests", "1", False),
        ("input-tokens", "0", True),
        ("output-tokens", "3999", True),  # less than the next request asks for
        ("output-tokens", "4000", False),
        ("requests", "many", False),
    ],
)
async def test_an_empty_limit_is_waited_for(kind: str, left: str, pauses: bool) -> None:
    clock = JumpClock(1_790_000_000_000)
    one = pacer(clock)
    reset = "2026-09-21T14:13:40Z"  # 20 seconds later
    one.answered(
        {
            f"anthropic-ratelimit-{kind}-remaining": left,
            f"anthropic-ratelimit-{kind}-reset": reset,
        },
        next_tokens=4000,
    )
    await take(one)
    assert clock.now_ms() - 1_790_000_000_000 == (20_000 if pauses else 0)


async def test_a_senseless_reset_costs_a_minute_at_most() -> None:
    for reset in ("2199-01-01T00:00:00Z", "soon", ""):
        clock = JumpClock()
        one = pacer(clock)
        before = clock.now_ms()
        kind = "anthropic-ratelimit-requests"
        one.answered({f"{kind}-remaining": "0", f"{kind}-reset": reset}, next_tokens=1)
        await take(one)
        assert clock.now_ms() - before <= MAX_PAUSE_S * 1000


async def test_a_stop_wakes_those_who_wait() -> None:
    clock = JumpClock()
    one = pacer(clock, most=1)
    clock.hold()  # nobody's sleep ends
    one.refused(await take(one), {"retry-after": "60"})
    waiting = asyncio.create_task(take(one))
    for _ in range(5):
        await asyncio.sleep(0)
    await one.stop()
    with pytest.raises(Stopped):
        await waiting
    with pytest.raises(Stopped):
        await take(one)
