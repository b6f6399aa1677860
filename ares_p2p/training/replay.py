"""Training a committed contribution again, and how far the claim is from it.

The coordinator's worker and every auditor peer call this one function on the same public inputs
(state, plan, assignment, CycleConfig), so that two honest replays differ by rounding alone. It
measures and judges nothing. Torch comes with the rig, not with this module.

`forge_contribution` makes the opposite: work that was only half done and claims to be whole, for
testing auditors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ares_p2p.averaging.vectors import Vector
from ares_p2p.domain import TrainingConfig
from ares_p2p.ids import Digest, PeerId, sha256
from ares_p2p.proofs.sketch import ReplayComparison, compare_updates
from ares_p2p.training.layout import Layout
from ares_p2p.training.replica import bind_layout, decode_contribution, encode_contribution
from ares_p2p.training.state import TrainingState

if TYPE_CHECKING:  # that module brings torch
    from ares_p2p.training.inner import LocalResult, StepCallback


class Rig(Protocol):
    """What a round and a replay need of `training.rig.TrainingRig`."""

    @property
    def layout(self) -> Layout:
        """The adapter's layout."""
        ...

    def train(
        self,
        start: Vector,
        *,
        round_number: int,
        peer: PeerId,
        lr: float,
        min_steps: int,
        max_steps: int,
        on_step: StepCallback | None = None,
    ) -> LocalResult:
        """Make the local steps; see `TrainingRig.train`."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """What a commit says about a blob: whose work it is, under which plan, how many steps."""

    peer: PeerId
    plan_sha256: Digest
    steps: int
    lr: float


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of a replay.

    Attributes:
        tokens: that the assignment holds for the claimed steps.
        replay_sha256: of the replayed update, encoded like the contribution.
    """

    comparison: ReplayComparison
    tokens: int
    replay_sha256: Digest


def replay_contribution(
    rig: Rig,
    claim: Claim,
    *,
    start: TrainingState,
    blob: bytes,
    training: TrainingConfig,
    on_step: StepCallback | None = None,
) -> Replay:
    """Return how a claimed contribution compares with the same work done again.

    Args:
        start: S_r, as the round began.
        blob: the contribution's bytes, checked against the commit's blob id.
        training: of the cycle's config.
        on_step: told every step; what it returns is ignored, all claimed steps are made.
    Raises: PeerFault: the blob is no contribution of this peer under this plan. NonFinite: the
        steps do not stay finite.
    """
    layout = bind_layout(rig.layout, plan_sha256=claim.plan_sha256, peer=claim.peer)
    claimed = decode_contribution(blob, layout=layout, training=training)
    result = _trained(rig, claim, start=start, steps=claim.steps, on_step=on_step)
    replayed = encode_contribution(start.theta, result.theta, layout=layout, training=training)
    own = decode_contribution(replayed, layout=layout, training=training)
    comparison = compare_updates(
        claimed, start.theta - result.theta, own_q=own, spans=rig.layout.spans
    )
    return Replay(comparison, result.tokens, sha256(replayed))


@dataclass(frozen=True, slots=True)
class Forgery:
    """A contribution that claims more than was done, and what its commit has to say."""

    data: bytes
    tokens: int  # of all claimed steps, as an honest commit counts them
    mean_loss: float


def forge_contribution(
    rig: Rig, claim: Claim, *, start: TrainingState, training: TrainingConfig
) -> Forgery:
    """Return half of the claimed steps, rounded down but at least one, as if it were all of them.

    It is harmless: an honest update from the assigned examples, only shorter. The whole of it is
    trained too, so that tokens and loss are what an honest commit says.
    """
    layout = bind_layout(rig.layout, plan_sha256=claim.plan_sha256, peer=claim.peer)
    whole = _trained(rig, claim, start=start, steps=claim.steps)
    half = _trained(rig, claim, start=start, steps=max(1, claim.steps // 2))
    data = encode_contribution(start.theta, half.theta, layout=layout, training=training)
    return Forgery(data, whole.tokens, whole.mean_loss)


def _trained(
    rig: Rig,
    claim: Claim,
    *,
    start: TrainingState,
    steps: int,
    on_step: StepCallback | None = None,
) -> LocalResult:
    return rig.train(
        start.theta,
        round_number=start.round,
        peer=claim.peer,
        lr=claim.lr,
        min_steps=steps,
        max_steps=steps,
        on_step=on_step,
    )
