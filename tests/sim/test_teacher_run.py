"""Whole runs of the teacher against the stand-in for its API: killed, capped, refused, stopped."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.distiller.authored import Accepted, AuthorProgress, Rejected
from ares_coordinator.distiller.authoring import Author, open_author
from ares_coordinator.distiller.filters import Deduplicator, Reject
from ares_coordinator.distiller.plans import GENERATOR_VERSION, load_plan
from ares_coordinator.store.request_rows import RequestState
from ares_coordinator.store.thread import StoreThread
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import TeacherAway, TeacherBudgetSpent, TeacherNotPermitted, TeacherRefused
from ares_p2p.shards import Example, decode_jsonl
from teacher_answers import answer_for
from teacher_child import fork_server, run
from teacher_clock import JumpClock
from teacher_desk import PERMISSION, teacher_settings, totals
from teacher_server import KEY, OVERLOADED, RATE_LIMITED, Fault, TeacherServer

GENEROUS = {f"cap_usd_per_{scope}": 1000.0 for scope in ("run", "day", "cycle", "category")}
SMALL = dict.fromkeys(CATEGORIES, 4)
ALL_SMALL = 32
# Uneven, because a row of the last four takes four requests and one of the first two half of that.
TWO_THOUSAND = {
    "reasoning": 600,
    "problem_solving": 600,
    "code": 250,
    "creative": 250,
    "instruction": 180,
    "roleplay": 40,
    "tool_use": 40,
    "long_context": 40,
}
KILLS = 5
WAIT_S = 0.02


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: ten thousand commits on a disk take a minute."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(dir=memory, prefix="ares-teacher-"))
    yield made
    shutil.rmtree(made)


@asynccontextmanager
async def opened(
    folder: Path, server: TeacherServer, counts: dict[str, int] = SMALL, *, cycle: int = 1,
    options: dict[str, Any] | None = None, **changes: Any,
) -> AsyncIterator[Author]:  # fmt: skip
    db = await StoreThread.open(folder / "ares.db")
    try:
        async with open_author(
            teacher_settings(server, **{**GENEROUS, **changes}),
            api_key=KEY,
            db=db,
            clock=JumpClock(),
            counts=counts,
            seed=11,
            cycle=cycle,
            **(options or {}),
        ) as author:
            yield author
    finally:
        await db.close()


async def read_rows(author: Author, into: list[Accepted | Rejected]) -> None:
    async for row in author.rows():
        into.append(row)  # noqa: PERF401 - what came before a fault is kept


async def rows_of(author: Author) -> list[Accepted | Rejected]:
    rows: list[Accepted | Rejected] = []
    await read_rows(author, rows)
    return rows


def examples(rows: list[Accepted | Rejected]) -> list[Example]:
    return [row.example for row in rows if isinstance(row, Accepted)]


def by_category(rows: list[Accepted | Rejected]) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {name: [] for name in CATEGORIES}
    for row in rows:
        found[row.seed.category].append(row)
    return found


async def charged(folder: Path) -> int:
    return sum(cost for _, cost in (await totals(folder)).values())


# --- the whole thing ---------------------------------------------------------------------------


@pytest.mark.timeout(400)  # half a minute on two idle cores
async def test_two_thousand_examples_survive_five_kills_and_nothing_is_paid_twice(
    folder: Path,
) -> None:
    rng = random.Random(20)
    async with TeacherServer(answer_for) as server:
        settings = teacher_settings(
            server,
            **{**GENEROUS, "cap_usd_per_cycle": 20.0},
            max_concurrency=12,
            judge_share=0.02,
            second_answer_share=0.02,
        ).model_dump()
        server.fault_of = lambda _: RATE_LIMITED if rng.random() < 0.002 else None
        server.retry_after = "0.05"
        for kill in range(KILLS + 1):
            child = fork_server().Process(target=run, args=(folder, settings, TWO_THOUSAND, 3))
            child.start()
            moment = len(server.bodies) + rng.randint(60, 500)
            while child.is_alive() and (kill == KILLS or len(server.bodies) < moment):
                await asyncio.sleep(WAIT_S)
            if kill < KILLS:
                assert child.is_alive(), "it was to be killed in the middle"
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
            child.join()
            assert child.exitcode == (-signal.SIGKILL if kill < KILLS else 0)
        while server.busy:
            await asyncio.sleep(WAIT_S)

        assert set(server.asked.values()) == {1}, "a question was asked twice"
        found = await totals(folder)
        lost, lost_charged = found[RequestState.LOST]
        done, done_cost = found[RequestState.DONE]
        assert done_cost + lost_charged <= settings["cap_usd_per_cycle"] * 1e6
        assert set(found) <= {RequestState.DONE, RequestState.LOST, RequestState.RELEASED}
        assert 1 <= lost <= KILLS * 12
        assert done <= len(server.asked) <= done + lost
        used = server.usage
        billed = (
            used["input_tokens"] * 4
            + used["output_tokens"] * 20
            + used["cache_creation_input_tokens"] * 5
            + -(-used["cache_read_input_tokens"] // 5)
        )
        assert done_cost * 0.999 <= billed + len(server.asked)  # each is rounded up
        assert billed <= done_cost + lost_charged

    rows = decode_jsonl((folder / "rows.jsonl").read_bytes())
    assert Counter(row.category for row in rows) == TWO_THOUSAND
    assert {row.permission_ref for row in rows} == {PERMISSION}
    assert len({row.prompt_sha256 for row in rows}) == len(rows)


async def test_totals_equal_the_servers_own_count(folder: Path) -> None:
    async with TeacherServer(answer_for) as server:
        async with opened(folder, server) as author:
            await rows_of(author)
            report = author.report()
        db = await StoreThread.open(folder / "ares.db")
        sums = await db.call(db.store.request_totals, 1)
        await db.close()
        assert {row.state for row in sums} == {RequestState.DONE}
        assert sum(row.requests for row in sums) == len(server.bodies) == report.requests["asked"]
        for ours, theirs in (
            ("input_tokens", "input_tokens"),
            ("output_tokens", "output_tokens"),
            ("cache_write_tokens", "cache_creation_input_tokens"),
            ("cache_read_tokens", "cache_read_input_tokens"),
        ):
            assert sum(getattr(row.usage, ours) for row in sums) == server.usage[theirs]
        assert sum(row.cost_microusd for row in sums) == report.cost_microusd > 0
    assert report.accepted == SMALL
    assert report.cache_saved_microusd != 0


async def test_a_run_started_again_gives_the_same_rows_without_a_request(folder: Path) -> None:
    async with TeacherServer(answer_for) as server:
        async with opened(folder, server) as author:
            first = await rows_of(author)
        asked = len(server.bodies)
        async with opened(folder, server) as author:
            again = await rows_of(author)
            assert author.report().cost_microusd == 0
        assert len(server.bodies) == asked
    assert by_category(first) == by_category(again)


async def test_every_row_says_where_it_comes_from(folder: Path) -> None:
    async with TeacherServer(answer_for) as server, opened(folder, server) as author:
        rows = examples(await rows_of(author))
    assert len(rows) == ALL_SMALL
    assert {row.teacher for row in rows} == {"messages-api"}  # a server of one's own
    assert {row.teacher_version for row in rows} == {"claude-opus-5-5"}
    assert {row.licence for row in rows} == {"LicenseRef-Test"}
    assert {row.permission_ref for row in rows} == {PERMISSION}
    assert {row.generator_version for row in rows} == {GENERATOR_VERSION}
    assert all(len(row.prompt_sha256) == 64 for row in rows)
    assert "SECRET THOUGHT" not in repr(rows)
    roles = {row.category: {m.role for m in row.messages} for row in rows}
    assert roles["tool_use"] == {"system", "user", "assistant", "tool"}
    assert roles["roleplay"] == {"system", "user", "assistant"}
    assert max(len(row.messages) for row in rows if row.category == "long_context") >= 4


async def test_no_request_leaves_without_permission(folder: Path) -> None:
    async with TeacherServer(answer_for) as server:
        with pytest.raises(TeacherNotPermitted):
            async with opened(folder, server, permission_ref=""):
                pass
        assert (server.bodies, server.models_asked) == ([], 0)


# --- caps --------------------------------------------------------------------------------------


async def test_a_cap_ends_the_run_with_what_is_complete_and_a_higher_one_goes_on(
    folder: Path,
) -> None:
    async with TeacherServer(answer_for) as server:
        rows: list[Accepted | Rejected] = []
        async with opened(folder, server, cap_usd_per_cycle=0.18) as author:
            with pytest.raises(TeacherBudgetSpent, match="a cycle leaves"):
                await read_rows(author, rows)
        assert await charged(folder) <= 180_000
        complete = examples(rows)
        assert 0 < len(complete) < ALL_SMALL
        async with opened(folder, server) as author:
            everything = examples(await rows_of(author))
        assert len(everything) == ALL_SMALL
        assert {row.key for row in complete} <= {row.key for row in everything}
        assert set(server.asked.values()) == {1}


async def test_a_category_that_spent_its_cap_stops_alone(folder: Path) -> None:
    async with (
        TeacherServer(answer_for) as server,
        opened(folder, server, {"code": 4, "long_context": 20}, cap_usd_per_category=0.2) as author,
    ):
        rows = await rows_of(author)
        report = author.report()
    assert report.accepted["code"] == 4
    assert 0 < report.accepted["long_context"] < 20
    assert list(report.short) == ["long_context"]
    assert "a category leaves" in report.short["long_context"]
    assert len(examples(rows)) == report.accepted.total()


# --- refusals, faults, stops -------------------------------------------------------------------


async def test_a_refusal_by_policy_stops_everything_at_once(folder: Path) -> None:
    """While seven slow requests hold all other slots, the eighth is refused."""
    refused: list[dict[str, Any]] = []
    seen: list[int] = []

    def slow_from_thirteen(body: dict[str, Any]) -> Fault | None:
        if len(server.bodies) == 20:
            refused.append(body)
            return Fault(refusal="frontier_llm", delay_s=0.3)
        return Fault(delay_s=1.5) if len(server.bodies) > 12 else None

    def answer(body: dict[str, Any]) -> str:
        if body in refused:
            seen.append(len(server.bodies))
        return answer_for(body)

    async with TeacherServer(answer) as server:
        server.fault_of = slow_from_thirteen
        async with opened(folder, server) as author:
            with pytest.raises(TeacherRefused, match="frontier_llm") as caught:
                await rows_of(author)
        assert seen == [len(server.bodies)], "something left after the refusal"
        assert "no way round" in caught.value.hint
        server.fault_of = lambda _: None
        async with opened(folder, server) as author:  # and not asked again
            with pytest.raises(TeacherRefused):
                await rows_of(author)
        assert server.bodies.count(refused[0]) == 1


async def test_other_refusals_and_losses_leave_rows_out_and_later_waves_fill_up(
    folder: Path,
) -> None:
    rng = random.Random(4)

    def some(_: object) -> Fault | None:
        return rng.choice((Fault(refusal="bio"), Fault(stop_reason="max_tokens"), Fault(drop="cut"),
                           OVERLOADED, Fault(500))) if rng.random() < 0.15 else None  # fmt: skip

    async with TeacherServer(answer_for) as server:
        server.fault_of = some
        async with opened(folder, server) as author:
            rows = await rows_of(author)
            report = author.report()
        assert set(server.asked.values()) == {1}
    assert report.accepted == SMALL
    reasons = {reason for _, reason in report.rejected}
    assert {"refusal_bio", "truncated", "lost"} <= reasons
    assert report.rejected.total() == sum(isinstance(row, Rejected) for row in rows)
    assert report.requests["overloaded"] >= 1


async def test_a_teacher_away_ends_the_run_and_loses_nothing(folder: Path) -> None:
    async with TeacherServer(answer_for) as server, opened(folder, server) as author:
        rows = author.rows()
        first = await anext(rows)
        await server.close()
        with pytest.raises(TeacherAway, match="no connection"):
            async for _ in rows:
                pass
    assert isinstance(first, Accepted)
    assert RequestState.DONE in await totals(folder)


async def test_a_stop_ends_the_rows_and_keeps_what_was_on_its_way(folder: Path) -> None:
    async with TeacherServer(answer_for) as server:
        server.delay_s = 0.05
        async with opened(folder, server) as author:
            reading = asyncio.create_task(rows_of(author))
            while len(server.bodies) < 25:
                await asyncio.sleep(0.01)
            await author.stop()
            seen = len(server.bodies)
            partial = examples(await reading)
            assert author.report().stopped
        assert len(server.bodies) == seen
        assert set(await totals(folder)) == {RequestState.DONE}
        server.delay_s = 0.0
        async with opened(folder, server) as author:
            rows = examples(await rows_of(author))
        assert len(partial) < len(rows) == ALL_SMALL
        assert set(server.asked.values()) == {1}


async def test_ctrl_c_waits_for_the_answers_that_are_paid(folder: Path) -> None:
    async with TeacherServer(answer_for) as server:
        server.delay_s = 0.3
        settings = teacher_settings(server, **GENEROUS).model_dump()
        child = fork_server().Process(target=run, args=(folder, settings, {"code": 40}, 3))
        child.start()
        while server.busy < 8:
            await asyncio.sleep(WAIT_S)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGINT)
        while child.is_alive():
            await asyncio.sleep(WAIT_S)
        assert child.exitcode == 130
        assert await totals(folder) == {RequestState.DONE: (8, await charged(folder))}
        assert len(server.bodies) == 8


# --- rows --------------------------------------------------------------------------------------


async def test_the_screen_sees_rows_in_the_order_of_their_seeds_and_gaps_are_filled(
    folder: Path,
) -> None:
    seen: list[str] = []
    deduplicate = Deduplicator()

    def screen(example: Example) -> Example | Reject:
        seen.append(example.key)
        return Reject("contaminated", "as asked") if len(seen) % 3 == 0 else deduplicate(example)

    progress: list[AuthorProgress] = []
    options = {"screen": screen, "on_progress": progress.append}
    async with (
        TeacherServer(answer_for) as server,
        opened(folder, server, {"code": 12}, options=options) as author,
    ):
        rows = await rows_of(author)
        report = author.report()
    assert [row.seed.number for row in rows] == list(range(len(rows)))
    assert len(examples(rows)) == 12
    assert report.rejected == Counter({("code", "contaminated"): len(seen) // 3})
    assert progress[-1] == AuthorProgress("code", 12, len(seen) // 3, 12, report.cost_microusd)
    topics = Counter(row.seed.topic for row in rows if isinstance(row, Accepted))
    assert max(topics.values()) == 1


async def test_topics_whose_rows_failed_come_again_before_others_come_twice(folder: Path) -> None:
    def refuse_some(body: dict[str, Any]) -> Fault | None:
        text = body["messages"][0]["content"][0]["text"]
        is_answer = "output_config" not in body
        return Fault(refusal="cyber") if is_answer and len(text) % 4 == 0 else None

    async with TeacherServer(answer_for) as server:
        server.fault_of = refuse_some
        async with opened(folder, server, {"creative": 75}, judge_share=0.0) as author:
            rows = await rows_of(author)
            coverage = author.report().coverage["creative"]
    topics = [row.seed.topic for row in rows if isinstance(row, Accepted)]
    failed = {row.seed.topic for row in rows[:40] if isinstance(row, Rejected)}
    assert len(set(topics)) == len(topics) == coverage.seeds == 75
    assert len(failed) > 6  # there are 81 topics, so these came again
    assert coverage.missing(load_plan("creative"))["topic"] == 6


async def test_a_category_that_gives_nothing_is_given_up(folder: Path) -> None:
    async with TeacherServer(answer_for) as server:
        server.fault_of = lambda body: Fault(refusal="bio") if "output_config" not in body else None
        async with opened(folder, server, {"creative": 3, "reasoning": 3}) as author:
            rows = await rows_of(author)
            report = author.report()
    assert report.accepted == {"reasoning": 3}
    assert report.short == {"creative": "12 tasks gave 0 usable rows"}
    assert len(rows) == 15


async def test_a_share_is_judged_and_low_scores_leave_a_row_out(folder: Path) -> None:
    def strict(body: dict[str, Any]) -> str:
        return answer_for(body).replace('"voice": 3', '"voice": 2')

    async with TeacherServer(strict) as server:
        async with opened(folder, server, {"creative": 12}, judge_share=1.0) as author:
            rows = await rows_of(author)
        accepted = [row for row in rows if isinstance(row, Accepted)]
        low = [row for row in rows if isinstance(row, Rejected)]
        assert len(accepted) == 12
        assert all(row.judgement is not None and row.judgement.lowest >= 3 for row in accepted)
        assert low
        assert {row.reason for row in low} == {"judged_low"}
        assert "voice 2" in low[0].detail
    async with TeacherServer(strict) as server:
        async with opened(folder, server, {"creative": 12}, cycle=2, judge_share=0.0) as author:
            rows = await rows_of(author)
        assert all(isinstance(row, Accepted) and row.judgement is None for row in rows)


async def test_a_judgement_that_cannot_be_read_is_no_score(folder: Path) -> None:
    def vague(body: dict[str, Any]) -> str:
        return answer_for(body).replace('"scores": {', '"scores": {"mood": 5, ')

    async with (
        TeacherServer(vague) as server,
        opened(folder, server, {"creative": 2}, judge_share=1.0) as author,
    ):
        rows = await rows_of(author)
    assert {row.reason for row in rows if isinstance(row, Rejected)} == {"judge_not_json"}
    assert examples(rows) == []
