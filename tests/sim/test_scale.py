"""The simulator of `benchmarks.scale`: its time, its lines, its books, and a small run of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from ares_p2p.errors import RateLimited
from benchmarks.scale.links import Line
from benchmarks.scale.loop import PlayedLoop, role
from benchmarks.scale.measure import Run, play
from benchmarks.scale.world import SEATS


def on_played_loop(make: Any) -> tuple[Any, PlayedLoop]:
    loop = PlayedLoop()
    try:
        return loop.run_until_complete(make(loop)), loop
    finally:
        loop.close()


# --- time ---------------------------------------------------------------------------------------


def test_hours_pass_at_once_and_timeouts_follow() -> None:
    async def wait(loop: PlayedLoop) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600.0):
                await loop.clock.sleep(7200.0)
        return loop.time()

    began_s = time.monotonic()
    passed_s, _ = on_played_loop(wait)
    assert passed_s == pytest.approx(3600.0)
    assert time.monotonic() - began_s < 5.0


def test_what_runs_in_threads_passes_time_side_by_side() -> None:
    async def work(loop: PlayedLoop) -> list[int]:
        def train() -> int:
            before_ms = loop.clock.now_ms()
            loop.clock.pass_s(10.0)
            return loop.clock.now_ms() - before_ms

        return await asyncio.gather(*(asyncio.to_thread(train) for _ in range(50)))

    took_ms, loop = on_played_loop(work)
    assert took_ms == [10_000] * 50
    assert loop.time() == pytest.approx(10.0)


def test_processor_time_is_booked_to_the_role_of_the_task() -> None:
    async def spend(loop: PlayedLoop) -> None:
        async def busy() -> None:
            role.set("busy")
            await asyncio.sleep(0)
            end_s = time.thread_time() + 0.05
            while time.thread_time() < end_s:
                pass

        await asyncio.gather(busy(), asyncio.sleep(1.0))

    _, loop = on_played_loop(spend)
    assert loop.spent_s["busy"] == pytest.approx(0.05, rel=0.5)


# --- lines --------------------------------------------------------------------------------------


def test_line_sends_one_piece_after_the_other_and_counts_both_ends() -> None:
    sender, fast, slow = Line(100.0, 1e9, 0.5), Line(1e9, 1e9, 0.5), Line(1e9, 10.0, 0.5)
    assert sender.takes_until_s(fast, 100.0, now_s=0.0) == pytest.approx(2.0)
    assert sender.takes_until_s(fast, 100.0, now_s=0.0) == pytest.approx(3.0)
    assert sender.takes_until_s(slow, 100.0, now_s=0.0) == pytest.approx(11.0)
    assert (sender.up, fast.down, slow.down) == (300.0, 200.0, 100.0)


# --- a run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs() -> dict[str, dict[str, Any]]:
    kinds: tuple[Any, ...] = ("gather", "butterfly")
    return {
        kind: play(
            Run(
                peers=5,
                rounds=1,
                warm=1,
                frames=2,
                churn=0.2,
                exchange=kind,
            ),
            say=lambda _text: None,
        )
        for kind in kinds
    }


def test_small_swarm_goes_on_while_peers_come_and_go(runs: dict[str, dict[str, Any]]) -> None:
    for kind, facts in runs.items():
        assert facts["exchange"] == ("parts" if kind == "butterfly" else "gather")
        assert facts["commits"] >= 4
        assert facts["used"] == facts["commits"]
        assert facts["newcomers"]["started"] == 1
        assert facts["coordinator"]["down_bytes_per_round"] >= 4 * facts["blob_bytes"]
        assert facts["rounds_per_hour"] > 10
        assert not facts["refused"]


def test_peers_carry_what_the_coordinator_does_not(runs: dict[str, dict[str, Any]]) -> None:
    """By parts it sends no contribution to anybody, and its books by kind are complete."""
    for kind, facts in runs.items():
        sent = facts["coordinator"]["blobs_up_bytes_per_round"]
        small = facts["coordinator"]["messages_up_bytes_per_round"]
        total = facts["coordinator"]["up_bytes_per_round"]
        assert sum(sent.values()) + small == pytest.approx(total, rel=0.05)
        assert kind == "gather" or sent["contributions"] == 0


def test_a_round_has_its_seats_and_says_so_to_whoever_comes_too_late(tmp_path: Path) -> None:
    assert SEATS == 100
    facts = play(
        Run(peers=5, rounds=1, warm=1, frames=1, exchange="gather", churn=0.0, seats=3),
        say=lambda _text: None,
    )
    assert facts["commits"] == 3
    assert set(facts["refused"]) == {RateLimited.code}
