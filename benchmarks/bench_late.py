"""Work that is one round late: dropped, or carried over at a weight; loss on the toy task.

    python -m benchmarks.bench_late --output late.json

A share of the peers, drawn anew in each round, is late. Their contributions are made from the state
of the round before, so they would count in the next round at a weight of 1, 0.5 or 0.25 beside 1 of
the others. Two kinds: the late peer has a contribution of its own in the next round as well (the
best case for carrying over: it was late by its upload only), or it was busy and has none.
The robust mean judges late contributions beside the others; weights then lower them.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.toy_rounds import (
    SETTINGS,
    Lateness,
    held_out_losses,
    loss_at,
    task_of,
    through_codec,
)

EARLY = 10  # rounds
SHARES = (0.1, 0.3)
WEIGHTS = (1.0, 0.5, 0.25)


def cases() -> list[tuple[str, Lateness]]:
    """Return every way to treat late work, the best case first: nobody late."""
    found = [("nobody is late", Lateness())]
    for share in SHARES:
        found.append(("dropped", Lateness(share)))
        for busy, weight in product((False, True), WEIGHTS):
            found.append(("carried over", Lateness(share, weight, busy)))
    return found


def run(*, rounds: int, peers: int, seeds: int) -> dict[str, object]:
    """Measure every case; return what goes into the JSON."""
    tasks = [task_of(seed) for seed in range(seeds)]
    rows: list[dict[str, object]] = []
    for name, lateness in cases():
        measured = []
        for seed, task in enumerate(tasks):
            send = through_codec(task, bits=SETTINGS.codec_bits)
            losses = held_out_losses(
                task, send, seed=seed, rounds=rounds, peers=peers, lateness=lateness
            )
            measured.append((loss_at(losses, EARLY), loss_at(losses, rounds)))
        early, end = np.array(measured).T
        rows.append(
            {
                "late": lateness.share,
                "treatment": name,
                "weight": lateness.weight,
                "late_peer_misses_next_round": lateness.busy,
                "loss_early": round(float(early.mean()), 4),
                "loss": round(float(end.mean()), 4),
                "loss_by_seed": [round(float(value), 4) for value in end],
            }
        )
    return {
        "benchmark": "late",
        "rounds": rounds,
        "early_rounds": EARLY,
        "peers": peers,
        "seeds": seeds,
        "bits": SETTINGS.codec_bits,
        "results": rows,
    }


def main() -> None:
    """Parse the flags, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peers", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    flags = parser.parse_args()
    result = run(rounds=flags.rounds, peers=flags.peers, seeds=flags.seeds)
    text = json.dumps(result, indent=2)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
