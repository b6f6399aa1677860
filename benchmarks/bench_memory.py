"""Peak memory of a peer beyond its training, stage by stage, each in a process of its own.

    python -m benchmarks.bench_memory --size 168000000 --output memory.json

A stage begins with what the peer holds anyway: the state that the round started from (theta and mu),
for encoding also the parameters after the local steps, for the sum the encoded contributions.
`extra` is what the process grew by beyond that at its highest (getrusage, ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ares_p2p.averaging.aggregate import combine
from ares_p2p.averaging.codec import encode, open_encoded
from ares_p2p.averaging.feedback import RESIDUAL_BITS, encode_with_feedback
from ares_p2p.averaging.vectors import Difference, Vector, parts
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.outer import outer_step
from ares_p2p.training.state import TrainingState, encode_snapshot, state_digest

KIB = 1024


def peak_bytes() -> int:
    """Return the highest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def noise(size: int, seed: int) -> Vector:
    """Return Gaussian numbers, made part by part: a temporary would count as a peak."""
    rng, vector = np.random.default_rng(seed), np.empty(size, dtype=np.float32)
    for part in parts(size):
        rng.standard_normal(dtype=np.float32, out=vector[part])
        vector[part] *= np.float32(0.01)
    return vector


def grown(work: Callable[[], object]) -> int:
    """Return by how much the process grew beyond what it had, while and after `work`."""
    before = peak_bytes()
    work()
    return peak_bytes() - before


def encode_2_bits(size: int, _count: int) -> int:
    """Compress the pseudo-gradient straight from the two parameter vectors."""
    start, end = noise(size, 0), noise(size, 1)
    return grown(lambda: encode(Difference(start, end), bits=2, layout_sha256=bytes(32)))


def encode_1_bit_with_feedback(size: int, _count: int) -> int:
    """The same with an earlier residual, read from the disk, and a new one."""
    layout = layout_of_shapes({"x": (size,)})
    start, end = noise(size, 0), noise(size, 1)
    digest = layout.digest_sha256
    earlier = encode(Difference(end, start), bits=RESIDUAL_BITS, layout_sha256=digest)

    def work() -> object:
        return encode_with_feedback(
            Difference(start, end),
            open_encoded(earlier, layout=layout, bits=RESIDUAL_BITS),
            layout=layout,
            residual_sha256=digest,
            reach=1.0,
        )

    return grown(work) + len(earlier)


def contributions(size: int, count: int) -> int:
    """Hold what was fetched, encoded with 2 bits."""
    return count * len(encode(noise(size, 0), bits=2, layout_sha256=bytes(32)))


def aggregate(size: int, count: int) -> int:
    """Sum the contributions, make the outer step, name the new state by its digest."""
    layout = layout_of_shapes({"x": (size,)})
    data = encode(noise(size, 2), bits=2, layout_sha256=layout.digest_sha256)
    vectors = [open_encoded(data, layout=layout, bits=2)] * count
    theta, mu = noise(size, 0), noise(size, 1)

    def work() -> None:
        total = combine(vectors, [1 / count] * count)
        after = outer_step(theta, mu, total, lr=0.8, momentum=0.5)
        state_digest(TrainingState(1, 2, layout.digest_sha256, *after))

    return grown(work)


def snapshot(size: int, _count: int) -> int:
    """Make the snapshot's bytes, which are written to the disk and served."""
    state = TrainingState(1, 2, bytes(32), noise(size, 0), noise(size, 1))
    return grown(lambda: encode_snapshot(state))


STAGES: dict[str, Callable[[int, int], int]] = {
    "encode, 2 bits": encode_2_bits,
    "encode, 1 bit with error feedback": encode_1_bit_with_feedback,
    "contributions held, 2 bits": contributions,
    "aggregate, outer step, digest": aggregate,
    "snapshot's bytes": snapshot,
}


def run(size: int, *, count: int) -> dict[str, object]:
    """Measure every stage; return what goes into the JSON."""
    rows = []
    for name in STAGES:
        command = [sys.executable, "-m", "benchmarks.bench_memory", "--stage", name]
        command += ["--size", str(size), "--contributions", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        extra = int(done.stdout)
        rows.append(
            {
                "stage": name,
                "extra_bytes": extra,
                "extra_bytes_per_parameter": round(extra / size, 3),
                "extra_gb": round(extra / 1e9, 2),
            }
        )
    return {"benchmark": "memory", "size": size, "contributions": count, "results": rows}


def main() -> None:
    """Parse the flags, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20_000_000, help="parameters of the adapter")
    parser.add_argument("--contributions", type=int, default=16)
    parser.add_argument("--stage", choices=STAGES, help="measure one stage in this very process")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    flags = parser.parse_args()
    if flags.stage:
        print(STAGES[flags.stage](flags.size, flags.contributions))
        return
    text = json.dumps(run(flags.size, count=flags.contributions), indent=2)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
