"""The stack as one adapter: the sum of the adapters, on numbers and through a real model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from ares_p2p.errors import ConfigFault, ShapeMismatch
from ares_p2p.training.base import BaseSpec, load_base
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.lora import attach_lora, layout_of_model, write_parameters
from ares_p2p.training.lora_spec import LoraSpec, layout_of_folder, load_adapter, save_adapter
from ares_p2p.training.parameters import count_parameters
from ares_p2p.training.stack import (
    Adapter,
    concatenate,
    module_shapes,
    read_adapter,
    read_stack,
)
from ares_p2p.training.state import initial_state
from tinybase import build_tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOKENS = torch.arange(3, 43)[None]  # (1, 40)
# another rank, alpha and place each; 5 / 3 is no power of two, and one lacks most modules
SPECS = (LoraSpec(4, 8), LoraSpec(3, 5), LoraSpec(8, 4, ("down_proj", "q_proj")), LoraSpec(1, 1))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_tiny_base(folder)
    return folder


@pytest.fixture(scope="module")
def stack(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    folders = []
    for number, spec in enumerate(SPECS):
        layout = layout_of_folder(base, spec)
        vector = np.random.default_rng(number).standard_normal(layout.size, dtype=np.float32) * 0.05
        folders.append(root / f"cycle-{number}")
        save_adapter(folders[-1], layout, vector, spec=spec, base_name="tiny")
    return folders


def changes(adapter: Adapter) -> dict[str, np.ndarray]:
    """Return what the adapter adds to each weight, in float64."""
    tensors = adapter.layout.split(adapter.vector)
    return {
        stem: adapter.scale
        * (
            tensors[f"{stem}.lora_B.weight"].astype(np.float64)
            @ tensors[f"{stem}.lora_A.weight"].astype(np.float64)
        )
        for stem in module_shapes(adapter.layout)
    }


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=TOKENS, use_cache=False).logits


def plain_base(base: Path) -> torch.nn.Module:
    return load_base(BaseSpec(str(base), quantization="none", compute_dtype="float32"))


def test_concatenated_stack_changes_each_weight_as_the_sum_does(stack: list[Path]) -> None:
    adapters = [read_adapter(folder) for folder in stack]
    one = concatenate(adapters)
    assert one.spec.rank == one.spec.alpha == sum(spec.rank for spec in SPECS)
    total: dict[str, np.ndarray] = {}
    for adapter in adapters:
        for stem, change in changes(adapter).items():
            total[stem] = total.get(stem, 0) + change
    found = changes(one)
    assert found.keys() == total.keys()
    for stem, change in found.items():
        # 1e-5 is the promise; s B is rounded once to float32, so it is rather 1e-8 here
        assert np.abs(change - total[stem]).max() < 1e-7


def test_concatenated_stack_of_a_case_by_hand() -> None:
    layout = layout_of_shapes({"m.lora_A.weight": (1, 2), "m.lora_B.weight": (1, 1)})
    first = Adapter(LoraSpec(1, 2, ("m",)), layout, np.array([1, 2, 3], dtype=np.float32))
    second = Adapter(LoraSpec(1, 1, ("m",)), layout, np.array([10, 20, 5], dtype=np.float32))
    one = concatenate([first, second])
    assert one.spec == LoraSpec(2, 2, ("m",))
    tensors = one.layout.split(one.vector)
    assert tensors["m.lora_A.weight"].tolist() == [[1, 2], [10, 20]]
    assert tensors["m.lora_B.weight"].tolist() == [[6, 5]]
    # 2 * 3 * [1, 2] + 1 * 5 * [10, 20]
    assert changes(one)["m"].tolist() == [[56, 112]]


def test_stack_through_the_model_equals_its_adapters_one_by_one(
    base: Path, stack: list[Path]
) -> None:
    separate = PeftModel.from_pretrained(plain_base(base), str(stack[0]), adapter_name="a0")
    for number, folder in enumerate(stack[1:], start=1):
        separate.load_adapter(str(folder), adapter_name=f"a{number}")
    separate.base_model.set_adapter([f"a{number}" for number in range(len(stack))])
    together = attach_lora(plain_base(base), LoraSpec(2, 4), stack=stack)
    layout = layout_of_model(together)
    write_parameters(together, layout, initial_state(layout, cycle=1, seed=b"s").theta)
    expected, found = logits(separate), logits(together)
    assert (expected - logits(plain_base(base))).abs().max() > 0.1  # the stack does something
    # logits are about 10: 1e-5 of them is what float32 sums of another order differ by
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert {n for n, p in together.named_parameters() if p.requires_grad} == {
        n for n, _ in together.named_parameters() if ".ares." in n
    }


def test_stack_costs_the_same_number_of_modules_however_many_cycles(
    base: Path, stack: list[Path]
) -> None:
    counts = [
        sum(1 for _ in attach_lora(plain_base(base), LoraSpec(2, 4), stack=stack[:n]).modules())
        for n in (1, 4)
    ]
    # the first adapter has all modules, so one and four of them need the same
    assert counts[0] == counts[1]


def test_saved_stack_is_a_plain_peft_folder(base: Path, stack: list[Path], tmp_path: Path) -> None:
    one = read_stack(stack)
    save_adapter(tmp_path, one.layout, one.vector, spec=one.spec, base_name="tiny")
    spec, layout, vector = load_adapter(tmp_path)
    assert (spec, layout) == (one.spec, one.layout)
    assert np.array_equal(vector, one.vector)
    loaded = PeftModel.from_pretrained(plain_base(base), str(tmp_path))
    ours = attach_lora(plain_base(base), LoraSpec(2, 4), stack=stack)
    layout = layout_of_model(ours)
    write_parameters(ours, layout, initial_state(layout, cycle=1, seed=b"s").theta)
    assert torch.equal(logits(loaded), logits(ours))


def test_adapters_that_do_not_fit_each_other_are_refused(stack: list[Path]) -> None:
    with pytest.raises(ConfigFault, match="no adapter"):
        concatenate([])
    adapter = read_adapter(stack[0])
    shapes = dict(zip(adapter.layout.names, adapter.layout.shapes, strict=True))
    name = next(name for name in shapes if name.endswith("lora_A.weight"))
    shapes[name] = (adapter.spec.rank, 999)
    wider = layout_of_shapes(shapes)
    other = Adapter(adapter.spec, wider, np.zeros(wider.size, dtype=np.float32))
    with pytest.raises(ShapeMismatch, match="999"):
        concatenate([adapter, other])
    for shapes in (
        {"m.lora_A.weight": (1, 2)},
        {"m.lora_A.weight": (1, 2), "m.lora_B.weight": (3, 2)},
        {"m.lora_A.weight": (1, 2), "m.lora_B.weight": (3, 1), "m.bias": (3,)},
    ):
        with pytest.raises(ShapeMismatch):
            module_shapes(layout_of_shapes(shapes))


def test_parameters_are_counted_exactly(base: Path, stack: list[Path]) -> None:
    model = plain_base(base)
    count = count_parameters(base, stack)
    # the tied embedding is stored, and counted, once
    assert count.base == sum(parameter.numel() for parameter in model.parameters())
    assert count.stacked == sum(read_adapter(folder).layout.size for folder in stack)
    assert count.merged == 0
    assert count.effective == count.base + count.stacked
