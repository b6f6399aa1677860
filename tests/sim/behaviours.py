"""How peers behave: the honest in good and bad days, and the attackers of the protocol's list.

`docs/attacks.md` says which of them is what attack, and what stops it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ares_p2p.averaging.vectors import PART_ELEMENTS, Vector, VectorSource, parts, read_part
from ares_p2p.crypto.envelope import Envelope, sign_payload
from ares_p2p.domain import Commit, RoundPlan
from ares_p2p.errors import BlobUnavailable
from ares_p2p.ids import PeerId
from ares_p2p.rounds.commits import open_commit
from ares_p2p.training.state import TrainingState
from ares_p2p.wire.codec import encode_envelope, seal
from ares_p2p.wire.v1 import ares_pb2 as pb
from payloads import identity
from sim.samples import LIMITS, NETWORK_ID
from sim.swarm import Behaviour, Message, Peer, Round, fetch_contribution
from sim.task import Labels, Task

_CODEC_HEAD_BYTES = 56  # of the contribution's format; the first block's step follows


# --- honest -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LateJoiner(Behaviour):
    """Comes when the cycle is under way."""

    joins: int

    def is_present(self, round_number: int) -> bool:
        return round_number >= self.joins


@dataclass(frozen=True)
class Crasher(Behaviour):
    """Dies after its commit, and comes back later with the old state on its disk."""

    dies: int
    returns: int

    def is_present(self, round_number: int) -> bool:
        return not self.dies < round_number < self.returns

    def dies_before_serving(self, round_number: int) -> bool:
        return round_number == self.dies


class Slow(Behaviour):
    """Makes as many steps as fit."""

    def steps(self, plan: RoundPlan) -> int:
        return plan.min_steps


# --- contributions that are lies ---------------------------------------------------------------


class Zero(Behaviour):
    """Works for nothing: an update of zeros."""

    def update(self, gradient: Vector, peer: Peer, round_: Round) -> Vector:
        return np.zeros_like(gradient)


@dataclass(frozen=True)
class Noise(Behaviour):
    """Random numbers, `factor` times as long as honest work."""

    factor: float

    def update(self, gradient: Vector, peer: Peer, round_: Round) -> Vector:
        noise = peer.rng.standard_normal(gradient.size, dtype=np.float32)
        scale = self.factor * np.linalg.norm(gradient) / np.linalg.norm(noise)
        vector: Vector = noise * np.float32(scale)
        return vector


@dataclass(frozen=True)
class Scaled(Behaviour):
    """Honest work times a factor; a negative one is the sign flip. Cut to what the codec carries."""

    factor: float

    def update(self, gradient: Vector, peer: Peer, round_: Round) -> Vector:
        scaled: Vector = np.clip(np.float32(self.factor) * gradient, -60_000, 60_000)
        return scaled


@dataclass
class Crowd:
    """Attackers who know each other's honest work of a round, as everybody could compute it."""

    members: tuple[PeerId, ...]
    _round: int = -1
    _work: tuple[Vector, ...] = ()

    def work(self, peer: Peer, round_: Round) -> tuple[Vector, ...]:
        """Return the members' honest pseudo-gradients."""
        if self._round != round_.number:
            world, state = peer.world, peer.state
            assert state is not None
            ends = [
                world.task.local_steps(
                    state.theta,
                    world.assigned(member, round_number=round_.number),
                    steps=round_.plan.max_steps,
                    lr=round_.plan.inner_lr,
                    training=world.training,
                    labels=world.task.labels,
                )[0]
                for member in self.members
            ]
            self._round = round_.number
            self._work = tuple(state.theta - end for end in ends)
        return self._work


@dataclass(frozen=True)
class ColludingFlip(Behaviour):
    """All of a crowd send the very same flipped vector, so that they support each other."""

    crowd: Crowd
    factor: float = 1.0

    def update(self, gradient: Vector, peer: Peer, round_: Round) -> Vector:
        flipped: Vector = np.float32(-self.factor) * self.crowd.work(peer, round_)[0]
        return flipped


@dataclass(frozen=True)
class LittleIsEnough(Behaviour):
    """The crowd's mean, moved `deviations` standard deviations against its sign, by element.

    Source: "A Little Is Enough", Baruch et al., arXiv:1902.06156.
    """

    crowd: Crowd
    deviations: float = 1.0

    def update(self, gradient: Vector, peer: Peer, round_: Round) -> Vector:
        work = np.stack(self.crowd.work(peer, round_))
        mean, deviation = work.mean(axis=0), work.std(axis=0)
        if len(work) == 1:
            deviation = np.abs(mean)
        moved: Vector = mean - np.float32(self.deviations) * np.sign(mean) * deviation
        return moved


