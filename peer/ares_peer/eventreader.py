"""From a stream of bytes to events, whatever the bytes are."""

from __future__ import annotations

from ares_p2p.errors import Oversize, PayloadMalformed
from ares_peer.events import MAX_LINE_BYTES, Event, UnknownEvent, parse_event


class EventReader:
    """Turns a stream of bytes into events, in bounded memory.

    `garbage` and `unknown` count the lines that were dropped.
    """

    def __init__(self) -> None:
        self.garbage = 0
        self.unknown = 0
        self._rest = b""
        self._skipping = False  # inside a line that is already too long

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = []
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif line.strip():
                events += self._parsed(line)
        if len(self._rest) > MAX_LINE_BYTES:
            self.garbage += not self._skipping
            self._rest, self._skipping = b"", True
        return events

    def _parsed(self, line: bytes) -> list[Event]:
        try:
            return [parse_event(line)]
        except UnknownEvent:
            self.unknown += 1
        except (PayloadMalformed, Oversize):
            self.garbage += 1
        return []
