"""Rows from and for elsewhere: ChatML and Alpaca, JSON and JSON Lines.

A row that cannot be read is a fault with its place and a reason, never a guess, and the rows after
it are read all the same. Which of the forms a row has is seen by its fields:

    our own     every field of `ares_p2p.shards.Example`, as `data export` writes them
    ChatML      {"messages": [{"role", "content", "tool_calls"}]}; also {"conversations": [{"from", "value"}]}
    Alpaca      {"instruction", "input", "output"}, and "system" where there is one

`category`, `licence` and `teacher` may stand in a row; where they do not, whoever imports says them.
A row of unknown licence is not taken: it could not be published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

from ares_coordinator.distiller.filters import prompt_sha256
from ares_p2p.errors import AresError, ConfigFault, Oversize, PayloadMalformed
from ares_p2p.shards import Example, Message, check_example
from ares_p2p.shards.format import alpaca_record, chatml_messages, encode_row

MAX_LINE_BYTES: Final = (
    8 * 1024**2
)  # of one row; the longest allowed conversation is about as large
MAX_JSON_BYTES: Final = 512 * 1024**2  # a JSON array is read as a whole; JSON Lines have no bound
_LIST_NAMES: Final = ("data", "rows")
ExportFormat = Literal["ares", "chatml", "alpaca"]

_ROLES: Final = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
    "developer": "system",
}
_OWN: Final = (
    "key",
    "check",
    "teacher_version",
    "generator_version",
    "permission_ref",
    "prompt_sha256",
)


@dataclass(frozen=True, slots=True)
class ImportDefaults:
    """What whoever imports says of rows that do not say it themselves; "" is nothing."""

    category: str = ""
    teacher: str = ""
    licence: str = ""
    permission_ref: str = ""


@dataclass(frozen=True, slots=True)
class RowFault:
    """A row that was not taken: its number in the file, from 1, and why."""

    row: int
    code: str
    message: str


def read_rows(path: Path, defaults: ImportDefaults) -> Iterator[Example | RowFault]:
    """Yield the rows of a file, one after another.

    Args:
        path: JSON (an array, or an object with the array in "data" or "rows") or JSON Lines.
    Raises: ConfigFault: there is no such file, or a JSON file that is no array.
    """
    for number, value in _values(path):
        try:
            if isinstance(value, PayloadMalformed | Oversize):
                raise value
            yield _example(value, defaults)
        except AresError as fault:
            yield RowFault(number, fault.code, fault.message)


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield numbered values; a fault in the place of one that does not decode."""
    try:
        with path.open("rb") as file:
            if not _is_lines(path, file.readline(MAX_LINE_BYTES + 1)):
                yield from enumerate(_array(path), start=1)
                return
            file.seek(0)
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if line.strip():
                    yield number, _decoded(line)
    except OSError as error:
        raise ConfigFault(f"{path} cannot be read: {error.strerror}") from error


