"""The part of the store's protocol that makes sure that no request is paid twice.

The rules of `ares_coordinator.store.base` hold here as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ares_coordinator.store.request_rows import (
    RequestPlace,
    RequestTotals,
    Reserved,
    Spent,
    StoredReply,
)


class RequestStore(Protocol):
    """The ledger of paid requests."""

    def reserve_request(
        self,
        key: bytes,
        place: RequestPlace,
        *,
        model: str,
        permission_ref: str,
        worst_microusd: int,
        check: Callable[[Spent], None],
        now_ms: int,
    ) -> Reserved:
        """Reserve a request, or return what is known of it.

        Args:
            permission_ref: the operator's permission to ask; kept with the request.
            check: raises when the caps do not allow `worst_microusd` more; called inside the
                transaction, so two requests can never pass a cap together.
        Returns: SENT: it is the caller's to send. DONE with the reply. LOST: it is not to be sent.
        Raises: InternalFault: it is on its way already.
        """
        ...

    def finish_request(self, key: bytes, reply: StoredReply, *, now_ms: int) -> None:
        """Store the reply of a sent request, and its real cost in the place of the reservation.

        A request that was given up as lost takes its reply, too.
        """
        ...

    def release_request(self, key: bytes, *, code: str, now_ms: int) -> None:
        """Note that a sent request was certainly not billed, and why."""
        ...

    def lose_request(self, key: bytes, *, code: str, now_ms: int) -> None:
        """Note that nobody knows what became of a sent request, and why."""
        ...

    def lose_requests(self, *, run_id: str, now_ms: int) -> int:
        """Mark what runs other than `run_id` left on its way as lost. Returns how many.

        The caller makes sure that no other run is alive.
        """
        ...

    def release_lost_requests(self, *, now_ms: int) -> int:
        """Let lost requests be sent again, at the operator's word. Returns how many.

        What they may have cost stays counted, in a row of its own.
        """
        ...

    def spent(self, place: RequestPlace) -> Spent:
        """Return what is spent or reserved in the scopes of a place."""
        ...

    def request_totals(self, cycle: int | None = None) -> tuple[RequestTotals, ...]:
        """Return the sums by category and state, of one cycle or of all, in that order."""
        ...
