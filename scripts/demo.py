"""One real cycle on this machine: bootstrap, coordinator, three peers, as separate processes.

The third peer joins late. The second is killed with SIGKILL in the middle of a round and comes
back. At the end: a table, a picture of the loss, and exit code 0 only if every peer holds the
same state, the model became better beyond luck, and the killed and the late peer contributed.

    python scripts/demo.py [--rounds N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from demo_report import Outcome, draw_picture, print_report
from localnet import Child, ChildEnded, LocalNetwork

ROOT = Path(__file__).resolve().parent.parent
MARKER = "ares-demo"  # a folder with this file was made by a demo and may be replaced
LATE_ROUND = 3  # the third peer joins when this round has begun
KILL_ROUND = 6  # the second peer is killed in the middle of it
KILL_STEP = 4
PEERS = ("ada", "ben", "cleo")  # cleo joins late, ben is killed and comes back
CYCLE_TIMEOUT_S = 540.0


@dataclass(slots=True)
class Watch:
    """What the processes told so far."""

    console: Console
    progress: Progress
    bars: dict[str, Any] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)
    plain: bool = False

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        seconds = time.monotonic() - self.started_s
        self.progress.console.print(f"[dim]{seconds:6.1f} s[/dim]  {text}", highlight=False)

    def on_event(self, name: str, record: dict[str, Any]) -> None:
        """Show a peer's event: a bar for steps, a line for what matters."""
        match record.get("event"):
            case "step":
                self._bar(name, record["step"], record["max_steps"], f"loss {record['loss']:.3f}")
            case "round_open" if name == PEERS[0]:
                self.say(f"round {record['round'] + 1} of {record['rounds']}")
            case "phase" if record["phase"] not in ("training", "uploading", "exchanging"):
                self._bar(name, 0, 1, f"{record['phase']} {record['detail']}")
            case "commit" if not record["accepted"]:
                self.say(f"[yellow]{name}: refused [{record['code']}] {record['message']}")
            case "first_accepted":
                self.say(
                    f"{name}: first contribution accepted {record['seconds']:.1f} s after its start"
                )
            case "error":
                self.say(f"[yellow]{name}: [{record['code']}] {record['message']}")

    def _bar(self, name: str, done: int, total: int, text: str) -> None:
        if self.plain:
            return
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(name, total=total, note="")
        self.progress.update(self.bars[name], completed=done, total=total, note=text[:48])


def settings(rounds: int) -> dict[str, object]:
    """Return the settings of the demo's short cycle; everything else is the default."""
    return {
        "rounds.rounds": rounds,
        "rounds.min_peers": 2,
        "rounds.train_s": 40,
        "rounds.serve_s": 20,
        "data.examples_per_category": 250,
        "training.sequences_per_step": 4,
        # a tiny base on a CPU: 60 k tokens are one reference hour here, so that credits show
        "credit.reference_tokens_per_hour": 60_000,
    }


async def run_demo(out: Path, *, rounds: int, watch: Watch) -> Outcome:
    """Run the network to the end of its cycle and return what came of it."""
    async with LocalNetwork(out, on_event=watch.on_event) as net:
        watch.say("setting up the network")
        await net.init(base=ROOT / "data" / "base", name="demo", settings=settings(rounds))
        await net.start_bootstrap()
        watch.say(f"bootstrap node at {net.bootstrap_address.split('/p2p/')[0]}")
        coordinator = await net.start_coordinator()
        watch.say(f"coordinator's API at {net.api_url}/api/ares/status")
        ending = ("--exit-after-cycle",)
        peers = {name: await net.start_peer(name, arguments=ending) for name in PEERS[:2]}
        watch.say(f"peers {PEERS[0]} and {PEERS[1]} are joining")
        script = asyncio.create_task(_story(net, peers, watch))
        following = asyncio.create_task(_follow(net, coordinator, watch))
        try:
            async with asyncio.timeout(CYCLE_TIMEOUT_S):
                await _with_coordinator(coordinator, _to_the_end(net, peers, script))
        finally:
            for task in (script, following):
                task.cancel()
            await asyncio.gather(script, following, return_exceptions=True)
        facts = {
            path: await net.get(f"/api/ares/{path}")
            for path in ("training", "leaderboard?limit=10", "model")
        }
        for peer in peers.values():
            assert peer.reader is not None
            await peer.reader
        outcome = Outcome.of(
            facts, peers, late=PEERS[2], killed=PEERS[1], api_url=net.api_url, out=out
        )
        outcome.leftovers = await net.close()
        return outcome


