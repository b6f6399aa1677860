"""From a seed to a conversation: which questions are asked, in which order, and what is checked.

    conversation   a task, perhaps made harder, answered; then further turns of a played user
    tools          a task with tools: steps until the assistant speaks; calls are checked
    document       a document, questions about it with proofs, answers one after the other

What a program can check it checks here, and a row that fails is left out: an answer that does not
contain its own result, two solutions that disagree, arguments that do not fit a tool, a proof that
is not in the document. Nothing is repaired.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ares_coordinator.distiller.answers import Answer, NoAnswer
from ares_coordinator.distiller.asks import Ask
from ares_coordinator.distiller.plans import CategoryPlan, Seed
from ares_coordinator.distiller.prompts import (
    TOOL_RULES,
    Task,
    answer_ask,
    document_ask,
    evolve_ask,
    follow_up_ask,
    questions_ask,
    reading_ask,
    second_answer_ask,
    step_ask,
    tool_result_ask,
)
from ares_p2p.shards import Message

MAX_STEPS: Final = 5  # of the assistant in one tool conversation
MIN_DOCUMENT_CHARS: Final = 400

_THOUSANDS: Final = re.compile(r"(?<=\d)[,'’\u00a0\u202f](?=\d{3}(?!\d))")
_WORD: Final = re.compile(r"\w+")


class Asks(Protocol):
    """What a flow needs of the request desk."""

    async def ask(self, ask: Ask) -> Answer:
        """Return the answer to a question."""

    async def ask_json(self, ask: Ask) -> tuple[Any, Answer]:
        """Return the value of an answer that fits its schema, and the answer."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A finished conversation.

    Attributes:
        messages: the turns, the last of them the answer.
        subject: what makes it the task it is: the same subject is the same task.
        answer: the last answer and where it comes from.
    """

    messages: tuple[Message, ...]
    subject: str
    answer: Answer


def read_task(value: Mapping[str, Any]) -> Task:
    """Return a task of an answer to `tasks_ask`.

    Raises: NoAnswer: there is nothing in it, or its tools are unusable.
    """
    prompt = value["prompt"].strip()
    if not prompt:
        raise NoAnswer("empty_task")
    if "tools" in value:
        return Task(prompt, render_tools(value["tools"]))
    if "character" in value and not value["character"].strip():
        raise NoAnswer("empty_task", "no character")
    return Task(prompt, value.get("character", "").strip())


async def converse(
    desk: Asks, plan: CategoryPlan, seed: Seed, task: Task, *, max_tokens: int, is_checked: bool
) -> Draft:
    """Return a conversation of `seed.turns` answers.

    Args:
        is_checked: whether the result is compared with that of a second solution.
    """
    if seed.is_evolved:
        value, _ = await desk.ask_json(evolve_ask(plan, seed, task))
        if not value["prompt"].strip():
            raise NoAnswer("empty_task")
        task = Task(value["prompt"].strip(), task.system)
    turns = [Message("user", task.prompt)]
    for turn in range(1, int(seed.turns) + 1):
        if turn > 1:
            value, _ = await desk.ask_json(follow_up_ask(plan, seed, turns, turn=turn))
            if not value["message"].strip():
                raise NoAnswer("empty_task")
            turns.append(Message("user", value["message"].strip()))
        asked = answer_ask(plan, seed, task, turns, max_tokens=max_tokens)
        if plan.checked:
            is_due = is_checked and turn == 1  # the second solution knows the task only
            text, answer = await _solution(desk, plan, task, asked, is_checked=is_due)
        else:
            answer = await desk.ask(asked)
            text = answer.text
        turns.append(Message("assistant", text.strip()))
    head = (Message("system", task.system),) if task.system else ()
    return Draft((*head, *turns), f"{task.system}\n{task.prompt}", answer)


async def _solution(
    desk: Asks, plan: CategoryPlan, task: Task, asked: Ask, *, is_checked: bool
) -> tuple[str, Answer]:
    value, answer = await desk.ask_json(asked)
    if not value["answer"].strip():
        raise NoAnswer("empty")
    if not holds(value["answer"], value["result"]):
        raise NoAnswer("result_not_in_answer", value["result"][:100])
    if is_checked:
        second, _ = await desk.ask_json(second_answer_ask(plan, task))
        if not agree(value["result"], second["result"]):
            detail = f"{value['result'][:100]!r}, then {second['result'][:100]!r}"
            raise NoAnswer("solutions_disagree", detail)
    return value["answer"], answer


async def use_tools(desk: Asks, plan: CategoryPlan, seed: Seed, task: Task) -> Draft:
    """Return a conversation in which the assistant uses the tools of the task."""
    tools = {tool["name"]: tool for tool in _tools_of(task.system)}
    turns = [Message("user", task.prompt)]
    for _ in range(MAX_STEPS):
        value, answer = await desk.ask_json(step_ask(plan, task, for_api(turns)))
        if value["kind"] == "say":
            if not value["text"].strip():
                raise NoAnswer("empty")
            turns.append(Message("assistant", value["text"].strip()))
            system = Message("system", task.system)
            return Draft((system, *turns), f"{task.system}\n{task.prompt}", answer)
        arguments = check_call(tools, value["tool"], value["arguments_json"])
        turns.append(Message("assistant", _json({"tool": value["tool"], "arguments": arguments})))
        value, _ = await desk.ask_json(tool_result_ask(plan, seed, task, turns))
        try:
            result = json.loads(value["result_json"])
        except (ValueError, RecursionError) as error:
            raise NoAnswer("bad_tool_result") from error
        turns.append(Message("tool", _json(result)))
    raise NoAnswer("no_end", f"no answer after {MAX_STEPS} steps")


async def read_document(desk: Asks, plan: CategoryPlan, seed: Seed, *, max_tokens: int) -> Draft:
    """Return a document with `seed.turns` questions and their answers."""
    document = (await desk.ask(document_ask(plan, seed, max_tokens=max_tokens))).text.strip()
    if len(document) < MIN_DOCUMENT_CHARS:
        raise NoAnswer("short_document", f"{len(document)} characters")
    count = int(seed.turns)
    value, _ = await desk.ask_json(questions_ask(plan, seed, document, count=count))
    questions = value["questions"][:count]
    if len(questions) < count:
        raise NoAnswer("too_few_questions", f"{len(questions)} of {count}")
    turns: list[Message] = []
    for item in questions:
        if not item["question"].strip() or not holds(document, item["passage"]):
            raise NoAnswer("proof_not_in_document", item["passage"][:100])
        turns.append(Message("user", item["question"].strip()))
        answer = await desk.ask(reading_ask(plan, document, turns))
        if not holds(answer.text, item["answer"]):
            raise NoAnswer("answer_without_proof", item["answer"][:100])
        turns.append(Message("assistant", answer.text.strip()))
    first = Message("user", f"{document}\n\n{turns[0].content}")
    return Draft((first, *turns[1:]), document, answer)


# --- checks ------------------------------------------------------------------------------------


def holds(text: str, part: str) -> bool:
    """Whether the words of `part` stand in `text` one after the other, whatever is around them."""
    words, wanted = _words(text), _words(part)
    if not wanted:
        return False
    return any(
        words[place : place + len(wanted)] == wanted
        for place, word in enumerate(words)
        if word == wanted[0]
    )


def agree(one: str, other: str) -> bool:
    """Whether two results are the same, or one is the other and some words more."""
    return holds(one, other) or holds(other, one)


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(_THOUSANDS.sub("", folded))


_ARGUMENT_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def check_call(tools: Mapping[str, Any], name: str, arguments_json: str) -> dict[str, Any]:
    """Return the arguments of a call that fits a tool.

    Raises: NoAnswer: which rule it breaks.
    """
    tool = tools.get(name)
    if tool is None:
        raise NoAnswer("bad_call", f"no tool {name[:60]!r}")
    try:
        arguments = json.loads(arguments_json)
    except (ValueError, RecursionError) as error:
        raise NoAnswer("bad_call", f"arguments of {name} are no JSON") from error
    if not isinstance(arguments, dict):
        raise NoAnswer("bad_call", f"arguments of {name} are no object")
    known = {parameter["name"]: parameter for parameter in tool["parameters"]}
    for parameter in known.values():
        if parameter["required"] and parameter["name"] not in arguments:
            raise NoAnswer("bad_call", f"{name} without {parameter['name']}")
    for key, value in arguments.items():
        if key not in known:
            raise NoAnswer("bad_call", f"{name} has no parameter {key[:60]!r}")
        kind = known[key]["type"]
        is_flag = isinstance(value, bool)
        if not isinstance(value, _ARGUMENT_TYPES[kind]) or is_flag != (kind == "boolean"):
            raise NoAnswer("bad_call", f"{key} of {name} is no {kind}")
    return arguments


def render_tools(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return the system text that offers some tools: the rules, then one tool a line as JSON.

    Raises: NoAnswer: there is none, or two have one name.
    """
    names = [tool["name"] for tool in tools]
    if not tools or len(set(names)) < len(names) or not all(names):
        raise NoAnswer("bad_tools", ", ".join(names)[:100])
    return "\n".join([TOOL_RULES, "Tools:", *(_json(tool) for tool in tools)])


def _tools_of(system: str) -> list[Any]:
    return [json.loads(line) for line in system.splitlines()[2:]]


def for_api(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns with tools' results as the user's, as the API knows two roles only."""
    return tuple(
        Message("user", f"Result of the tool: {m.content}") if m.role == "tool" else m
        for m in turns
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
