"""Puts a LoRA adapter on a loaded base, and moves flat vectors in and out of it.

The trained adapter is PEFT's own module under the name `ares`. The adapters of earlier cycles lie
frozen and active below it as one, `stack` (`ares_p2p.training.stack`): two products a layer, however
many cycles there were.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from ares_p2p.averaging.vectors import FLOAT32, Vector
from ares_p2p.errors import BaseUnsupported, ShapeMismatch
from ares_p2p.training.layout import Layout, layout_of_shapes
from ares_p2p.training.lora_spec import LoraSpec
from ares_p2p.training.stack import read_stack

ADAPTER = "ares"
STACK = "stack"


def attach_lora(model: PreTrainedModel, spec: LoraSpec, *, stack: Sequence[Path] = ()) -> PeftModel:
    """Put a trainable adapter, and the frozen ones of earlier cycles, on `model`.

    The new adapter's own start (random A, B zero) comes from `write_parameters`; what PEFT drew
    is not public.

    Args:
        model: a frozen base; changed in place.
        spec: the adapter to train.
        stack: folders of earlier adapters, oldest first; checked by the caller's digests.
    Returns: the wrapped model; only the new adapter's parameters require gradients, in float32.
    Raises:
        BaseUnsupported: a target that the model lacks.
        ConfigFault, ShapeMismatch: an earlier adapter that is unreadable or of another model.
    """
    try:
        with _peft_on_transformers_5():
            wrapped = get_peft_model(model, _peft_config(spec), adapter_name=ADAPTER)
    except ValueError as error:
        raise BaseUnsupported(f"LoRA on {', '.join(spec.targets)}: {error}") from error
    if not isinstance(wrapped, PeftModel):
        raise BaseUnsupported("PEFT returned another model than a PeftModel")
    if stack:
        earlier = read_stack(stack)
        with _peft_on_transformers_5():
            wrapped.add_adapter(STACK, _peft_config(earlier.spec))
        write_parameters(wrapped, earlier.layout, earlier.vector, adapter=STACK)
        tuner = wrapped.base_model
        if not isinstance(tuner, LoraModel):
            raise BaseUnsupported("PEFT made another adapter than LoRA")
        tuner.set_adapter([STACK, ADAPTER])
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(f".{ADAPTER}." in name)
    wrapped.eval()
    return wrapped


def layout_of_model(model: PeftModel) -> Layout:
    """Return the layout of the trained adapter of `model`."""
    return layout_of_shapes({name: tuple(p.shape) for name, p in _adapter_parameters(model)})


def trainable_parameters(model: PeftModel, layout: Layout) -> list[nn.Parameter]:
    """Return the trained adapter's parameters in the layout's order.

    Raises: ShapeMismatch: the model's adapter is not of this layout.
    """
    return _ordered(model, layout, adapter=ADAPTER)


def write_parameters(
    model: PeftModel, layout: Layout, vector: Vector, *, adapter: str = ADAPTER
) -> None:
    """Copy `vector` into the adapter's parameters, on whatever device they are.

    Args:
        model: with an adapter attached.
        layout: of the vector and of the adapter.
        vector: (layout.size,).
        adapter: PEFT's name of the adapter.
    Raises: ShapeMismatch: model, layout and vector differ.
    """
    parameters = _ordered(model, layout, adapter=adapter)
    with torch.no_grad():
        for parameter, view in zip(parameters, layout.split(vector).values(), strict=True):
            parameter.copy_(torch.tensor(view))


def read_parameters(model: PeftModel, layout: Layout) -> Vector:
    """Return the trained adapter's parameters as a new vector, (layout.size,).

    Raises: ShapeMismatch: model and layout differ.
    """
    parameters = trainable_parameters(model, layout)
    vector = np.empty(layout.size, dtype=FLOAT32)
    for parameter, view in zip(parameters, layout.split(vector).values(), strict=True):
        view[...] = parameter.detach().cpu().numpy()
    return vector


@contextmanager
def _peft_on_transformers_5() -> Iterator[None]:
    """Silence a deprecation that concerns PEFT 0.21 itself: it asks for a renamed attribute."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def _peft_config(spec: LoraSpec) -> LoraConfig:
    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=list(spec.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _adapter_parameters(
    model: PeftModel, *, adapter: str = ADAPTER
) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield `(name in PEFT's files, parameter)`: the files omit the adapter's own name."""
    for name, parameter in model.named_parameters():
        if f".{adapter}." in name:
            yield name.replace(f".{adapter}.", "."), parameter


def _ordered(model: PeftModel, layout: Layout, *, adapter: str) -> list[nn.Parameter]:
    found = dict(_adapter_parameters(model, adapter=adapter))
    if found.keys() != set(layout.names):
        foreign = sorted(found.keys() ^ set(layout.names))[:3]
        raise ShapeMismatch(f"adapter {adapter!r} and layout differ in names: {foreign} ...")
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        if tuple(found[name].shape) != shape:
            raise ShapeMismatch(f"{name}: {tuple(found[name].shape)}, {shape} expected")
    return [found[name] for name in layout.names]