def _is_lines(path: Path, first_line: bytes) -> bool:
    """Whether a file is JSON Lines: by its name, or because its first line is a row."""
    if path.suffix in (".jsonl", ".ndjson"):
        return True
    try:
        value = json.loads(first_line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not value.keys() & set(_LIST_NAMES)


def _array(path: Path) -> list[Any]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ConfigFault(
            f"{path} has more than {MAX_JSON_BYTES // 1024**2} MiB",
            hint="Write it as JSON Lines, a row a line: that has no bound.",
        )
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigFault(f"{path} is no JSON: {error}") from error
    if isinstance(content, dict):
        named = next((content[name] for name in _LIST_NAMES if name in content), None)
        content = named if isinstance(named, list) else [content]
    if not isinstance(content, list):
        raise ConfigFault(f"{path} holds no list of rows")
    return content


def _decoded(line: bytes) -> Any:
    if len(line) > MAX_LINE_BYTES:
        return Oversize(f"a line of more than {MAX_LINE_BYTES // 1024**2} MiB")
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return PayloadMalformed(f"no JSON: {error}")


# --- one row -----------------------------------------------------------------------------------


def _example(value: Any, defaults: ImportDefaults) -> Example:
    """Return a row of any of the forms.

    Raises: PayloadMalformed, Oversize: why not.
    """
    if not isinstance(value, dict):
        raise PayloadMalformed(f"an object expected, {type(value).__name__} came")
    if "messages" in value:
        messages = _turns(value["messages"], role="role", text="content")
    elif "conversations" in value:
        messages = _turns(value["conversations"], role="from", text="value")
    elif "instruction" in value:
        messages = _alpaca_turns(value)
    else:
        raise PayloadMalformed(
            f"neither messages nor instruction, but {', '.join(sorted(map(str, value)))[:120]}"
        )
    own = {name: _text(value, name) for name in _OWN}
    category = _text(value, "category") or defaults.category
    licence = _text(value, "licence") or _text(value, "license") or defaults.licence
    if not category:
        raise PayloadMalformed("no category: name it in the row, or with --category")
    if not licence:
        raise PayloadMalformed("no licence: name it in the row, or with --licence")
    example = Example(
        category=category,
        messages=messages,
        teacher=_text(value, "teacher") or defaults.teacher or "import",
        licence=licence,
        **{**own, "permission_ref": own["permission_ref"] or defaults.permission_ref},
    )
    if not example.key:
        example = _with_key(example)
    check_example(example)
    return example


def _with_key(example: Example) -> Example:
    """Return the row with the key of its prompt: it decides the side of the split for ever."""
    digest = sha256(b"ares/import-key/v1\0" + prompt_sha256(example)).hexdigest()
    return replace(example, key=f"import:{digest[:32]}")


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise PayloadMalformed(f"{name} must be text")
    return found


def _turns(value: Any, *, role: str, text: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise PayloadMalformed("messages must be a list of turns")
    return tuple(_turn(item, position, role=role, text=text) for position, item in enumerate(value))


def _turn(item: Any, position: int, *, role: str, text: str) -> Message:
    if not isinstance(item, dict) or not isinstance(item.get(role), str):
        raise PayloadMalformed(f"turn {position + 1} has no {role}")
    content = item.get(text)
    if isinstance(content, list):  # parts of a turn: text only, a picture cannot be trained on
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise PayloadMalformed(f"turn {position + 1} holds something else than text")
        content = "".join(str(part) for part in parts)
    calls = item.get("tool_calls") or []
    if content is None and not calls:
        raise PayloadMalformed(f"turn {position + 1} has no {text}")
    if content is not None and not isinstance(content, str):
        raise PayloadMalformed(f"turn {position + 1}: {text} must be text")
    said = [content] if content else []
    said += [_call(call, position) for call in calls]
    name = str(item[role])
    return Message(_ROLES.get(name, name), "\n".join(said))


def _call(call: Any, position: int) -> str:
    """Return a tool call as the network writes it: {"tool": ..., "arguments": ...}."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise PayloadMalformed(f"turn {position + 1} has a tool call without a name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise PayloadMalformed(
                f"turn {position + 1}: the arguments of {function['name'][:40]} are no JSON"
            ) from error
    return json.dumps({"tool": function["name"], "arguments": arguments}, ensure_ascii=False)


def _alpaca_turns(value: Mapping[str, Any]) -> tuple[Message, ...]:
    system, asked = _text(value, "system"), _text(value, "instruction")
    more = _text(value, "input")
    head = (Message("system", system),) if system else ()
    question = f"{asked}\n\n{more}" if more else asked
    return (*head, Message("user", question), Message("assistant", _text(value, "output")))


# --- the way out -------------------------------------------------------------------------------


def encode_as(example: Example, form: ExportFormat) -> bytes:
    """Return one line of a row in a form that other trainers read; provenance goes along."""
    if form == "ares":
        return encode_row(example)
    record: dict[str, Any]
    if form == "chatml":
        record = {"messages": chatml_messages(example)}
    else:
        record = dict(alpaca_record(example))
    facts = ("category", "licence", "teacher", "teacher_version", "permission_ref", "key")
    record |= {name: text for name in facts if (text := getattr(example, name))}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
