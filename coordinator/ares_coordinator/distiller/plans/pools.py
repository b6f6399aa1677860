"""The pools: read from the package's own TOML files, once, and checked.

A pool is text with one entry a line; a number and a colon in front are its weight. The files are
ours, so a mistake in them is a bug: it shows when the tests load them.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any, Final

from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import TeacherFault

SHARED: Final = "shared"
_WEIGHT: Final = re.compile(r"^(\d+): (.+)$")


class Flow(StrEnum):
    """How an example of a category comes about."""

    CONVERSATION = "conversation"
    TOOLS = "tools"
    DOCUMENT = "document"


class Length(StrEnum):
    """How long an answer may be; the first word of every form."""

    SHORT = "short"
    MEDIUM = "medium"
    LONG = "long"


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a pool and how often it should come up, relative to the others."""

    text: str
    weight: int = 1


Pool = tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class CategoryPlan:
    """All that is asked for in one category.

    Attributes:
        about, rules: what a task of this category is; for the prompts.
        rubric: (criterion, question) for the judge.
        checked: the answer comes down to a result that is compared.
    """

    category: str
    about: str
    rules: tuple[str, ...]
    rubric: tuple[tuple[str, str], ...]
    flow: Flow
    checked: bool
    topics: Pool
    task_types: Pool
    forms: Pool
    turns: Pool
    personas: Pool
    languages: Pool
    difficulties: Pool
    evolutions: Pool


@cache
def load_plan(category: str) -> CategoryPlan:
    """Return the plan of a category.

    Raises: TeacherFault: no such category.
    """
    if category not in CATEGORIES:
        raise TeacherFault(f"category {category[:40]!r}, one of {CATEGORIES} expected")
    own, shared = _content(category), _content(SHARED)
    return CategoryPlan(
        category=category,
        about=" ".join(own["about"].split()),
        rules=_lines(own["rules"]),
        rubric=tuple(_named(line) for line in _lines(own["rubric"])),
        flow=Flow(own["flow"]),
        checked=own["checked"],
        topics=_pool(own["topics"]),
        task_types=_pool(own["task_types"]),
        forms=_pool(own["formats"]),
        turns=_pool(own["turns"]),
        personas=_pool(shared["personas"]),
        languages=_pool(shared["languages"]),
        difficulties=_pool(shared["difficulties"]),
        evolutions=_pool(shared["evolutions"]),
    )


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")


def _content(name: str) -> dict[str, Any]:
    return tomllib.loads(_text(name))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _pool(text: str) -> Pool:
    found = []
    for line in _lines(text):
        weighted = _WEIGHT.match(line)
        found.append(Entry(weighted[2], int(weighted[1])) if weighted else Entry(line))
    return tuple(found)


def _named(line: str) -> tuple[str, str]:
    name, _, question = line.partition(": ")
    return name, question


def _version() -> str:
    texts = [_text(name) for name in (SHARED, *CATEGORIES)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


GENERATOR_VERSION: Final = f"plans/{_version()}"  # another one whenever a pool changes
