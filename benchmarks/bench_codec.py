"""Codec against the memory floor: encode and decode, each as a multiple of a copy of the input.

    python benchmarks/bench_codec.py --size 168000000 --output codec.json

Goal (2 bits, one core): both within 3 copies. The vector is Gaussian; `relative_error` is the
length of what the codec loses. Everything runs on one thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ares_p2p.averaging.codec import DEFAULT_BLOCK, decode, encode
from ares_p2p.averaging.vectors import Vector
from ares_p2p.training.layout import layout_of_shapes


def best_seconds(action: Callable[[], object], *, repeats: int) -> float:
    """Return the shortest of `repeats` runs: the one that others disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def copy_seconds(vector: Vector, *, repeats: int) -> float:
    """Return how long a copy of `vector` to memory that is already there takes."""
    copy = np.zeros_like(vector)
    return best_seconds(lambda: np.copyto(copy, vector), repeats=repeats)


def run(size: int, *, widths: list[int], blocks: list[int], repeats: int) -> dict[str, object]:
    """Measure every width and block; return what goes into the JSON."""
    layout = layout_of_shapes({"x": (size,)})
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(size, dtype=np.float32) * np.float32(0.01)
    copy_s = copy_seconds(vector, repeats=repeats)
    rows = []
    for bits in widths:
        for block in blocks:
            name = layout.digest_sha256

            def compress(bits: int = bits, block: int = block, name: bytes = name) -> bytes:
                return encode(vector, bits=bits, block=block, layout_sha256=name)

            data = compress()
            encode_s = best_seconds(compress, repeats=repeats)

            def expand(data: bytes = data, bits: int = bits, block: int = block) -> Vector:
                return decode(data, layout=layout, bits=bits, block=block)

            decode_s = best_seconds(expand, repeats=repeats)
            error = np.linalg.norm(expand() - vector) / np.linalg.norm(vector)
            rows.append(
                {
                    "bits": bits,
                    "block": block,
                    "bytes": len(data),
                    "bits_per_element": 8 * len(data) / size,
                    "relative_error": float(error),
                    "encode_s": encode_s,
                    "decode_s": decode_s,
                    "encode_copies": encode_s / copy_s,
                    "decode_copies": decode_s / copy_s,
                }
            )
    return {
        "benchmark": "codec",
        "machine": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "size": size,
        "copy_s": copy_s,
        "copy_gb_per_s": 4 * size / copy_s / 1e9,
        "results": rows,
    }


def main() -> None:
    """Parse the flags, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20_000_000, help="elements of the vector")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 8])
    parser.add_argument("--block", type=int, nargs="+", default=[DEFAULT_BLOCK])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    flags = parser.parse_args()
    result = run(flags.size, widths=flags.bits, blocks=flags.block, repeats=flags.repeats)
    text = json.dumps(result, indent=2)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
