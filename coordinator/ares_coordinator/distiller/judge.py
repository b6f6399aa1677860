"""The judge: a separate request that scores a whole example by a rubric.

Each criterion of the category gets 1 to 5; there is no default, so a judgement that cannot be read
leaves the row out. The judge sees the full conversation, without who wrote it or what it cost, and
names the worst fault before it scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ares_coordinator.distiller.asks import Ask
from ares_coordinator.distiller.plans import CategoryPlan
from ares_coordinator.distiller.prompts import PURPOSE
from ares_coordinator.distiller.schemas import TEXT, one_of, record
from ares_p2p.shards import Message

SCORES: Final = (1, 2, 3, 4, 5)
JUDGE_TOKENS: Final = 300

_RULES: Final = """\
You judge exercises: a conversation that shall teach a small language model, with a task and its
answers. {purpose}

Score each criterion on its own:
5  nothing to improve
4  good, with a blemish that nobody minds
3  usable, with a fault that an attentive reader notices
2  a fault that teaches something wrong
1  fails the criterion

Be strict: most exercises deserve a 3 or 4 somewhere. Check claims, arithmetic and code yourself
before you score them. Length is no merit. Judge in the light of the task, in whatever language it
is. First name the worst fault in one sentence ("none" if there is none), then score.

The criteria for {category}:
{criteria}"""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Scores of 1 to 5 by criterion, and the worst fault in the judge's words."""

    scores: tuple[tuple[str, int], ...]
    fault: str

    @property
    def lowest(self) -> int:
        """The lowest score: a row is as good as its weakest side."""
        return min(score for _, score in self.scores)

    def __str__(self) -> str:
        return ", ".join(f"{name} {score}" for name, score in self.scores)


def judge_ask(plan: CategoryPlan, messages: Sequence[Message]) -> Ask:
    """Ask for a judgement of a conversation. Read the answer with `read_judgement`."""
    criteria = "\n".join(f"- {name}: {question}" for name, question in plan.rubric)
    scores = {name: one_of(SCORES) for name, _ in plan.rubric}
    talk = "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages)
    return Ask(
        purpose="judge",
        category=plan.category,
        system=_RULES.format(purpose=PURPOSE, category=plan.category, criteria=criteria),
        messages=(Message("user", f"The conversation:\n\n{talk}"),),
        max_tokens=JUDGE_TOKENS,
        schema=record(fault=TEXT, scores=record(**scores)),
    )


def read_judgement(plan: CategoryPlan, value: Any) -> Judgement:
    """Return the judgement in an answer that fits the schema of `judge_ask`."""
    scores = tuple((name, int(value["scores"][name])) for name, _ in plan.rubric)
    return Judgement(scores, " ".join(value["fault"].split())[:300])
