"""A peer that cheats: the real session with one lie a round, run as a process of its own.

    python hostile_peer.py ATTACK,ATTACK join INVITE --data-dir D ...   (options as of ares-peer)

Everything but the lie is the real code, so the attack arrives the way a real one would.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID

from ares_p2p.averaging.codec import _HEADER, encode
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import Commit, CommitSet, CycleConfig
from ares_p2p.errors import AresError
from ares_p2p.network.record_keys import RecordKey, key_of_kind
from ares_p2p.network.record_rules import encode_stored_envelope
from ares_p2p.training.inner import LocalResult
from ares_p2p.training.replay import Claim, forge_contribution
from ares_p2p.wire.codec import decode_envelope, seal
from ares_peer import trainer
from ares_peer.events import CommitSent, ErrorRaised
from ares_peer.roundwork import RoundWork
from ares_peer.session import Session
from ares_peer.settings import TrainerSettings


class NanWork(RoundWork):
    """Sends block steps that are NaN."""

    def make_contribution(self, result: LocalResult) -> bytes:
        data = bytearray(RoundWork.make_contribution(self, result))
        steps = slice(_HEADER.size, _HEADER.size + 8)  # a frame begins with its block steps
        data[steps] = np.full(4, np.nan, dtype="<f2").tobytes()
        return bytes(data)


class FlipWork(RoundWork):
    """Sends the opposite of its update; ten times that is refused for its size alone."""

    def make_contribution(self, result: LocalResult) -> bytes:
        training = self.config.training
        return encode(
            result.theta - self.state.theta,
            bits=training.codec_bits,
            block=training.codec_block,
            layout_sha256=self.bound_layout(self.peer).digest_sha256,
        )


class HalfWork(RoundWork):
    """Makes half of the steps and claims all of them."""

    def make_contribution(self, result: LocalResult) -> bytes:
        claim = Claim(self.peer, self.plan_sha256, result.steps, self.plan.inner_lr)
        training = self.config.training
        return forge_contribution(self.rig, claim, start=self.state, training=training).data


class PoisonWork(RoundWork):
    """Goes up the loss in the B matrices, and is honest in the A matrices.

    Half of the tensors vote for it and it is as long as honest work: the mean lets it through.
    """

    def make_contribution(self, result: LocalResult) -> bytes:
        training, layout = self.config.training, self.rig.layout
        ascended = self.rig.train(
            self.state.theta,
            round_number=self.plan.header.round,
            peer=self.peer,
            lr=-self.plan.inner_lr,
            min_steps=result.steps,
            max_steps=result.steps,
        )
        sent = self.state.theta - result.theta
        poison = layout.split(self.state.theta - ascended.theta)
        for name, tensor in layout.split(sent).items():
            if ".lora_B." in name:
                tensor[...] = poison[name]
        return encode(
            sent,
            bits=training.codec_bits,
            block=training.codec_block,
            layout_sha256=self.bound_layout(self.peer).digest_sha256,
        )


class ReplayWork(RoundWork):
    """Hands in its commit of the round before, again."""

    async def _submit(self, commit: Commit) -> Commit | None:
        for envelope in await _commits_before(self):
            if envelope.signer == self.peer:
                return await _hand_in(self, commit, envelope)
        raise AssertionError("no commit of an earlier round to replay")


class ForgeWork(RoundWork):
    """Speaks for another peer: the victim's key, its own signature."""

    async def _submit(self, commit: Commit) -> Commit | None:
        others = [e.public_key for e in await _commits_before(self) if e.signer != self.peer]
        victim = others[0] if others else self.links.identity.public_key
        own = seal(self.links.identity, commit)
        forged = Envelope(own.payload_type, own.payload, victim, own.signature[:-1] + b"\0")
        return await _hand_in(self, commit, forged)


class NoBlobWork(RoundWork):
    """Commits to a blob that nobody ever gets."""

    async def _submit(self, commit: Commit) -> Commit | None:
        kept = await RoundWork._submit(self, commit)
        self.links.blobs.store.delete(commit.blob_id)
        return kept


