"""The adapter in GGUF, for llama.cpp and Ollama.

A file of type "adapter" holds, for each adapted weight `blk.N.attn_q.weight`, the factors
`....lora_a` (rank, in) and `....lora_b` (out, rank) and one alpha; llama.cpp adds alpha / rank B A.
For the Llama family llama.cpp stores the rows of the query and key projections in another order than
transformers (the halves of a head, as rotary embeddings pair them, become neighbours); those are the
rows of W, so they are the rows of B.

Refuses families whose order of rows was not looked up. Source: GGUF specification, "LoRA"; the
converters of llama.cpp (convert_lora_to_gguf.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ares_coordinator.exports.subject import ExportSubject
from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import BaseDigestMismatch, BaseUnsupported
from ares_p2p.files import naming_full_disk, write_atomically
from ares_p2p.ids import sha256
from ares_p2p.training.lora_spec import NAME_PREFIX
from ares_p2p.training.stack import LORA_A, LORA_B, Adapter, module_shapes

ADAPTER_FILE = "adapter.gguf"
MODELFILE = "Modelfile"
# transformers' model_type -> llama.cpp's architecture, and whether its q and k rows are reordered
FAMILIES: Mapping[str, tuple[str, bool]] = {
    "llama": ("llama", True),
    "mistral": ("llama", True),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
}
_MODELFILE = """\
# {version} of the network {network}: an adapter for {base}.
# Ollama needs the base as GGUF too: convert_hf_to_gguf.py of llama.cpp makes it. Put its file, or the
# name of a model that Ollama already has and that is this very base, after FROM.
FROM ./base.gguf
ADAPTER ./{adapter}
TEMPLATE \"\"\"{{{{- range .Messages }}}}<|im_start|>{{{{ .Role }}}}
{{{{ .Content }}}}<|im_end|>
{{{{ end }}}}<|im_start|>assistant
\"\"\"
PARAMETER stop <|im_end|>
"""


def write_gguf(folder: Path, subject: ExportSubject, adapter: Adapter) -> None:
    """Write `adapter.gguf` and an Ollama `Modelfile` to `folder`.

    Raises: BaseUnsupported: a family that is not known here. BaseDigestMismatch: another base.
        DiskFull.
    """
    raw = (subject.base_folder / "config.json").read_bytes()
    signed = {file.name: file.sha256 for file in subject.base.files}
    if signed.get("config.json") != sha256(raw):
        raise BaseDigestMismatch(f"{subject.base_folder}/config.json is not of the signed base")
    folder.mkdir(parents=True, exist_ok=True)
    write_gguf_adapter(
        folder / ADAPTER_FILE,
        adapter,
        config=json.loads(raw),
        name=f"{subject.network} {subject.version}",
    )
    text = _MODELFILE.format(
        version=subject.version,
        network=subject.network,
        base=subject.base_name,
        adapter=ADAPTER_FILE,
    )
    write_atomically(folder / MODELFILE, text.encode())


def write_gguf_adapter(
    path: Path, adapter: Adapter, *, config: Mapping[str, Any], name: str
) -> None:
    """Write an adapter as GGUF, in float32, complete or not at all.

    Args:
        config: content of the base's `config.json`.
        name: for people.
    Raises: BaseUnsupported: a family or module that is not known here. DiskFull.
    """
    import gguf

    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise BaseUnsupported(
            f"no GGUF for the family {family!r}, only {', '.join(sorted(FAMILIES))}",
            hint="Export the merged model and convert it with llama.cpp's convert_hf_to_gguf.py.",
        )
    architecture, is_reordered = FAMILIES[family]
    heads = int(config["num_attention_heads"])
    heads_of = {"q_proj": heads, "k_proj": int(config.get("num_key_value_heads") or heads)}
    kind = next(k for k, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture)
    names = gguf.get_tensor_name_map(kind, int(config["num_hidden_layers"]))
    tensors = adapter.layout.split(adapter.vector)
    partial = path.with_name(f".{path.name}.part")
    writer = gguf.GGUFWriter(partial, architecture)
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(adapter.spec.alpha))
    for stem in module_shapes(adapter.layout):
        module = stem.removeprefix(NAME_PREFIX)
        target = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if target is None:
            raise BaseUnsupported(f"llama.cpp knows no place for {module} in {architecture}")
        b = tensors[stem + LORA_B]
        count = heads_of.get(module.rpartition(".")[2])
        if is_reordered and count is not None:
            b = interleave_halves(b, heads=count)
        writer.add_tensor(f"{target}.lora_a", np.ascontiguousarray(tensors[stem + LORA_A]))
        writer.add_tensor(f"{target}.lora_b", np.ascontiguousarray(b))
    with naming_full_disk(path):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(partial, path)


def interleave_halves(rows: Vector, *, heads: int) -> Vector:
    """Return the rows as llama.cpp wants them: within each head i, i + d/2 become neighbours.

    Args:
        rows: (heads * d, columns), d even.
        heads: of the projection.
    """
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(rows.shape)
