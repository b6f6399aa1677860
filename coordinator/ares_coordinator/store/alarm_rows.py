"""Alarms about rounds, and what a correction changed, as frozen dataclasses. Free of SQL."""

from __future__ import annotations

from dataclasses import dataclass

from ares_p2p.ids import Digest, PeerId


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """A round that made the model worse beyond noise. Losses are nats per token."""

    cycle: int
    round: int
    corrected_in_round: int | None  # None: nothing was changed, the message says why
    held_out_before: float
    held_out_bad: float
    held_out_after: float | None  # without what was taken out
    standard_error: float  # of the difference between bad and before, example by example
    evaluations: int  # of the search for contributions to take out
    message: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class TakenOutRow:
    """A contribution that made the model worse and does not count (any more)."""

    round: int
    peer: PeerId
    message: str


@dataclass(frozen=True, slots=True)
class CorrectionRow:
    """One contribution of a corrected round: what it counted, and what it counts now."""

    commit_sha256: Digest
    cycle: int
    round: int
    corrected_in_round: int
    peer: PeerId
    old_coefficient: float
    new_coefficient: float
    code: str
    message: str
    at_ms: int
