"""How far honest rounds are from an alarm, and what a poisoner costs that the mean lets through.

    python -m benchmarks.bench_alarm --rounds 60 --peers 2 3 --output alarm.json

Real rounds on the shipped base, in one process: local steps, codec, robust mean, outer step, and
a look at the same held-out examples after every one. After every few rounds the same round is
played again with one and with two poisoners beside the honest peers: gradient ascent in the B
matrices, with the honest optimizer and so within its reach, and honest in the A matrices, so that
half of the votes are for it. (Longer ones, and ones cut to the longest that is not clipped, cost
less.) That is thrown away; the honest run goes on. The thresholds are those of
`ares_coordinator.alarm.noise`.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ares_coordinator.alarm.noise import Losses, change_between, is_alarming, is_mended
from ares_coordinator.distiller.pipeline import build_dataset
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_coordinator.evaluation import spread_indices
from ares_coordinator.settings import TrainingSection
from ares_p2p.averaging.aggregate import robust_coefficients
from ares_p2p.averaging.bounds import check_contribution, reach_of
from ares_p2p.averaging.codec import encode, open_encoded
from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import CATEGORIES
from ares_p2p.ids import PeerId
from ares_p2p.training.evaluate import example_losses
from ares_p2p.training.lora import write_parameters
from ares_p2p.training.replica import next_state
from ares_p2p.training.rig import TrainingRig, tokenize_for
from ares_p2p.training.state import TrainingState, initial_state
from benchmarks.shipped_base import load_shipped

EXAMPLES_PER_CATEGORY = 120
LOOK_AT = 128
POISONERS = 2


@dataclass(slots=True)
class Ground:
    """A loaded base, its peers and its held-out examples."""

    rig: TrainingRig
    peers: list[PeerId]
    poisoners: list[PeerId]
    held_out: object
    indices: list[int]

    def look(self, state: TrainingState) -> Losses:
        """Return the losses of the held-out examples."""
        write_parameters(self.rig.model, self.rig.layout, state.theta)
        found = example_losses(self.rig.model, self.held_out, indices=self.indices)  # type: ignore[arg-type]
        return found.per_example[found.tokens > 0]

    def update(self, state: TrainingState, peer: PeerId, *, lr: float) -> Vector:
        """Return what a peer's local steps change, as a gradient."""
        steps = self.rig.config.training.max_steps
        result = self.rig.train(
            state.theta,
            round_number=state.round,
            peer=peer,
            lr=lr,
            min_steps=steps,
            max_steps=steps,
        )
        update: Vector = state.theta - result.theta
        return update

    def sent(self, update: Vector) -> VectorSource:
        """Return an update as it arrives: encoded and checked."""
        training, layout = self.rig.config.training, self.rig.layout
        data = encode(
            update,
            bits=training.codec_bits,
            block=training.codec_block,
            layout_sha256=layout.digest_sha256,
        )
        found = open_encoded(
            data, layout=layout, bits=training.codec_bits, block=training.codec_block
        )
        reach = reach_of(training.max_steps, lr=training.inner_lr, beta2=training.beta2)
        check_contribution(found, size=layout.size, reach=reach)
        return found

    def following(self, state: TrainingState, sent: Sequence[VectorSource]) -> TrainingState:
        """Return the next state, by the robust mean."""
        coefficients = robust_coefficients(sent, layout=self.rig.layout)
        used = [(vector, one.value) for vector, one in zip(sent, coefficients, strict=True)]
        return next_state(state, used, self.rig.config.training)

    def poison(self, state: TrainingState, peer: PeerId) -> Vector:
        """Return a poisoner's update."""
        lr, layout = self.rig.config.training.inner_lr, self.rig.layout
        sent = self.update(state, peer, lr=lr)
        ascent = layout.split(self.update(state, peer, lr=-lr))
        for name, tensor in layout.split(sent).items():
            if ".lora_B." in name:
                tensor[...] = ascent[name]
        return sent


