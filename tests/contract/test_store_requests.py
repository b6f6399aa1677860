"""The ledger of paid requests, over every implementation of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ares_coordinator.store.base import Store
from ares_coordinator.store.request_rows import (
    RequestPlace,
    RequestState,
    RequestTotals,
    Reserved,
    Spent,
    StoredReply,
    Usage,
)
from ares_p2p.errors import InternalFault, TeacherFault
from ares_p2p.ids import sha256
from storefixtures import OPENERS

NOW = 1_790_000_000_000
PLACE = RequestPlace(run_id="run-1", day=20_000, cycle=3, category="code", purpose="answer")
USAGE = Usage(input_tokens=11, output_tokens=22, cache_write_tokens=33, cache_read_tokens=44)
REPLY = StoredReply(
    text="Grüße, 世界\n",
    stop_reason="end_turn",
    refusal="",
    model="claude-opus-5-5-20260922",
    usage=USAGE,
    cost_microusd=70,
)
KEY, OTHER = sha256(b"one question"), sha256(b"another question")


@pytest.fixture(params=OPENERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = OPENERS[request.param](tmp_path)
    yield opened
    opened.close()


def allow(_: Spent) -> None:
    return None


def reserve(
    store: Store,
    key: bytes = KEY,
    place: RequestPlace = PLACE,
    *,
    worst: int = 100,
    check: Callable[[Spent], None] = allow,
    now_ms: int = NOW,
) -> Reserved:
    return store.reserve_request(
        key,
        place,
        model="claude-opus-5-5",
        permission_ref="agreement 7",
        worst_microusd=worst,
        check=check,
        now_ms=now_ms,
    )


def states(store: Store) -> dict[RequestState, tuple[int, int]]:
    return {row.state: (row.requests, row.cost_microusd) for row in store.request_totals()}


def test_a_reserved_request_is_ours_to_send_once(store: Store) -> None:
    assert reserve(store) == Reserved(RequestState.SENT, "agreement 7")
    with pytest.raises(InternalFault, match="on its way"):
        reserve(store)
    assert states(store) == {RequestState.SENT: (1, 100)}


def test_a_reply_is_kept_and_given_again_instead_of_a_second_request(store: Store) -> None:
    reserve(store)
    store.finish_request(KEY, REPLY, now_ms=NOW + 5)
    again = reserve(store, place=replace(PLACE, run_id="run-2", day=20_001))
    assert again == Reserved(RequestState.DONE, "agreement 7", REPLY)
    assert store.request_totals() == (RequestTotals("code", RequestState.DONE, 1, 70, USAGE),)


def test_the_same_reply_twice_is_fine_and_another_one_is_not(store: Store) -> None:
    reserve(store)
    store.finish_request(KEY, REPLY, now_ms=NOW)
    store.finish_request(KEY, REPLY, now_ms=NOW + 9)
    with pytest.raises(InternalFault, match="another reply"):
        store.finish_request(KEY, replace(REPLY, text="no"), now_ms=NOW)


def test_the_check_sees_all_scopes_and_its_refusal_leaves_nothing(store: Store) -> None:
    reserve(store, worst=100)
    reserve(store, sha256(b"b"), replace(PLACE, category="creative"), worst=20)
    reserve(store, sha256(b"c"), replace(PLACE, cycle=4, run_id="run-0"), worst=3)
    reserve(store, sha256(b"d"), replace(PLACE, day=20_001), worst=1000)
    seen: list[Spent] = []

    def refuse(spent: Spent) -> None:
        seen.append(spent)
        raise TeacherFault("too much")

    with pytest.raises(TeacherFault, match="too much"):
        reserve(store, OTHER, check=refuse)
    assert seen == [
        Spent(run_microusd=1120, day_microusd=123, cycle_microusd=1120, category_microusd=1100)
    ]
    assert store.spent(PLACE) == seen[0]
    assert reserve(store, OTHER).state is RequestState.SENT  # as if it had never been asked


def test_the_real_cost_takes_the_place_of_the_reservation(store: Store) -> None:
    reserve(store)
    assert store.spent(PLACE).run_microusd == 100
    store.finish_request(KEY, REPLY, now_ms=NOW)
    assert store.spent(PLACE) == Spent(70, 70, 70, 70)


def test_a_released_request_costs_nothing_and_may_be_sent_again(store: Store) -> None:
    reserve(store)
    store.release_request(KEY, code="overloaded", now_ms=NOW)
    store.release_request(KEY, code="overloaded", now_ms=NOW)
    assert states(store) == {RequestState.RELEASED: (1, 0)}
    later = replace(PLACE, run_id="run-2")
    assert reserve(store, place=later, worst=60).state is RequestState.SENT
    assert states(store) == {RequestState.SENT: (1, 60)}
    assert store.spent(PLACE).run_microusd == 0
    assert store.spent(later).run_microusd == 60


def test_a_lost_request_stays_counted_and_is_not_sent_again(store: Store) -> None:
    reserve(store)
    store.lose_request(KEY, code="cut off", now_ms=NOW)
    store.lose_request(KEY, code="cut off", now_ms=NOW)
    assert reserve(store).state is RequestState.LOST
    assert states(store) == {RequestState.LOST: (1, 100)}


def test_a_new_run_loses_what_an_earlier_one_left_on_its_way(store: Store) -> None:
    reserve(store)
    reserve(store, OTHER, replace(PLACE, run_id="run-2"))
    reserve(store, sha256(b"done"))
    store.finish_request(sha256(b"done"), REPLY, now_ms=NOW)
    assert store.lose_requests(run_id="run-2", now_ms=NOW) == 1
    assert store.lose_requests(run_id="run-2", now_ms=NOW) == 0
    assert reserve(store).state is RequestState.LOST
    assert set(states(store)) == {RequestState.DONE, RequestState.LOST, RequestState.SENT}


def test_a_reply_that_comes_after_all_is_taken(store: Store) -> None:
    reserve(store)
    store.lose_request(KEY, code="cut off", now_ms=NOW)
    store.finish_request(KEY, REPLY, now_ms=NOW)
    assert states(store) == {RequestState.DONE: (1, 70)}


def test_lost_requests_may_be_sent_again_at_the_operators_word_and_stay_counted(
    store: Store,
) -> None:
    reserve(store)
    store.lose_request(KEY, code="cut off", now_ms=NOW)
    assert store.release_lost_requests(now_ms=NOW) == 1
    assert store.release_lost_requests(now_ms=NOW) == 0
    assert states(store) == {RequestState.LOST: (1, 100)}
    assert reserve(store, now_ms=NOW + 1).state is RequestState.SENT
    assert store.spent(PLACE).run_microusd == 200
    store.lose_request(KEY, code="cut off", now_ms=NOW + 2)  # and once more
    assert store.release_lost_requests(now_ms=NOW + 3) == 1
    assert states(store) == {RequestState.LOST: (2, 200)}


def test_contradictions_are_refused(store: Store) -> None:
    for end in (
        lambda: store.finish_request(KEY, REPLY, now_ms=NOW),
        lambda: store.release_request(KEY, code="", now_ms=NOW),
        lambda: store.lose_request(KEY, code="", now_ms=NOW),
    ):
        with pytest.raises(InternalFault, match="never reserved"):
            end()
    reserve(store)
    store.finish_request(KEY, REPLY, now_ms=NOW)
    with pytest.raises(InternalFault, match="was billed"):
        store.release_request(KEY, code="", now_ms=NOW)
    with pytest.raises(InternalFault, match="not on its way"):
        store.lose_request(KEY, code="", now_ms=NOW)
    reserve(store, OTHER)
    store.release_request(OTHER, code="", now_ms=NOW)
    with pytest.raises(InternalFault, match="was released"):
        store.finish_request(OTHER, REPLY, now_ms=NOW)


def test_totals_are_of_one_cycle_or_of_all_and_in_order(store: Store) -> None:
    reserve(store)
    reserve(store, OTHER, replace(PLACE, cycle=4, category="creative"))
    store.finish_request(OTHER, REPLY, now_ms=NOW)
    assert [(row.category, row.state) for row in store.request_totals()] == [
        ("code", RequestState.SENT),
        ("creative", RequestState.DONE),
    ]
    assert [row.category for row in store.request_totals(cycle=3)] == ["code"]
    assert store.request_totals(cycle=9) == ()
