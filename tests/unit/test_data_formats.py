"""Rows from elsewhere: every form, every fault with its place, and back again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.distiller.formats import (
    ImportDefaults,
    RowFault,
    encode_as,
    read_rows,
)
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_p2p.errors import ConfigFault
from ares_p2p.shards import CATEGORIES, Example, Message

SAID = ImportDefaults("instruction", "somebody", "CC-BY-4.0", "letter of May")


def written(path: Path, *values: Any, name: str = "rows.jsonl") -> Path:
    target = path / name
    lines = (value if isinstance(value, str) else json.dumps(value) for value in values)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def rows_of(path: Path, defaults: ImportDefaults = SAID) -> list[Example | RowFault]:
    return list(read_rows(path, defaults))


def one(path: Path, value: Any, defaults: ImportDefaults = SAID) -> Example:
    (row,) = rows_of(written(path, value), defaults)
    assert isinstance(row, Example), row
    return row


def test_chatml_is_read_with_what_the_importer_says(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    row = one(tmp_path, {"messages": [*turns, {"role": "assistant", "content": "4"}]})
    assert [message.role for message in row.messages] == ["system", "user", "assistant"]
    assert (row.category, row.licence, row.teacher) == ("instruction", "CC-BY-4.0", "somebody")
    assert row.permission_ref == "letter of May"


def test_what_a_row_says_of_itself_wins(tmp_path: Path) -> None:
    facts = {"category": "reasoning", "license": "MIT", "teacher": "ada", "permission_ref": "none"}
    turns = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    row = one(tmp_path, {"messages": turns, **facts})
    assert (row.category, row.licence, row.teacher) == ("reasoning", "MIT", "ada")
    assert row.permission_ref == "none"


def test_tool_calls_become_what_the_network_writes(tmp_path: Path) -> None:
    call = {"function": {"name": "get_time", "arguments": '{"city": "Quito"}'}}
    turns = [
        {"role": "user", "content": "What time is it in Quito?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "12:30"},
        {"role": "assistant", "content": [{"type": "text", "text": "Half past twelve."}]},
    ]
    row = one(tmp_path, {"messages": turns})
    assert row.messages[1] == Message(
        "assistant", '{"tool": "get_time", "arguments": {"city": "Quito"}}'
    )
    assert row.answer == "Half past twelve."


def test_conversations_are_read_like_messages(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    row = one(tmp_path, {"conversations": turns})
    assert row.messages == (Message("user", "2 + 2?"), Message("assistant", "4"))


def test_alpaca_is_read(tmp_path: Path) -> None:
    row = one(tmp_path, {"instruction": "Sort.", "input": "b, a", "output": "a, b"})
    assert row.messages == (Message("user", "Sort.\n\nb, a"), Message("assistant", "a, b"))


def test_key_follows_from_the_prompt_alone(tmp_path: Path) -> None:
    first = one(tmp_path, {"instruction": "Sort.", "input": "b, a", "output": "a, b"})
    again = one(tmp_path, {"instruction": "sort. ", "input": "b,  A", "output": "another answer"})
    other = one(tmp_path, {"instruction": "Sort.", "input": "b, c", "output": "b, c"})
    assert first.key == again.key != other.key


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{broken", "no JSON"),
        ("[1, 2]", "an object expected, list came"),
        ({"text": "x"}, "neither messages nor instruction, but text"),
        ({"messages": []}, "messages must be a list of turns"),
        ({"messages": [{"content": "x"}]}, "turn 1 has no role"),
        ({"messages": [{"role": "user"}]}, "turn 1 has no content"),
        ({"messages": [{"role": "user", "content": "x"}]}, "1 messages, 2 to 64 expected"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "turn 1 holds something else than text",
        ),
        ({"instruction": "x", "output": ""}, "empty message at position 1"),
        ({"instruction": "x", "output": 5}, "output must be text"),
        ({"instruction": "x", "output": "y", "category": "sports"}, "category 'sports'"),
    ],
)
def test_bad_row_is_a_fault_with_its_place_and_the_next_is_read(
    tmp_path: Path, value: Any, why: str
) -> None:
    good = {"instruction": "Sort.", "output": "a"}
    before, fault, after = rows_of(written(tmp_path, good, value, {**good, "instruction": "No."}))
    assert isinstance(before, Example)
    assert isinstance(fault, RowFault)
    assert fault.row == 2
    assert fault.code.startswith("ARES-E")
    assert why in fault.message
    assert isinstance(after, Example)


def test_unknown_licence_or_category_is_asked_for(tmp_path: Path) -> None:
    value = {"instruction": "Sort.", "output": "a"}
    (fault,) = rows_of(written(tmp_path, value), ImportDefaults(category="code"))
    assert isinstance(fault, RowFault)
    assert "--licence" in fault.message
    (fault,) = rows_of(written(tmp_path, value), ImportDefaults(licence="MIT"))
    assert isinstance(fault, RowFault)
    assert "--category" in fault.message


@pytest.mark.parametrize("shape", [lambda rows: rows, lambda rows: {"data": rows}])
def test_json_arrays_are_read_too(tmp_path: Path, shape: Any) -> None:
    rows = [{"instruction": f"Sort {n}.", "output": "a"} for n in range(3)]
    found = rows_of(written(tmp_path, json.dumps(shape(rows), indent=2), name="rows.json"))
    assert [isinstance(row, Example) for row in found] == [True] * 3


def test_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="cannot be read"):
        rows_of(tmp_path / "nowhere.jsonl")
    with pytest.raises(ConfigFault, match="no JSON"):
        rows_of(written(tmp_path, "[1, 2", name="rows.json"))


@pytest.mark.parametrize("category", CATEGORIES)
def test_own_rows_come_back_as_they_went(tmp_path: Path, category: str) -> None:
    rows = list(ProceduralTeacher().generate(category, 20, seed=3, start=0))
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"".join(encode_as(row, "ares") for row in rows))
    assert rows_of(path, ImportDefaults()) == rows


@pytest.mark.parametrize("form", ["chatml", "alpaca"])
def test_other_forms_keep_question_answer_and_provenance(tmp_path: Path, form: Any) -> None:
    rows = list(ProceduralTeacher().generate("instruction", 20, seed=3, start=0))
    path = tmp_path / "other.jsonl"
    path.write_bytes(b"".join(encode_as(row, form) for row in rows))
    back = rows_of(path, ImportDefaults())
    for row, found in zip(rows, back, strict=True):
        assert isinstance(found, Example)
        assert (found.answer, found.key, found.licence) == (row.answer, row.key, row.licence)
        assert row.messages[-2].content in found.messages[-2].content
