"""The words in which a teacher is asked: for tasks, answers, documents, tool calls.

Every prompt says openly what the answer is for. Whoever writes tasks and whoever answers them are
asked apart: an answer never sees the brief, only the task, as its reader will. The shared part of a
prompt comes first and is the same for many requests, so that it can be cached.

Nothing here asks a model to show how it thinks: worked solutions are part of an answer like any
other, and are asked for as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ares_coordinator.distiller.asks import Ask
from ares_coordinator.distiller.plans import CategoryPlan, Flow, Length, Seed
from ares_coordinator.distiller.schemas import TEXT, YES_NO, Schema, items, one_of, record
from ares_p2p.shards import Message

PURPOSE: Final = (
    "Your texts go into an openly published collection of exercises on which a small open language "
    "model is trained; whoever runs this project has the permission that this needs."
)
TASKS_PER_REQUEST: Final = 5  # their shared prompt is paid once, and they can differ on purpose
TASK_TOKENS: Final = 450  # of one task in a list
EVOLVED_TOKENS: Final = 700
FOLLOW_UP_TOKENS: Final = 250
STEP_TOKENS: Final = 500
RESULT_TOKENS: Final = 120
QUESTION_TOKENS: Final = 350
ANSWER_TOKENS: Final = {Length.SHORT: 500, Length.MEDIUM: 1200, Length.LONG: 2600}
ANSWER_WORDS: Final = {Length.SHORT: 200, Length.MEDIUM: 500, Length.LONG: 1100}
WORDS_PER_TOKEN: Final = 0.55  # with room to spare for languages that need more tokens
TYPES: Final = ("string", "integer", "number", "boolean")

PARAMETER: Final = record(name=TEXT, type=one_of(TYPES), description=TEXT, required=YES_NO)
TOOL: Final = record(name=TEXT, description=TEXT, parameters=items(PARAMETER))
STEP: Final = record(kind=one_of(("call", "say")), tool=TEXT, arguments_json=TEXT, text=TEXT)


@dataclass(frozen=True, slots=True)
class Task:
    """What a teacher wrote for a seed: a prompt, and what stands before it."""

    prompt: str
    system: str = ""  # a character card, or the tools


# --- writing tasks -----------------------------------------------------------------------------

_WRITER: Final = """\
You write tasks that people could give to an assistant. {purpose}

The category is called {category}. {about}

What every task of this category must keep:
{rules}

How to read a brief. "About" is the subject; take one particular case of it, not the subject as a
whole. "Kind" says what is asked for. "Difficulty" is meant for an attentive adult. "Asked by" is the
person who writes: it colours the wording, the tone and what is taken for granted, and it need not
be mentioned. "Language" is the language of the whole task, whatever the language of these lines.
"Form" is how the answer should look: let the person ask for it in their own words, as one would,
without the word "form" and without a label such as "short:".

How a good task looks. It is what this person would really write: sometimes one line, sometimes
half a page, with a reason, a deadline, a small mess. It is complete: whoever answers sees nothing but
the task, so all material it speaks of is in it. It is particular: names, numbers and places of its
own, all invented. It is new: not a well-known problem, not one from a book or a test, also not in
another dress. It begins in many ways, and not with a greeting each time. It asks for one thing and
its parts, not for several unrelated ones.

How a bad task looks. It says "imagine" or "as an expert". It explains the category. It contains its
own answer or a hint at it. It could be answered by anybody with three general sentences. It asks the
assistant to have feelings, to be somebody real, to browse or to remember. It quotes a text that
somebody else wrote.

You get several briefs. Write one task for each, in the order of the briefs, and make the tasks
differ from each other in more than their subject: in length, in how they begin, in what is given and
what is asked. Follow the schema of the answer exactly; write nothing beside it.
{extra}"""

_EXTRA: Final = {
    Flow.CONVERSATION: "",
    Flow.TOOLS: """
