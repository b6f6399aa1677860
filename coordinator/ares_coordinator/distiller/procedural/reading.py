"""What a verifier makes of a finished row: the task it reads out of the text, and how to judge.

A reader gets the turns before the answer and nothing else: not the check, not the generator. It
finds facts and questions by what they say, whatever the wording around them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ares_coordinator.distiller.procedural.sandbox import Outcome, Program
from ares_p2p.errors import PayloadMalformed
from ares_p2p.shards import Message

Judge = Callable[[str, Outcome | None], bool]
_ANSWER: Final = re.compile(r"Answer: (.+)")


@dataclass(frozen=True, slots=True)
class Reading:
    """A task as read from the text.

    Attributes:
        task: all that the answer follows from; the generator must have meant the same.
        judge: says whether a text is a right answer; gets the outcome of its program, if it has one.
        program: what to run before an answer can be judged.
    """

    task: tuple[str, ...]
    judge: Judge
    program: Callable[[str], Program] | None = None


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns before an answer."""

    messages: Sequence[Message]

    def last(self, role: str) -> str:
        """Return the text of the last turn of a role; "" without one."""
        return next((m.content for m in reversed(self.messages) if m.role == role), "")

    @property
    def asked(self) -> str:
        """The user's last turn."""
        return self.last("user")


Reader = Callable[[Turns], Reading]


def find(pattern: str, text: str) -> re.Match[str]:
    """Return the only match of `pattern`.

    Raises: PayloadMalformed: none, or several that differ.
    """
    found = list(re.finditer(pattern, text))
    if not found or len({match.groups() or match[0] for match in found}) > 1:
        raise PayloadMalformed(f"{len(found)} matches of {pattern[:60]!r}, one expected")
    return found[0]


def first(pattern: str, text: str) -> re.Match[str]:
    """Return the first match of `pattern`.

    Raises: PayloadMalformed: there is none.
    """
    found = re.search(pattern, text)
    if found is None:
        raise PayloadMalformed(f"the text has no {pattern[:60]!r}")
    return found


def longest(pattern: str, text: str) -> str:
    """Return the longest match of `pattern`, without spaces at its ends.

    Raises: PayloadMalformed: there is none.
    """
    found = [match[0].strip() for match in re.finditer(pattern, text)]
    if not found:
        raise PayloadMalformed(f"the text has no {pattern[:60]!r}")
    return max(found, key=len)


def final_answer(text: str) -> str:
    """Return what follows the last "Answer: ", without its full stop; "" if there is none."""
    found = _ANSWER.findall(text)
    return str(found[-1]).strip().rstrip(".") if found else ""


def answers(value: str) -> Judge:
    """Return a judge that wants `value` after the last "Answer: "."""
    return lambda text, _: final_answer(text) == value


def is_exactly(value: str) -> Judge:
    """Return a judge that wants `value` and nothing else."""
    return lambda text, _: text.strip() == value


def words_of(text: str) -> list[str]:
    """Return the words of a text, as they are written."""
    return re.findall(r"[A-Za-z]+", text)


def items_of(text: str) -> list[str]:
    """Return the items of "a, b and c"."""
    return re.split(r", | and ", text)
