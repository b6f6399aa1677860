"""Opening a round: what a plan must say, and what everybody checks before working on it."""

from __future__ import annotations

from dataclasses import dataclass

from ares_p2p.domain import CycleConfig, Header, RoundPlan
from ares_p2p.errors import PayloadMalformed, UnknownRound, WrongState
from ares_p2p.ids import Digest
from ares_p2p.rounds.parts import check_plan_parts

NO_DIGEST: Digest = bytes(32)  # "there is none before": the first manifest, a peer's first commit
MAX_ROUND_MS = 6 * 3600 * 1000  # a deadline further away is a mistake or an attack on patience


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """How long the parts of a round last."""

    train_s: float
    serve_s: float


def build_plan(
    *,
    header: Header,
    config: CycleConfig,
    config_sha256: Digest,
    previous_manifest_sha256: Digest,
    state: Digest,
    state_size_bytes: int,
    times: RoundTimes,
    parts: int = 0,
) -> RoundPlan:
    """Return the plan of round `header.round`, opening at `header.issued_ms`.

    Args:
        parts: of the sum, see `rounds.parts`; 0: everybody fetches everything.
    """
    deadline = header.issued_ms + int(times.train_s * 1000)
    return RoundPlan(
        header=header,
        cycle_config_sha256=config_sha256,
        previous_manifest_sha256=previous_manifest_sha256,
        state=state,
        state_size_bytes=state_size_bytes,
        opens_ms=header.issued_ms,
        commit_deadline_ms=deadline,
        serve_deadline_ms=deadline + int(times.serve_s * 1000),
        min_steps=config.training.min_steps,
        max_steps=config.training.max_steps,
        inner_lr=config.training.inner_lr,
        parts=parts,
    )


def check_plan(plan: RoundPlan, *, config: CycleConfig, config_sha256: Digest) -> None:
    """Verify that a plan belongs to the cycle and can be worked on.

    Raises: UnknownRound: another cycle, or a round the cycle does not have. PayloadMalformed:
        impossible times, steps or parts. WrongState: round 0 does not start from the cycle's S_0.
    """
    if plan.header.cycle != config.header.cycle or plan.cycle_config_sha256 != config_sha256:
        raise UnknownRound(f"a plan of cycle {plan.header.cycle}, {config.header.cycle} is running")
    if plan.header.round >= config.rounds:
        raise UnknownRound(f"round {plan.header.round} of a cycle of {config.rounds}")
    in_order = plan.opens_ms < plan.commit_deadline_ms <= plan.serve_deadline_ms
    if not in_order or plan.serve_deadline_ms - plan.opens_ms > MAX_ROUND_MS:
        raise PayloadMalformed("the plan's deadlines are not in order, or hours away")
    if not 1 <= plan.min_steps <= plan.max_steps:
        raise PayloadMalformed(f"steps {plan.min_steps}..{plan.max_steps} are no range")
    check_plan_parts(plan, config=config)
    if plan.header.round == 0 and plan.state != config.initial_state:
        raise WrongState("round 0 does not start from the cycle's initial state")
