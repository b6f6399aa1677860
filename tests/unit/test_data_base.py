"""The base that ships, its tokenizer, its notices, and the seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ares_coordinator.distiller.procedural import ProceduralTeacher, verify_all
from ares_p2p.shards import CATEGORIES, Example, chatml_messages, decode_jsonl

DATA = Path(__file__).resolve().parents[2] / "data"
BASE = DATA / "base"
MAX_BASE_BYTES = 12 * 1024**2


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(BASE)


def test_base_is_small_and_holds_no_pickle() -> None:
    files = [path for path in BASE.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BASE_BYTES
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
            "tokenizer_config.json", "recipe.json", "README.md"} <= {p.name for p in files}  # fmt: skip


def test_notices_name_every_source() -> None:
    notice = (DATA / "NOTICE").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in notice
    assert "Python Software Foundation" in notice


def test_base_loads_and_fits_nf4_blocks() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(BASE)
    linear = [m for m in model.modules() if type(m).__name__ == "Linear"]
    assert all(m.weight.shape[1] % 64 == 0 for m in linear)
    assert model.config.model_type == "llama"
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == json.loads((BASE / "recipe.json").read_text())["parameters"]
    assert 1_000_000 < parameters < 3_500_000


def test_every_digit_is_a_token(tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert len(tokenizer.encode("90210", add_special_tokens=False)) == 5
    text = "x = 3\n    return 'Zürich → 東京' + \"\\t\"\t{}"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def rows() -> list[Example]:
    return [ProceduralTeacher().example(c, i, seed=11) for c in CATEGORIES for i in range(6)]


def test_template_marks_the_assistant_and_its_end_exactly(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for row in rows():
        out = tokenizer.apply_chat_template(
            chatml_messages(row), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        marked = [i for i, on in zip(out["input_ids"], out["assistant_masks"], strict=True) if on]
        said = [m.content + "<|im_end|>" for m in row.messages if m.role == "assistant"]
        assert tokenizer.decode(marked) == "".join(said)
        whole = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in row.messages)
        assert tokenizer.decode(out["input_ids"]) == whole


def test_recipe_writes_conversations_as_the_template_does(tokenizer, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(DATA / "recipe"))
    corpus = pytest.importorskip("corpus")
    for row in rows():
        out = tokenizer.apply_chat_template(
            chatml_messages(row), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        made = corpus.chat_row(tokenizer.backend_tokenizer, row.messages)
        assert list(made.ids) == out["input_ids"]
        assert [int(on) for on in made.supervised] == out["assistant_masks"]


def test_generation_prompt_opens_the_assistants_turn(tokenizer) -> None:  # type: ignore[no-untyped-def]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == "<|im_end|>"


def test_rows_are_short(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for category in CATEGORIES:
        bound = 500 if category == "long_context" else 230  # of 1,024 positions
        for index in range(60):
            row = ProceduralTeacher().example(category, index, seed=12)
            out = tokenizer.apply_chat_template(
                chatml_messages(row), tokenize=True, return_dict=True
            )
            assert len(out["input_ids"]) <= bound


@pytest.mark.parametrize("category", CATEGORIES)
def test_seeds_are_canonical_and_verify(category: str) -> None:
    found = decode_jsonl((DATA / "seeds" / f"{category}.jsonl").read_bytes())
    assert len(found) == 100
    assert {row.category for row in found} == {category}
    assert len({row.key for row in found}) == 100
    assert verify_all(found) == [None] * 100


def test_seeds_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    command = [sys.executable, str(DATA / "recipe" / "seeds.py"), "--out", str(tmp_path)]
    paths = [str(DATA.parent), str(DATA.parent / "coordinator")]
    subprocess.run(
        command, check=True, timeout=60, capture_output=True, env={"PYTHONPATH": ":".join(paths)}
    )
    for category in CATEGORIES:
        name = f"{category}.jsonl"
        assert (tmp_path / name).read_bytes() == (DATA / "seeds" / name).read_bytes()
    assert sum(path.stat().st_size for path in (DATA / "seeds").iterdir()) < 600_000
