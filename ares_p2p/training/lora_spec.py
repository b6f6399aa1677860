"""What a LoRA adapter looks like, and its plain PEFT files, without torch.

The coordinator and an auditor need the layout (hence the initial state) of an adapter, and export
needs its files; neither needs the model. Names are PEFT's own state-dict names, so an exported
folder loads with `peft.PeftModel.from_pretrained` and nothing of ours.

Refuses: model families whose linear layers it does not know, adapter files with anything but the
plain LoRA tensors of their own configuration.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ares_p2p.averaging.vectors import FLOAT32, Vector, check_finite
from ares_p2p.errors import BaseUnsupported, ConfigFault
from ares_p2p.training.layout import Layout, layout_of_shapes

LINEAR_TARGETS = (
    "down_proj",
    "gate_proj",
    "k_proj",
    "o_proj",
    "q_proj",
    "up_proj",
    "v_proj",
)
# families whose decoder layers have exactly the seven projections above, with these names
KNOWN_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3", "olmo2"})
NAME_PREFIX = "base_model.model."
MAX_CONFIG_BYTES = 65_536  # PEFT writes about 1 kB


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Rank, scale and place of an adapter.

    Args:
        rank: r; the update of a matrix has at most this rank.
        alpha: the update is scaled by alpha / rank.
        targets: last part of the names of the linear layers that get an adapter.
    """

    rank: int
    alpha: int
    targets: tuple[str, ...] = LINEAR_TARGETS


def layout_of_config(config: Mapping[str, object], spec: LoraSpec) -> Layout:
    """Return the adapter's layout from the content of a model's `config.json`.

    Args:
        config: parsed JSON of a known family (`KNOWN_FAMILIES`).
        spec: the adapter.
    Returns: names in PEFT's naming; A is (rank, in_features), B is (out_features, rank).
    Raises: BaseUnsupported: another family, a missing number, or a target that it lacks.
    """
    family = config.get("model_type")
    if family not in KNOWN_FAMILIES:
        raise BaseUnsupported(
            f"model family {family!r}, one of {', '.join(sorted(KNOWN_FAMILIES))} expected"
        )

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or value < 1:
            raise BaseUnsupported(f"config.json: {key} is {value!r}, a positive number expected")
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    head = number("head_dim", hidden // heads)
    wide, narrow = heads * head, number("num_key_value_heads", heads) * head
    inner = number("intermediate_size")
    features = {  # target -> (module, in_features, out_features)
        "q_proj": ("self_attn", hidden, wide),
        "k_proj": ("self_attn", hidden, narrow),
        "v_proj": ("self_attn", hidden, narrow),
        "o_proj": ("self_attn", wide, hidden),
        "gate_proj": ("mlp", hidden, inner),
        "up_proj": ("mlp", hidden, inner),
        "down_proj": ("mlp", inner, hidden),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for target in spec.targets:
        if target not in features:
            raise BaseUnsupported(f"LoRA target {target!r} is none of {sorted(features)}")
        module, fan_in, fan_out = features[target]
        for layer in range(number("num_hidden_layers")):
            stem = f"{NAME_PREFIX}model.layers.{layer}.{module}.{target}"
            shapes[f"{stem}.lora_A.weight"] = (spec.rank, fan_in)
            shapes[f"{stem}.lora_B.weight"] = (fan_out, spec.rank)
    return layout_of_shapes(shapes)


def layout_of_folder(folder: Path, spec: LoraSpec) -> Layout:
    """Return the adapter's layout for the base in `folder`; see `layout_of_config`.

    Raises: BaseUnsupported: no readable config.json, or not of a known family.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BaseUnsupported(f"{folder} holds no readable config.json: {error}") from error
    if not isinstance(config, dict):
        raise BaseUnsupported(f"{folder}/config.json is no JSON object")
    return layout_of_config(config, spec)


def save_adapter(
    folder: Path, layout: Layout, vector: Vector, *, spec: LoraSpec, base_name: str
) -> None:
    """Write `vector` as a plain PEFT adapter folder; the same input gives the same bytes.

    Args:
        folder: created if missing; `adapter_config.json` and `adapter_model.safetensors` in it
            are replaced, each at once.
        layout: of the vector, in PEFT's naming.
        vector: (layout.size,).
        spec: rank, scale, targets.
        base_name: what PEFT shall know as the base model (hub id or folder).
    Raises: ShapeMismatch: vector and layout differ. NonFinite: NaN or infinity in it.
    """
    check_finite(vector, what="adapter")
    tensors = {name: np.ascontiguousarray(t) for name, t in layout.split(vector).items()}
    config = {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": spec.rank,
        "target_modules": sorted(spec.targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file(tensors, f"{weights}.part", metadata={"format": "pt"})
    os.replace(f"{weights}.part", weights)
    part = settings.with_name(f"{settings.name}.part")
    part.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, settings)


def load_adapter(folder: Path) -> tuple[LoraSpec, Layout, Vector]:
    """Read an adapter folder that `save_adapter` (or PEFT, for plain LoRA) wrote.

    Returns: spec, layout, vector (layout.size,).
    Raises: ConfigFault: files missing, unreadable, not plain float32 LoRA. NonFinite.
    """
    spec = load_spec(folder)
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigFault(f"{folder} holds no readable adapter: {error}") from error
    if not tensors or any(tensor.dtype != FLOAT32 for tensor in tensors.values()):
        raise ConfigFault(f"{folder}: float32 tensors expected in adapter_model.safetensors")
    layout = layout_of_shapes({name: tensor.shape for name, tensor in tensors.items()})
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        is_a = name.endswith(".lora_A.weight")
        if not (is_a or name.endswith(".lora_B.weight")) or shape[0 if is_a else -1] != spec.rank:
            raise ConfigFault(f"{folder}: {name} {shape} is no LoRA tensor of rank {spec.rank}")
    vector = layout.join(tensors)
    check_finite(vector, what=f"adapter in {folder}")
    return spec, layout, vector


def load_spec(folder: Path) -> LoraSpec:
    """Return what the configuration of an adapter folder says; the weights are not looked at.

    Raises: ConfigFault: no readable configuration, or not of plain LoRA.
    """
    settings = folder / "adapter_config.json"
    try:
        small = settings.stat().st_size <= MAX_CONFIG_BYTES
        config = json.loads(settings.read_bytes()) if small else None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigFault(f"{folder} holds no readable adapter: {error}") from error
    return _spec_of(config, folder=folder)


def _spec_of(config: object, *, folder: Path) -> LoraSpec:
    """Return the spec inside a PEFT configuration, refusing all that is not plain LoRA."""
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ConfigFault(f"{folder}/adapter_config.json is no LoRA configuration")
    rank, alpha, targets = (config.get(k) for k in ("r", "lora_alpha", "target_modules"))
    if not isinstance(rank, int) or not isinstance(alpha, int) or not isinstance(targets, list):
        raise ConfigFault(f"{folder}: r, lora_alpha and a list of target_modules expected")
    variants = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
    if used := [key for key in variants if config.get(key)]:
        raise ConfigFault(f"{folder}: {', '.join(used)} is not supported")
    return LoraSpec(rank, alpha, tuple(sorted(str(target) for target in targets)))
