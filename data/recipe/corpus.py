"""What the shipped base is trained on: tasks, copy drills, and a little text.

    tasks    the procedural teacher under negative seeds, train side of the split only, without
             the kinds that are held back for cycles to teach
    drills   copying, looking up and following in lists of random words: they teach a small model
             to look back, which is what LoRA cannot teach it quickly
    text     docstrings of Python's standard library and pydoc's topics (PSF licence), glosses of
             WordNet 3.0 (Princeton's licence, data/NOTICE); read where they are installed

Rows are (ids, supervised): supervised marks the assistant's tokens, or all of a text's.
"""

from __future__ import annotations

import ast
import json
import random
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

from tokenizers import Tokenizer

from ares_coordinator.distiller.procedural import FAMILIES, HELD_BACK_KINDS, ProceduralTeacher
from ares_coordinator.distiller.procedural.words import (
    ADJECTIVES,
    ANIMALS,
    CITIES,
    NAMES,
    NOUNS,
    PLACES,
    THINGS,
)
from ares_p2p.shards import Example, Message
from ares_p2p.shards.format import Split

BASE_SEED: Final = -1  # networks use 0 and up
EVAL_SEED: Final = -2
WORDNET: Final = Path("/usr/share/wordnet")  # Debian package wordnet-base
TEXT_ROW_CHARS: Final = 600
TASK_WORDS: Final = (*NAMES, *THINGS, *PLACES, *CITIES, *ANIMALS, *ADJECTIVES, *NOUNS)
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of one sequence, and which of them are trained on."""

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]


def chat_row(tokenizer: Tokenizer, messages: Sequence[Message]) -> Row:
    """Return a conversation as the chat template writes it; a test compares the two."""
    ids: list[int] = []
    supervised: list[bool] = []
    start, end = tokenizer.token_to_id(TURN_START), tokenizer.token_to_id(TURN_END)
    newline = tokenizer.encode("\n").ids
    for message in messages:
        head = [start, *tokenizer.encode(f"{message.role}\n").ids]
        body = [*tokenizer.encode(message.content).ids, end]
        ids += [*head, *body, *newline]
        supervised += [False] * len(head) + [message.role == "assistant"] * len(body)
        supervised += [False] * len(newline)
    return Row(tuple(ids), tuple(supervised))


def tasks(count: int, *, seed: int, split: Split, held_back: bool = False) -> Iterator[Example]:
    """Yield `count` rows of every category from one side of the split.

    Args:
        held_back: also those kinds that the base is not trained on.
    """
    without = frozenset[str]() if held_back else HELD_BACK_KINDS
    teacher = ProceduralTeacher(without=without, side=split)
    for category in FAMILIES:
        yield from teacher.generate(category, count, seed=seed, start=0)


def glosses() -> list[str]:
    """Return "lemma: gloss" of every WordNet synset, in the files' order."""
    rows = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                head, _, gloss = line.partition(" | ")
                lemma = head.split()[4].replace("_", " ")
                rows.append(f"{lemma}: {gloss.strip()}")
    return rows


def docstrings() -> list[str]:
    """Return the docstrings of the standard library's top-level modules, and pydoc's topics."""
    found = [text for _, text in sorted(topics.items())]
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 60:
                    found.append(text)
    return found


def texts(rng: random.Random, *, chars: int) -> list[str]:
    """Return about `chars` characters of text, half glosses and half documentation."""
    pieces = [
        t[i : i + TEXT_ROW_CHARS] for t in docstrings() for i in range(0, len(t), TEXT_ROW_CHARS)
    ]
    definitions = glosses()
    rng.shuffle(pieces)
    rng.shuffle(definitions)
    joined = ["\n".join(definitions[i : i + 5]) for i in range(0, len(definitions), 5)]
    chosen: list[str] = []
    for source in (pieces, joined):
        size = 0
        for text in source:
            if size > chars // 2:
                break
            chosen.append(text)
            size += len(text)
    rng.shuffle(chosen)
    return chosen


def _words(rng: random.Random, vocabulary: Sequence[str], count: int) -> list[str]:
    return [
        str(rng.randint(0, 99)) if rng.random() < 0.2 else rng.choice(vocabulary)
        for _ in range(count)
    ]


def drill(rng: random.Random, vocabulary: Sequence[str]) -> tuple[Message, Message]:
    """Return one question and answer that only looking back can answer."""
    kind = rng.randrange(6)
    vocabulary = vocabulary if rng.random() < 0.4 else TASK_WORDS
    words = _words(rng, vocabulary, rng.randint(3, 10))
    mark = rng.choice((" ", ", ", "; ", "\n"))
    if kind == 0:
        return Message("user", f"Copy: {mark.join(words)}"), Message("assistant", mark.join(words))
    if kind == 1:
        spot = rng.randrange(len(words) - 1)
        words = list(dict.fromkeys(words)) if len(set(words)) > spot + 1 else [*"abcdefghijklmnop"]
        return (
            Message("user", f"{mark.join(words)}\nWhat comes after {words[spot]}?"),
            Message("assistant", words[spot + 1]),
        )
    if kind == 2:
        names = list(dict.fromkeys(words))
        values = _words(rng, vocabulary, len(names))
        which = rng.randrange(len(names))
        table = mark.join(f"{n} is {v}" for n, v in zip(names, values, strict=True))
        return Message("user", f"{table}. What is {names[which]}?"), Message(
            "assistant", values[which]
        )
    if kind == 3:
        pairs = {w: rng.choice(vocabulary) for w in words[:4]}
        return (
            Message("user", "Write as JSON: " + ", ".join(f"{k} = {v}" for k, v in pairs.items())),
            Message("assistant", json.dumps(pairs)),
        )
    if kind == 4:
        done, name = rng.choice(((str.upper, "upper case"), (str.title, "capitals")))
        return Message("user", f"In {name}: {' '.join(words)}"), Message(
            "assistant", done(" ".join(words))
        )
    left, right = rng.randint(0, 99), rng.randint(0, 99)
    if rng.random() < 0.3:
        left, right = rng.randint(2, 12), rng.randint(2, 12)
        return Message("user", f"{left} * {right}"), Message(
            "assistant", f"{left} * {right} = {left * right}"
        )
    if left >= right and rng.random() < 0.5:
        return Message("user", f"{left} - {right}"), Message(
            "assistant", f"{left} - {right} = {left - right}"
        )
    return Message("user", f"{left} + {right}"), Message(
        "assistant", f"{left} + {right} = {left + right}"
    )


def vocabulary() -> list[str]:
    """Return short common-looking lemmas for drills: WordNet's single words of 3 to 8 letters."""
    words = {g.partition(":")[0] for g in glosses()}
    return sorted(
        w for w in words if w.isascii() and w.isalpha() and w.islower() and 3 <= len(w) <= 8
    )
