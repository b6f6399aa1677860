"""The views without a terminal: a line of text or of JSON per event, for logs and scripts.

A reader that went away (`ares-peer join | head`) does not stop the training: the view falls
silent. A reader that is there and does not read holds it up, as it would any program in a pipe.
"""

from __future__ import annotations

import time
from typing import IO, AnyStr, Final, Generic, Protocol

from ares_p2p.clock import Clock
from ares_peer.events import Event, Phase, PhaseChanged, StepDone, SyncProgress, to_json_line
from ares_peer.progress import Status
from ares_peer.summary import Row, deadline_text, round_text, speed_text
from ares_peer.wording import bytes_text, sentence

QUIET_MS: Final = 10_000  # between two lines of the same moving number
_EVERY_ROUND: Final = (
    Phase.TRAINING,
    Phase.UPLOADING,
    Phase.EXCHANGING,
    Phase.AGGREGATING,
    Phase.AUDITING,
)


class View(Protocol):
    """What shows a run to whoever started it."""

    def open(self) -> None:
        """Begin to show."""
        ...

    def show(self, event: Event, status: Status) -> None:
        """Show what happened, and the picture after it."""
        ...

    def close(self, rows: list[Row]) -> None:
        """End with the run's summary."""
        ...


class PlainView:
    """One line with the time per event that means something; steps at most every ten seconds."""

    def __init__(self, stream: IO[str], *, clock: Clock) -> None:
        self._outlet = _Outlet(stream)
        self._clock = clock
        self._said: dict[Phase, str] = {}
        self._moved_ms = 0

    def open(self) -> None:
        """Nothing to prepare."""

    def show(self, event: Event, status: Status) -> None:
        """Write the event's line, if it has one now."""
        text = self._line(event, status)
        if text:
            self._say(text)

    def close(self, rows: list[Row]) -> None:
        """Write the summary."""
        for label, value in rows:
            self._say(f"summary: {label}: {value}")

    def _line(self, event: Event, status: Status) -> str:
        match event:
            case StepDone() if status.round is not None and self._is_due():
                view, now_ms = status.round, self._clock.now_ms()
                steps = f"step {event.step}/{event.max_steps}"
                left = deadline_text(view, now_ms=now_ms)
                return f"{round_text(view)}: {steps}, {speed_text(view)}, {left}"
            case SyncProgress() if self._is_due():
                done, total = bytes_text(event.done_bytes), bytes_text(event.total_bytes)
                return f"fetching the {event.what}: {done} of {total}"
            case PhaseChanged():
                text = sentence(event)
                if event.phase in _EVERY_ROUND or self._said.get(event.phase) == text:
                    return ""
                self._said[event.phase] = text
                return text
            case _:
                return sentence(event)

    def _is_due(self) -> bool:
        now_ms = self._clock.now_ms()
        if now_ms - self._moved_ms < QUIET_MS:
            return False
        self._moved_ms = now_ms
        return True

    def _say(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._clock.now_ms() / 1000))
        self._outlet.write(f"{stamp} {text}\n")


class JsonView:
    """Every event as it came, one JSON object per line."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._outlet = _Outlet(stream)

    def open(self) -> None:
        """Nothing to prepare."""

    def show(self, event: Event, status: Status) -> None:  # noqa: ARG002 - the event says it all
        """Write the event's line."""
        self._outlet.write(to_json_line(event))

    def close(self, rows: list[Row]) -> None:
        """The lines said it all."""


class _Outlet(Generic[AnyStr]):
    """A stream that may lose its reader."""

    def __init__(self, stream: IO[AnyStr]) -> None:
        self._stream: IO[AnyStr] | None = stream

    def write(self, data: AnyStr) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(data)
            self._stream.flush()
        except (BrokenPipeError, ValueError):  # ValueError: closed on our side
            self._stream = None