For each brief also invent the tools: names in lower_snake_case, a one-sentence description, and
parameters with a type. Required parameters are those without which the call makes no sense.
""",
    Flow.DOCUMENT: "",
}
_CHARACTER: Final = """
For each brief also write the character card that the assistant gets: in the second person ("You
are ..."), at most 120 words, with the name, the manner of speech, three facts that only the
character knows, and what it does not know.
"""


def tasks_ask(plan: CategoryPlan, seeds: Sequence[Seed]) -> Ask:
    """Ask for the tasks of some seeds at once. The answer: {"tasks": [...]} in their order."""
    extra = _CHARACTER if plan.category == "roleplay" else _EXTRA[plan.flow]
    system = _WRITER.format(
        purpose=PURPOSE,
        category=plan.category,
        about=plan.about,
        rules="\n".join(f"- {rule}" for rule in plan.rules),
        extra=extra,
    )
    briefs = "\n\n".join(_brief(number, seed) for number, seed in enumerate(seeds, start=1))
    return Ask(
        purpose="tasks",
        category=plan.category,
        system=system.strip(),
        messages=(Message("user", briefs),),
        max_tokens=TASK_TOKENS * len(seeds) * (2 if extra else 1),
        schema=record(tasks=items(_task_schema(plan))),
    )


def _task_schema(plan: CategoryPlan) -> Schema:
    if plan.category == "roleplay":
        return record(character=TEXT, prompt=TEXT)
    if plan.flow is Flow.TOOLS:
        return record(tools=items(TOOL), prompt=TEXT)
    return record(prompt=TEXT)


def _brief(number: int, seed: Seed) -> str:
    return (
        f"Brief {number}\nAbout: {seed.topic}\nKind: {seed.task_type}\n"
        f"Difficulty: {seed.difficulty}\nAsked by: {seed.persona}\nLanguage: {seed.language}\n"
        f"Form: {seed.form}"
    )


def evolve_ask(plan: CategoryPlan, seed: Seed, task: Task) -> Ask:
    """Ask for a task made harder in one way. The answer: {"prompt": ...}."""
    system = (
        f"You improve tasks that people could give to an assistant. {PURPOSE} You get a task and one "
        "change. Write the whole task anew with the change made, in the same language and voice; it "
        "must stay complete, free of contradictions, and answerable from what it says. Do not answer "
        "it, and do not mention the change.\n\nWhat the task must keep:\n"
    ) + "\n".join(f"- {rule}" for rule in plan.rules)
    return Ask(
        purpose="evolve",
        category=plan.category,
        system=system,
        messages=(Message("user", f"The change: {seed.evolution}.\n\nThe task:\n{task.prompt}"),),
        max_tokens=EVOLVED_TOKENS,
        schema=record(prompt=TEXT),
        is_light=True,
    )


# --- answering ---------------------------------------------------------------------------------

_ANSWER: Final = (
    "You answer the people who write to you: correctly, completely, in their language, in the form "
    "they ask for, and in at most {words} words. Begin with the answer itself; no remarks about the "
    f"request or about yourself. {PURPOSE}"
)
_SOLVED: Final = (
    ' In the field "answer" write what the person reads: the solution as one would explain it to '
    'them, ending with the result. In "result" repeat the bare result alone: a number with its '
    "unit, a name, a few words."
)
_PLAYED: Final = (
    "\n\nStay in this character in every turn, in the language of the user, in at most {words} words "
    f"a turn. {PURPOSE}"
)


def answer_ask(
    plan: CategoryPlan, seed: Seed, task: Task, turns: Sequence[Message], *, max_tokens: int
) -> Ask:
    """Ask for the next answer of a conversation that ends with the user.

    The answer is free text; {"answer", "result"} where the category is checked.
    """
    words = ANSWER_WORDS[seed.length]
    if task.system:
        system = task.system + _PLAYED.format(words=words)
    else:
        system = _ANSWER.format(words=words) + (_SOLVED if plan.checked else "")
    return Ask(
        purpose="answer",
        category=plan.category,
        system=system,
        messages=tuple(turns),
        max_tokens=min(ANSWER_TOKENS[seed.length], max_tokens),
        schema=record(answer=TEXT, result=TEXT) if plan.checked else None,
    )


def second_answer_ask(plan: CategoryPlan, task: Task) -> Ask:
    """Ask for the bare result of a task once more. The answer: {"result": ...}."""
    return Ask(
        purpose="second_answer",
        category=plan.category,
        system=f"You solve tasks carefully and report only the bare result: a number with its unit, "
        f"a name, a few words, in the language of the task. {PURPOSE}",
        messages=(Message("user", task.prompt),),
        max_tokens=RESULT_TOKENS,
        schema=record(result=TEXT),
    )


def follow_up_ask(plan: CategoryPlan, seed: Seed, turns: Sequence[Message], *, turn: int) -> Ask:
    """Ask for the user's next message. The answer: {"message": ...}."""
    system = (
        f"You write the user's side of conversations with an assistant. {PURPOSE} You get a "
        "conversation so far and who the user is. Write the user's next message: one that goes on "
        "from the last answer and needs a new one (a doubt, a change, a further step, a detail that "
        "was missing). Same language and voice, rarely more than three sentences, no thanks and no "
        "summing up."
    )
    talk = "\n\n".join(f"[{m.role}]\n{m.content}" for m in turns)
    return Ask(
        purpose="follow_up",
        category=plan.category,
        system=system,
        messages=(
            Message("user", f"The user is {seed.persona}. Message {turn} is due.\n\n{talk}"),
        ),
        max_tokens=FOLLOW_UP_TOKENS,
        schema=record(message=TEXT),
        is_light=True,
    )


# --- tools -------------------------------------------------------------------------------------

TOOL_RULES: Final = (
    'You can call tools. To call one, write one JSON object, {"tool": ..., "arguments": {...}}, and '
    "nothing else. Otherwise answer in words."
)
_STEP_RULES: Final = (
    f'\n\nWork for the user with these tools. Each time say what you do now: kind "call" with the '
    'tool\'s name and the arguments as JSON text in "arguments_json" and an empty "text"; or kind '
    '"say" with your words to the user in "text" and the other two empty. Take arguments only from '
    "what the user said or a result gave. One call at a time. If no tool fits or something is "
    f"missing, say so. When you have what you need, answer in the user's language. {PURPOSE}"
)


def step_ask(plan: CategoryPlan, task: Task, turns: Sequence[Message]) -> Ask:
    """Ask what the assistant does next. The answer: `STEP`."""
    return Ask(
        purpose="step",
        category=plan.category,
        system=task.system + _STEP_RULES,
        messages=tuple(turns),
        max_tokens=STEP_TOKENS,
        schema=STEP,
    )


def tool_result_ask(plan: CategoryPlan, seed: Seed, task: Task, turns: Sequence[Message]) -> Ask:
    """Ask for what the tool that was called last returns. The answer: {"result_json": ...}."""
    talk = "\n\n".join(f"[{m.role}]\n{m.content}" for m in turns)
    system = (
        f"You stand in for the tools of an exercise. {PURPOSE} You get the tools, the conversation "
        "until now and what is to be practised. Return what the tool that was called last would "
        'return: a small JSON value as text in "result_json", realistic, consistent with earlier '
        "results, without explanations. If the exercise asks for an error or an empty result and "
        "there was none yet, return that."
    )
    return Ask(
        purpose="tool_result",
        category=plan.category,
        system=system,
        messages=(
            Message("user", f"To be practised: {seed.task_type}\n\n{task.system}\n\n{talk}"),
        ),
        max_tokens=STEP_TOKENS,
        schema=record(result_json=TEXT),
        is_light=True,
    )


# --- documents ---------------------------------------------------------------------------------

_READER: Final = (
    f"You work with documents. {PURPOSE} Everything you say about a document is in the document; what "
    "is not in it, you say is not there. Use the document's own words for names, numbers and dates. "
    "Answer questions in their language, in as few sentences as they need."
)


def document_ask(plan: CategoryPlan, seed: Seed, *, max_tokens: int) -> Ask:
    """Ask for a document. The answer is free text."""
    system = (
        f"You write invented documents that readers will be questioned about. {PURPOSE}\n\nWhat every "
        "document must keep:\n" + "\n".join(f"- {rule}" for rule in plan.rules)
    )
    words = int(max_tokens * WORDS_PER_TOKEN)
    brief = (
        f"Write a document of about {words} words and not more.\nAbout: {seed.topic}\n"
        f"Kind of document: {seed.task_type}\nWritten by: {seed.persona}\n"
        f"Language: {seed.language}\nBegin with its title; write nothing beside the document."
    )
    return Ask(
        purpose="document",
        category=plan.category,
        system=system,
        messages=(Message("user", brief),),
        max_tokens=max_tokens,
        is_light=True,
    )


def questions_ask(plan: CategoryPlan, seed: Seed, document: str, *, count: int) -> Ask:
    """Ask for questions about a document. The answer: {"questions": [...]}."""
    request = (
        f"Write {count} question(s) about the document above, in its language, as {seed.persona} "
        f"would ask them. Difficulty: {seed.difficulty}. Each can only be answered from the document, "
        "best from two places far apart. For each give the shortest right answer, worded as the "
        "document words it, and one passage of the document that proves it, copied word for word."
    )
    return Ask(
        purpose="questions",
        category=plan.category,
        system=_READER,
        messages=(Message("user", request),),
        max_tokens=QUESTION_TOKENS * count,
        schema=record(questions=items(record(question=TEXT, answer=TEXT, passage=TEXT))),
        document=document,
        is_light=True,
    )


def reading_ask(plan: CategoryPlan, document: str, turns: Sequence[Message]) -> Ask:
    """Ask a question about a document; `turns` begin with the first question. Free text."""
    return Ask(
        purpose="answer",
        category=plan.category,
        system=_READER,
        messages=tuple(turns),
        max_tokens=ANSWER_TOKENS[Length.SHORT],
        document=document,
    )
