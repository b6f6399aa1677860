"""The procedural teacher is deterministic, and its verifier finds every wrong answer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ares_coordinator.distiller.procedural import (
    FAMILIES,
    HELD_BACK_KINDS,
    ProceduralTeacher,
    check_answer,
    verify,
    verify_all,
)
from ares_coordinator.distiller.procedural.checks import KINDS
from ares_coordinator.distiller.teacher import Teacher
from ares_p2p.errors import PayloadMalformed, TeacherFault
from ares_p2p.shards import CATEGORIES, Example, Message, encode_row

ROWS = 60
TEACHER = ProceduralTeacher()
EXAMPLES = {
    category: list(TEACHER.generate(category, ROWS, seed=7, start=0)) for category in CATEGORIES
}


def kind_of(example: Example) -> str:
    kind = json.loads(example.check)["kind"]
    assert isinstance(kind, str)
    return kind


ONE_OF_EACH = {kind_of(row): row for rows in EXAMPLES.values() for row in rows}


def with_answer(example: Example, answer: str) -> Example:
    return replace(example, messages=(*example.messages[:-1], Message("assistant", answer)))


def test_teacher_is_a_teacher() -> None:
    teacher: Teacher = TEACHER
    assert (teacher.name, teacher.licence) == ("procedural", "Apache-2.0")


def test_every_category_and_kind_has_a_verifier() -> None:
    assert tuple(FAMILIES) == CATEGORIES
    assert {name: frozenset(kinds) for name, kinds in FAMILIES.items()} == KINDS
    assert set(ONE_OF_EACH) == {kind for kinds in KINDS.values() for kind in kinds}


def test_one_kind_of_each_category_is_held_back() -> None:
    assert all(len(kinds.keys() & HELD_BACK_KINDS) == 1 for kinds in FAMILIES.values())
    teacher = ProceduralTeacher(without=HELD_BACK_KINDS)
    kinds = {kind_of(row) for c in CATEGORIES for row in teacher.generate(c, 40, seed=1, start=0)}
    assert not kinds & HELD_BACK_KINDS


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_row_verifies(category: str) -> None:
    assert verify_all(EXAMPLES[category]) == [None] * ROWS


@pytest.mark.parametrize("category", CATEGORIES)
def test_rows_depend_on_seed_and_index_only(category: str) -> None:
    tail = list(ProceduralTeacher().generate(category, 5, seed=7, start=50))
    assert [encode_row(row) for row in tail] == [
        encode_row(row) for row in EXAMPLES[category][50:55]
    ]
    assert TEACHER.example(category, 50, seed=8) != tail[0]


@pytest.mark.parametrize("category", CATEGORIES)
def test_keys_are_varied(category: str) -> None:
    keys = {TEACHER.example(category, index, seed=3).key for index in range(1_000)}
    assert len(keys) > 850


@pytest.mark.parametrize("kind", sorted(ONE_OF_EACH))
def test_verify_refuses_a_tampered_answer(kind: str) -> None:
    row = ONE_OF_EACH[kind]
    end = row.answer.split()[-1]
    others = [o.answer for o in EXAMPLES[row.category] if o.answer.split()[-1] != end]
    for answer in ("I do not know.", row.answer[: len(row.answer) // 2], others[0], others[-1]):
        with pytest.raises(PayloadMalformed):
            verify(with_answer(row, answer))


@pytest.mark.parametrize("kind", sorted(ONE_OF_EACH))
def test_check_answer_knows_right_from_wrong(kind: str) -> None:
    row = ONE_OF_EACH[kind]
    assert check_answer(row, f"  {row.answer}\n")
    for answer in ("", "Answer: ", "\x00", "{" * 5_000, "42", "No."):
        assert not check_answer(row, answer)


@pytest.mark.parametrize("kind", sorted(ONE_OF_EACH))
def test_verify_refuses_a_prompt_that_asks_something_else(kind: str) -> None:
    row = ONE_OF_EACH[kind]
    place = max(i for i, message in enumerate(row.messages) if message.role == "user")
    turns = list(row.messages)
    turns[place] = Message("user", "Tell me more.")
    with pytest.raises(PayloadMalformed):
        verify(replace(row, messages=tuple(turns)))


@pytest.mark.parametrize("kind", sorted(ONE_OF_EACH))
def test_verify_refuses_a_moved_key_and_a_foreign_kind(kind: str) -> None:
    row = ONE_OF_EACH[kind]
    with pytest.raises(PayloadMalformed):
        verify(replace(row, key=row.key + "x"))
    with pytest.raises(PayloadMalformed):
        verify(replace(row, category=next(c for c in CATEGORIES if c != row.category)))
    with pytest.raises(PayloadMalformed):
        verify(replace(row, check=row.check[:-1]))


def test_verify_refuses_wrong_steps_to_a_right_end() -> None:
    row = ONE_OF_EACH["tally"]
    left, _, right = row.answer.partition(" = ")
    wrong = with_answer(row, f"{left} = 1{right}")
    assert check_answer(row, wrong.answer)
    with pytest.raises(PayloadMalformed, match="is not"):
        verify(wrong)


def test_key_is_blind_to_wording() -> None:
    row = ONE_OF_EACH["number_function"]
    renamed = json.loads(row.check)["_name"]
    other = row.check.replace(f'"_name":"{renamed}"', '"_name":"other"')
    turns = tuple(Message(m.role, m.content.replace(renamed + "(", "other(")) for m in row.messages)
    verify(replace(row, check=other, messages=turns))


def test_unknown_category_is_refused() -> None:
    with pytest.raises(TeacherFault):
        TEACHER.example("poetry", 0, seed=0)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(set(ONE_OF_EACH) - KINDS["code"])), st.text(max_size=80))
def test_check_answer_takes_any_text(kind: str, answer: str) -> None:
    assert isinstance(check_answer(ONE_OF_EACH[kind], answer), bool)