@dataclass(frozen=True)
class InnerProduct(Behaviour):
    """The crowd's mean, short and against it: hard to see, and it slows the round.

    Source: "Fall of Empires", Xie et al., arXiv:1903.03936.
    """

    crowd: Crowd
    factor: float = 0.3

    def update(self, gradient: Vector, peer: Peer, round_: Round) -> Vector:
        mean = np.stack(self.crowd.work(peer, round_)).mean(axis=0)
        against: Vector = np.float32(-self.factor) * mean
        return against


class LabelFlip(Behaviour):
    """Honest steps on labels turned around, the same way by the whole crowd."""

    def labels(self, task: Task) -> Labels:
        return task.classes - 1 - task.labels


# --- work that was not done --------------------------------------------------------------------


class HalfTheSteps(Behaviour):
    """Makes half of the steps and declares all of them."""

    def steps(self, plan: RoundPlan) -> int:
        return plan.max_steps // 2

    def commit(self, commit: Commit, peer: Peer) -> Commit:
        steps = peer.world.training.max_steps
        return dataclasses.replace(
            commit, steps=steps, tokens=commit.tokens * steps // commit.steps
        )


@dataclass
class StaleWork(Behaviour):
    """Trains from the state of the round before, and says that it was this one's."""

    before: Vector | None = None

    def start(self, state: TrainingState, peer: Peer) -> Vector:
        theta, self.before = self.before, state.theta
        return state.theta if theta is None else theta


@dataclass(frozen=True)
class OtherShard(Behaviour):
    """Trains on another peer's examples, which it might have at hand."""

    whose: PeerId

    def data_of(self, peer: Peer) -> PeerId:
        return self.whose


@dataclass(frozen=True)
class CopiesTheLastRound(Behaviour):
    """Sends what another one sent in the round before: that blob everybody may fetch."""

    victim: PeerId

    def update(self, gradient: Vector, peer: Peer, round_: Round) -> Vector:
        for envelope in reversed(peer.world.board):
            if envelope.signer != self.victim:
                continue
            signed = open_commit(envelope, network_id=NETWORK_ID)
            if signed.commit.header.round < round_.number:
                return _decoded(fetch_contribution(signed, peer.world))
        return gradient


@dataclass(frozen=True)
class Sleeper(Behaviour):
    """Works honestly until the lottery seldom draws it, then sends noise of honest length."""

    wakes: int

    def update(self, gradient: Vector, peer: Peer, round_: Round) -> Vector:
        if round_.number < self.wakes:
            return gradient
        return Noise(1.0).update(gradient, peer, round_)


@dataclass(frozen=True)
class FreshFake(Noise):
    """A new identity for one round: it sends noise as long as work, and is never seen again."""

    comes: int = 0

    def is_present(self, round_number: int) -> bool:
        return round_number == self.comes


def _decoded(source: VectorSource) -> Vector:
    vector = np.empty(source.size, dtype=np.float32)
    for part in parts(source.size):
        vector[part] = read_part(source, part, np.empty(PART_ELEMENTS, dtype=np.float32))
    return vector


# --- blobs that are none -----------------------------------------------------------------------


class NanBlob(Behaviour):
    """The first block's step is NaN."""

    def blob(self, data: bytes, peer: Peer) -> bytes:
        return data[:_CODEC_HEAD_BYTES] + b"\x00\x7e" + data[_CODEC_HEAD_BYTES + 2 :]


class WrongShape(Behaviour):
    """The blob of a layout with one element more."""

    def blob(self, data: bytes, peer: Peer) -> bytes:
        size = peer.world.task.layout.size + 1
        return data[:16] + size.to_bytes(8, "little") + data[24:]


class Truncated(Behaviour):
    """The last byte is missing."""

    def blob(self, data: bytes, peer: Peer) -> bytes:
        return data[:-1]


class Garbage(Behaviour):
    """Bytes that never were a contribution."""

    def blob(self, data: bytes, peer: Peer) -> bytes:
        return peer.rng.bytes(len(data))


class Trailing(Behaviour):
    """A contribution with something after it."""

    def blob(self, data: bytes, peer: Peer) -> bytes:
        return data + b"\0"


class OversizeBlob(Behaviour):
    """More bytes than the network allows, and says so."""

    def blob(self, data: bytes, peer: Peer) -> bytes:
        return data + bytes(LIMITS.max_blob_bytes)


class UnderstatedBlob(Behaviour):
    """More bytes than its commit says: whoever fetches it stops at what was signed."""

    def commit(self, commit: Commit, peer: Peer) -> Commit:
        return dataclasses.replace(commit, blob_size_bytes=commit.blob_size_bytes - 1)


