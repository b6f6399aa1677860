"""Loading bases: digests, refusals, 4-bit on the CPU; adapters and their PEFT files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from peft import PeftModel

from ares_p2p.errors import BaseDigestMismatch, BaseUnsupported, ConfigFault, ShapeMismatch
from ares_p2p.training.base import BaseSpec, load_base, load_tokenizer
from ares_p2p.training.base_files import base_files_digest, check_base_files
from ares_p2p.training.lora import (
    attach_lora,
    layout_of_model,
    read_parameters,
    trainable_parameters,
    write_parameters,
)
from ares_p2p.training.lora_spec import (
    LoraSpec,
    layout_of_config,
    layout_of_folder,
    load_adapter,
    save_adapter,
)
from ares_p2p.training.state import initial_state
from tinybase import build_tiny_base

# PEFT 0.21 asks transformers 5 for a renamed attribute, also where a test calls PEFT directly
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SPEC = LoraSpec(rank=4, alpha=8)
TOKENS = torch.arange(3, 23)[None]  # (1, 20)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_tiny_base(folder)
    return folder


def plain(base: Path) -> BaseSpec:
    return BaseSpec(str(base), quantization="none", compute_dtype="float32")


def random_vector(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32) * np.float32(0.1)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=TOKENS, use_cache=False).logits


# --- files ------------------------------------------------------------------------------------


def test_digest_covers_what_matters_and_nothing_else(base: Path, tmp_path: Path) -> None:
    found = base_files_digest(base)
    names = [file.name for file in found.files]
    assert names == sorted(names)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    (copy / "README.md").write_text("not part of what the model computes")
    assert base_files_digest(copy) == found
    assert check_base_files(copy, expected_sha256=found.digest_sha256) == found
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    with pytest.raises(BaseDigestMismatch, match=r"tokenizer\.json"):
        check_base_files(copy, expected_sha256=found.digest_sha256, expected_files=found.files)


def test_folders_without_safetensors_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseUnsupported, match="no base model folder"):
        base_files_digest(tmp_path / "missing")
    with pytest.raises(BaseUnsupported, match=r"no config\.json"):
        base_files_digest(tmp_path)
    shutil.copy(base / "config.json", tmp_path)
    with pytest.raises(BaseUnsupported, match="no weights"):
        base_files_digest(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    for attempt in (lambda: base_files_digest(tmp_path), lambda: load_base(plain(tmp_path))):
        with pytest.raises(BaseUnsupported, match=r"only pickled weights \(pytorch_model\.bin\)"):
            attempt()


def test_hub_ids_need_a_revision() -> None:
    with pytest.raises(BaseUnsupported, match="revision"):
        load_base(BaseSpec("somebody/some-model"))


def test_unknown_architectures_are_refused(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(base, folder)
    (folder / "config.json").write_text('{"model_type": "no-such-family"}')
    with pytest.raises(BaseUnsupported, match="does not load"):
        load_base(plain(folder))
    with pytest.raises(BaseUnsupported, match="no-such-family"):
        layout_of_folder(folder, SPEC)


# --- the loaded base --------------------------------------------------------------------------


def test_nf4_base_really_is_4_bit_on_the_cpu(base: Path) -> None:
    model = load_base(BaseSpec(str(base), quantization="nf4", compute_dtype="float32"))
    layer = model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, bnb.nn.Linear4bit)
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == 64 * 64 // 2  # two elements a byte
    assert layer.weight.quant_state.quant_type == "nf4"
    assert layer.weight.quant_state.nested  # double quantization
    linears = [m for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert linears
    assert all(isinstance(m, bnb.nn.Linear4bit) for m in linears)
    exact = load_base(plain(base))
    near = torch.nn.functional.cosine_similarity(
        logits(model).flatten(), logits(exact).flatten(), dim=0
    )
    assert 0.97 < near < 0.999_999


def test_loaded_base_is_frozen_without_dropout_and_in_its_type(base: Path) -> None:
    model = load_base(BaseSpec(str(base), quantization="none", compute_dtype="bfloat16"))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.bfloat16
    assert all(m.p == 0 for m in model.modules() if isinstance(m, torch.nn.Dropout))
    assert model.model.layers[0].self_attn.attention_dropout == 0
    assert load_tokenizer(plain(base)).is_fast


# --- adapters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_adapter_vector_roundtrip_and_layout_without_the_model(
    base: Path, quantization: str
) -> None:
    spec = BaseSpec(str(base), quantization, "float32")  # type: ignore[arg-type]
    model = attach_lora(load_base(spec), SPEC)
    layout = layout_of_model(model)
    assert layout == layout_of_folder(base, SPEC)
    vector = random_vector(layout.size)
    write_parameters(model, layout, vector)
    assert np.array_equal(read_parameters(model, layout), vector)
    trained = trainable_parameters(model, layout)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trained}
    assert all(p.dtype == torch.float32 for p in trained)


def test_initial_state_changes_nothing(base: Path) -> None:
    expected = logits(load_base(plain(base)))
    model = attach_lora(load_base(plain(base)), SPEC)
    layout = layout_of_model(model)
    write_parameters(model, layout, initial_state(layout, cycle=1, seed=b"s").theta)
    assert torch.equal(logits(model), expected)


def test_saved_adapter_loads_with_plain_peft(base: Path, tmp_path: Path) -> None:
    model = attach_lora(load_base(plain(base)), SPEC)
    layout = layout_of_model(model)
    vector = random_vector(layout.size)
    write_parameters(model, layout, vector)
    save_adapter(tmp_path, layout, vector, spec=SPEC, base_name="tiny")
    theirs = PeftModel.from_pretrained(load_base(plain(base)), str(tmp_path))
    for name, parameter in theirs.named_parameters():
        if ".default." in name:
            ours = layout.split(vector)[name.replace(".default.", ".")]
            assert np.array_equal(parameter.detach().numpy(), ours)
    assert torch.equal(logits(theirs), logits(model))
    assert theirs.peft_config["default"].r == 4


def test_saving_is_deterministic_and_loading_gives_it_back(base: Path, tmp_path: Path) -> None:
    layout = layout_of_folder(base, SPEC)
    vector = random_vector(layout.size)
    for name in ("one", "two"):
        save_adapter(tmp_path / name, layout, vector, spec=SPEC, base_name="tiny")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    spec, found, back = load_adapter(tmp_path / "one")
    assert (spec, found) == (SPEC, layout)
    assert np.array_equal(back, vector)


def test_stacked_adapters_add_up_and_stay_frozen(base: Path, tmp_path: Path) -> None:
    old_spec = LoraSpec(rank=2, alpha=2)
    old_layout = layout_of_folder(base, old_spec)
    save_adapter(
        tmp_path, old_layout, random_vector(old_layout.size, 1), spec=old_spec, base_name="tiny"
    )
    below = PeftModel.from_pretrained(load_base(plain(base)), str(tmp_path))
    model = attach_lora(load_base(plain(base)), SPEC, stack=(tmp_path,))
    layout = layout_of_model(model)
    assert layout == layout_of_folder(base, SPEC)
    assert len(trainable_parameters(model, layout)) == sum(
        p.requires_grad for p in model.parameters()
    )
    start = initial_state(layout, cycle=2, seed=b"s").theta
    write_parameters(model, layout, start)
    assert torch.equal(logits(model), logits(below))  # the new one adds nothing yet
    write_parameters(model, layout, random_vector(layout.size, 2))
    assert not torch.allclose(logits(model), logits(below))

    merged = below.merge_and_unload()
    both = attach_lora(merged, SPEC)
    write_parameters(both, layout, random_vector(layout.size, 2))
    # merging rounds the sum of weights, stacking sums the outputs
    assert torch.allclose(logits(both), logits(model), rtol=1e-4, atol=1e-4)


def test_wrong_layouts_are_refused(base: Path) -> None:
    model = attach_lora(load_base(plain(base)), SPEC)
    for spec in (LoraSpec(8, 8), LoraSpec(4, 8, ("q_proj",))):
        other = layout_of_folder(base, spec)
        with pytest.raises(ShapeMismatch):
            write_parameters(model, other, np.zeros(other.size, dtype=np.float32))
        with pytest.raises(ShapeMismatch):
            read_parameters(model, other)
    with pytest.raises(BaseUnsupported, match="no_such"):
        attach_lora(load_base(plain(base)), LoraSpec(4, 8, ("no_such",)))
    with pytest.raises(BaseUnsupported, match="no_such"):
        layout_of_folder(base, LoraSpec(4, 8, ("no_such",)))
    with pytest.raises(BaseUnsupported, match="hidden_size"):
        layout_of_config({"model_type": "llama"}, SPEC)


def test_adapter_files_that_are_not_plain_lora_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="no readable adapter"):
        load_adapter(tmp_path)
    layout = layout_of_folder(base, SPEC)
    save_adapter(tmp_path, layout, random_vector(layout.size), spec=SPEC, base_name="tiny")
    file = tmp_path / "adapter_config.json"
    good = json.loads(file.read_text())
    for change in (
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"r": "4"},
        {"r": 5},
        {"target_modules": "all-linear"},
    ):
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(ConfigFault):
            load_adapter(tmp_path)
    file.write_text("[" * 100)
    with pytest.raises(ConfigFault):
        load_adapter(tmp_path)