def prepare(*, peers: int, seed: int) -> Ground:
    """Return the ground: data, base, adapter."""
    training = TrainingSection(sequence_length=128, sequences_per_step=4).to_domain()
    rows = build_dataset(
        ProceduralTeacher(),
        counts=dict.fromkeys(CATEGORIES, EXAMPLES_PER_CATEGORY),
        seed=seed,
        on_progress=lambda _: None,
    )
    rig = load_shipped(training, rows.train, key=b"bench alarm %d" % seed)
    seeds = [bytes([number]) * 32 for number in range(peers + POISONERS)]
    names = [Identity.from_seed(one).peer_id for one in seeds]
    return Ground(
        rig,
        names[:peers],
        names[peers:],
        tokenize_for(rig.tokenizer, rows.eval, training),
        spread_indices([example.category for example in rows.eval], LOOK_AT),
    )


def run(*, rounds: int, peers: int, every: int, seed: int) -> dict[str, object]:
    """Measure; return what goes into the JSON."""
    torch.set_num_threads(1)
    ground = prepare(peers=peers, seed=seed)
    config = ground.rig.config
    state = initial_state(ground.rig.layout, cycle=1, seed=config.init_seed)
    before, honest, poisoned = ground.look(state), [], []
    for number in range(rounds):
        lr = config.training.inner_lr
        sent = [ground.sent(ground.update(state, peer, lr=lr)) for peer in ground.peers]
        clean = ground.following(state, sent)
        after = ground.look(clean)
        honest.append(_facts(number, before, after, contributions=peers))
        if (number + 1) % every == 0:
            cheats = [ground.sent(ground.poison(state, peer)) for peer in ground.poisoners]
            for count in range(1, POISONERS + 1):
                bad = ground.look(ground.following(state, [*sent, *cheats[:count]]))
                facts = _facts(number, before, bad, contributions=peers + count)
                mended = is_mended(before, bad, after, contributions=peers)
                poisoned.append({**facts, "poisoners": count, "mended_without": mended})
                print(json.dumps(poisoned[-1]), flush=True)
        print(json.dumps(honest[-1]), flush=True)
        state, before = clean, after
    beyond = [one["share_times_n"] for one in honest if one["sigmas"] > 3]
    return {
        "examples": len(ground.indices),
        "peers": peers,
        "rounds": rounds,
        "honest_alarms": sum(one["alarm"] for one in honest),
        "honest_highest_share_times_n": max((one["share_times_n"] for one in honest), default=0.0),
        "honest_highest_share_times_n_beyond_3_sigmas": max(beyond, default=0.0),
        "poisoned_rounds": len(poisoned) // POISONERS,
        "poisoned_alarms": [
            sum(one["alarm"] for one in poisoned if one["poisoners"] == count)
            for count in range(1, POISONERS + 1)
        ],
        "honest": honest,
        "poisoned": poisoned,
    }


def _facts(number: int, before: Losses, after: Losses, *, contributions: int) -> dict[str, float]:
    change = change_between(before, after)
    return {
        "round": number,
        "loss": round(float(after.mean()), 5),
        "change": round(change.mean, 5),
        "sigmas": round(change.mean / change.standard_error, 2),
        "share_times_n": round(change.mean / float(before.mean()) * contributions, 4),
        "alarm": is_alarming(before, after, contributions=contributions),
    }


def main() -> None:
    """Parse the flags, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 3], help="a run for each")
    parser.add_argument("--every", type=int, default=4, help="rounds between two poisoned ones")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    flags = parser.parse_args()
    result = {
        "benchmark": "alarm",
        "machine": platform.processor() or platform.machine(),
        "base": "data/base",
        "runs": [
            run(rounds=flags.rounds, peers=peers, every=flags.every, seed=flags.seed)
            for peers in flags.peers
        ],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