class NoBlob(Behaviour):
    """Commits, and never serves."""

    def offers(self, data: bytes, peer: Peer) -> bytes | None:
        return None


class OtherBytes(Behaviour):
    """Serves something else under the name that it committed to."""

    def offers(self, data: bytes, peer: Peer) -> bytes | None:
        return bytes([data[0] ^ 1]) + data[1:]


# --- commits that are lies ---------------------------------------------------------------------


@dataclass
class Copier(Behaviour):
    """Wants the newest honest contribution before the close, and has to make do with its name."""

    failures: int = 0

    def offers(self, data: bytes, peer: Peer) -> bytes | None:
        return None

    def commit(self, commit: Commit, peer: Peer) -> Commit:
        victim = open_commit(peer.world.board[-1], network_id=NETWORK_ID).commit
        try:
            peer.world.blobs.fetch(victim.blob_id, max_bytes=victim.blob_size_bytes)
        except BlobUnavailable:
            self.failures += 1
        return dataclasses.replace(
            commit, blob_id=victim.blob_id, blob_size_bytes=victim.blob_size_bytes
        )


class HugeTokens(Behaviour):
    """Declares more tokens than its steps can hold."""

    def commit(self, commit: Commit, peer: Peer) -> Commit:
        return dataclasses.replace(commit, tokens=2**53 - 1)


class NegativeTokens(Behaviour):
    """Declares minus one token, as far as the wire can say that."""

    def messages(self, envelope: Envelope, peer: Peer) -> list[Message]:
        commit = pb.Commit.FromString(envelope.payload)
        commit.tokens = 2**64 - 1  # -1 in two's complement
        lie = sign_payload(peer.identity, envelope.payload_type, commit.SerializeToString())
        return [Message(encode_envelope(lie))]


class HugeSteps(Behaviour):
    """Declares more steps than the plan allows, with tokens to fit."""

    def commit(self, commit: Commit, peer: Peer) -> Commit:
        return dataclasses.replace(commit, steps=2**31, tokens=commit.tokens * 1000)


class OtherData(Behaviour):
    """Starts at an example of its own choice."""

    def commit(self, commit: Commit, peer: Peer) -> Commit:
        return dataclasses.replace(commit, first_example=commit.first_example ^ 1)


class StaleState(Behaviour):
    """Says that it trained from another state than the round's."""

    def commit(self, commit: Commit, peer: Peer) -> Commit:
        return dataclasses.replace(commit, state=bytes(32))


class Late(Behaviour):
    """Sends its commit a second after the deadline."""

    def messages(self, envelope: Envelope, peer: Peer) -> list[Message]:
        return [Message(encode_envelope(envelope), at_s=61.0)]


class TwoCommits(Behaviour):
    """Signs a second commit for the same round; whichever comes first counts."""

    def messages(self, envelope: Envelope, peer: Peer) -> list[Message]:
        commit = open_commit(envelope, network_id=NETWORK_ID).commit
        second = seal(peer.identity, dataclasses.replace(commit, mean_loss=0.0))
        return [Message(encode_envelope(envelope)), Message(encode_envelope(second), at_s=31.0)]


class Replayer(Behaviour):
    """Sends its own first commit again in every later round, and works no more."""

    def messages(self, envelope: Envelope, peer: Peer) -> list[Message]:
        mine = [old for old in peer.world.board if old.signer == peer.peer_id]
        return [Message(encode_envelope(mine[0] if mine else envelope))]


class Stranger(Behaviour):
    """Sends everybody's commits of earlier rounds, and this round's a second time."""

    def messages(self, envelope: Envelope, peer: Peer) -> list[Message]:
        board = peer.world.board[-40:]
        return [Message(encode_envelope(old)) for old in board]


class Forger(Behaviour):
    """Signs in the name of the first peer: a commit that would take that peer's place."""

    def messages(self, envelope: Envelope, peer: Peer) -> list[Message]:
        victim = identity(0)
        forged = dataclasses.replace(envelope, public_key=victim.public_key)
        return [Message(encode_envelope(forged), at_s=0.5)]


class SmallOrderKey(Behaviour):
    """Uses the identity point as its key, under which R = identity, S = 0 fits any message."""

    def messages(self, envelope: Envelope, peer: Peer) -> list[Message]:
        point = (1).to_bytes(32, "little")
        weak = dataclasses.replace(envelope, public_key=point, signature=point + bytes(32))
        return [Message(encode_envelope(weak))]


class NoEnvelope(Behaviour):
    """Sends bytes that are none of ours."""

    def messages(self, envelope: Envelope, peer: Peer) -> list[Message]:
        return [Message(peer.rng.bytes(200)), Message(b""), Message(bytes(100_000))]
