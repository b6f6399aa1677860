"""What a generator is told, what it returns, and the key of a task.

A generator gets a `Brief`: a random generator, a level of difficulty, and the side of the split.
It asks the brief for a wording, so that it cannot use one of the other side. `Draft.task` is all
that the answer follows from, as texts; the verifier reads the same texts out of the finished row.

    level 1  what a model of a million parameters can learn in a cycle
    level 2  some steps more
    level 3  as far as a small model goes; documents of some hundred words
    level 4  only when it is asked for: documents of thousands of words, for bases that read them
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ares_coordinator.distiller.procedural.templates import WORDINGS
from ares_p2p.shards import Message, named_key
from ares_p2p.shards.format import Split

Task = tuple[str, ...]
LEVELS: Final = (1, 2, 3, 4)
HELD_OUT_TASKS: Final = 4  # one task in four is asked on the held-out side only


@dataclass(frozen=True, slots=True)
class Draft:
    """One generated task: the turns, the last of them the answer; what it asks; its template."""

    messages: tuple[Message, ...]
    task: Task
    template: str


@dataclass(frozen=True, slots=True)
class Brief:
    """What a generator is given.

    Attributes:
        rng: the only source of chance.
        level: 1 to 4.
        held_out: which side's wordings, and parts of answers, to use.
    """

    rng: random.Random
    level: int
    held_out: bool

    def by_level(self, *values: int) -> int:
        """Return the value of this level; the last one for all levels above."""
        return values[min(self.level, len(values)) - 1]

    def wording(self, name: str) -> tuple[str, str]:
        """Return the identity and the text of one of this side's wordings."""
        both = WORDINGS[name]
        texts, letter = (both.held_out, "h") if self.held_out else (both.train, "t")
        number = self.rng.randrange(len(texts))
        return f"{name}.{letter}{number}", texts[number]

    def part(self, train: Sequence[str], held_out: Sequence[str]) -> str:
        """Return a part of an answer that the other side does not use."""
        return self.rng.choice(held_out if self.held_out else train)

    def ask(
        self, name: str, answer: str, /, *, task: Sequence[str], system: str = "", **slots: object
    ) -> Draft:
        """Return a draft of one question, in a wording of `name`, and its answer."""
        template, text = self.wording(name)
        head = (Message("system", system),) if system else ()
        question = Message("user", text.format(**slots))
        return Draft((*head, question, Message("assistant", answer)), tuple(task), template)


Family = Callable[[Brief], Draft]


def task_digest(kind: str, task: Sequence[str]) -> bytes:
    """Return the hash of what a task asks, whatever its wording."""
    text = json.dumps([kind, *task], separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()


def side_of_task(kind: str, task: Sequence[str]) -> Split:
    """Return the only side on which this task is asked: the numbers are apart, not only the words."""
    digest = task_digest(kind, task)
    return "eval" if int.from_bytes(digest[:8], "big") % HELD_OUT_TASKS == 0 else "train"


def side_of_template(template: str) -> Split:
    """Return the side of a template's name, such as "order.t0" or "get_time.h0+set_timer.h1"."""
    return "eval" if template.rpartition(".")[2].startswith("h") else "train"


def key_of(kind: str, template: str, task: Sequence[str]) -> str:
    """Return the key of a row: the side that its template is on, and the hash of what it asks."""
    digest = task_digest(kind, task).hex()[:32]
    return named_key(side_of_template(template), f"{kind}/{template}:{digest}")


def check_text(kind: str, level: int, template: str, task: Sequence[str]) -> str:
    """Return the canonical JSON of an example's `check`."""
    fields = {"kind": kind, "level": level, "task": list(task), "template": template}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def listing(items: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def with_article(noun: str) -> str:
    """Return "a bear" or "an owl"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
