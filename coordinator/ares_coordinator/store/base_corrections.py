"""The part of the store's protocol about rounds that made the model worse.

The rules of `ares_coordinator.store.base` hold here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ares_coordinator.store.alarm_rows import AlarmRow, CorrectionRow, TakenOutRow


class CorrectionStore(Protocol):
    """Looks at the held-out loss, alarms, corrections."""

    def record_look(
        self,
        cycle: int,
        round_number: int,
        *,
        held_out_loss: float,
        alarm: AlarmRow | None = None,
        corrections: Sequence[CorrectionRow] = (),
    ) -> bool:
        """Note what a look at the state that a round led to came to.

        Loss, alarm, corrected coefficients, and an audit of every contribution that they take
        out, in one transaction: so a round that has a held-out loss has been judged, too.

        Args:
            corrections: one row for every contribution of the round that is to be corrected.
        Returns: False when it has a held-out loss already: the first look stands.
        Raises: InternalFault: no such round; or a correction of other contributions than the
            round has, or one that comes too late: the round to carry it is over.
        """
        ...

    def alarms(self, cycle: int) -> tuple[AlarmRow, ...]:
        """Return the alarms of a cycle, oldest round first."""
        ...

    def corrections(self, cycle: int, round_number: int) -> tuple[CorrectionRow, ...]:
        """Return what a round's contributions count since it was corrected, by commit digest."""
        ...

    def taken_out(self, cycle: int) -> tuple[TakenOutRow, ...]:
        """Return what alarms took out: by a correction, or before the last round was signed."""
        ...
