"""The flows: what is asked in which order, and which rows are left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ares_coordinator.distiller.answers import Answer, NoAnswer
from ares_coordinator.distiller.asks import Ask, build_parameters
from ares_coordinator.distiller.flows import (
    Draft,
    agree,
    check_call,
    converse,
    holds,
    read_document,
    read_task,
    render_tools,
    use_tools,
)
from ares_coordinator.distiller.judge import judge_ask, read_judgement
from ares_coordinator.distiller.plans import Coverage, Seed, load_plan, plan_seeds
from ares_coordinator.distiller.prompts import PURPOSE, Task, tasks_ask
from ares_coordinator.distiller.replies import ModelFacts
from ares_coordinator.distiller.schemas import read_json
from ares_p2p.domain import CATEGORIES
from ares_p2p.shards import Message
from teacher_answers import answer_for

FACTS = ModelFacts("m", structured_outputs=True)
Change = Callable[[Ask, str], str]


class DirectDesk:
    """Answers without a network; `change` may spoil an answer."""

    def __init__(self, change: Change = lambda _, text: text) -> None:
        self.asks: list[Ask] = []
        self._change = change

    async def ask(self, ask: Ask) -> Answer:
        self.asks.append(ask)
        body = build_parameters(ask, FACTS, effort="", thinking_tokens=0)
        return Answer(self._change(ask, answer_for(body)), "m", b"key", "ref")

    async def ask_json(self, ask: Ask) -> tuple[Any, Answer]:
        assert ask.schema is not None
        answer = await self.ask(ask)
        return read_json(answer.text, ask.schema), answer

    @property
    def purposes(self) -> list[str]:
        return [ask.purpose for ask in self.asks]


def seed_of(category: str, **changes: Any) -> Seed:
    (seed,) = plan_seeds(load_plan(category), Coverage(), seed=1, first=0, count=1)
    return replace(seed, **{"evolution": "none", "turns": "1", **changes})


async def play(desk: DirectDesk, seed: Seed, *, is_checked: bool = False) -> Draft:
    plan = load_plan(seed.category)
    if seed.category == "long_context":
        return await read_document(desk, plan, seed, max_tokens=900)
    value, _ = await desk.ask_json(tasks_ask(plan, [seed]))
    task = read_task(value["tasks"][0])
    if seed.category == "tool_use":
        return await use_tools(desk, plan, seed, task)
    return await converse(desk, plan, seed, task, max_tokens=900, is_checked=is_checked)


def spoil(purpose: str, **fields: Any) -> Change:
    """Return a change of some fields in the JSON answers of a purpose."""

    def change(ask: Ask, text: str) -> str:
        return json.dumps({**json.loads(text), **fields}) if ask.purpose == purpose else text

    return change


# --- what is asked -----------------------------------------------------------------------------


async def test_a_task_is_answered_by_a_request_that_has_not_seen_the_brief() -> None:
    desk, seed = DirectDesk(), seed_of("code")
    draft = await play(desk, seed)
    assert desk.purposes == ["tasks", "answer"]
    assert [m.role for m in draft.messages] == ["user", "assistant"]
    tasks, answer = desk.asks
    assert seed.topic in tasks.messages[0].content
    assert seed.persona not in answer.system + answer.messages[0].content
    assert answer.messages == draft.messages[:1]


async def test_a_task_may_be_made_harder_first() -> None:
    desk = DirectDesk()
    draft = await play(desk, seed_of("code", evolution="add a deadline"))
    assert desk.purposes == ["tasks", "evolve", "answer"]
    assert "add a deadline" in desk.asks[1].messages[0].content
    evolved = json.loads(answer_for(build_parameters(desk.asks[1], FACTS, effort="",
                                                     thinking_tokens=0)))  # fmt: skip
    assert draft.messages[0].content == evolved["prompt"]
    assert evolved["prompt"] in draft.subject


async def test_a_conversation_of_three_turns_goes_on_with_a_played_user() -> None:
    desk = DirectDesk()
    draft = await play(desk, seed_of("roleplay", turns="3"))
    assert desk.purposes == ["tasks", "answer", "follow_up", "answer", "follow_up", "answer"]
    roles = [m.role for m in draft.messages]
    assert roles == ["system", *["user", "assistant"] * 3]
    assert draft.messages[0].content.startswith("You are ")
    assert desk.asks[-1].messages == draft.messages[1:-1]
    assert desk.asks[-1].system.startswith(draft.messages[0].content)


async def test_a_checked_category_is_solved_twice() -> None:
    desk = DirectDesk()
    draft = await play(desk, seed_of("reasoning"), is_checked=True)
    assert desk.purposes == ["tasks", "answer", "second_answer"]
    assert "Result: " in draft.messages[-1].content
    assert "{" not in draft.messages[-1].content


async def test_tools_are_called_and_their_results_read() -> None:
    desk = DirectDesk()
    draft = await play(desk, seed_of("tool_use"))
    assert desk.purposes == ["tasks", "step", "tool_result", "step"]
    assert [m.role for m in draft.messages] == ["system", "user", "assistant", "tool", "assistant"]
    call = json.loads(draft.messages[2].content)
    assert call.keys() == {"tool", "arguments"}
    assert call["tool"] in draft.messages[0].content
    json.loads(draft.messages[3].content)
    assert {m.role for m in desk.asks[-1].messages} == {"user", "assistant"}


async def test_a_document_is_questioned_and_shared_between_the_requests() -> None:
    desk = DirectDesk()
    draft = await play(desk, seed_of("long_context", turns="2"))
    assert desk.purposes == ["document", "questions", "answer", "answer"]
    assert len({ask.document for ask in desk.asks[1:]}) == 1
    assert draft.messages[0].content.startswith(draft.subject)
    assert [m.role for m in draft.messages] == ["user", "assistant"] * 2
    assert draft.subject not in draft.messages[2].content


@pytest.mark.parametrize("category", CATEGORIES)
async def test_every_prompt_says_what_it_is_for_and_none_asks_for_thoughts(category: str) -> None:
    desk = DirectDesk()
    seed = seed_of(category, turns="2", evolution="add a deadline")
    draft = await play(desk, seed, is_checked=True)
    asks = [*desk.asks, judge_ask(load_plan(category), draft.messages)]
    for ask in asks:
        assert PURPOSE in ask.system
        words = f"{ask.system} {ask.messages[-1].content}".casefold()
        for forbidden in (
            "uncensored", "unrestricted", "disclaimer", "chain of thought", "your reasoning",
            "think step by step", "inner monologue", "scratchpad", "ignore previous",
        ):  # fmt: skip
            assert forbidden not in words


def test_tasks_share_a_prefix_that_is_worth_caching() -> None:
    for category in CATEGORIES:
        plan = load_plan(category)
        seeds = plan_seeds(plan, Coverage(), seed=1, first=0, count=10)
        one, other = tasks_ask(plan, seeds[:5]), tasks_ask(plan, seeds[5:])
        assert one.system == other.system
        assert len(one.system) > 2500  # more than 512 tokens, the least that is cached
        assert one.messages != other.messages
        assert one.messages[0].content.count("Brief ") == 5


# --- what is left out --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "change", "reason"),
    [
        ("code", spoil("tasks", tasks=[{"prompt": "  "}]), "empty_task"),
        ("roleplay", spoil("tasks", tasks=[{"character": "", "prompt": "x"}]), "empty_task"),
        ("tool_use", spoil("tasks", tasks=[{"tools": [], "prompt": "x"}]), "bad_tools"),
        ("code", spoil("evolve", prompt=""), "empty_task"),
        ("code", spoil("follow_up", message=" "), "empty_task"),
        ("reasoning", spoil("answer", result="no such number"), "result_not_in_answer"),
        ("reasoning", spoil("answer", result=""), "result_not_in_answer"),
        ("reasoning", spoil("answer", answer=""), "empty"),
        ("reasoning", spoil("second_answer", result="-1"), "solutions_disagree"),
        ("tool_use", spoil("step", tool="another", kind="call"), "bad_call"),
        ("tool_use", spoil("step", arguments_json="{", kind="call"), "bad_call"),
        ("tool_use", spoil("tool_result", result_json="oops"), "bad_tool_result"),
        ("tool_use", spoil("step", kind="say", text=""), "empty"),
        ("long_context", spoil("questions", questions=[]), "too_few_questions"),
        (
            "long_context",
            spoil(
                "questions", questions=[{"question": "?", "answer": "x", "passage": "made up"}] * 2
            ),
            "proof_not_in_document",
        ),
        (
            "long_context",
            lambda ask, text: "I do not know." if ask.purpose == "answer" else text,
            "answer_without_proof",
        ),
        (
            "long_context",
            lambda ask, text: "# Short" if ask.purpose == "document" else text,
            "short_document",
        ),
    ],
)
async def test_a_row_that_breaks_a_rule_is_left_out(
    category: str, change: Change, reason: str
) -> None:
    seed = seed_of(category, turns="2", evolution="add a deadline")
    with pytest.raises(NoAnswer) as caught:
        await play(DirectDesk(change), seed, is_checked=True)
    assert caught.value.reason == reason


async def test_tools_without_end_are_left_out() -> None:
    def always(ask: Ask, text: str) -> str:
        call = {"kind": "call", "tool": "look_up", "arguments_json": '{"what": "x"}', "text": ""}
        return json.dumps(call) if ask.purpose == "step" else text

    with pytest.raises(NoAnswer, match="no_end"):
        await play(DirectDesk(always), seed_of("tool_use"))


@pytest.mark.parametrize(
    ("text", "part", "found"),
    [
        ("The result is 42.", "42", True),
        ("The result is 420.", "42", False),
        ("It costs 1,250 euros.", "1250 Euros", True),
        ("It costs 1.250 euros.", "1250", False),  # a point is no thousands' mark here
        ("Anna, then Ben.", "anna then ben", True),
        ("Anna, then Ben.", "Ben then Anna", False),
        ("ﬁve apples", "FIVE", True),
        ("anything", "", False),
        ("anything", "...", False),
    ],
)
def test_words_stand_in_a_text_or_do_not(text: str, part: str, found: bool) -> None:
    assert holds(text, part) is found


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("7", "7 days", True),
        ("3.5 kg", "3.5", True),
        ("7", "17", False),
        ("Anna", "Anna is first", True),
        ("Anna", "Ben", False),
        ("", "", False),
    ],
)
def test_two_results_agree_or_do_not(one: str, other: str, same: bool) -> None:
    assert agree(one, other) is same
    assert agree(other, one) is same


TOOLS = [
    {
        "name": "book",
        "description": "Books a room.",
        "parameters": [
            {"name": "room", "type": "string", "description": "", "required": True},
            {"name": "people", "type": "integer", "description": "", "required": True},
            {"name": "hours", "type": "number", "description": "", "required": False},
            {"name": "quiet", "type": "boolean", "description": "", "required": False},
        ],
    }
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('{"room": "A", "people": 2}', ""),
        ('{"room": "A", "people": 2, "hours": 1.5, "quiet": true}', ""),
        ('{"room": "A", "people": 2, "hours": 1}', ""),
        ('{"room": "A"}', "without people"),
        ('{"room": "A", "people": "2"}', "people of book is no integer"),
        ('{"room": "A", "people": true}', "people of book is no integer"),
        ('{"room": "A", "people": 2, "quiet": 1}', "quiet of book is no boolean"),
        ('{"room": "A", "people": 2, "price": 3}', "no parameter 'price'"),
        ('["A", 2]', "no object"),
        ("room A", "no JSON"),
    ],
)
def test_arguments_fit_their_tool_or_do_not(arguments: str, message: str) -> None:
    tools = {tool["name"]: tool for tool in TOOLS}
    if not message:
        assert check_call(tools, "book", arguments) == json.loads(arguments)
        return
    with pytest.raises(NoAnswer, match=message):
        check_call(tools, "book", arguments)


def test_two_tools_of_one_name_are_unusable() -> None:
    assert render_tools(TOOLS).splitlines()[1] == "Tools:"
    with pytest.raises(NoAnswer, match="bad_tools"):
        render_tools([*TOOLS, *TOOLS])


# --- the judge ---------------------------------------------------------------------------------


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_judge_scores_every_criterion_and_sees_everything(category: str) -> None:
    plan = load_plan(category)
    talk = [Message("user", "A question."), Message("assistant", "An answer, " * 2000)]
    ask = judge_ask(plan, talk)
    assert all(message.content in ask.messages[0].content for message in talk)
    assert all(f"- {name}: {question}" in ask.system for name, question in plan.rubric)
    scores = {name: number for number, (name, _) in enumerate(plan.rubric, start=2)}
    assert ask.schema is not None
    value = read_json(json.dumps({"fault": "too  long", "scores": scores}), ask.schema)
    judgement = read_judgement(plan, value)
    assert judgement.lowest == 2
    assert dict(judgement.scores) == scores
    assert judgement.fault == "too long"
    assert f"{plan.rubric[0][0]} 2" in str(judgement)


def test_a_task_with_a_system_text_keeps_it() -> None:
    assert read_task({"prompt": " x ", "character": " You are Y. "}) == Task("x", "You are Y.")
