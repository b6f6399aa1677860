"""How many local steps fit before the deadline, judged while they are made."""

from __future__ import annotations

from collections.abc import Callable

from ares_p2p.clock import Clock
from ares_p2p.domain import RoundPlan
from ares_peer.events import Event, StepDone

COMMIT_MARGIN_S = 1.5  # compress, sign and send before the deadline


class TooSlow(Exception):
    """The fewest steps that the plan takes cannot be made before the deadline. Says so."""


class Abandoned(Exception):
    """Nobody waits for these steps any more."""


class Pace:
    """Reports steps and stops in time; its `on_step` runs in the thread that trains."""

    def __init__(self, plan: RoundPlan, *, clock: Clock, emit: Callable[[Event], None]) -> None:
        self.tokens_per_s = 0.0
        self._plan = plan
        self._clock = clock
        self._emit = emit
        self._deadline_ms = plan.commit_deadline_ms - int(COMMIT_MARGIN_S * 1000)
        self._started_ms = self._last_ms = clock.now_ms()
        self._fastest_ms = float("inf")
        self._tokens = 0
        self._is_abandoned = False

    def abandon(self) -> None:
        """End the training after the step that runs: a thread cannot be cancelled."""
        self._is_abandoned = True

    def on_step(self, step: int, loss: float, tokens: int) -> bool:
        """Take note of a step; True when another one fits.

        Raises: TooSlow: even at the pace of the fastest step, the fewest steps do not fit. The
            first step alone is no measure: it warms the device up. Abandoned.
        """
        if self._is_abandoned:
            raise Abandoned
        now_ms = self._clock.now_ms()
        self._fastest_ms = min(self._fastest_ms, now_ms - self._last_ms)
        self._last_ms = now_ms
        elapsed_ms = max(1, now_ms - self._started_ms)
        self._tokens += tokens
        self.tokens_per_s = self._tokens * 1000 / elapsed_ms
        self._emit(StepDone(step, self._plan.max_steps, loss, self.tokens_per_s))
        self._check_min_steps(step, now_ms=now_ms)
        return now_ms + elapsed_ms / step < self._deadline_ms

    def _check_min_steps(self, step: int, *, now_ms: int) -> None:
        left = self._plan.min_steps - step
        if left <= 0:
            return
        is_over = now_ms >= self._deadline_ms
        if is_over or (step > 1 and now_ms + left * self._fastest_ms > self._deadline_ms):
            raise TooSlow(
                f"{step} of at least {self._plan.min_steps} steps took "
                f"{(now_ms - self._started_ms) / 1000:.0f} s; the rest does not fit before the "
                "deadline, so nothing was committed"
            )
