"""Prices, caps, estimates, the key of a request, and the schemas of answers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_coordinator.distiller.asks import (
    Ask,
    build_parameters,
    prompt_bytes,
    request_key,
    with_cache_marks,
)
from ares_coordinator.distiller.budget import (
    FRAME_TOKENS,
    Caps,
    CategorySpent,
    Prices,
    caps_of,
    check_caps,
    prices_of,
    usd,
)
from ares_coordinator.distiller.estimates import estimate_run, measured_costs
from ares_coordinator.distiller.promptcache import TRIAL, CacheMeter
from ares_coordinator.distiller.replies import ModelFacts
from ares_coordinator.distiller.schemas import (
    TEXT,
    WHOLE,
    YES_NO,
    NotAsAsked,
    items,
    one_of,
    read_json,
    record,
)
from ares_coordinator.settings import ModelPrices, TeacherSection
from ares_coordinator.store.request_rows import RequestState, RequestTotals, Spent, Usage
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import TeacherBudgetSpent, TeacherModelUnknown
from ares_p2p.shards import Message

PRICES = Prices(4_000_000, 20_000_000, 5_000_000, 200_000, "2026-09-23")
CAPS = Caps(1000, 2000, 3000, 500)
FACTS = ModelFacts("m", structured_outputs=True, thinks=True, max_tokens=5000)
ASK = Ask("answer", "code", "Be brief.", (Message("user", "Wie geht's, 世界?"),), 100)


# --- money -------------------------------------------------------------------------------------


def test_a_cost_by_hand() -> None:
    assert PRICES.cost_microusd(Usage(1000, 500, 2000, 10_000)) == 4000 + 10_000 + 10_000 + 2000
    assert PRICES.cost_microusd(Usage(cache_read_tokens=1)) == 1  # rounded up


@given(
    prompt=st.integers(0, 10**6),
    cached=st.integers(0, 10**6),
    answer=st.integers(0, 10**5),
    room=st.integers(0, 10**4),
)
def test_no_cost_is_above_the_worst_case(prompt: int, cached: int, answer: int, room: int) -> None:
    """However the tokens of a prompt fall into plain, written and read ones."""
    worst = PRICES.worst_case_microusd(prompt_bytes=prompt + cached, max_tokens=answer + room)
    for usage in (Usage(prompt, answer, cached), Usage(prompt, answer, 0, cached)):
        assert PRICES.cost_microusd(usage) <= worst


def test_a_worst_case_by_hand() -> None:
    worst = PRICES.worst_case_microusd(prompt_bytes=1000, max_tokens=100)
    assert worst == (1000 + FRAME_TOKENS) * 5 + 100 * 20


@pytest.mark.parametrize(
    ("spent", "name"),
    [
        (Spent(run_microusd=901), "run"),
        (Spent(day_microusd=1901), "day"),
        (Spent(cycle_microusd=2901), "cycle"),
        (Spent(category_microusd=401), "category"),
    ],
)
def test_every_cap_holds_on_its_own(spent: Spent, name: str) -> None:
    with pytest.raises(TeacherBudgetSpent, match=rf"a {name} leaves \$0\.0001") as caught:
        check_caps(spent, CAPS, next_microusd=100)
    assert isinstance(caught.value, CategorySpent) is (name == "category")
    assert f"cap_usd_per_{name}" in caught.value.hint
    check_caps(spent, CAPS, next_microusd=99)  # to the last micro-dollar


def test_settings_become_prices_and_caps() -> None:
    teacher = TeacherSection()
    assert prices_of(teacher) == PRICES
    assert caps_of(teacher) == Caps(20_000_000, 50_000_000, 50_000_000, 10_000_000)
    own = TeacherSection(
        model="mine", prices={"mine": ModelPrices(input=0, output=0, cache_write=0, cache_read=0)}
    )
    assert prices_of(own).cost_microusd(Usage(10**9, 10**9)) == 0
    with pytest.raises(TeacherModelUnknown, match="no prices of 'mine', only of claude-opus"):
        prices_of(TeacherSection(model="mine"))
    assert usd(1_234_567) == "$1.2346"


# --- estimates ---------------------------------------------------------------------------------


async def test_an_estimate_is_made_before_anything_is_sent_and_warns_of_the_caps() -> None:
    counts = {"code": 200, "long_context": 100}
    estimate = await estimate_run(TeacherSection(), counts=counts, seed=1)
    assert [one.category for one in estimate.categories] == ["code", "long_context"]
    assert estimate.prices_as_of == "2026-09-23"
    code, document = estimate.categories
    assert 200 * 1.2 < code.requests < 200 * 3
    assert 100 * 3 < document.requests < 100 * 6
    assert 0 < code.likely_microusd < code.worst_microusd
    assert estimate.likely_microusd == code.likely_microusd + document.likely_microusd
    assert any("cap of $20.0000 a run" in line for line in estimate.warnings)
    assert any("likely cost of long_context" in line for line in estimate.warnings)
    small = await estimate_run(TeacherSection(), counts={"code": 4}, seed=1)
    assert small.warnings == ()


async def test_what_the_ledger_measured_takes_the_place_of_the_guess() -> None:
    def total(state: RequestState, requests: int) -> RequestTotals:
        return RequestTotals("code", state, requests, 7000 * requests, Usage())

    measured = measured_costs([total(RequestState.DONE, 60), total(RequestState.LOST, 90)])
    assert measured == {"code": 7000}
    assert measured_costs([total(RequestState.DONE, 49)]) == {}
    counts = {"code": 40, "creative": 40}
    estimate = await estimate_run(TeacherSection(), counts=counts, seed=1, measured=measured)
    code, creative = estimate.categories
    assert code.likely_microusd == 7000 * code.requests
    assert (code.is_measured, creative.is_measured) == (True, False)


async def test_all_categories_can_be_estimated() -> None:
    counts = dict.fromkeys(CATEGORIES, 8)
    estimate = await estimate_run(TeacherSection(), counts=counts, seed=3)
    assert [one.rows for one in estimate.categories] == [8] * 8
    assert all(one.requests >= 8 for one in estimate.categories)


# --- requests ----------------------------------------------------------------------------------


def parameters(ask: Ask = ASK, facts: ModelFacts = FACTS, effort: str = "") -> dict[str, Any]:
    return build_parameters(ask, facts, effort=effort, thinking_tokens=400)


def test_the_key_is_of_all_that_decides_the_answer() -> None:
    key = request_key(parameters(), purpose="answer", sample=0)
    assert key == request_key(json.loads(json.dumps(parameters())), purpose="answer", sample=0)
    others = [
        request_key(parameters(), purpose="answer", sample=1),
        request_key(parameters(), purpose="judge", sample=0),
        request_key(parameters(), purpose="answer", sample=0, server="http://127.0.0.1:8080"),
        *(
            request_key(parameters(ask), purpose="answer", sample=0)
            for ask in (
                replace(ASK, system="Be long."),
                replace(ASK, max_tokens=101),
                replace(ASK, schema=record(result=TEXT)),
                replace(ASK, document="D"),
                replace(ASK, messages=(Message("user", "?"),)),
            )
        ),
        request_key(parameters(facts=replace(FACTS, model="n")), purpose="answer", sample=0),
    ]
    assert len({key, *others}) == len(others) + 1
    assert key.hex() == request_key(parameters(), purpose="answer", sample=0).hex()


def test_marks_of_the_cache_change_no_text_and_leave_the_original_alone() -> None:
    plain = parameters(replace(ASK, document="A long document."))
    before = json.dumps(plain)
    marked = with_cache_marks(plain, system=True, document=True)
    assert json.dumps(plain) == before
    assert json.dumps(marked).count("cache_control") == 2
    assert with_cache_marks(plain, system=False, document=False) == plain


def test_room_for_thinking_where_the_model_thinks() -> None:
    assert parameters()["max_tokens"] == 500
    assert parameters(replace(ASK, is_light=True))["max_tokens"] == 200
    assert parameters(facts=replace(FACTS, thinks=False))["max_tokens"] == 100
    assert parameters(replace(ASK, max_tokens=9000))["max_tokens"] == 5000  # the model's own most
    can = replace(FACTS, effort=True)
    assert parameters(facts=can, effort="high")["output_config"] == {"effort": "high"}
    light = parameters(replace(ASK, is_light=True), facts=can, effort="high")
    assert light["output_config"] == {"effort": "low"}
    assert "output_config" not in parameters(effort="high")


def test_a_prompt_has_at_least_as_many_bytes_as_its_text() -> None:
    assert prompt_bytes(parameters()) > len("Wie geht's, 世界?".encode())


def test_the_cache_is_used_while_it_pays() -> None:
    meter = CacheMeter(PRICES)
    assert not meter.should_mark("x", prefix_bytes=2000)
    for _ in range(TRIAL):
        assert meter.should_mark("x", prefix_bytes=4000)
        meter.note("x", Usage(cache_write_tokens=1000))
    assert not meter.should_mark("x", prefix_bytes=4000)
    assert meter.saved_microusd == -TRIAL * 1000  # writing costs a dollar a million more
    for number in range(TRIAL * 2):
        assert meter.should_mark("y", prefix_bytes=4000)
        writes = Usage(cache_write_tokens=1000) if number < 4 else Usage(cache_read_tokens=1000)
        meter.note("y", writes)
    assert meter.saved_microusd == -TRIAL * 1000 - 4000 + (TRIAL * 2 - 4) * 3800


# --- schemas -----------------------------------------------------------------------------------

SCHEMA = record(
    name=TEXT, count=WHOLE, good=YES_NO, score=one_of((1, 2, 3)), list=items(record(x=TEXT))
)
GOOD = {"name": "n", "count": 3, "good": True, "score": 2, "list": [{"x": "y"}]}


@pytest.mark.parametrize("text", [json.dumps(GOOD), f"```json\n{json.dumps(GOOD)}\n```"])
def test_json_that_fits_is_read(text: str) -> None:
    assert read_json(text, SCHEMA) == GOOD


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": 3}, "answer.name is no string"),
        ({"count": True}, "answer.count is no integer"),
        ({"count": 1.5}, "answer.count is no integer"),
        ({"good": 1}, "answer.good is no boolean"),
        ({"score": 4}, "answer.score is none of"),
        ({"list": [{"x": "y"}, {}]}, r"answer.list\[1\] does not have"),
        ({"list": {}}, "answer.list is no array"),
        ({"list": [{"x": "y"}] * 65}, "more than 64"),
        ({"more": 1}, "answer does not have exactly"),
    ],
)
def test_json_that_does_not_fit_says_where(change: dict[str, Any], where: str) -> None:
    with pytest.raises(NotAsAsked, match=where):
        read_json(json.dumps({**GOOD, **change}), SCHEMA)


@pytest.mark.parametrize("text", ["", "Sure! Here you are: {}", "[1, 2", "[" * 100_000, "7"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(NotAsAsked):
        read_json(text, SCHEMA)


def test_schemas_are_what_structured_outputs_accept() -> None:
    """No bounds, nothing optional, nothing extra: the API refuses the rest."""
    assert SCHEMA["additionalProperties"] is False
    assert SCHEMA["required"] == list(SCHEMA["properties"])
    text = json.dumps(SCHEMA)
    assert not any(word in text for word in ("minimum", "maxLength", "minItems", "pattern"))
