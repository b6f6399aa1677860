r"""What may follow what in the life of a cycle. Pure: no store, no clock, no network.

    generate -> prepare -> publish -> train -> stack -> evaluate -> promote  -> settle -> done
                                                                \-> rollback -/

Each arrow is one transaction of the store, and every phase may be repeated from its start: a
coordinator that was killed goes on in the phase it was in.
"""

from __future__ import annotations

from ares_coordinator.store.rows import CyclePhase

_NEXT: dict[CyclePhase, CyclePhase] = {
    CyclePhase.GENERATE: CyclePhase.PREPARE,
    CyclePhase.PREPARE: CyclePhase.PUBLISH,
    CyclePhase.PUBLISH: CyclePhase.TRAIN,
    CyclePhase.TRAIN: CyclePhase.STACK,
    CyclePhase.STACK: CyclePhase.EVALUATE,
    CyclePhase.PROMOTE: CyclePhase.SETTLE,
    CyclePhase.ROLLBACK: CyclePhase.SETTLE,
    CyclePhase.SETTLE: CyclePhase.DONE,
}


def next_phase(phase: CyclePhase, *, promoted: bool | None = None) -> CyclePhase:
    """Return the phase after `phase`.

    Args:
        promoted: the gate's answer; needed after `evaluate`, and only there.
    Raises: ValueError: the cycle is over, or the gate's answer is missing.
    """
    if phase is CyclePhase.EVALUATE:
        if promoted is None:
            raise ValueError("after evaluate the gate's answer decides")
        return CyclePhase.PROMOTE if promoted else CyclePhase.ROLLBACK
    if phase not in _NEXT:
        raise ValueError(f"nothing follows {phase}")
    return _NEXT[phase]


def is_over(phase: CyclePhase) -> bool:
    """Whether the cycle has ended."""
    return phase in (CyclePhase.DONE, CyclePhase.FAILED)
