"""What a person sees while a scenario runs: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from benchmarks.lab.counters import Carried, Counters
from benchmarks.lab.record import Said

REFRESH_PER_S: Final = 4
RATE_OVER_S: Final = 2.0
PLAIN_WIDTH: Final = 120


def build_console(*, stderr: bool) -> Console:
    """Return where to print; a file or a pipe has no width, so tables get what they need."""
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


@dataclass(slots=True)
class _Row:
    phase: str = ""
    round: int = -1
    step: int = 0
    max_steps: int = 0
    loss: float | None = None
    is_cut: bool = False


@dataclass(slots=True)
class Screen:
    """The display of one run; a context manager. Listens to the record."""

    console: Console
    title: str
    nodes: tuple[str, ...]
    rounds: int = 0
    counters: Counters | None = None
    is_quiet: bool = False
    _rows: dict[str, _Row] = field(default_factory=dict)
    _began_s: float = field(default_factory=time.time)
    _live: Live | None = None
    _shown_round: int = -1

    def __enter__(self) -> Screen:
        self._rows = {name: _Row() for name in self.nodes}
        if self.console.is_terminal and not self.is_quiet:
            self._live = Live(
                console=self.console,
                get_renderable=self._table,
                refresh_per_second=REFRESH_PER_S,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        if not self.is_quiet:
            seconds = time.time() - self._began_s
            self.console.print(f"[dim]{seconds:6.1f} s[/dim]  {text}", highlight=False)

    def on_said(self, said: Said) -> None:
        """Show a line of the record."""
        row, record = self._rows.get(said.node), said.record
        if row is None:
            return
        match said.event:
            case "lab":
                self._on_lab(said.node, row, record)
            case "phase":
                row.phase = record["phase"]
            case "round_open":
                row.round, row.step = record["round"], 0
                self.rounds = record["rounds"]
                if record["round"] > self._shown_round:
                    self._shown_round = record["round"]
                    self.say(f"round {record['round']} of {record['rounds']}")
            case "step":
                row.step, row.max_steps, row.loss = (
                    record["step"],
                    record["max_steps"],
                    record["loss"],
                )
            case "round_done" if record["status"] not in ("accepted", "clipped"):
                why = f" [{record['code']}] {record['message']}" if record["code"] else ""
                self.say(f"[yellow]{said.node}: round {record['round']} {record['status']}{why}")
            case "error":
                self.say(f"[yellow]{said.node}: [{record['code']}] {record['message']}")

    def _on_lab(self, node: str, row: _Row, record: dict[str, Any]) -> None:
        match record["do"]:
            case "start":
                row.phase, row.is_cut = "starting", False
                self.say(f"{node} starts")
            case "kill":
                row.phase = "killed"
                self.say(f"[red]{node} was killed (SIGKILL)")
            case "cut":
                row.is_cut = True
                self.say(f"[red]{node}'s cable is cut")
            case "restore":
                row.is_cut = False
                self.say(f"[cyan]{node}'s cable works again")
            case other:
                facts = {key: value for key, value in record.items() if key not in ("event", "do")}
                self.say(f"[cyan]{node}: {other} {facts}")

    def _table(self) -> Table:
        seconds = time.time() - self._began_s
        table = Table(title=f"{self.title}   {seconds:.0f} s", title_justify="left")
        for header in ("node", "phase", "round", "steps", "loss", "sent", "received", "Mbit/s up"):
            table.add_column(header, justify="left" if header in ("node", "phase") else "right")
        counts = self._counts(0.0)
        earlier = self._counts(RATE_OVER_S)
        for name, row in self._rows.items():
            carried = counts.get(name, Carried())
            rate = (carried - earlier.get(name, Carried())).up * 8e-6 / RATE_OVER_S
            steps: ProgressBar | str = ""
            if row.max_steps and row.phase == "training":
                steps = ProgressBar(total=row.max_steps, completed=row.step, width=12)
            table.add_row(
                f"[red]{name} (cut)[/red]" if row.is_cut else name,
                row.phase,
                f"{row.round}" if row.round >= 0 else "",
                steps,
                "" if row.loss is None else f"{row.loss:.3f}",
                f"{carried.up / 1e6:.2f} MB",
                f"{carried.down / 1e6:.2f} MB",
                f"{rate:.2f}",
            )
        return table

    def _counts(self, ago_s: float) -> dict[str, Carried]:
        return {} if self.counters is None else self.counters.until(time.time() - ago_s)


def print_report(
    report: dict[str, Any], console: Console, *, paths: Callable[[], list[str]]
) -> None:
    """Print what a run came to: a table of the peers, the events, the checks."""
    table = Table(title=f"{report['lab']}: {report['says']}", title_justify="left")
    headers = (
        "node",
        "used",
        "missed",
        "MB up",
        "MB down",
        "kB/round up",
        "training",
        "credits",
        "way",
    )
    for header in headers:
        table.add_column(
            header, justify="left" if header in ("node", "way") else "right", no_wrap=True
        )
    rounds = max(1, len(report["rounds"]))
    for name, node in report["nodes"].items():
        inside = sum(row["bytes"].get(name, {"up": 0})["up"] for row in report["rounds"])
        used = missed = share = earned = way = ""
        if "seconds" in node:
            there = sum(value for kind, value in node["seconds"].items() if kind != "off")
            share = f"{node['seconds']['training'] / there:.0%}" if there else ""
            used, missed = str(node["accepted"]), str(node["missed"])
            way = ", then ".join(node["ways"])
            earned = "" if node["credits"] is None else f"{node['credits']:.2f}"
        megabytes = (f"{node[key] / 1e6:.2f}" for key in ("up_bytes", "down_bytes"))
        table.add_row(
            name, used, missed, *megabytes, f"{inside / rounds / 1e3:.0f}", share, earned, way
        )
    console.print(table)
    done = [row for row in report["rounds"] if row["finished_s"] is not None]
    if done:
        console.print(
            f"rounds      {len(done)}, {done[0]['mean_loss']:.3f} to {done[-1]['mean_loss']:.3f} "
            f"training loss, {(done[-1]['end_s'] - done[0]['opened_s']) / len(done):.1f} s each"
        )
    for event in report["events"]:
        cost = event.get("cost")
        text = f"event       {event['at_s']:6.1f} s  {event['do']} {event['node']}"
        if cost:
            text += f" until {cost['until_s']} s, {cost['rounds_finished_meanwhile']} rounds ended"
            if cost.get("back") is not None:
                text += (
                    f"; back in round {cost['back_in_round']} after {cost['back_after_s']} s, "
                    f"{cost['plans_missed']} plans missed, rounds lost: {cost['rounds_lost']}"
                )
        console.print(text, highlight=False)
    late = report["wire"].get("late_ms")
    if late:
        console.print(f"the wire    late by {late['p99']} ms (99 %), {late['max']} ms (most)")
    for path in paths():
        console.print(f"written     {path}", highlight=False)
    if report["failure"]:
        console.print(f"[red]{report['failure']}[/red]")
    for text, held in report["checks"].items():
        console.print(
            f"  [green]passed[/green]  {text}" if held else f"  [red]FAILED[/red]  {text}"
        )
