"""How fast this node can send, measured while it sends.

Only time in which something is being sent counts: idle time says nothing about a line. What the
buffers between us and the line swallow at once is not counted, and a transfer too short to fill
them is no measure at all. A receiver may be slower than our line, so the estimate is not the mean
but the second highest of the latest measures: one odd measure does not set it.

It refuses to guess: before the first long enough transfer it is 0.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator

BUFFER_BYTES = 512 * 1024  # of sockets and streams between us and the line, about, per stream
LEAST_BYTES = 2 * 1024**2  # beyond the buffers, or a wrong guess of them would be all we see
LONGEST_S = 5.0  # a measure that goes on is closed after that if it has enough bytes
GAP_S = 0.5  # a shorter pause is one of the protocol's, and leaves the buffers filled
LATEST = 32  # measures that count


class UploadMeter:
    """Counts what leaves, by any number of streams at once. For one event loop.

    Args:
        monotonic: a clock in seconds.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._measures: deque[float] = deque(maxlen=LATEST)
        self._streams = 0
        self._filled = 0  # streams whose buffers are full by now
        self._buffered = 0  # of the bytes of this measure, those that went into buffers
        self._bytes = 0
        self._began_s = 0.0
        self._paused_s = 0.0  # since when nothing is being sent, if so

    @property
    def bytes_per_s(self) -> float:
        """The estimate; 0 before there is one."""
        if not self._streams:
            self._end(at_s=self._paused_s)
        if not self._measures:
            return 0.0
        return sorted(self._measures)[-2:][0]

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Be sending: whatever passes meanwhile is reported with `sent`."""
        now_s = self._monotonic()
        if not self._streams and now_s - self._paused_s > GAP_S:
            self._end(at_s=self._paused_s)
            self._began_s, self._filled = now_s, 0
        self._streams += 1
        if self._streams > self._filled:
            self._filled += 1
            self._buffered += BUFFER_BYTES
        try:
            yield
        finally:
            self._streams -= 1
            self._paused_s = self._monotonic()

    def sent(self, size_bytes: int) -> None:
        """Note that the line, or a buffer before it, has taken some bytes."""
        if not self._streams:
            return  # a chunk list: too short to be of use
        self._bytes += size_bytes
        now_s = self._monotonic()
        if now_s - self._began_s >= LONGEST_S and self._passed >= LEAST_BYTES:
            self._end(at_s=now_s)

    def note(self, size_bytes: int, seconds: float) -> None:
        """Add a measure that was made elsewhere, of bytes that certainly arrived."""
        if size_bytes >= LEAST_BYTES and seconds > 0:
            self._measures.append(size_bytes / seconds)

    @property
    def _passed(self) -> int:
        return self._bytes - self._buffered

    def _end(self, *, at_s: float) -> None:
        """Close a measure; the next one begins there, with buffers that are full."""
        self.note(self._passed, at_s - self._began_s)
        self._began_s, self._bytes, self._buffered = at_s, 0, 0
