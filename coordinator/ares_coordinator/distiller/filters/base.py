"""What a filter is: a pure stage that looks at a row and says nothing, or why it is left out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from ares_p2p.shards import Example

Reason = Literal[
    "unverified",
    "unlicensed",
    "contaminated",
    "duplicate_key",
    "duplicate_text",
    "near_duplicate",
    "refusal",
    "truncated",
    "too_short",
    "too_long",
    "repetitive",
    "language",
    "secret",
    "personal_data",
    "code_broken",
    "json_broken",
]

_FENCE: Final = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.M | re.S
)


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is left out, and why.

    Attributes:
        source: the evaluation set that a contaminated row quotes; "" where it is none.
    """

    reason: Reason
    detail: str = ""
    source: str = ""

    @property
    def label(self) -> str:
        """What the row is counted under: the reason, and which evaluation set."""
        return f"{self.reason}:{self.source}" if self.source else self.reason


Filter = Callable[[Example], Reject | None]


@dataclass(frozen=True, slots=True)
class Fence:
    """A block of code in an answer; `language` is what stands behind the fence, folded."""

    language: str
    code: str


def fold(text: str) -> str:
    """Return `text` in one case, one width and with single spaces: what a reader calls the same."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def answers(example: Example) -> Iterator[str]:
    """Yield what the assistant says, turn by turn."""
    return (message.content for message in example.messages if message.role == "assistant")


def fences(text: str) -> list[Fence]:
    """Return the closed blocks of code in a Markdown text."""
    return [Fence(match[2].casefold(), match[3]) for match in _FENCE.finditer(text)]


def prose(text: str) -> str:
    """Return a Markdown text without its blocks of code."""
    return _FENCE.sub("\n", text)
