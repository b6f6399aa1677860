"""Aggregate, outer step and state digest against the floor that memory sets.

    python -m benchmarks.bench_aggregate --size 168000000 --encoded-only --output aggregate.json

The floor is the time to read every contribution once and to read and write theta and mu, measured
with copies that do just this; the digest's own floor is sha256 over the snapshot's bytes. Goal
(one core): within 2 floors, digest included. Floors and work are measured in turns. Three ways are measured: from decoded vectors, from
encoded blobs (a tenth of the memory, decoding included), and the coordinator's coefficients.

Decoded contributions take 4 x size x contributions bytes of memory; --encoded-only does without.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ares_p2p.averaging.aggregate import combine, robust_coefficients
from ares_p2p.averaging.codec import encode, open_encoded
from ares_p2p.averaging.vectors import PART_ELEMENTS, Vector, VectorSource, parts
from ares_p2p.ids import CHUNK_BYTES
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.outer import outer_step_
from ares_p2p.training.state import TrainingState, state_digest
from benchmarks.timing import best_seconds


def read_all(vectors: Sequence[Vector]) -> None:
    """Read every element once, through a buffer that stays in the cache."""
    buffer = np.empty(PART_ELEMENTS, dtype=np.float32)
    for part in parts(vectors[0].size):
        for vector in vectors:
            np.copyto(buffer[: part.stop - part.start], vector[part])


def touch(theta: Vector, mu: Vector) -> None:
    """Read and write both vectors once."""
    np.negative(theta, out=theta)
    np.negative(mu, out=mu)


def hash_all(state: TrainingState) -> None:
    """Hash as many bytes as a snapshot has, in chunks, and nothing else."""
    for vector in (state.theta, state.mu):
        view = vector.data.cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            hashlib.sha256(view[start : start + CHUNK_BYTES]).digest()


def run(
    size: int, *, contributions: int, tensors: int, bits: int, repeats: int, encoded_only: bool
) -> dict[str, object]:
    """Measure; return what goes into the JSON."""
    rows = max(1, size // tensors)
    layout = layout_of_shapes({f"tensor{i:05}": (rows,) for i in range(tensors)})
    size = layout.size
    rng = np.random.default_rng(0)
    common = rng.standard_normal(size, dtype=np.float32)
    arrays: list[Vector] = []
    blobs = []
    for _ in range(contributions):
        vector = common + rng.standard_normal(size, dtype=np.float32)
        blobs.append(encode(vector, bits=bits, layout_sha256=layout.digest_sha256))
        if not encoded_only:
            arrays.append(vector)
    theta, mu = common.copy(), np.zeros(size, dtype=np.float32)
    u = np.zeros(size, dtype=np.float32)
    state = TrainingState(1, 1, layout.digest_sha256, theta, mu)
    encoded = [open_encoded(blob, layout=layout, bits=bits) for blob in blobs]

    def advance(vectors: Sequence[Vector | VectorSource]) -> None:
        combine(vectors, [1 / contributions] * contributions, out=u)
        outer_step_(theta, mu, u, lr=0.1, momentum=0.5)

    source = arrays or encoded
    actions: dict[str, Callable[[], object]] = {
        "read": lambda: read_all(arrays or [common]),
        "touch": lambda: touch(theta, mu),
        "hash": lambda: hash_all(state),
        "digest": lambda: state_digest(state),
        "encoded": lambda: advance(encoded),
        "coefficients": lambda: robust_coefficients(source, layout=layout),
    }
    if arrays:
        actions["decoded"] = lambda: advance(arrays)
    measured = best_seconds(actions, repeats=repeats)
    floor_s = measured.pop("read") * (1 if arrays else contributions) + measured.pop("touch")
    hash_floor_s, digest_s = measured.pop("hash"), measured.pop("digest")
    return {
        "benchmark": "aggregate",
        "machine": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "load": os.getloadavg()[
            0
        ],  # processes that wanted a core; above 1 they disturbed each other
        "size": size,
        "contributions": contributions,
        "tensors": tensors,
        "bits": bits,
        "floor_s": floor_s,
        "hash_floor_s": hash_floor_s,
        "digest_s": digest_s,
        "seconds": measured,
        "floors": {name: seconds / floor_s for name, seconds in measured.items()},
        "floors_with_digest": {
            name: (seconds + digest_s) / (floor_s + hash_floor_s)
            for name, seconds in measured.items()
            if name != "coefficients"
        },
    }


def main() -> None:
    """Parse the flags, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_000_000, help="elements of a vector")
    parser.add_argument("--contributions", type=int, default=16)
    parser.add_argument("--tensors", type=int, default=448, help="448: all-linear, 32 layers")
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--encoded-only", action="store_true")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    flags = parser.parse_args()
    result = run(
        flags.size,
        contributions=flags.contributions,
        tensors=flags.tensors,
        bits=flags.bits,
        repeats=flags.repeats,
        encoded_only=flags.encoded_only,
    )
    text = json.dumps(result, indent=2)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
