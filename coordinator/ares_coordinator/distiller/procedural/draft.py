"""What a generator returns: a conversation, and the facts its answer follows from.

`spec` holds the task as data: the verifier recomputes the answer from it, and checks that the
prompt says the same. Fields whose name starts with "_" are presentation (a name, a wording); all
others are the task itself and make up its key, so that one task in two wordings is one key.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ares_p2p.shards import Message

Json = str | int | list[str] | list[int]
Spec = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Draft:
    """One generated task: the turns, the last of them the answer, and its spec."""

    messages: tuple[Message, ...]
    spec: Spec


Family = Callable[[random.Random], Draft]


def ask(prompt: str, answer: str, *, spec: Spec, system: str = "") -> Draft:
    """Return a draft of one question and its answer."""
    head = (Message("system", system),) if system else ()
    return Draft((*head, Message("user", prompt), Message("assistant", answer)), spec)


def check_text(kind: str, spec: Spec) -> str:
    """Return the canonical JSON of an example's `check`."""
    return json.dumps(
        {"kind": kind, **spec}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )


def key_of(kind: str, spec: Spec) -> str:
    """Return the semantic key of a task: its kind and the hash of what it asks."""
    task = {name: value for name, value in spec.items() if not name.startswith("_")}
    text = json.dumps(task, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{kind}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def listing(items: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def with_article(noun: str) -> str:
    """Return "a bear" or "an owl"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
