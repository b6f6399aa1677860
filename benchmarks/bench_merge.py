"""Memory and speed of merging a base larger than what a merge may hold, in a process of its own.

    python -m benchmarks.bench_merge --gigabytes 2 --output merge.json

Makes a synthetic base (bfloat16, Llama's names, one shard for every `--shard-mb`) and a stack, merges
in a child process and reads the child's peak resident memory (getrusage, ru_maxrss): all of it,
interpreter and numpy included. The bound is 1.5 times the largest shard.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.lora_spec import LoraSpec, save_adapter

HIDDEN, INNER = 4096, 11008  # of a 7B Llama
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
BF16_BYTES = 2
CHILD = """
import json, resource, sys, time
from pathlib import Path
from ares_p2p.training.merge import merge_base

base, out, *adapters = map(Path, sys.argv[1:])
start = time.perf_counter()
merged = merge_base(base, adapters, out)
print(json.dumps({
    "seconds": round(time.perf_counter() - start, 2),
    "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
    "digest": merged.files.digest_sha256.hex(),
}))
"""


def write_shard(path: Path, tensors: dict[str, tuple[int, int]], *, seed: int) -> None:
    """Write random bfloat16 tensors block by block, without holding one of them."""
    header, start = {}, 0
    for name, shape in tensors.items():
        size = shape[0] * shape[1] * BF16_BYTES
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for rows, columns in tensors.values():
            for _ in range(rows // 256):
                block = rng.standard_normal((256, columns), dtype=np.float32) * np.float32(0.02)
                file.write((block.view("<u4") >> 16).astype("<u2").tobytes())


def write_base(folder: Path, *, size_bytes: int, shard_bytes: int) -> int:
    """Write the base; return its number of layers."""
    folder.mkdir()
    layer_bytes = sum(a * b for a, b in MODULES.values()) * BF16_BYTES
    layers = max(1, round(size_bytes / layer_bytes))
    shards: list[dict[str, tuple[int, int]]] = [{}]
    filled = 0
    for layer in range(layers):
        for module, shape in MODULES.items():
            size = shape[0] * shape[1] * BF16_BYTES
            if filled + size > shard_bytes and shards[-1]:
                shards.append({})
                filled = 0
            shards[-1][f"model.layers.{layer}.{module}.weight"] = shape
            filled += size
    for number, tensors in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, tensors, seed=number)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return layers


def write_adapter(folder: Path, *, layers: int, rank: int, seed: int) -> None:
    """Write an adapter on every linear layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for module, (fan_out, fan_in) in MODULES.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            shapes[f"{stem}.lora_A.weight"] = (rank, fan_in)
            shapes[f"{stem}.lora_B.weight"] = (fan_out, rank)
    layout = layout_of_shapes(shapes)
    vector = np.random.default_rng(seed).standard_normal(layout.size, dtype=np.float32)
    vector *= np.float32(0.01)
    targets = tuple(sorted(module.partition(".")[2] for module in MODULES))
    save_adapter(folder, layout, vector, spec=LoraSpec(rank, rank, targets), base_name="synthetic")


def main() -> None:
    """Make, merge, measure, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--shard-mb", type=int, default=500)
    parser.add_argument("--adapters", type=int, default=10)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder without it")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="ares-merge-", dir=options.folder))
    try:
        base = root / "base"
        layers = write_base(
            base,
            size_bytes=int(options.gigabytes * 1e9),
            shard_bytes=options.shard_mb * 1_000_000,
        )
        adapters = [root / f"adapter-{number}" for number in range(options.adapters)]
        for number, folder in enumerate(adapters):
            write_adapter(folder, layers=layers, rank=options.rank, seed=number)
        sizes = [path.stat().st_size for path in base.glob("*.safetensors")]
        runs = []
        for threads in (1, 2):
            out = root / f"out-{threads}"
            command = [sys.executable, "-c", CHILD, *map(str, (base, out, *adapters))]
            count = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
            began = time.perf_counter()
            done = subprocess.run(
                command, env={**os.environ, **count}, check=True, stdout=subprocess.PIPE, text=True
            )
            run = {"threads": threads, **json.loads(done.stdout)}
            run["mb_per_s"] = round(sum(sizes) / 1e6 / run["seconds"], 1)
            print(run, f"({time.perf_counter() - began:.1f} s with the start)", flush=True)
            runs.append(run)
            shutil.rmtree(out)
        result = {
            "base_mb": round(sum(sizes) / 1e6, 1),
            "largest_shard_mb": round(max(sizes) / 1e6, 1),
            "bound_mb": round(1.5 * max(sizes) / 1e6, 1),
            "shards": len(sizes),
            "adapters": options.adapters,
            "rank": options.rank,
            "within_bound": all(run["peak_mb"] * 1e6 < 1.5 * max(sizes) for run in runs),
            "same_digest": len({run["digest"] for run in runs}) == 1,
            "runs": runs,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
    finally:
        shutil.rmtree(root)
    text = json.dumps(result, indent=1)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