class OverwriteWork(RoundWork):
    """Writes its own cycle record over the coordinator's, past its own node's checks."""

    async def _submit(self, commit: Commit) -> Commit | None:
        header = replace(self.config.header, seq=self.config.header.seq + 1_000_000)
        forged = seal(self.links.identity, replace(self.config, header=header, rounds=1))
        key = key_of_kind(CycleConfig, network_id=self.links.network_id)
        expiration_s = time.time() + 3500.0
        value = encode_stored_envelope(
            forged,
            RecordKey(key),
            publisher=self.links.identity,
            expiration_s=expiration_s,
        )
        way = self.links.records._records._ways.any_p2p
        node = way.records._transport._node  # past everything that would refuse it here
        store = functools.partial(
            _store_at, peer=self.links.coordinator, key=key, value=value, expiration_s=expiration_s
        )
        stored = await node.run_in_dht(store, timeout_s=10.0)
        self.emit(ErrorRaised("HOSTILE", f"the coordinator's node stored the forgery: {stored}"))
        return await RoundWork._submit(self, commit)


async def _store_at(
    _dht: Any, node: Any, *, peer: str, key: str, value: bytes, expiration_s: float
) -> bool:
    """Runs in the DHT process: ask one node, whether near the key or not, to store a value."""
    data = node.protocol.serializer.dumps(value)
    answer = await node.protocol.call_store(
        PeerID.from_base58(peer), [DHTID.generate(key)], [data], expiration_s
    )
    return bool(answer and answer[0])


async def _commits_before(work: RoundWork) -> list[Envelope]:
    """Return the commits of the round before this one."""
    cycle, number = work.config.header.cycle, work.plan.header.round - 1
    closed = await work.links.records.fetch(CommitSet, cycle=cycle, round=max(0, number))
    if number < 0 or closed is None:
        return []
    return [decode_envelope(data) for data in closed.payload.commits]


async def _hand_in(work: RoundWork, commit: Commit, envelope: Envelope) -> Commit | None:
    """Submit an envelope as it is and report the answer."""
    place = (commit.header.cycle, commit.header.round, commit.steps, commit.tokens)
    digest = envelope.payload_sha256.hex()
    try:
        await work.links.control.submit(envelope, to=work.links.coordinator, timeout_s=5.0)
    except AresError as fault:
        work.emit(CommitSent(*place, digest, False, fault.code, fault.message))
        return None
    work.emit(CommitSent(*place, digest, True))
    return commit


ATTACKS: dict[str, type[RoundWork]] = {
    "nan": NanWork,
    "flip": FlipWork,
    "half": HalfWork,
    "replay": ReplayWork,
    "forge": ForgeWork,
    "no-blob": NoBlobWork,
    "overwrite": OverwriteWork,
    "poison": PoisonWork,
    "none": RoundWork,  # honest for a round
}


def main() -> None:
    """Be the trainer process of a cheating peer; there is no supervisor above it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("attacks", help="one for each round, with commas between")
    parser.add_argument("join")
    parser.add_argument("invite")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--exit-after-cycle", action="store_true")
    parser.add_argument("--json", action="store_true", help="it always does")
    options = parser.parse_args()
    options.data_dir.mkdir(parents=True, exist_ok=True)
    settings = TrainerSettings(
        data_dir=options.data_dir,
        invite=options.invite,
        host=options.host,
        device=options.device,
        threads=options.threads,
        exit_after_cycle=options.exit_after_cycle,
    )
    sys.stdin = io.StringIO(settings.to_json_line().decode())
    attacks = options.attacks.split(",")

    def work_of_round(**fields: Any) -> RoundWork:
        return ATTACKS[attacks[fields["plan"].header.round % len(attacks)]](**fields)

    Session.round_work = staticmethod(work_of_round)
    code = trainer.main()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
