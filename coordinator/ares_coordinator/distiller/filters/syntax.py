"""Code that does not parse and JSON that does not decode, where an answer says that it is such.

Only Python is parsed: another language's fence passes. Fragments are fair: a snippet may be
indented, hold doctest prompts or an ellipsis.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
import warnings
from typing import Final

from ares_coordinator.distiller.filters.base import Reject, answers, fences
from ares_p2p.shards import Example

_PYTHON: Final = frozenset({"python", "py", "python3"})
_JSON: Final = frozenset({"json"})
_LINES_OF_JSON: Final = frozenset({"jsonl", "ndjson"})
_PROMPT: Final = re.compile(r"^\s*(?:>>>|\.\.\.) ?", re.M)
_MAX_CODE_CHARS: Final = 100_000  # deep nesting costs the parser stack


def code_broken(example: Example) -> Reject | None:
    """Leave out an answer with a block of Python that is no Python."""
    for answer in answers(example):
        for fence in fences(answer):
            if fence.language in _PYTHON:
                fault = _python_fault(fence.code)
                if fault is not None:
                    return Reject("code_broken", fault)
    return None


def json_broken(example: Example) -> Reject | None:
    """Leave out an answer with JSON that does not decode."""
    for answer in answers(example):
        for fence in fences(answer):
            texts = fence.code.splitlines() if fence.language in _LINES_OF_JSON else [fence.code]
            if fence.language not in _JSON | _LINES_OF_JSON:
                continue
            for text in texts:
                if text.strip() and (fault := _json_fault(text)) is not None:
                    return Reject("json_broken", fault)
        bare = answer.strip()
        if example.category == "tool_use" and bare.startswith(("{", "[")):
            fault = _json_fault(bare)
            if fault is not None:
                return Reject("json_broken", fault)
    return None


def _python_fault(code: str) -> str | None:
    if len(code) > _MAX_CODE_CHARS:
        return None
    if _PROMPT.search(code):  # a session: the input lines alone
        lines = [_PROMPT.sub("", line) for line in code.splitlines() if _PROMPT.match(line)]
        code = "\n".join(lines) + "\n"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape is no fault of the grammar
            ast.parse(textwrap.dedent(code), filename="answer")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"[:120]
    return None


def _json_fault(text: str) -> str | None:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        try:  # several values, one a line
            for line in text.strip().splitlines():
                json.loads(line)
        except (ValueError, RecursionError):
            return str(error)[:120]
    return None
