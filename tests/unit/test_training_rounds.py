"""Whole rounds in one process: three peers, four rounds, the same state everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from ares_p2p.averaging.aggregate import combine, robust_coefficients
from ares_p2p.averaging.codec import decode, encode, open_encoded
from ares_p2p.ids import blob_id_of
from ares_p2p.proofs.sketch import compare_updates, judge
from ares_p2p.training.base import BaseSpec, load_base, load_tokenizer
from ares_p2p.training.data import batches, build_dataset
from ares_p2p.training.evaluate import example_losses
from ares_p2p.training.inner import InnerConfig, run_local_steps
from ares_p2p.training.lora import attach_lora, layout_of_model, write_parameters
from ares_p2p.training.lora_spec import LoraSpec
from ares_p2p.training.outer import outer_step, pseudo_gradient
from ares_p2p.training.state import (
    TrainingState,
    decode_snapshot,
    encode_snapshot,
    initial_state,
    state_digest,
)
from tinybase import build_tiny_base, tiny_chats

PEERS, ROUNDS, STEPS, BITS = 3, 4, 8, 2
CONFIG = InnerConfig(lr=0.007, sequence_length=64, sequences_per_step=4)


class Trainer:
    """What one peer, or one auditor, holds."""

    def __init__(self, base: Path, quantization: str = "none") -> None:
        spec = BaseSpec(str(base), quantization, "float32")  # type: ignore[arg-type]
        self.model = attach_lora(load_base(spec), LoraSpec(8, 16))
        self.layout = layout_of_model(self.model)
        self.dataset = build_dataset(load_tokenizer(spec), tiny_chats(600), sequence_length=64)

    def train(self, state: TrainingState, *, peer: int, steps: int = STEPS) -> np.ndarray:
        """Return the uncompressed update of `peer` in the state's round."""
        word = f"{state.round}/{peer}".encode()
        seed = int.from_bytes(hashlib.sha256(word).digest()[:8], "little")
        indices = np.random.default_rng(seed).permutation(len(self.dataset)).tolist()
        result = run_local_steps(
            self.model,
            self.layout,
            start=state.theta,
            batches=batches(self.dataset, indices, sequence_length=64, sequences_per_step=4),
            steps=steps,
            config=CONFIG,
        )
        assert result.steps == steps
        return pseudo_gradient(state.theta, result.theta)

    def compress(self, update: np.ndarray) -> bytes:
        return encode(update, bits=BITS, layout_sha256=self.layout.digest_sha256)

    def advance(self, state: TrainingState, blobs: list[bytes]) -> TrainingState:
        """Return the next state, from what travelled."""
        blobs = sorted(blobs, key=blob_id_of)
        vectors = [open_encoded(blob, layout=self.layout, bits=BITS) for blob in blobs]
        values = [c.value for c in robust_coefficients(vectors, layout=self.layout)]
        u = combine(vectors, values)
        theta, mu = outer_step(state.theta, state.mu, u, lr=1.2, momentum=0.5)
        return TrainingState(state.cycle, state.round + 1, state.layout_sha256, theta, mu)

    def loss(self, state: TrainingState) -> float:
        held_out = build_dataset(
            load_tokenizer(BaseSpec(self.model.config._name_or_path)),
            tiny_chats(40, seed=77),
            sequence_length=64,
        )
        write_parameters(self.model, self.layout, state.theta)
        return example_losses(self.model, held_out).mean


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_tiny_base(folder)
    return folder


def test_three_peers_four_rounds_loss_falls_and_all_replicas_agree(base: Path) -> None:
    trainers = [Trainer(base) for _ in range(PEERS)]
    layout = trainers[0].layout
    states = [initial_state(layout, cycle=1, seed=b"public") for _ in range(PEERS)]
    losses = [trainers[0].loss(states[0])]
    for _ in range(ROUNDS):
        blobs = [
            trainer.compress(trainer.train(state, peer=peer))
            for peer, (trainer, state) in enumerate(zip(trainers, states, strict=True))
        ]
        # each peer receives the blobs in another order
        states = [
            trainer.advance(state, blobs[peer:] + blobs[:peer])
            for peer, (trainer, state) in enumerate(zip(trainers, states, strict=True))
        ]
        assert len({state_digest(state) for state in states}) == 1
        losses.append(trainers[0].loss(states[0]))
    assert losses[-1] < losses[0] - 1.0, losses
    late = decode_snapshot(encode_snapshot(states[0]), layout=layout)  # a late joiner's way in
    assert state_digest(late) == state_digest(states[2])


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_independent_replays_give_equal_bits_and_pass(base: Path, quantization: str) -> None:
    peer, auditor = Trainer(base, quantization), Trainer(base, quantization)
    state = initial_state(peer.layout, cycle=1, seed=b"public")
    blob = peer.compress(peer.train(state, peer=1))
    replayed = auditor.train(state, peer=1)
    assert auditor.compress(replayed) == blob
    own_q = decode(auditor.compress(replayed), layout=auditor.layout, bits=BITS)
    claimed = decode(blob, layout=auditor.layout, bits=BITS)
    comparison = compare_updates(claimed, replayed, own_q=own_q)
    assert (comparison.rho, comparison.cosine_drop) == (0.0, 0.0)
    assert judge(comparison) == "pass"

    for cheat in (
        peer.train(state, peer=2),  # another's examples
        peer.train(state, peer=1, steps=STEPS // 2),  # half the steps
        1000 * replayed,
    ):
        claimed = decode(peer.compress(cheat), layout=auditor.layout, bits=BITS)
        assert judge(compare_updates(claimed, replayed, own_q=own_q)) == "fail"
