"""How many parameters a model has: counted from its files, never estimated.

"Effective parameters" are those of the base and of every adapter that was trained for it, merged or
stacked. It is a count of what was trained, not of what the model computes with: a merged adapter
adds nothing to the size of the base, and none of it says that the model is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ares_p2p.errors import BaseUnsupported
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.merge import merged_parameters
from ares_p2p.training.safetensors_stream import read_head, weight_files
from ares_p2p.training.stored_floats import ITEM_BYTES


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Elements of the tensors that are stored; tied weights count once.

    Args:
        base: of the base's files.
        merged: of the adapters that were merged into it, over all its generations.
        stacked: of the adapters on top of it.
    """

    base: int
    merged: int
    stacked: int

    @property
    def effective(self) -> int:
        """All of them."""
        return self.base + self.merged + self.stacked


def count_parameters(base: Path, adapters: Sequence[Path] = ()) -> ParameterCount:
    """Count a model: its base and the adapters on it, from the heads of their files.

    Args:
        base: folder with safetensors.
        adapters: PEFT folders.
    Raises: BaseUnsupported: unreadable, or quantized weights, whose count the files do not say.
        MergeRefused: the base's `merge.json` does not read.
    """
    stored = [tensor for head in weight_files(base).values() for tensor in head.tensors]
    for tensor in stored:
        if tensor.dtype not in (*ITEM_BYTES, "F64"):
            raise BaseUnsupported(
                f"{tensor.name} is stored as {tensor.dtype}: no parameters to count"
            )
    heads = [read_head(folder / "adapter_model.safetensors") for folder in adapters]
    stacked = sum(
        layout_of_shapes({tensor.name: tensor.shape for tensor in head.tensors}).size
        for head in heads
    )
    return ParameterCount(
        sum(tensor.elements for tensor in stored), merged_parameters(base), stacked
    )
