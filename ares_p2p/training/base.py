"""Loads the frozen base model: safetensors only, 4-bit or plain, on CPU or GPU.

NF4 with double quantization goes through bitsandbytes on both kinds of device. Nothing that came
with the model is executed: no remote code, no pickles. Dropout is switched off whatever the
model's configuration says, because audits train the same steps again.

Check the files first (`ares_p2p.training.base_files`, which does not import torch).
Source: QLoRA, arXiv:2305.14314.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ares_p2p.errors import BaseUnsupported
from ares_p2p.training.base_files import base_files_digest

Quantization = Literal["nf4", "none"]
ComputeDtype = Literal["float32", "bfloat16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """Which base, and how it is held in memory.

    Args:
        path: a local folder, or a hub id.
        quantization: "nf4" (4 bits, double quantized) or "none".
        compute_dtype: type of activations, and of the weights that are not quantized.
        revision: commit of the hub id; required there, ignored for a folder.
    """

    path: str
    quantization: Quantization = "nf4"
    compute_dtype: ComputeDtype = "bfloat16"
    revision: str | None = None


def load_base(
    spec: BaseSpec, *, device: str = "cpu", gradient_checkpointing: bool = False
) -> PreTrainedModel:
    """Load the base, frozen, without dropout, ready for an adapter.

    Args:
        spec: what to load.
        device: "cpu", "cuda:0" ...
        gradient_checkpointing: recompute activations in the backward pass: about a third more
            time for a fraction of the memory.
    Returns: the model on `device`; no parameter requires a gradient.
    Raises: BaseUnsupported: no safetensors, unknown architecture, no such folder or revision.
    """
    _check_source(spec)
    dtype = _DTYPES[spec.compute_dtype]
    quantization = None
    if spec.quantization == "nf4":
        quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            spec.path,
            revision=spec.revision or "main",
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": device},
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BaseUnsupported(f"base {spec.path} does not load: {error}") from error
    if not isinstance(model, PreTrainedModel):
        raise BaseUnsupported(f"base {spec.path} is no transformers model")
    model.requires_grad_(False)
    model.config.use_cache = False
    _silence_dropout(model)
    if gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


def load_tokenizer(spec: BaseSpec) -> PreTrainedTokenizerBase:
    """Load the base's tokenizer.

    Raises: BaseUnsupported: there is none, or it needs code of its own.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            spec.path, revision=spec.revision or "main", trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise BaseUnsupported(f"tokenizer of {spec.path} does not load: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise BaseUnsupported(f"{spec.path} holds no tokenizer that transformers knows")
    return tokenizer


def _check_source(spec: BaseSpec) -> None:
    """Raise BaseUnsupported for a folder without safetensors, or a hub id without revision."""
    folder = Path(spec.path)
    if folder.is_absolute() or folder.exists():
        base_files_digest(folder)
    elif spec.revision is None:
        raise BaseUnsupported(
            f"{spec.path} is no local folder, and a hub id needs the revision that was signed"
        )


def _silence_dropout(model: nn.Module) -> None:
    """Set every dropout probability to zero: a replay must not depend on random bits."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
