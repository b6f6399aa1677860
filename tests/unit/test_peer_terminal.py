"""What a person sees: lines, the panel, and nothing that a remote text could inject."""

from __future__ import annotations

import io
import json

from rich.console import Console

from ares_peer.events import (
    AuditReported,
    AuditSettled,
    AuditStarted,
    CreditSettled,
    ErrorRaised,
    Event,
    Phase,
    PhaseChanged,
    RoundDone,
    RoundOpened,
    StepDone,
    SupervisorNote,
    SyncProgress,
    Traffic,
)
from ares_peer.lines import JsonView, PlainView
from ares_peer.progress import Status, advance
from ares_peer.terminal import ASCII, UNICODE, LiveView, build_panel, lasting_line


class StandingClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def folded(*events: Event) -> Status:
    status = Status(pid=1, started_s=1.0, network="tiny-net")
    for event in events:
        status = advance(status, event, now_ms=1)
    return status


def drawn(status: Status, *, width: int = 80, now_ms: int = 0) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(build_panel(status, now_ms=now_ms, glyphs=UNICODE))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


TRAINING: list[Event] = [
    RoundOpened(3, 11, 90, 42_000, "ab"),
    PhaseChanged(Phase.TRAINING),
    StepDone(23, 40, 2.5, 1234.5),
    CreditSettled(3, 9, "pass", 1_000_000, 12_500_000),
    RoundDone(3, 10, "accepted", 1.0, "", "", "cd"),
    Traffic(12_000_000, 48_000_000),
]


def test_panel_shows_round_progress_speed_credit_and_traffic() -> None:
    text = drawn(folded(*TRAINING))
    for part in (
        "tiny-net",
        "training",
        "round 12/90 of cycle 3",
        "step 23/40",
        "loss 2.500, 1,234 tokens/s",
        "0:42 to the deadline",
        "12.50 settled, 1 round pending",
        "↑ 12.0 MB  ↓ 48.0 MB",
        "round 11 accepted",
    ):
        assert part in text


def test_panel_fits_a_narrow_terminal() -> None:
    lines = drawn(folded(*TRAINING), width=44).splitlines()
    assert max(len(line) for line in lines) <= 44
    assert len(lines) <= 10


def test_panel_shows_what_is_fetched() -> None:
    text = drawn(folded(PhaseChanged(Phase.SYNCING), SyncProgress("base", 10_000_000, 44_000_000)))
    assert "base 10.0 MB of 44.0 MB" in text
    assert drawn(folded(PhaseChanged(Phase.SYNCING), SyncProgress("base", 5, 0)))


def test_panel_says_what_the_next_ctrl_c_does() -> None:
    assert "Ctrl-C finishes the round" in drawn(folded())
    assert "Ctrl-C again stops at once" in drawn(folded(SupervisorNote("stopping")))


def test_remote_text_is_never_markup() -> None:
    refused = RoundDone(1, 0, "refused", 0.0, "ARES-E070", "[bold red]you[/] [link=x]", "")
    assert "[bold red]you[/] [link=x]" in drawn(folded(refused))
    line = lasting_line(refused, glyphs=ASCII)
    assert line is not None
    assert line.plain == "x round 1 refused: [bold red]you[/] [link=x] [ARES-E070]"


def test_outcomes_have_a_glyph_of_their_own() -> None:
    outcomes = [
        lasting_line(event, glyphs=UNICODE)
        for event in (
            RoundDone(1, 0, "accepted", 1.0, "", "", ""),
            RoundDone(1, 0, "refused", 0.0, "c", "m", ""),
            RoundDone(1, 0, "missed", 0.0, "", "", ""),
            CreditSettled(1, 0, "fail", 0, 0, "c", "m"),
        )
    ]
    assert [line.plain[0] for line in outcomes if line] == ["✓", "✗", "·", "✗"]
    assert lasting_line(StepDone(1, 2, 1.0, 1.0), glyphs=UNICODE) is None


def test_live_view_leaves_outcomes_and_a_summary() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    view = LiveView(console, clock=StandingClock())
    view.open()
    for event in TRAINING:
        view.show(event, folded(*TRAINING))
    view.close([("rounds accepted", "1")])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "round 11 accepted" in text
    assert "this run" in text
    assert "rounds accepted" in text


def test_plain_view_throttles_steps() -> None:
    clock, stream = StandingClock(), io.StringIO()
    view = PlainView(stream, clock=clock)
    for _ in range(100):
        view.show(StepDone(23, 40, 2.5, 1234.5), folded(*TRAINING))
        clock.ms += 200
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "round 12/90 of cycle 3: step 23/40, loss 2.500, 1,234 tokens/s" in lines[0]


def test_plain_view_is_quiet_about_what_every_round_does() -> None:
    stream = io.StringIO()
    view = PlainView(stream, clock=StandingClock())
    for _ in range(3):
        view.show(PhaseChanged(Phase.WAITING, "for the next round"), folded())
        view.show(PhaseChanged(Phase.TRAINING), folded())
    view.show(ErrorRaised("ARES-E032", "away", "wait"), folded())
    view.close([("rounds accepted", "1")])
    said = [line.split(" ", 2)[2] for line in stream.getvalue().splitlines()]
    assert said == [
        "waiting: for the next round",
        "error away [ARES-E032] (wait)",
        "summary: rounds accepted: 1",
    ]


def test_json_view_writes_every_event() -> None:
    stream = io.BytesIO()
    view = JsonView(stream)
    for event in TRAINING:
        view.show(event, folded())
    kinds = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert kinds == [event.kind for event in TRAINING]


def test_views_fall_silent_when_their_reader_is_gone() -> None:
    class Gone(io.StringIO):
        tried = 0

        def write(self, text: str) -> int:
            self.tried += 1
            raise BrokenPipeError

    stream = Gone()
    view = PlainView(stream, clock=StandingClock())
    view.show(ErrorRaised("c", "m"), folded())
    view.close([("rounds accepted", "1")])
    assert stream.tried == 1


AUDITING: list[Event] = [
    PhaseChanged(Phase.AUDITING),
    AuditStarted(3, 10, 90, "cd" * 32, "12D3KooWabcdefgh", 40, 42_000),
    StepDone(23, 40, 2.5, 1234.5),
]


def test_panel_of_an_auditor_shows_the_replay_its_steps_and_its_deadline() -> None:
    text = drawn(folded(*AUDITING), now_ms=0)
    assert "replaying another peer's work" in text
    assert "round 11/90 of cycle 3" in text
    assert "step 23/40" in text
    assert "0:42 to the deadline" in text


def test_replays_leave_a_line_each_good_ones_and_bad_ones() -> None:
    good = lasting_line(AuditSettled(3, 10, "cd" * 32, 5, 5), glyphs=ASCII)
    bad = lasting_line(AuditSettled(3, 10, "cd" * 32, 0, 5, "ARES-E078", "why"), glyphs=ASCII)
    late = lasting_line(AuditReported(3, 10, "cd" * 32, 0, False, "ARES-E086", "x"), glyphs=ASCII)
    assert good is not None
    assert good.plain.startswith("+ ")
    for line in (bad, late):
        assert line is not None
        assert line.plain.startswith("x ")
