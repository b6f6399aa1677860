"""How far replicas drift apart when each keeps a rounding of its own, as hivemind's average does.

    python -m benchmarks.bench_averaging_drift --output averaging_drift.json

`differences` is what hivemind 1.1.12 sends back: the average less what that one sent, in float16.
`average` is what `ares_p2p.averaging.allreduce_runner` sends: the average in float16. hivemind's own
compression does the rounding in both. The updates are drawn (normal, with a common direction);
the outer step is the network's. Distances are those of the two replicas that are furthest apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from hivemind.compression import CompressionInfo, Float16Compression, deserialize_torch_tensor

from ares_p2p.averaging.vectors import Vector
from ares_p2p.training.outer import outer_step_

SIZE = 100_000
COSINE = 0.3  # of two updates; a round of the toy task has about as much
SCALE = 3e-3  # of an update's numbers
OUTER_LR, MOMENTUM = 0.8, 0.5
ROUNDS = 60


def half(vector: Vector) -> Vector:
    """Return what arrives of a vector that hivemind sends in float16."""
    tensor = torch.from_numpy(vector)
    sent = Float16Compression().compress(tensor, CompressionInfo.from_tensor(tensor))
    arrived: Vector = deserialize_torch_tensor(sent).numpy()
    return arrived


def averages(updates: list[Vector], *, way: str) -> list[Vector]:
    """Return what each member holds as the average."""
    average = np.mean([half(update) for update in updates], axis=0, dtype=np.float32)
    if way == "average":
        return [half(average)] * len(updates)
    return [update + half(average - update) for update in updates]


def furthest(vectors: list[Vector]) -> float:
    """Return the largest distance between two vectors."""
    pairs = itertools.combinations(vectors, 2)
    return max((float(np.linalg.norm(one - two)) for one, two in pairs), default=0.0)


def drift(*, peers: int, way: str, rounds: int, seed: int) -> dict[str, object]:
    """Return the distance of the replicas after the first round and after the last."""
    random = np.random.default_rng(seed)
    common = random.standard_normal(SIZE, dtype=np.float32)
    thetas = [np.zeros(SIZE, dtype=np.float32) for _ in range(peers)]
    momenta = [np.zeros(SIZE, dtype=np.float32) for _ in range(peers)]
    first = 0.0
    for number in range(rounds):
        own = random.standard_normal((peers, SIZE), dtype=np.float32)
        mixed = np.float32(COSINE**0.5) * common + np.float32((1 - COSINE) ** 0.5) * own
        held = averages(list(np.float32(SCALE) * mixed), way=way)
        if number == 0:
            first = furthest(held) / float(np.linalg.norm(held[0]))
        for theta, mu, total in zip(thetas, momenta, held, strict=True):
            outer_step_(theta, mu, total, lr=OUTER_LR, momentum=MOMENTUM)
    moved = float(np.linalg.norm(thetas[0]))
    return {
        "peers": peers,
        "sent_back": way,
        "first_round_of_sum": first,
        "last_round_of_movement": furthest(thetas) / moved,
        "last_round_absolute": furthest(thetas),
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    rows = [
        drift(peers=peers, way=way, rounds=arguments.rounds, seed=0)
        for peers in (3, 8, 16)
        for way in ("differences", "average")
    ]
    for row in rows:
        print(
            f"{row['peers']:>2} peers, {row['sent_back']:<11}: {row['first_round_of_sum']:.2e} of the "
            f"sum after one round, {row['last_round_of_movement']:.2e} of the movement after the last"
        )
    found = {"benchmark": "averaging_drift", "rounds": arguments.rounds, "results": rows}
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
