"""The adapters of many cycles as one: exact, so that cost does not grow with their number.

With A_i of (r_i, in), B_i of (out, r_i) and scale s_i = alpha_i / r_i, the stack changes a weight by

    sum_i s_i B_i A_i  =  [s_1 B_1 | s_2 B_2 | ...] [A_1; A_2; ...]

so the stack is one LoRA adapter of rank sum(r_i), whose own scale is 1 (alpha = rank). Nothing is
approximated; s_i B_i is rounded to float32 once, and not at all where s_i is a power of two. A
module that one of the adapters lacks gets zeros there, so that one rank holds for all modules: that
is what a plain PEFT folder can say.

Numpy only: the coordinator stacks and exports without torch. Source: docs/growth.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ares_p2p.averaging.vectors import FLOAT32, Vector
from ares_p2p.errors import ConfigFault, ShapeMismatch
from ares_p2p.training.layout import Layout, layout_of_shapes
from ares_p2p.training.lora_spec import LoraSpec, load_adapter

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One LoRA adapter in memory.

    Args:
        spec: rank, alpha, targets.
        layout: names in PEFT's naming.
        vector: (layout.size,).
    """

    spec: LoraSpec
    layout: Layout
    vector: Vector

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.spec.alpha / self.spec.rank


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter in a PEFT folder.

    Raises: see `load_adapter`.
    """
    return Adapter(*load_adapter(folder))


def module_shapes(layout: Layout) -> dict[str, tuple[int, int]]:
    """Return the modules that a layout adapts: name in PEFT's naming -> (out, in) of the weight.

    Raises: ShapeMismatch: an A without its B, another tensor, or ranks that differ.
    """
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    modules = {}
    for name, a in shapes.items():
        if not name.endswith(LORA_A):
            continue
        stem = name.removesuffix(LORA_A)
        b = shapes.get(stem + LORA_B, ())
        if len(a) != 2 or len(b) != 2 or b[1] != a[0]:
            raise ShapeMismatch(f"{stem}: A {a} and B {b} are no pair")
        modules[stem] = (b[0], a[1])
    if 2 * len(modules) != len(shapes):
        raise ShapeMismatch("an adapter of pairs of lora_A and lora_B expected")
    return modules


def concatenate(adapters: Sequence[Adapter]) -> Adapter:
    """Return one adapter that changes the base as all of `adapters` together do.

    Args:
        adapters: of one base, oldest first; any ranks, alphas and targets.
    Returns: rank = alpha = the sum of the ranks; the order of the rows of A is that of `adapters`.
    Raises: ConfigFault: no adapter. ShapeMismatch: two of them adapt one module in other shapes.
    """
    if not adapters:
        raise ConfigFault("no adapter to stack")
    modules: dict[str, tuple[int, int]] = {}
    for adapter in adapters:
        for stem, shape in module_shapes(adapter.layout).items():
            if modules.setdefault(stem, shape) != shape:
                raise ShapeMismatch(f"{stem}: {shape} in one adapter, {modules[stem]} in another")
    rank = sum(adapter.spec.rank for adapter in adapters)
    shapes: dict[str, tuple[int, ...]] = {}
    for stem, (fan_out, fan_in) in modules.items():
        shapes[stem + LORA_A] = (rank, fan_in)
        shapes[stem + LORA_B] = (fan_out, rank)
    layout = layout_of_shapes(shapes)
    vector = np.zeros(layout.size, dtype=FLOAT32)
    tensors = layout.split(vector)
    start = 0
    for adapter in adapters:
        rows = slice(start, start + adapter.spec.rank)
        scale = np.float32(adapter.scale)
        for name, tensor in adapter.layout.split(adapter.vector).items():
            if name.endswith(LORA_A):
                tensors[name][rows] = tensor
            else:
                np.multiply(tensor, scale, out=tensors[name][:, rows])
        start = rows.stop
    targets = sorted({target for adapter in adapters for target in adapter.spec.targets})
    return Adapter(LoraSpec(rank, rank, tuple(targets)), layout, vector)


def read_stack(folders: Sequence[Path]) -> Adapter:
    """Return the adapters in `folders`, oldest first, as one.

    Raises: see `read_adapter` and `concatenate`.
    """
    return concatenate([read_adapter(folder) for folder in folders])
