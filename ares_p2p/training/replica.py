"""What every replica computes at the end of a round: decode, combine, outer step.

The coordinator, each peer and each auditor run these functions on the same bytes, so that all
hold the same next state. Source: the swarm protocol, "A round", steps 4 and 7.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ares_p2p.averaging.bounds import check_contribution, reach_of
from ares_p2p.averaging.codec import EncodedVector, decode, encode, open_encoded
from ares_p2p.averaging.vectors import Difference, Vector, VectorSource
from ares_p2p.domain import TrainingConfig
from ares_p2p.ids import Digest, PeerId, sha256
from ares_p2p.training.layout import Layout
from ares_p2p.training.outer import outer_step
from ares_p2p.training.roundsum import PartLayout, round_sum
from ares_p2p.training.state import TrainingState

_BINDING_DOMAIN = b"ares/contribution/1\0"


@dataclass(frozen=True, slots=True)
class BoundLayout:
    """A layout whose digest also names a plan and a peer: what a contribution carries inside.

    A commit shows its blob's name before the blob can be fetched. Bound like this, a blob is
    worth nothing to anybody else, and nothing in any other round.
    """

    layout: Layout
    digest_sha256: Digest

    @property
    def size(self) -> int:
        """Number of elements of the vector."""
        return self.layout.size

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """`(start, stop)` of every tensor."""
        return self.layout.spans


def bind_layout(layout: Layout, *, plan_sha256: Digest, peer: PeerId) -> BoundLayout:
    """Return `layout` bound to one peer's work in one round."""
    digest = sha256(_BINDING_DOMAIN, layout.digest_sha256, plan_sha256, peer.encode())
    return BoundLayout(layout, digest)


def encode_contribution(
    start: Vector, end: Vector, *, layout: BoundLayout, training: TrainingConfig
) -> bytes:
    """Return the compressed pseudo-gradient of local steps from `start` to `end`, (size,) each."""
    return encode(
        Difference(start, end),
        bits=training.codec_bits,
        block=training.codec_block,
        layout_sha256=layout.digest_sha256,
    )


def open_contribution(
    data: bytes | memoryview, *, layout: BoundLayout, training: TrainingConfig
) -> EncodedVector:
    """Return what a peer sent, checked, to be read by parts: it stays compressed in memory.

    Raises: PeerFault: truncated, oversize, non-finite, of another layout or codec, made by
        another peer or for another round, or larger than the round's steps can make it.
    """
    encoded = open_encoded(
        data, layout=layout, bits=training.codec_bits, block=training.codec_block
    )
    reach = reach_of(training.max_steps, lr=training.inner_lr, beta2=training.beta2)
    check_contribution(encoded, size=layout.size, reach=reach)
    return encoded


def decode_contribution(
    data: bytes | memoryview, *, layout: BoundLayout, training: TrainingConfig
) -> Vector:
    """Return the pseudo-gradient that a peer sent as a whole vector, (layout.size,).

    Raises: see `open_contribution`.
    """
    return decode(data, layout=layout, bits=training.codec_bits, block=training.codec_block)


def next_state(
    state: TrainingState,
    contributions: Sequence[tuple[Vector | VectorSource, float]],
    training: TrainingConfig,
    parts: Sequence[PartLayout] = (),
) -> TrainingState:
    """Return S_(r+1) from S_r and the round's (pseudo-gradient, coefficient) in commit order.

    Contributions with coefficient 0 may be left out. A round in which nothing was accepted
    changes no parameter: the momentum of earlier rounds is not spent on it.

    Args:
        parts: of the round, by its plan (`roundsum.parts_of`): what the sum is depends on them.
    """
    used = [(vector, value) for vector, value in contributions if value != 0.0]
    return state_after(state, round_sum(used, training, parts) if used else None, training)


def state_after(
    state: TrainingState, total: Vector | None, training: TrainingConfig
) -> TrainingState:
    """Return S_(r+1) from S_r and the round's sum, (size,); None when nothing was accepted."""
    theta, mu = state.theta, state.mu
    if total is not None:
        theta, mu = outer_step(
            theta, mu, total, lr=training.outer_lr, momentum=training.outer_momentum
        )
    return TrainingState(state.cycle, state.round + 1, state.layout_sha256, theta, mu)


def corrected_state(
    before: TrainingState,
    contributions: Sequence[tuple[Vector | VectorSource, float]],
    training: TrainingConfig,
    parts: Sequence[PartLayout] = (),
) -> TrainingState:
    """Return what a manifest that corrects round r leads to: the state at the start of r + 2.

    It is the state that round r should have led to, momentum included, under the number of the
    round that comes next: round r + 1 was set aside, so nothing of it is in there.

    Args:
        before: S_r, where the corrected round started.
        contributions: of round r, with the coefficients of the correction, in commit order.
        parts: of round r.
    """
    corrected = next_state(before, contributions, training, parts)
    return dataclasses.replace(corrected, round=before.round + 2)
