"""From a reply in the ledger to an answer that may be used, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ares_coordinator.store.request_rows import StoredReply
from ares_p2p.errors import TeacherRefused

POLICY: Final = frozenset({"frontier_llm", "reasoning_extraction"})  # refusals that end the run
COMPLETE: Final = frozenset({"end_turn", "stop_sequence"})
TRUNCATED: Final = frozenset({"max_tokens", "model_context_window_exceeded"})


class NoAnswer(Exception):
    """A question without a usable answer: its row is left out.

    Args:
        reason: stable, counted and shown: "truncated", "refusal_cyber", "lost", ...
        detail: for people.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer and where it comes from."""

    text: str
    model: str
    key: bytes
    permission_ref: str  # that it was asked under


def read_reply(reply: StoredReply, *, key: bytes, permission_ref: str) -> Answer:
    """Return the answer in a reply.

    Raises: TeacherRefused: a refusal by policy. NoAnswer: another refusal, or it is not complete.
    """
    if reply.refusal in POLICY:
        raise TeacherRefused(
            f"{reply.model} refused a request as {reply.refusal}: its provider restricts such "
            f"answers, and the run stops (asked under {permission_ref!r})"
        )
    if reply.refusal:
        raise NoAnswer(f"refusal_{reply.refusal}")
    if reply.stop_reason in TRUNCATED:
        raise NoAnswer("truncated", reply.stop_reason)
    if reply.stop_reason not in COMPLETE:
        raise NoAnswer("stopped", reply.stop_reason)
    if not reply.text.strip():
        raise NoAnswer("empty")
    return Answer(reply.text, reply.model, key, permission_ref)
