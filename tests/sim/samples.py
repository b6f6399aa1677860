"""A small, real cycle and an open round of it: for tests of the rules, and for the swarm.

Nothing here is faked: configs and plans pass the checks that peers make, commits are signed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import (
    BaseRef,
    Commit,
    CommitSet,
    CycleConfig,
    Header,
    Limits,
    RoundPlan,
    TrainingConfig,
)
from ares_p2p.ids import Digest, blob_id_of, sha256
from ares_p2p.rounds.assignment import first_example
from ares_p2p.rounds.commits import CommitBook, SignedCommit, open_commit
from ares_p2p.rounds.plan import NO_DIGEST, RoundTimes, build_plan
from ares_p2p.rounds.seedchain import revealed_seed, seed_anchor
from ares_p2p.wire.codec import encode_payload, payload_type_of, seal
from payloads import identity

NETWORK_ID = "sim"
CYCLE = 3
START_MS = 1_900_000_000_000
SECRET = sha256(b"the coordinator's secret")
COORDINATOR = identity(10_000)

TRAINING = TrainingConfig(
    rank=12,
    alpha=12,
    targets=("all",),
    quantization="none",
    compute_dtype="float32",
    gradient_checkpointing=False,
    sequence_length=8,
    sequences_per_step=8,
    min_steps=4,
    max_steps=10,
    inner_lr=0.004,
    beta2=0.99,
    eps=1e-8,
    max_grad_norm=0.0,
    outer_lr=1.2,
    outer_momentum=0.5,
    codec_bits=2,
    codec_block=128,
)
LIMITS = Limits(max_peers_per_round=64, max_blob_bytes=64 * 1024, max_dataset_bytes=1 << 20)


def header(round_number: int = 0, **changes: Any) -> Header:
    """Return a header of the sample's network and cycle."""
    fields = {"seq": round_number + 1, "issued_ms": START_MS, **changes}
    return Header(NETWORK_ID, CYCLE, round_number, **fields)


def cycle_config(**changes: Any) -> CycleConfig:
    """Return the sample cycle: 30 rounds, the coordinator's secret is `SECRET`."""
    rounds = changes.get("rounds", 30)
    config = CycleConfig(
        header=header(),
        base=BaseRef("toy", sha256(b"base"), ()),
        stack=(),
        training=TRAINING,
        limits=LIMITS,
        rounds=rounds,
        layout_sha256=sha256(b"layout"),
        parameters=1000,
        init_seed=sha256(b"init"),
        initial_state=sha256(b"state"),
        assignment_key=sha256(b"assignment"),
        seed_anchor=seed_anchor(SECRET, rounds=rounds),
        dataset_sha256=sha256(b"dataset"),
        reference_tokens_per_hour=1_000_000,
    )
    return dataclasses.replace(config, **changes)


@dataclass(frozen=True, slots=True)
class OpenRound:
    """One open round of a cycle, and what honest people do in it."""

    config: CycleConfig
    plan: RoundPlan
    plan_sha256: Digest
    examples: int

    @property
    def number(self) -> int:
        """Number of the round."""
        return self.plan.header.round

    def book(self) -> CommitBook:
        """Return its empty book."""
        return CommitBook(self.config, self.plan, self.plan_sha256, self.examples)

    def commit(self, who: Identity, **changes: Any) -> Commit:
        """Return the honest commit of `who`, with fields changed."""
        blob = b"work of " + who.public_key
        commit = Commit(
            header=header(self.number),
            plan_sha256=self.plan_sha256,
            state=self.plan.state,
            blob_id=blob_id_of(blob),
            blob_size_bytes=len(blob),
            steps=10,
            tokens=640,
            first_example=first_example(
                self.config.assignment_key,
                round_number=self.number,
                peer=who.peer_id,
                examples=self.examples,
            ),
            previous_commit_sha256=NO_DIGEST,
            mean_loss=2.5,
            device="cpu",
            profile="cpu-float32",
        )
        return dataclasses.replace(commit, **changes)

    def sealed(self, who: Identity, **changes: Any) -> Envelope:
        """Return the honest commit of `who`, with fields changed, signed."""
        return seal(who, self.commit(who, **changes))

    def signed(self, who: Identity, **changes: Any) -> SignedCommit:
        """Return the same, opened."""
        return open_commit(self.sealed(who, **changes), network_id=NETWORK_ID)

    def closed(self, *people: Identity) -> CommitSet:
        """Return the commit set of a round in which `people` committed."""
        book = self.book()
        for who in people:
            book.add(self.sealed(who), now_ms=self.plan.opens_ms + 1)
        seed = revealed_seed(SECRET, rounds=self.config.rounds, round_number=self.number)
        return book.close(header=header(self.number), seed=seed)


def payload_sha256(payload: Any, kind: str) -> Digest:
    """Return the digest by which other payloads refer to `payload`."""
    return Envelope(payload_type_of(kind), encode_payload(payload), b"", b"").payload_sha256


def open_round(number: int = 0, *, examples: int = 500, **changes: Any) -> OpenRound:
    """Return round `number` of the sample cycle; `changes` are of its config."""
    config = cycle_config(**changes)
    config_sha256 = payload_sha256(config, "cycle")
    plan = build_plan(
        header=header(number),
        config=config,
        config_sha256=config_sha256,
        previous_manifest_sha256=NO_DIGEST,
        state=config.initial_state,
        state_size_bytes=100,
        times=RoundTimes(train_s=60.0, serve_s=20.0),
    )
    return OpenRound(config, plan, payload_sha256(plan, "plan"), examples)
