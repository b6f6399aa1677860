"""Codec against the memory floor: encode and decode, each as a multiple of a copy of the input.

    python -m benchmarks.bench_codec --size 168000000 --output codec.json

Goal (2 bits, one core): both within 3 copies. The vector is Gaussian; `relative_error` is the
length of what the codec loses. `encode_steps` makes the difference of two parameter vectors on the
way, as a peer does; `decode_into` writes to memory that is already there, like the copy, `decode` to
a new vector, for which the system clears memory first. Copy, encode and decode are measured in turns, each row with its own copy.
Everything runs on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from functools import partial
from pathlib import Path

import numpy as np

from ares_p2p.averaging.codec import DEFAULT_BLOCK, WIDTHS, decode, encode, open_encoded
from ares_p2p.averaging.vectors import Difference, Vector, parts
from ares_p2p.training.layout import layout_of_shapes
from benchmarks.timing import best_seconds


def run(size: int, *, widths: list[int], blocks: list[int], repeats: int) -> dict[str, object]:
    """Measure every width and block; return what goes into the JSON."""
    layout = layout_of_shapes({"x": (size,)})
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(size, dtype=np.float32) * np.float32(0.01)
    end = -vector
    copy = np.zeros_like(vector)
    rows = []
    for bits in widths:
        for block in blocks:
            pack = partial(encode, bits=bits, block=block, layout_sha256=layout.digest_sha256)
            data = pack(vector)
            unpack = partial(decode, data, layout=layout, bits=bits, block=block)

            def read(bits: int = bits, block: int = block, data: bytes = data) -> None:
                opened = open_encoded(data, layout=layout, bits=bits, block=block)
                for part in parts(size):
                    opened.read(part, copy[part])

            seconds = best_seconds(
                {
                    "copy": partial(np.copyto, copy, vector),
                    "encode": partial(pack, vector),
                    "encode_steps": partial(pack, Difference(vector, end)),
                    "decode": unpack,
                    "decode_into": read,
                },
                repeats=repeats,
            )
            row: dict[str, object] = {
                "bits": bits,
                "block": block,
                "bytes": len(data),
                "bits_per_element": 8 * len(data) / size,
                "relative_error": _relative_error(unpack(), vector),
            }
            row |= {f"{name}_s": value for name, value in seconds.items()}
            copy_s = seconds.pop("copy")
            row |= {f"{name}_copies": value / copy_s for name, value in seconds.items()}
            row["copy_gb_per_s"] = 4 * size / copy_s / 1e9
            rows.append(row)
    return {
        "benchmark": "codec",
        "machine": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "load": os.getloadavg()[
            0
        ],  # processes that wanted a core; above 1 they disturbed each other
        "size": size,
        "repeats": repeats,
        "results": rows,
    }


def _relative_error(decoded: Vector, vector: Vector) -> float:
    lost = sum(float(np.square(decoded[part] - vector[part]).sum()) for part in parts(vector.size))
    whole = sum(float(np.square(vector[part]).sum()) for part in parts(vector.size))
    return float((lost / whole) ** 0.5)


def main() -> None:
    """Parse the flags, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20_000_000, help="elements of the vector")
    parser.add_argument("--bits", type=int, nargs="+", default=list(WIDTHS))
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
