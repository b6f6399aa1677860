"""The upload meter: what a line gives while it sends, whatever happens between two transfers."""

from __future__ import annotations

import pytest

from ares_p2p.network.uploads import BUFFER_BYTES, LATEST, LEAST_BYTES, UploadMeter

LINE = 1e6  # bytes a second
PIECE = 64 * 1024


class Line:
    """Sends over a meter: the first bytes of a stretch vanish in a buffer, the rest takes time."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.meter = UploadMeter(monotonic=lambda: self.now_s)

    def send(self, size_bytes: int, *, rate: float = LINE, buffer: int = BUFFER_BYTES) -> None:
        self.now_s += 1.0  # buffers empty meanwhile
        with self.meter.stream():
            self.pieces(size_bytes, rate=rate, buffer=buffer)

    def pieces(self, size_bytes: int, *, rate: float = LINE, buffer: int = 0) -> None:
        for start in range(0, size_bytes, PIECE):
            if start >= buffer:
                self.now_s += PIECE / rate
            self.meter.sent(PIECE)


def test_meter_says_nothing_before_a_long_enough_transfer() -> None:
    line = Line()
    assert line.meter.bytes_per_s == 0
    line.send(LEAST_BYTES // 2)
    line.meter.sent(10 * LEAST_BYTES)  # outside of any stream: a chunk list
    assert line.meter.bytes_per_s == 0


def test_meter_counts_neither_idle_time_nor_what_buffers_swallow() -> None:
    line = Line()
    for _ in range(5):
        line.send(4 * LEAST_BYTES)
        line.now_s += 600.0
    assert line.meter.bytes_per_s == pytest.approx(LINE, rel=0.02)


def test_small_blobs_that_only_fill_buffers_are_no_measure() -> None:
    line = Line()
    for _ in range(100):
        line.send(BUFFER_BYTES, buffer=BUFFER_BYTES)
        line.now_s += 1.0
    assert line.meter.bytes_per_s == 0


def test_streams_at_once_are_one_line() -> None:
    line = Line()
    with line.meter.stream(), line.meter.stream():
        line.pieces(8 * LEAST_BYTES, buffer=2 * BUFFER_BYTES)
    assert line.meter.bytes_per_s == pytest.approx(LINE, rel=0.02)


def test_receivers_slower_than_the_line_do_not_lower_the_estimate() -> None:
    line = Line()
    for _ in range(4):
        line.send(4 * LEAST_BYTES)
        for _ in range(2):
            line.send(4 * LEAST_BYTES, rate=LINE / 20)
    assert line.meter.bytes_per_s == pytest.approx(LINE, rel=0.1)


def test_one_odd_measure_does_not_set_it_and_a_new_line_is_noticed() -> None:
    line = Line()
    for _ in range(7):
        line.send(3 * LEAST_BYTES)
    line.send(20 * LEAST_BYTES, rate=1e9)
    assert line.meter.bytes_per_s == pytest.approx(LINE, rel=0.02)
    for _ in range(LATEST):
        line.send(3 * LEAST_BYTES, rate=LINE / 4)
    assert line.meter.bytes_per_s == pytest.approx(LINE / 4, rel=0.02)


def test_a_transfer_that_goes_on_is_measured_meanwhile() -> None:
    line = Line()
    with line.meter.stream():
        line.pieces(20 * LEAST_BYTES, buffer=BUFFER_BYTES)
        assert line.meter.bytes_per_s == pytest.approx(LINE, rel=0.05)


def test_stream_that_fails_is_over_for_the_meter_too() -> None:
    line = Line()

    def fail() -> None:
        with line.meter.stream():
            line.pieces(2 * LEAST_BYTES)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    line.now_s += 1000.0
    line.send(4 * LEAST_BYTES)
    line.send(4 * LEAST_BYTES)
    assert line.meter.bytes_per_s == pytest.approx(LINE, rel=0.05)


def test_measures_made_elsewhere_count_when_they_are_long_enough() -> None:
    meter = UploadMeter(monotonic=lambda: 0.0)
    meter.note(1000, 1e-9)
    assert meter.bytes_per_s == 0
    meter.note(5 * LEAST_BYTES, 10.0)
    assert meter.bytes_per_s == LEAST_BYTES / 2
