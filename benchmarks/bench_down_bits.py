"""What it costs the model to send the sum of a round encoded: held-out loss by bits of a part.

Whole swarms of the simulation (tests/sim: real local steps, codec, robust mean, outer step and
rules on a toy task), honest, equal seeds: once with the exact sum that everybody adds up for
itself, and once for every number of bits that a part may have. Each number is the held-out loss
over the last five rounds, divided by that of the exact sum; mean and spread over the seeds.

With --base the same on the shipped base: real local steps, each number one run of one seed, the
held-out loss every few rounds. It takes about half an hour on one core.
Usage: python -m benchmarks.bench_down_bits [--base] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "coordinator")]

import numpy as np  # noqa: E402

from ares_p2p.averaging.codec import encoded_size_bytes  # noqa: E402
from sim.samples import TRAINING  # noqa: E402
from sim.swarm import Behaviour, Swarm  # noqa: E402

BITS = (2, 3, 4, 8)
PEERS = (4, 16)
SEEDS = (0, 1, 2, 3)
ROUNDS = 40
BIG = 168_000_000  # parameters, for the bytes
BASE_PEERS, BASE_ROUNDS, BASE_LOOK = 4, 30, 5
BASE_BITS = (0, 2, 3, 4)  # 0: the exact sum


def loss(*, peers: int, seed: int, bits: int) -> float:
    """Return the held-out loss of one swarm at its end; 0 bits: the exact sum."""
    people = [Behaviour()] * peers
    return Swarm(people, seed=seed, rounds=ROUNDS, down_bits=bits).run().loss


def base_losses(bits: int) -> list[float]:
    """Return the held-out losses of real rounds on the shipped base, every few rounds."""
    import dataclasses

    from ares_p2p.averaging.aggregate import robust_coefficients
    from ares_p2p.domain import Header, RoundPlan
    from ares_p2p.training.replica import next_state
    from ares_p2p.training.roundsum import parts_of
    from ares_p2p.training.state import initial_state
    from benchmarks.bench_alarm import prepare

    ground = prepare(peers=BASE_PEERS, seed=0)
    layout, config = ground.rig.layout, ground.rig.config
    training = dataclasses.replace(config.training, down_bits=bits)
    state = initial_state(layout, cycle=1, seed=config.init_seed)
    found = []
    for number in range(BASE_ROUNDS):
        sent = [
            ground.sent(ground.update(state, peer, lr=training.inner_lr)) for peer in ground.peers
        ]
        weights = robust_coefficients(sent, layout=layout)
        used = [(vector, one.value) for vector, one in zip(sent, weights, strict=True)]
        header = Header("bench", 1, number, 1, 1)
        split = RoundPlan(header, *[bytes(32)] * 3, 1, 1, 1, 1, 1, 1, 1.0, parts=1 if bits else 0)
        parts = parts_of(layout, plan=split, plan_sha256=bytes(32))
        state = next_state(state, used, training, parts)
        if (number + 1) % BASE_LOOK == 0:
            found.append(round(float(ground.look(state).mean()), 4))
    return found


def main() -> int:
    """Measure, print a table, and store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--base", action="store_true")
    arguments = parser.parse_args()
    if arguments.base:
        runs = {}
        for bits in BASE_BITS:
            runs[str(bits)] = base_losses(bits)
            print(f"{bits} bits:", *runs[str(bits)], flush=True)
        if arguments.output is not None:
            real = {"peers": BASE_PEERS, "every": BASE_LOOK, "held_out_loss": runs}
            arguments.output.write_text(json.dumps(real, indent=1) + "\n", encoding="utf-8")
        return 0
    contribution = encoded_size_bytes(BIG, bits=TRAINING.codec_bits)
    rows = []
    print("peers  bits  loss / exact  spread  sum / contribution")
    for peers in PEERS:
        exact = {seed: loss(peers=peers, seed=seed, bits=0) for seed in SEEDS}
        for bits in BITS:
            ratios = [loss(peers=peers, seed=seed, bits=bits) / exact[seed] for seed in SEEDS]
            size = encoded_size_bytes(BIG, bits=bits) / contribution
            row = {
                "peers": peers,
                "bits": bits,
                "loss_ratio": round(float(np.mean(ratios)), 4),
                "spread": round(float(np.std(ratios)), 4),
                "sum_per_contribution": round(size, 2),
            }
            rows.append(row)
            print(
                f"{peers:5}  {bits:4}  {row['loss_ratio']:12.4f}  {row['spread']:6.4f}  {size:.2f}"
            )
    if arguments.output is not None:
        found = {
            "rounds": ROUNDS,
            "seeds": len(SEEDS),
            "codec_bits": TRAINING.codec_bits,
            "rows": rows,
        }
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
