"""What each filter leaves out, and what it must let through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ares_coordinator.distiller.filters import Reject, Screen
from ares_coordinator.distiller.filters.base import fences, prose
from ares_coordinator.distiller.filters.contamination import (
    HEADER,
    MAGIC,
    MIN_WORDS,
    RUN_WORDS,
    ContaminationFilter,
    NgramIndex,
    runs_of,
    words_of,
)
from ares_coordinator.distiller.filters.language import LanguageFilter
from ares_coordinator.distiller.filters.near import NearDuplicates
from ares_coordinator.distiller.filters.private import personal_data, secret
from ares_coordinator.distiller.filters.syntax import code_broken, json_broken
from ares_coordinator.distiller.filters.wording import length, refusal, repetitive, truncated
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_p2p.errors import ConfigFault
from ares_p2p.shards import CATEGORIES, Example, Message

STORY = (
    "The ferry left at dawn, and nobody on the pier waved. Mara counted the crates again, "
    "because the captain had sworn that there were twelve, and she could see eleven. Under the "
    "tarpaulin something moved. She lifted a corner and found the cook asleep between two sacks "
    "of onions, his hat on his knees."
)


def example(asked: str, answer: str, *, category: str = "instruction", check: str = "") -> Example:
    return Example(
        category=category,
        messages=(Message("user", asked), Message("assistant", answer)),
        key=f"{category}:{abs(hash((asked, answer)))}",
        check=check,
        teacher="somebody",
        licence="Apache-2.0",
    )


def reason(result: object) -> str:
    return result.reason if isinstance(result, Reject) else "passed"


# --- wording -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I won’t write this essay for you. Honesty matters.",
        "As an AI language model, I do not have access to such texts and cannot summarise them.",
        "Unfortunately I must respectfully decline.",
        "Dabei kann ich leider nicht helfen, denn ich kann Ihnen damit nicht weiterhelfen.",
        "Je ne peux pas vous aider avec cette demande.",
        "Lo siento, pero no puedo ayudar con eso.",
    ],
)
def test_refusal_is_left_out(answer: str) -> None:
    assert reason(refusal(example("Summarise the text.", answer))) == "refusal"


@pytest.mark.parametrize(
    ("category", "answer"),
    [
        ("roleplay", "I cannot give you the key, stranger; the queen would have my head."),
        ("creative", "“I can't help you,” said the lighthouse keeper, and shut the door."),
        ("reasoning", "The puzzle has no solution: the two clues contradict each other."),
        ("instruction", 'Write: "I am unable to attend. I hope that you will understand."'),
    ],
)
def test_refusal_in_a_story_is_none(category: str, answer: str) -> None:
    assert refusal(example("Go on.", answer, category=category)) is None


@pytest.mark.parametrize(
    "answer",
    [
        STORY[:200],
        "```python\ndef f():\n    return 1\n",
        f"{STORY}\n\nThe three reasons are trust, distance and",
    ],
)
def test_cut_answer_is_left_out(answer: str) -> None:
    assert reason(truncated(example("Write a story.", answer))) == "truncated"


@pytest.mark.parametrize(
    "answer",
    [
        STORY,
        "42",
        "Paris",
        f"{STORY}\n\n- flour\n- eggs\n- the onions",
        f"{STORY}\n\n```\nx = 1\n```",
    ],
)
def test_whole_answer_passes(answer: str) -> None:
    assert truncated(example("Write.", answer)) is None


def test_length_is_measured_against_what_was_asked() -> None:
    assert reason(length(example("Explain photosynthesis.", "Plants."))) == "too_short"
    assert length(example("Answer in one word: what do plants eat?", "Light.")) is None
    assert reason(length(example("Yes or no: is 7 prime?", STORY * 20))) == "too_long"
    assert length(example("Tell me all about ferries.", STORY * 20)) is None
    assert reason(length(example("Say something.", "  \n"))) == "too_short"


def test_loop_is_left_out_and_a_refrain_is_not() -> None:
    loop = "The sea is wide and the night is long. " * 30
    assert reason(repetitive(example("Write.", loop))) == "repetitive"
    song = "\n".join(f"{line}\nRow on, row on." for line in STORY.split(". "))
    assert repetitive(example("Write a song.", song)) is None


# --- language ----------------------------------------------------------------------------------

GERMAN = "Die Fähre legte im Morgengrauen ab, und niemand auf dem Steg winkte ihr noch hinterher."


def test_answer_in_another_language_than_asked_is_left_out() -> None:
    asked = "What happened to the ferry on that morning, and who was standing on the pier?"
    assert reason(LanguageFilter()(example(asked, GERMAN))) == "language"
    assert LanguageFilter()(example("Translate to German: the ferry left at dawn", GERMAN)) is None
    german_question = "Was geschah an jenem Morgen mit der Fähre, und wer stand auf dem Steg?"
    assert LanguageFilter()(example(german_question, GERMAN)) is None


def test_language_outside_the_network_is_left_out() -> None:
    only_english = LanguageFilter(frozenset({"en"}))
    result = only_english(example("Was geschah?", GERMAN))
    assert isinstance(result, Reject)
    assert result.detail == "de, one of en expected"


def test_code_and_numbers_have_no_language() -> None:
    code = "```python\nfor zeile in datei:\n    drucke(zeile)\n```"
    assert LanguageFilter(frozenset({"en"}))(example("Print each line.", code)) is None
    assert LanguageFilter(frozenset({"fr"}))(example("17 + 25?", "17 + 25 = 42")) is None


# --- secrets and personal data -----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "export AWS_KEY=AKIA" + "QX7RT2ZLMN4PW8VD",
        "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEow",
        "token: ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
        "password = 'Tr0ub4dor&3'",
        "postgresql://admin:s3cr3tPass@db.internal/app",
        "sk-ant-" + "q9w8e7r6t5y4u3i2o1p0a9s8d7f6",
    ],
)
def test_secret_is_left_out(text: str) -> None:
    assert reason(secret(example("Show the config.", f"Here it is:\n{text}\n"))) == "secret"


@pytest.mark.parametrize(
    "text",
    [
        "api_key = os.environ['API_KEY']",
        "Set OPENAI_API_KEY to your own key, e.g. sk-...",
        "password: <your password>",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "id 550e8400-e29b-41d4-a716-446655440000",
        "The secret is patience.",
    ],
)
def test_placeholder_is_no_secret(text: str) -> None:
    assert secret(example("Show it.", text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "Write to jana.novak@gmail.com.",
        "Call +44 20 7946 0958 after six.",
        "Card 4539 1488 0343 6467, expires 04/29",
        "IBAN DE89 3704 0044 0532 0130 00",
        "Her social security number is 219-09-9999.",
    ],
)
def test_personal_data_is_left_out(text: str) -> None:
    assert reason(personal_data(example("How do I reach her?", text))) == "personal_data"


@pytest.mark.parametrize(
    "text",
    [
        "Use user@example.com in the docs.",
        "ISBN 978-3-16-148410-0",
        "pi is 3.14159265358979323846",
        "version 12.0.4-2026.11.24, build 20261124",
        "He dialled 555-0142 and waited.",
        "1234 5678 9012 3456 are just digits",
    ],
)
def test_numbers_of_nobody_pass(text: str) -> None:
    assert personal_data(example("Tell me.", text)) is None


# --- syntax ------------------------------------------------------------------------------------


def test_python_that_does_not_parse_is_left_out() -> None:
    broken = "```python\ndef f(x)\n    return x\n```"
    assert reason(code_broken(example("Code.", broken))) == "code_broken"
    for good in (
        "```python\ndef f(x):\n    ...\n```",
        "```python\n    x = 1\n    print(x)\n```",
        "```python\n>>> 1 + 1\n2\n>>> for i in range(2):\n...     print(i)\n0\n1\n```",
        "```js\nconst f = (x) => { return x }\n```",
        "no code at all",
    ):
        assert code_broken(example("Code.", good)) is None


def test_json_that_does_not_decode_is_left_out() -> None:
    assert reason(json_broken(example("JSON.", '```json\n{"a": 1,}\n```'))) == "json_broken"
    assert json_broken(example("JSON.", '```json\n{"a": 1}\n{"a": 2}\n```')) is None
    bare = "{'name': 'add'}"
    assert reason(json_broken(example("Call.", bare, category="tool_use"))) == "json_broken"
    assert json_broken(example("A set?", bare)) is None


def test_fences_are_told_from_prose() -> None:
    text = "before\n```python\nx = 1\n```\nbetween\n~~~\ny\n~~~\nafter"
    assert [(one.language, one.code) for one in fences(text)] == [
        ("python", "x = 1\n"),
        ("", "y\n"),
    ]
    assert prose(text).split() == ["before", "between", "after"]


# --- near duplicates and contamination ---------------------------------------------------------


def test_near_duplicate_is_found_and_names_the_first() -> None:
    seen = NearDuplicates()
    first = example("Write the opening of a story at sea.", STORY)
    assert seen(first) is None
    changed = STORY.replace("Mara", "Ines").replace("twelve", "nine").replace("eleven", "eight")
    found = seen(example("Write the opening of a story at sea.", changed))
    assert isinstance(found, Reject)
    assert found.detail.endswith(first.key)
    other = "The mayor opened the letter twice before she believed it, and then she laughed aloud."
    assert seen(example("Write the opening of a story in a town.", other)) is None


def test_short_rows_are_never_near() -> None:
    seen = NearDuplicates()
    assert seen(example("17 + 25?", "42")) is None
    assert seen(example("18 + 25?", "43")) is None


def test_row_with_a_run_of_an_evaluation_set_is_left_out(tmp_path: Path) -> None:
    index = NgramIndex.of("sea-bench", [STORY, "what is the capital of the inland empire"])
    index.save(tmp_path / "sea-bench.ngrams")
    loaded = NgramIndex.load(tmp_path / "sea-bench.ngrams")
    assert (loaded.name, len(loaded)) == ("sea-bench", len(index))
    look = ContaminationFilter([loaded])
    quoted = f"As the tale says: {STORY[60:200].upper()} and so on."
    assert reason(look(example("Quote it.", quoted))) == "contaminated"
    whole = example("What is the capital of the inland empire?", "I do not know it.")
    assert reason(look(whole)) == "contaminated"
    assert look(example("Tell me of the sea.", "The sea is wide, and the night is long.")) is None


def test_index_holds_hashes_only(tmp_path: Path) -> None:
    path = tmp_path / "x.ngrams"
    NgramIndex.of("x", [STORY]).save(path)
    data = path.read_bytes()
    assert b"ferry" not in data
    assert len(data) == HEADER.size + 8 * len(set(runs_of(words_of(STORY), RUN_WORDS)))


def test_short_text_of_a_set_is_found_within_a_longer_one(tmp_path: Path) -> None:
    asked = "Which of the four moons of Tessaly rises last?"
    assert MIN_WORDS <= len(words_of(asked)) < RUN_WORDS
    NgramIndex.of("moons", [asked, "Yes, the third one."]).save(tmp_path / "moons.ngrams")
    look = ContaminationFilter([NgramIndex.load(tmp_path / "moons.ngrams")])
    inside = example(f"Here is a quiz for you. {asked} A) Ira B) Oma C) Una D) Evi", "B) Oma")
    assert look(inside) == Reject("contaminated", "a run of words of moons", "moons")
    assert look(example("Which of the four moons rises last, seen from here?", "Oma.")) is None
    assert look(example("Is it true?", "Yes, the third one.")) is None


def test_frame_that_all_tasks_of_a_set_share_is_not_indexed() -> None:
    frame = "Choose the right answer from the list below and think step by step before you write it"
    tasks = [
        f"{frame}. {STORY[n : n + 90]} What is the number {n} called in this tale?"
        for n in range(0, 220, 11)
    ]
    assert len(tasks) == 20
    look = ContaminationFilter([NgramIndex.of("tale", tasks)])
    assert look(example(f"{frame}. How many legs has a spider?", "Eight.")) is None
    assert reason(look(example(tasks[7], "Eleven."))) == "contaminated"
    passage = [f"{STORY[:150]} Question {n} about it?" for n in range(8)]
    look = ContaminationFilter([NgramIndex.of("passage", passage)])
    assert reason(look(example("Go on.", STORY[:150]))) == "contaminated"


def test_text_without_spaces_is_found_by_its_characters() -> None:
    asked = "黎明时分渡船离开了码头没有人挥手告别"
    look = ContaminationFilter([NgramIndex.of("boats", [asked])])
    assert reason(look(example(f"请回答:{asked}吗?", "是的。"))) == "contaminated"
    assert look(example("黎明时分渡船来了。", "是的。")) is None


def test_label_names_the_evaluation_set() -> None:
    screen = Screen(indices=[NgramIndex.of("sea-bench", [STORY])])
    assert reason(screen(example("Tell it.", STORY))) == "contaminated"
    by_a_program = example("Tell it again.", STORY, check='{"family": "x"}')
    assert reason(screen(by_a_program)) == "contaminated"
    assert screen.counts == {"contaminated:sea-bench": 2}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ARESNGR1123",
        MAGIC,
        HEADER.pack(MAGIC, 1 << RUN_WORDS) + np.array([2, 1], "<u8").tobytes(),
        HEADER.pack(MAGIC, 1 << 3) + np.array([1, 2], "<u8").tobytes(),
    ],
)
def test_damaged_index_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.ngrams"
    path.write_bytes(data)
    with pytest.raises(ConfigFault):
        NgramIndex.load(path)
    with pytest.raises(ConfigFault, match="cannot be read"):
        NgramIndex.load(tmp_path / "nowhere.ngrams")


# --- the whole screen --------------------------------------------------------------------------


def test_screen_counts_what_it_leaves_out() -> None:
    screen = Screen(languages=["en"])
    rows = [
        example("Write the opening of a story at sea.", STORY),
        example("Write the opening of a story at sea.", STORY.replace("Mara", "Ines")),
        example("Go on.", "I'm sorry, but I cannot continue with this request at all."),
        example("Write.", ""),
    ]
    results = [reason(screen(row)) for row in rows]
    assert results == ["passed", "near_duplicate", "refusal", "too_short"]
    assert screen.counts == {"accepted": 1, "near_duplicate": 1, "refusal": 1, "too_short": 1}


@pytest.mark.parametrize("category", CATEGORIES)
def test_verified_rows_pass_every_filter_that_looks_at_one_row(category: str) -> None:
    """The procedural teacher's rows are right by a program: no filter may call them bad."""
    for row in ProceduralTeacher().generate(category, 40, seed=5, start=0):
        for look in (
            refusal,
            truncated,
            repetitive,
            code_broken,
            json_broken,
            secret,
            personal_data,
        ):
            assert look(row) is None
        assert LanguageFilter(frozenset({"en"}))(row) is None