async def _story(net: LocalNetwork, peers: dict[str, Child], watch: Watch) -> None:
    """The late joiner, and the one that is killed and comes back."""
    first, killed, late = PEERS
    await peers[first].wait_for(
        lambda record: record.get("event") == "round_open" and record["round"] >= LATE_ROUND,
        timeout_s=CYCLE_TIMEOUT_S,
    )
    peers[late] = await net.start_peer(late, arguments=("--exit-after-cycle",))
    watch.say(f"[cyan]{late} joins now, late")
    victim = peers[killed]
    opened = await victim.wait_for(
        lambda record: record.get("event") == "round_open" and record["round"] >= KILL_ROUND,
        timeout_s=CYCLE_TIMEOUT_S,
    )
    await victim.wait_for(
        lambda record: record.get("event") == "step" and record["step"] >= KILL_STEP,
        timeout_s=CYCLE_TIMEOUT_S,
        after=victim.said.index(opened),
    )
    net.note_processes()
    victim.kill()
    await victim.process.wait()
    watch.say(f"[red]{killed} was killed (SIGKILL) in the middle of round {opened['round'] + 1}")
    before = victim.said
    peers[killed] = await net.start_peer(killed, arguments=("--exit-after-cycle",))
    peers[killed].said[:0] = [{"event": "killed", "round": opened["round"], "before": before}]
    watch.say(f"[cyan]{killed} comes back with the same identity")


async def _follow(net: LocalNetwork, coordinator: Child, watch: Watch) -> None:
    """Say which phase the cycle is in."""
    phase = ""
    while coordinator.process.returncode is None:
        with contextlib.suppress(Exception):  # the API may be busy; the next look is soon
            status = await net.get("/api/ares/training")
            if status["phase"] not in (phase, None):
                phase = status["phase"]
                watch.say(f"cycle phase: [bold]{phase}")
        net.note_processes()
        await asyncio.sleep(1.0)


async def _to_the_end(
    net: LocalNetwork, peers: dict[str, Child], script: asyncio.Task[None]
) -> None:
    """Wait until the story is told, every peer has ended and the cycle is over."""
    await script
    await asyncio.gather(*(peer.process.wait() for peer in peers.values()))
    await net.wait_for_phase("done", timeout_s=CYCLE_TIMEOUT_S)


async def _with_coordinator(coordinator: Child, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, but give up when the coordinator ends."""
    doing = asyncio.ensure_future(work)
    ending = asyncio.ensure_future(coordinator.process.wait())
    try:
        await asyncio.wait({doing, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ChildEnded(f"the coordinator ended:\n{coordinator.log_tail()}")
        await doing
    finally:
        doing.cancel()
        ending.cancel()
        await asyncio.gather(doing, ending, return_exceptions=True)


def _fresh_folder(out: Path) -> None:
    """Make `out` anew; refuse to delete anything that no demo made."""
    if out.exists() and not (out / MARKER).exists():
        if any(out.iterdir()):
            raise SystemExit(f"{out} exists and is no demo's folder; choose another with --out")
    elif out.exists():
        LocalNetwork(out).remove()
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=16, help="rounds of the cycle (default 16)")
    parser.add_argument("--out", type=Path, default=ROOT / "demo-out", help="folder to fill")
    options = parser.parse_args()
    if options.rounds < KILL_ROUND + 4:
        parser.error(f"at least {KILL_ROUND + 4} rounds: the story needs them")
    _fresh_folder(options.out)
    console = Console()
    columns = (
        TextColumn("  {task.description:<6}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        watch = Watch(console, bars, plain=not console.is_terminal)
        try:
            with asyncio.Runner() as runner:
                outcome = runner.run(_with_signals(options.out, options.rounds, watch))
        except (KeyboardInterrupt, asyncio.CancelledError):
            console.print("stopped; everything it started has been ended")
            return 130
        except (ChildEnded, TimeoutError) as error:
            console.print(f"[red]the demo failed:[/red] {str(error) or 'it took too long'}")
            console.print(f"logs: {options.out / 'logs'}")
            return 1
    draw_picture(outcome, options.out / "demo.png")
    print_report(outcome, console, picture=options.out / "demo.png")
    return 0 if outcome.passed else 1


async def _with_signals(out: Path, rounds: int, watch: Watch) -> Outcome:
    """Run the demo so that SIGTERM ends it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run_demo(out, rounds=rounds, watch=watch)


if __name__ == "__main__":
    sys.exit(main())
