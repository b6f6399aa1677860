"""The desk: nothing is paid twice, no cap is passed, and every fault ends as it should."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ares_coordinator.distiller.answers import NoAnswer
from ares_coordinator.distiller.asks import Ask
from ares_coordinator.distiller.budget import CategorySpent
from ares_coordinator.distiller.pacing import Stopped
from ares_coordinator.distiller.requests import (
    MAX_BAD_IN_A_ROW,
    MAX_LOST_IN_A_ROW,
    MAX_TRIES,
    RequestDesk,
)
from ares_coordinator.distiller.schemas import TEXT, record
from ares_coordinator.store.request_rows import RequestState
from ares_p2p.errors import (
    AresError,
    TeacherAway,
    TeacherBudgetSpent,
    TeacherFault,
    TeacherKeyRefused,
    TeacherModelUnknown,
    TeacherNotPermitted,
    TeacherRefused,
    TeacherUnpaid,
)
from ares_p2p.shards import Message
from teacher_clock import JumpClock
from teacher_desk import PERMISSION, open_desk, totals
from teacher_server import (
    BAD_KEY,
    BROKEN,
    FORBIDDEN,
    OVERLOADED,
    RATE_LIMITED,
    UNPAID,
    Fault,
    TeacherServer,
)

DONE, SENT = RequestState.DONE, RequestState.SENT
LOST, RELEASED = RequestState.LOST, RequestState.RELEASED


def question(text: str = "Why?", category: str = "code") -> Ask:
    return Ask("answer", category, "", (Message("user", text),), 100)


async def ask(desk: RequestDesk, text: str = "Why?", category: str = "code") -> str:
    return (await desk.ask(question(text, category))).text


async def ask_on_and_on(desk: RequestDesk) -> None:
    for number in range(1000):
        await ask(desk, f"question {number}")


async def until_busy(server: TeacherServer, requests: int = 1) -> None:
    while server.busy < requests:
        await asyncio.sleep(0.01)


# --- permission --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"permission_ref": ""}, {"permission_ref": "  "}, {"licence": ""}]
)
async def test_without_permission_no_request_leaves(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    async with TeacherServer() as server:
        with pytest.raises(TeacherNotPermitted, match="forbid training") as caught:
            async with open_desk(tmp_path, server, **changes):
                pass
        assert server.bodies == []
        assert server.models_asked == 0
    assert next(iter(changes)) in caught.value.message
    assert "teacher.permission_ref" in caught.value.hint


async def test_an_answer_carries_the_permission_it_was_asked_under(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        async with open_desk(tmp_path, server) as desk:
            assert (await desk.ask(question())).permission_ref == PERMISSION
        async with open_desk(tmp_path, server, permission_ref="a later one") as desk:
            assert (await desk.ask(question())).permission_ref == PERMISSION
        assert len(server.bodies) == 1


# --- paid once ---------------------------------------------------------------------------------


async def test_a_question_is_paid_once_also_after_a_restart(tmp_path: Path) -> None:
    async with TeacherServer(lambda body: f"answer {len(server.bodies)}") as server:
        for run in ("run-1", "run-2"):
            async with open_desk(tmp_path, server, run_id=run) as desk:
                both = await asyncio.gather(ask(desk), ask(desk))
                assert both == ["answer 1", "answer 1"]
                assert await ask(desk, "And why not?") == "answer 2"
        assert len(server.bodies) == 2
    assert (await totals(tmp_path)).keys() == {DONE}


async def test_the_cost_is_counted_from_the_usage(tmp_path: Path) -> None:
    async with TeacherServer(lambda _: "x" * 400) as server:
        async with open_desk(tmp_path, server) as desk:
            await ask(desk, "y" * 4000)
            cost = desk.cost_microusd
        used = server.usage
    assert used["input_tokens"] == 1001
    assert used["output_tokens"] == 111  # the text and ten tokens of thinking
    assert cost == 1001 * 4 + 111 * 20
    assert await totals(tmp_path) == {DONE: (1, cost)}


async def test_a_request_cut_off_is_spent_and_not_sent_again(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        server.faults.append(Fault(drop="cut"))
        async with open_desk(tmp_path, server) as desk:
            with pytest.raises(NoAnswer, match="lost"):
                await ask(desk)
        async with open_desk(tmp_path, server, run_id="run-2") as desk:
            with pytest.raises(NoAnswer, match="lost"):
                await ask(desk)
        assert len(server.bodies) == 1
        (requests, reserved) = (await totals(tmp_path))[LOST]
        assert requests == 1
        assert reserved > 2000 * 4  # the worst case, frame and all
        async with open_desk(tmp_path, server, run_id="run-3", resend_lost=True) as desk:
            assert await ask(desk) == "An answer."
        assert len(server.bodies) == 2
        found = await totals(tmp_path)
    assert found[LOST] == (1, reserved)  # still counted
    assert found[DONE][0] == 1


async def test_what_was_on_its_way_at_a_crash_is_lost(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        server.delay_s = 60
        async with open_desk(tmp_path, server, timeout_s=600) as desk:
            asking = asyncio.create_task(ask(desk))
            await until_busy(server)
            (sent,) = (task for task in asyncio.all_tasks() if task.get_name() == "ask-answer")
            sent.cancel()  # nothing is written any more, as after a kill
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert (await totals(tmp_path)).keys() == {SENT}
        server.delay_s = 0
        async with open_desk(tmp_path, server, run_id="run-2") as desk:
            with pytest.raises(NoAnswer, match="lost"):
                await ask(desk)
        assert (await totals(tmp_path)).keys() == {LOST}


# --- caps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["run", "day", "cycle"])
async def test_no_request_passes_a_cap(tmp_path: Path, scope: str) -> None:
    cap = 0.017
    async with TeacherServer() as server:
        async with open_desk(tmp_path, server, **{f"cap_usd_per_{scope}": cap}) as desk:
            with pytest.raises(TeacherBudgetSpent, match=rf"\$0\.0170 a {scope} leaves") as caught:
                await ask_on_and_on(desk)
            assert desk.cost_microusd <= cap * 1e6
        assert 5 < len(server.bodies) < 20
    assert f"teacher.cap_usd_per_{scope}" in caught.value.hint
    found = await totals(tmp_path)
    assert sum(cost for _, cost in found.values()) <= cap * 1e6


async def test_the_cap_of_a_category_leaves_the_others_alone(tmp_path: Path) -> None:
    async with (
        TeacherServer() as server,
        open_desk(tmp_path, server, cap_usd_per_category=0.016) as desk,
    ):
        with pytest.raises(CategorySpent):
            await ask_on_and_on(desk)
        assert await ask(desk, "one more", "creative") == "An answer."


async def test_reservations_are_waited_for_before_a_cap_counts_as_reached(tmp_path: Path) -> None:
    """Eight worst cases at once pass the cap, their real costs do not."""
    async with TeacherServer() as server:
        server.delay_s = 0.1
        async with open_desk(tmp_path, server, cap_usd_per_run=0.04) as desk:
            answers = await asyncio.gather(*(ask(desk, f"question {n}") for n in range(16)))
        assert answers == ["An answer."] * 16
        assert server.most_busy == 2  # all that the cap allows at the same time
    assert (await totals(tmp_path))[DONE][1] <= 40_000


async def test_many_at_once_never_pass_a_cap_together(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        server.delay_s = 0.05
        async with open_desk(tmp_path, server, cap_usd_per_run=0.018) as desk:
            asked = [ask(desk, f"question {n}") for n in range(40)]
            results = await asyncio.gather(*asked, return_exceptions=True)
        refused = [one for one in results if isinstance(one, TeacherBudgetSpent)]
        assert refused
        assert len(refused) + results.count("An answer.") == 40
    assert sum(cost for _, cost in (await totals(tmp_path)).values()) <= 18_000


async def test_a_model_without_prices_is_refused(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        with pytest.raises(TeacherModelUnknown, match="no prices of 'other'") as caught:
            async with open_desk(tmp_path, server, model="other"):
                pass
        assert server.models_asked == 0
    assert "prices_as_of" in caught.value.hint


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [RATE_LIMITED, OVERLOADED])
async def test_overload_slows_down_and_is_not_billed(tmp_path: Path, fault: Fault) -> None:
    clock = JumpClock()
    async with TeacherServer() as server:
        server.faults.append(Fault(fault.status, fault.error, headers={"retry-after": "12"}))
        async with open_desk(tmp_path, server, clock=clock) as desk:
            assert await ask(desk) == "An answer."
            assert desk.limit == 4
        assert sum(clock.slept_s) >= 12
    assert (await totals(tmp_path)).keys() == {DONE}


async def test_overload_without_end_is_a_teacher_away(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        server.fault_of = lambda _: OVERLOADED
        async with open_desk(tmp_path, server) as desk:
            with pytest.raises(TeacherAway, match=f"after {MAX_TRIES} tries: 529") as caught:
                await ask(desk)
        assert len(server.bodies) == MAX_TRIES
    assert "not asked twice" in caught.value.hint
    assert await totals(tmp_path) == {RELEASED: (1, 0)}


async def test_failures_of_the_providers_own_are_tried_again(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        server.faults.extend([BROKEN] * 3)
        async with open_desk(tmp_path, server) as desk:
            assert await ask(desk) == "An answer."


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (BAD_KEY, TeacherKeyRefused),
        (FORBIDDEN, TeacherKeyRefused),
        (UNPAID, TeacherUnpaid),
        (Fault(404, "not_found_error", "model"), TeacherModelUnknown),
    ],
)
async def test_what_ends_the_run_costs_nothing(
    tmp_path: Path, fault: Fault, kind: type[AresError]
) -> None:
    async with TeacherServer() as server:
        server.faults.append(fault)
        async with open_desk(tmp_path, server) as desk:
            with pytest.raises(kind):
                await ask(desk)
            with pytest.raises(Stopped):  # and nothing more leaves
                await ask(desk, "Another question.")
        assert await totals(tmp_path) == {RELEASED: (1, 0)}
        async with open_desk(tmp_path, server, run_id="run-2") as desk:
            assert await ask(desk) == "An answer."  # once it is mended
    assert (await totals(tmp_path)).keys() == {DONE}


async def test_a_bad_key_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        with pytest.raises(TeacherKeyRefused, match="401"):
            async with open_desk(tmp_path, server, key="sk-ant-another"):
                pass
        assert server.bodies == []


@pytest.mark.parametrize("category", ["frontier_llm", "reasoning_extraction"])
async def test_a_refusal_by_policy_ends_the_run_and_is_not_asked_again(
    tmp_path: Path, category: str
) -> None:
    async with TeacherServer() as server:
        server.faults.append(Fault(refusal=category))
        for run in ("run-1", "run-2"):
            async with open_desk(tmp_path, server, run_id=run) as desk:
                with pytest.raises(TeacherRefused, match=f"refused a request as {category}"):
                    await ask(desk)
        assert len(server.bodies) == 1
        async with open_desk(tmp_path, server, permission_ref="a new agreement") as desk:
            assert await ask(desk) == "An answer."
        assert server.bodies[0] == server.bodies[1]  # the same words


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(refusal="cyber"), "refusal_cyber"),
        (Fault(refusal=None), "refusal_unnamed"),
        (Fault(stop_reason="max_tokens"), "truncated"),
        (Fault(stop_reason="model_context_window_exceeded"), "truncated"),
        (Fault(stop_reason="pause_turn"), "stopped"),
        (Fault(text="  \n"), "empty"),
    ],
)
async def test_an_unusable_answer_is_paid_and_not_asked_again(
    tmp_path: Path, fault: Fault, reason: str
) -> None:
    async with TeacherServer() as server:
        server.faults.append(fault)
        for run in ("run-1", "run-2"):
            async with open_desk(tmp_path, server, run_id=run) as desk:
                with pytest.raises(NoAnswer) as caught:
                    await ask(desk)
                assert caught.value.reason == reason
        assert len(server.bodies) == 1
    assert (await totals(tmp_path))[DONE][0] == 1


async def test_json_that_does_not_fit_leaves_the_row_out(tmp_path: Path) -> None:
    asked = Ask("x", "code", "", (Message("user", "?"),), 100, record(result=TEXT))
    async with TeacherServer() as server, open_desk(tmp_path, server) as desk:
        server.answer = lambda _: '{"result": "yes"}'
        assert (await desk.ask_json(asked))[0] == {"result": "yes"}
        server.answer = lambda _: '{"result": 7}'
        other = Ask("x", "code", "", (Message("user", "!"),), 100, record(result=TEXT))
        with pytest.raises(NoAnswer, match=r"not_json: answer\.result is no string"):
            await desk.ask_json(other)


async def test_a_wrong_request_leaves_its_row_out_and_many_in_a_row_end_the_run(
    tmp_path: Path,
) -> None:
    wrong = Fault(400, "invalid_request_error", "effort: not supported")
    async with TeacherServer() as server, open_desk(tmp_path, server) as desk:
        server.fault_of = lambda _: wrong
        for number in range(MAX_BAD_IN_A_ROW - 1):
            with pytest.raises(NoAnswer, match="bad_request: 400"):
                await ask(desk, f"question {number}")
        with pytest.raises(TeacherFault, match=r"in a row were refused as wrong.*effort"):
            await ask(desk, "the last one")


async def test_a_line_that_swallows_every_answer_stops_spending(tmp_path: Path) -> None:
    async with TeacherServer() as server, open_desk(tmp_path, server) as desk:
        server.fault_of = lambda _: Fault(drop="unread")
        for number in range(MAX_LOST_IN_A_ROW - 1):
            with pytest.raises(NoAnswer, match="lost"):
                await ask(desk, f"question {number}")
        with pytest.raises(TeacherAway, match="count as spent"):
            await ask(desk, "the last one")


async def test_the_network_away_costs_nothing(tmp_path: Path) -> None:
    async with TeacherServer() as server, open_desk(tmp_path, server) as desk:
        await server.close()
        with pytest.raises(TeacherAway, match="no connection"):
            await ask(desk)
    assert await totals(tmp_path) == {RELEASED: (1, 0)}


# --- stopping, caching -------------------------------------------------------------------------


async def test_a_stop_waits_for_what_is_on_its_way_and_sends_no_more(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        server.delay_s = 0.2
        async with open_desk(tmp_path, server, max_concurrency=3) as desk:
            asking = [asyncio.create_task(ask(desk, f"question {n}")) for n in range(10)]
            await until_busy(server, 3)
            await desk.stop()
            results = await asyncio.gather(*asking, return_exceptions=True)
        assert results.count("An answer.") == 3
        assert sum(isinstance(one, Stopped) for one in results) == 7
        assert len(server.bodies) == 3
    assert (await totals(tmp_path)).keys() == {DONE}


async def test_an_answer_is_kept_although_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        server.delay_s = 0.1
        async with open_desk(tmp_path, server) as desk:
            asking = asyncio.create_task(ask(desk))
            await until_busy(server)
            asking.cancel()
        assert (await totals(tmp_path)).keys() == {DONE}


async def test_a_long_shared_prefix_is_cached_and_the_saving_measured(tmp_path: Path) -> None:
    asks = [
        Ask("tasks", "code", "rules " * 1000, (Message("user", f"{n}?"),), 100) for n in range(30)
    ]
    async with TeacherServer() as server, open_desk(tmp_path, server) as desk:
        for one in asks:
            await desk.ask(one)
        assert server.usage["cache_read_input_tokens"] > 20 * 1400
        assert desk.cache.saved_microusd > 0
        assert desk.cost_microusd < 10 * 1500 * 4  # thirty prompts cost less than ten


async def test_a_prefix_that_is_never_read_again_is_not_marked_for_ever(tmp_path: Path) -> None:
    asks = [
        Ask("tasks", "code", f"rules {n} " * 500, (Message("user", "?"),), 100) for n in range(30)
    ]
    async with TeacherServer() as server, open_desk(tmp_path, server) as desk:
        for one in asks:
            await desk.ask(one)
        marked = [body for body in server.bodies if "cache_control" in body["system"][0]]
        assert 1 <= len(marked) <= 12
        assert desk.cache.saved_microusd < 0


async def test_at_no_time_are_there_more_requests_than_allowed(tmp_path: Path) -> None:
    async with TeacherServer() as server:
        server.delay_s = 0.2
        async with open_desk(tmp_path, server, max_concurrency=5) as desk:
            await asyncio.gather(*(ask(desk, f"question {n}") for n in range(20)))
        assert server.most_busy == 5
