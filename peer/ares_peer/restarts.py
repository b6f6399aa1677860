"""When the trainer is started again, after how long, and when no more: pure, no clock, no I/O.

Exit 0 is the end. 78 (configuration) is the end too: a restart cannot mend it. 75 (network) is
tried again for ever. Everything else is tried again until the failure brake: five failures
within ten minutes stop the peer with a reason, instead of burning a volunteer's electricity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ares_p2p.errors import ConfigFault, InternalFault, NetworkFault

MAX_FAILURES: Final = 5
WINDOW_MS: Final = 10 * 60 * 1000
MAX_DELAY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the trainer again after `delay_s`."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Do not start it again; the command ends with `exit_code`."""

    exit_code: int
    reason: str = ""


class RestartPolicy:
    """Remembers the recent ends of the trainer."""

    def __init__(self) -> None:
        self._failures_ms: list[int] = []  # all that delay the next start
        self._braking_ms: list[int] = []  # those that count for the brake

    def after_exit(self, exit_code: int, *, now_ms: int) -> Restart | Stop:
        """Return what to do now that the trainer ended by itself.

        Args:
            exit_code: as `subprocess` reports it, negative for a signal.
        """
        if exit_code == 0:
            return Stop(0)
        if exit_code == ConfigFault.exit_code:
            return Stop(exit_code, "a setting has to change first")
        self._failures_ms = _recent([*self._failures_ms, now_ms], now_ms)
        if exit_code != NetworkFault.exit_code:
            self._braking_ms.append(now_ms)
        self._braking_ms = _recent(self._braking_ms, now_ms)
        if len(self._braking_ms) >= MAX_FAILURES:
            reason = f"the trainer failed {MAX_FAILURES} times within {WINDOW_MS // 60_000} minutes"
            return Stop(InternalFault.exit_code, reason)
        doublings = min(len(self._failures_ms) - 1, 10)
        return Restart(min(MAX_DELAY_S, 2.0**doublings))


def _recent(times_ms: list[int], now_ms: int) -> list[int]:
    return [time_ms for time_ms in times_ms if time_ms > now_ms - WINDOW_MS]
