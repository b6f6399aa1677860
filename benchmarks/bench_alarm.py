"""How far honest rounds are from an alarm, and what a poisoner costs that the mean lets through.

    python -m benchmarks.bench_alarm --rounds 60 --peers 2 3 --output alarm.json

Real rounds on the shipped base, in one process: local steps, codec, robust mean, outer step, and
a look at the same held-out examples after every one. After every few rounds the same round is
played once more with one poisoner beside the honest peers: gradient ascent in the B matrices, as far
as the bounds of a contribution let it, and honest in the A matrices, so that half of the votes are
for it. It is thrown away again; the honest run goes on. The thresholds are those of
`ares_coordinator.alarm.noise`.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
from ares_p2p.domain import CATEGORIES, BaseRef, CycleConfig, Header, Limits
from ares_p2p.ids import PeerId, sha256
from ares_p2p.training.evaluate import example_losses
from ares_p2p.training.lora import write_parameters
from ares_p2p.training.lora_spec import LoraSpec, layout_of_folder
from ares_p2p.training.replica import next_state
from ares_p2p.training.rig import TrainingRig, tokenize_for
from ares_p2p.training.state import TrainingState, initial_state

BASE = Path(__file__).resolve().parent.parent / "data" / "base"
EXAMPLES_PER_CATEGORY = 120
LOOK_AT = 128
REACH_USED = 0.95  # of what local steps can reach: more is refused
LENGTH = 1.4  # of honest work: twice the median is scaled down


@dataclass(slots=True)
class Ground:
    """A loaded base, its peers and its held-out examples."""

    rig: TrainingRig
    peers: list[PeerId]
    poisoner: PeerId
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

    def poison(self, state: TrainingState) -> Vector:
        """Return the poisoner's update."""
        training, layout = self.rig.config.training, self.rig.layout
        sent = self.update(state, self.poisoner, lr=training.inner_lr)
        length = LENGTH * float(np.linalg.norm(sent))
        steps, beta2 = training.max_steps, training.beta2
        reach = REACH_USED * reach_of(steps, lr=training.inner_lr, beta2=beta2)
        ascent = self.update(state, self.poisoner, lr=-2 * training.inner_lr)
        np.clip(ascent, -reach, reach, out=ascent)
        parts = layout.split(ascent)
        for name, tensor in layout.split(sent).items():
            if ".lora_B." in name:
                tensor[...] = parts[name]
        sent *= np.float32(min(1.0, length / float(np.linalg.norm(sent))))
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
    layout = layout_of_folder(BASE, LoraSpec(training.rank, training.alpha, training.targets))
    key = sha256(b"bench alarm %d" % seed)
    config = CycleConfig(
        header=Header("bench", 1, 0, 1, 1),
        base=BaseRef("base", bytes(32), ()),
        stack=(),
        training=training,
        limits=Limits(64, 1 << 20, 1 << 20),
        rounds=1,
        layout_sha256=layout.digest_sha256,
        parameters=layout.size,
        init_seed=key,
        initial_state=bytes(32),
        assignment_key=key,
        seed_anchor=bytes(32),
        dataset_sha256=bytes(32),
        reference_tokens_per_hour=1,
    )
    rig = TrainingRig.load(config, base=BASE, stack=(), examples=rows.train, device="cpu")
    names = [Identity.from_seed(bytes([number]) * 32).peer_id for number in range(peers + 1)]
    return Ground(
        rig,
        names[:-1],
        names[-1],
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
            bad = ground.look(ground.following(state, [*sent, ground.sent(ground.poison(state))]))
            facts = _facts(number, before, bad, contributions=peers + 1)
            mended = is_mended(before, bad, after, contributions=peers)
            poisoned.append({**facts, "mended_without_it": mended})
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
        "poisoned_alarms": sum(one["alarm"] for one in poisoned),
        "poisoned_rounds": len(poisoned),
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
