"""The view for a person at a terminal: finished rounds scroll by, one panel says what is now.

Text from the network is never markup: everything goes through `rich.text.Text`.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ares_p2p.clock import Clock
from ares_peer.events import (
    AuditReported,
    AuditSettled,
    CommitSent,
    CreditSettled,
    CreditTaken,
    CycleDone,
    ErrorRaised,
    Event,
    FirstAccepted,
    IdentityKnown,
    Phase,
    RoundCorrected,
    RoundDone,
    SupervisorNote,
    WayChanged,
)
from ares_peer.progress import RoundView, Status
from ares_peer.summary import Row, credit_text, deadline_text, round_text, speed_text
from ares_peer.wording import bytes_text, phase_text, sentence

REFRESH_PER_S: Final = 4
MAX_WIDTH: Final = 100
ECHO_MARGIN: Final = (
    4  # room for the "^C" that a terminal echoes: wrapped, it would shift the panel
)
_IN_A_ROUND: Final = (
    Phase.TRAINING,
    Phase.UPLOADING,
    Phase.EXCHANGING,
    Phase.AGGREGATING,
    Phase.AUDITING,
    Phase.FINISHING,
)
_LASTING_NOTES: Final = ("stopping", "aborting", "restarting", "leftovers")


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The signs beside the colours; never colour alone."""

    busy: str
    idle: str
    good: str
    bad: str
    note: str
    up: str
    down: str
    dot: str


UNICODE: Final = Glyphs("▶", "◌", "✓", "✗", "·", "↑", "↓", " · ")
ASCII: Final = Glyphs(">", "o", "+", "x", "-", "up", "down", " - ")


class LiveView:
    """A panel that is redrawn four times a second, under the lines that stay."""

    def __init__(self, console: Console, *, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._glyphs = ASCII if console.options.ascii_only else UNICODE
        self._status: Status | None = None
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=REFRESH_PER_S,
            transient=True,
        )

    def open(self) -> None:
        """Start to draw."""
        self._live.start()

    def show(self, event: Event, status: Status) -> None:
        """Redraw with `status`; leave a line for what is worth reading tomorrow."""
        self._status = status
        line = lasting_line(event, glyphs=self._glyphs)
        if line is not None:
            now_s = self._clock.now_ms() / 1000
            stamp = time.strftime("%H:%M:%S ", time.localtime(now_s))
            with contextlib.suppress(OSError):  # the terminal was closed: SIGHUP ends the run
                self._console.print(Text.assemble((stamp, "dim"), line), soft_wrap=True)

    def close(self, rows: list[Row]) -> None:
        """Take the panel away and leave the summary."""
        table = Table.grid(padding=(0, 2))
        for label, value in rows:
            table.add_row(Text(label, style="bold"), Text(value))
        with contextlib.suppress(OSError):
            self._live.stop()
            self._console.print(Panel(table, title="this run", title_align="left", expand=False))

    def _render(self) -> RenderableType:
        if self._status is None:
            return Text("starting")
        panel = build_panel(self._status, now_ms=self._clock.now_ms(), glyphs=self._glyphs)
        panel.width = max(20, min(MAX_WIDTH, self._console.width - ECHO_MARGIN))
        return panel


def lasting_line(event: Event, *, glyphs: Glyphs) -> Text | None:
    """Return the line that stays in the scrollback for `event`, or None for a passing one."""
    match event:
        case RoundDone(status="accepted" | "clipped"):
            glyph, style = glyphs.good, "green"
        case CreditSettled() if event.is_paid:
            glyph, style = glyphs.good, "green"
        case AuditReported(accepted=True) | AuditSettled(code=""):
            glyph, style = glyphs.good, "green"
        case RoundCorrected(code=""):
            glyph, style = glyphs.note, "yellow"
        case RoundDone(status="missed") | CreditSettled(outcome="void"):
            glyph, style = glyphs.note, "yellow"
        case RoundCorrected() | RoundDone() | CreditSettled() | CreditTaken():
            glyph, style = glyphs.bad, "red"
        case CommitSent(accepted=False):
            glyph, style = glyphs.bad, "red"
        case ErrorRaised():
            glyph, style = glyphs.bad, "red"
        case AuditReported() | AuditSettled():
            glyph, style = glyphs.bad, "red"
        case CycleDone() | FirstAccepted() | IdentityKnown():
            glyph, style = glyphs.note, "cyan"
        case WayChanged() if event.why:
            glyph, style = glyphs.note, "yellow"
        case SupervisorNote() if event.what in _LASTING_NOTES:
            glyph, style = glyphs.note, "yellow"
        case _:
            return None
    return Text.assemble((f"{glyph} ", style), sentence(event))


def build_panel(status: Status, *, now_ms: int, glyphs: Glyphs) -> Panel:
    """Return the panel for `status`: phase, round, progress, credit, traffic, last event."""
    lines: list[RenderableType] = [_phase_line(status, glyphs)]
    if status.phase is Phase.SYNCING and status.sync is not None:
        sync = status.sync
        amount = f"{bytes_text(sync.done_bytes)} of {bytes_text(sync.total_bytes)}"
        lines.append(_bar(sync.done_bytes, sync.total_bytes, Text(f"{sync.what} {amount}")))
    elif status.round is not None and status.phase in _IN_A_ROUND:
        view = status.round
        steps = f"step {view.step}/{view.max_steps}" if view.max_steps else "no step yet"
        lines.append(_bar(view.step, view.max_steps, Text(steps)))
        trains = status.phase in (Phase.TRAINING, Phase.AUDITING, Phase.FINISHING)
        deadline = _deadline(view, now_ms) if trains else Text("")
        lines.append(_row(Text(speed_text(view)), deadline))
    totals = status.totals
    up, down = bytes_text(totals.up_bytes), bytes_text(totals.down_bytes)
    traffic = f"{glyphs.up} {up}  {glyphs.down} {down}"
    credit = Text.assemble("credit ", (credit_text(status), "bold"))
    lines.append(_row(credit, Text(traffic)))
    if status.last_event:
        lines.append(Text(status.last_event, style="dim", overflow="ellipsis", no_wrap=True))
    return Panel(
        Group(*lines),
        title=Text(glyphs.dot.join(part for part in ("ares", status.network, status.way) if part)),
        title_align="left",
        subtitle=Text(
            "Ctrl-C again stops at once" if status.stopping else "Ctrl-C finishes the round",
            style="dim",
        ),
        subtitle_align="right",
        border_style="red" if status.last_error and status.phase is Phase.STOPPED else "cyan",
    )


def _phase_line(status: Status, glyphs: Glyphs) -> RenderableType:
    waits = status.phase in (Phase.STARTING, Phase.CONNECTING, Phase.WAITING, Phase.STOPPED)
    glyph, style = (glyphs.idle, "yellow") if waits else (glyphs.busy, "green")
    phase = Text.assemble((f"{glyph} ", style), (phase_text(status.phase, status.detail), "bold"))
    phase.no_wrap, phase.overflow = True, "ellipsis"
    return _row(phase, Text(round_text(status.round) if status.round else ""))


def _deadline(view: RoundView, now_ms: int) -> Text:
    urgent = view.deadline_ms - now_ms < 10_000
    return Text(deadline_text(view, now_ms=now_ms), style="yellow" if urgent else "")


def _row(left: Text, right: Text) -> Table:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(left, right)
    return grid


def _bar(done: int, total: int, label: Text) -> Table:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(ProgressBar(total=max(1, total), completed=min(done, max(1, total))), label)
    return grid
