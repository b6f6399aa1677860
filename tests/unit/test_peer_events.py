"""The lines between trainer and supervisor: every event there and back, and hostile lines."""

from __future__ import annotations

import io
import json
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.errors import Oversize, PayloadMalformed
from ares_peer.eventreader import EventReader
from ares_peer.events import (
    MAX_LINE_BYTES,
    MAX_TEXT_CHARS,
    AuditReported,
    AuditSettled,
    AuditStarted,
    CommitSent,
    CreditSettled,
    CreditTaken,
    CycleDone,
    ErrorRaised,
    Event,
    EventWriter,
    FirstAccepted,
    IdentityKnown,
    Phase,
    PhaseChanged,
    RoundCorrected,
    RoundDone,
    RoundOpened,
    StepDone,
    SupervisorNote,
    SyncProgress,
    Traffic,
    UnknownEvent,
    WayChanged,
    parse_event,
    to_json_line,
)

EVENTS: list[Event] = [
    PhaseChanged(Phase.TRAINING, "ready"),
    SyncProgress("base", 10, 20),
    IdentityKnown("12D3KooW", "tiny-net", "Ada", ("/ip4/10.0.0.1/tcp/4001",)),
    WayChanged("http", "p2pd ended"),
    RoundOpened(1, 2, 90, 1_700_000_000_000, "ab" * 32),
    StepDone(3, 40, 2.5, 1234.5),
    CommitSent(1, 2, 40, 81_920, "cd" * 32, accepted=False, code="ARES-E062", message="late"),
    RoundDone(1, 2, "clipped", 0.25, "ARES-E073", "scaled down", "ef" * 32),
    RoundCorrected(1, 1, 2, ("12D3KooW",), 2.5, 2.9, 2.4, "ARES-E074", "made it worse"),
    CreditSettled(1, 2, "fail", -5, 7, "ARES-E071", "replay differs"),
    CreditTaken(1, 1, 5_000_000, "ARES-E076"),
    AuditStarted(1, 2, 90, "cd" * 32, "12D3KooW", 40, 1_700_000_000_000),
    AuditReported(1, 2, "cd" * 32, 81_920, accepted=False, code="ARES-E086", message="late"),
    AuditSettled(1, 2, "cd" * 32, 0, 7, "ARES-E078", "honest work was reported as failed"),
    Traffic(1, 2**40),
    FirstAccepted(61.5),
    CycleDone(1, "ab" * 32),
    ErrorRaised("ARES-E017", "no base", "give --base", fatal=True),
    SupervisorNote("restarting", "in 4 s"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_event_survives_its_line(event: Event) -> None:
    line = to_json_line(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse_event(line) == event


def test_every_kind_is_tried_above() -> None:
    assert {type(event) for event in EVENTS} == set(Event.__args__)


def test_not_a_number_travels_as_null() -> None:
    line = to_json_line(StepDone(1, 2, math.nan, math.inf))
    assert json.loads(line)["loss"] is None
    parsed = parse_event(line)
    assert isinstance(parsed, StepDone)
    assert math.isnan(parsed.loss)
    assert math.isnan(parsed.tokens_per_s)


def test_control_characters_never_reach_a_terminal() -> None:
    sent = ErrorRaised("ARES-E050", "a\x1b[2J\nb\u202ec\x07", "\x9b31m")
    parsed = parse_event(to_json_line(sent))
    assert isinstance(parsed, ErrorRaised)
    assert parsed.message == "a [2J b c"
    assert parsed.hint == "31m"


def test_long_text_is_cut_and_the_line_stays_bounded() -> None:
    text = "\N{PILE OF POO}" * 5_000
    line = to_json_line(ErrorRaised(text, text, text))
    assert len(line) <= MAX_LINE_BYTES
    parsed = parse_event(line)
    assert isinstance(parsed, ErrorRaised)
    assert len(parsed.message) == MAX_TEXT_CHARS


def test_lone_surrogate_does_not_break_the_writer() -> None:
    assert parse_event(to_json_line(ErrorRaised("c", "a\ud800b"))) == ErrorRaised("c", "a?b")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"loading weights 50%",
        b"[1, 2]",
        b'"step"',
        b"{}",
        b'{"event": 3}',
        b'{"event": "step"}',
        b'{"event": "step", "step": 1.5, "max_steps": 2, "loss": 1, "tokens_per_s": 1}',
        b'{"event": "step", "step": true, "max_steps": 2, "loss": 1, "tokens_per_s": 1}',
        b'{"event": "step", "step": -1, "max_steps": 2, "loss": 1, "tokens_per_s": 1}',
        b'{"event": "step", "step": 1, "max_steps": 2, "loss": "1", "tokens_per_s": 1}',
        b'{"event": "traffic", "up_bytes": 1e400, "down_bytes": 1}',
        b'{"event": "traffic", "up_bytes": ' + b"9" * 5_000 + b', "down_bytes": 1}',
        b'{"event": "phase", "phase": "dancing"}',
        b'{"event": "phase", "phase": ["training"]}',
        b'{"event": "error", "code": "a", "message": "b", "fatal": 1}',
        b"[" * 10_000,
        b"\xff\xfe{}",
    ],
)
def test_malformed_line_is_refused(line: bytes) -> None:
    with pytest.raises(PayloadMalformed):
        parse_event(line)


def test_oversize_line_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(Oversize):
        parse_event(b'{"event":"phase"' + b" " * MAX_LINE_BYTES)


def test_unknown_event_has_its_own_fault() -> None:
    with pytest.raises(UnknownEvent):
        parse_event(b'{"event": "tea_time", "sugar": 2}')


def test_unknown_field_of_a_newer_trainer_is_ignored() -> None:
    line = b'{"event": "first_accepted", "seconds": 3, "mood": "good"}'
    assert parse_event(line) == FirstAccepted(3.0)


@given(st.lists(st.sampled_from(EVENTS), max_size=8), st.integers(1, 50))
def test_reader_does_not_care_where_the_stream_is_cut(events: list[Event], size: int) -> None:
    stream = b"".join(to_json_line(event) for event in events)
    reader = EventReader()
    found: list[Event] = []
    for start in range(0, len(stream), size):
        found += reader.feed(stream[start : start + size])
    assert found == events
    assert (reader.garbage, reader.unknown) == (0, 0)


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_reader_survives_any_bytes(pieces: list[bytes]) -> None:
    reader = EventReader()
    for piece in pieces:
        reader.feed(piece)
    good = to_json_line(FirstAccepted(1.0))
    assert reader.feed(b"\n" + good) == [FirstAccepted(1.0)]


def test_reader_counts_what_it_drops() -> None:
    reader = EventReader()
    lines = b'noise\n{"event":"tea_time"}\n\n  \n' + to_json_line(FirstAccepted(1.0))
    assert reader.feed(lines) == [FirstAccepted(1.0)]
    assert (reader.garbage, reader.unknown) == (1, 1)


def test_reader_holds_no_endless_line_and_finds_the_next_one() -> None:
    reader = EventReader()
    for _ in range(100):
        assert reader.feed(b"x" * MAX_LINE_BYTES) == []
    assert len(reader._rest) <= MAX_LINE_BYTES
    assert reader.feed(b"x\n" + to_json_line(FirstAccepted(1.0))) == [FirstAccepted(1.0)]
    assert reader.garbage == 1


def test_writer_keeps_lines_whole_between_threads() -> None:
    stream = io.BytesIO()
    writer = EventWriter(stream)

    def emit_all() -> None:
        for event in EVENTS:
            writer.emit(event)

    threads = [threading.Thread(target=emit_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = EventReader()
    assert len(reader.feed(stream.getvalue())) == 4 * len(EVENTS)
    assert reader.garbage == 0


def test_writer_outlives_a_closed_pipe() -> None:
    class Closed(io.BytesIO):
        tried = 0

        def write(self, data: object) -> int:
            self.tried += 1
            raise BrokenPipeError

    closed = Closed()
    EventWriter(closed).emit(FirstAccepted(1.0))
    assert closed.tried == 1
