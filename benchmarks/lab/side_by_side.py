"""Ours against `hivemind.Optimizer`, behind the same cables: bytes, and time to the same loss.

    sudo python -m benchmarks.lab.side_by_side --output benchmarks/results/swarm.json

First a cycle of ours (scenario `bench-4`), then four volunteers with `hivemind.Optimizer` in the
same namespaces, on the rows, the adapter and the start of that cycle, for `--patience` times as
long. Time counts from the first training step. Both are looked at afterwards on all held-out rows.
The target is 90 % of the fall that ours reached; where the rival did not reach it, factors are
lower bounds and marked so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ares_p2p.errors import AresError
from benchmarks.lab.counters import SAMPLE_S, Counters
from benchmarks.lab.network import ROOT, ChildEnded, LabNetwork, WireProcess
from benchmarks.lab.record import Record
from benchmarks.lab.rivals.hivemind_optimizer import RivalConfig
from benchmarks.lab.runner import fresh_folder, run_scenario, versions
from benchmarks.lab.scenario import Scenario, load_scenario
from benchmarks.lab.screen import Screen, build_console
from benchmarks.lab.spaces import Spaces, check_machine, remove_abandoned

PORT: Final = 31_200
START_TIMEOUT_S: Final = 120.0
END_TIMEOUT_S: Final = 60.0
SHARE_OF_FALL: Final = 0.9
KEPT: Final = "kept"  # folder of all blobs that our coordinator ever held
KEEP_EVERY_S: Final = 1.0  # far below a round; states are kept for several rounds
RIVAL: Final = ("-m", "benchmarks.lab.rivals.hivemind_optimizer")
Theta = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Point:
    """One look: seconds and tokens of all volunteers since the first step, bytes sent by the
    volunteer that sent most, held-out loss."""

    seconds: float
    tokens: int
    up_bytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Cycle:
    """What a cycle of ours was made of, for somebody else to do the same."""

    training: dict[str, Any]
    start: Theta
    rows: Path
    held_out: Path
    states: dict[int, Theta]  # after each round


def read_cycle(coordinator: Path, base: Path, report: dict[str, Any]) -> Cycle:
    """Return the cycle of a report from the coordinator's data directory."""
    from ares_coordinator.herald import payload_of
    from ares_coordinator.layout import DataLayout
    from ares_coordinator.store.sql import open_store
    from ares_p2p.domain import CycleConfig
    from ares_p2p.network.blob_store import BlobStore
    from ares_p2p.training.lora_spec import LoraSpec, layout_of_config
    from ares_p2p.training.state import decode_snapshot

    store = open_store(coordinator / "ares.db")
    try:
        record = store.record("cycle", 1, 0)
    finally:
        store.close()
    assert record is not None
    config = payload_of(record, CycleConfig)
    training = config.training
    spec = LoraSpec(training.rank, training.alpha, training.targets)
    layout = layout_of_config(json.loads((base / "config.json").read_text()), spec)
    files = DataLayout(coordinator)
    blobs = BlobStore(coordinator.parent / KEPT)

    def theta(digest: bytes) -> Theta:
        return np.array(decode_snapshot(blobs.read(digest), layout=layout).theta)

    states = {row["round"]: theta(bytes.fromhex(row["next_state"])) for row in report["rounds"]}
    folder = files.dataset(1)
    start = theta(config.initial_state)
    return Cycle(asdict(training), start, folder / "train.jsonl", folder / "eval.jsonl", states)


def held_out_losses(cycle: Cycle, base: Path, thetas: Sequence[Theta], what: str) -> list[float]:
    """Return the held-out loss of each adapter, on all rows."""
    from transformers.utils import logging

    from ares_p2p.shards.format import decode_jsonl
    from ares_p2p.training.base import BaseSpec, load_base, load_tokenizer
    from ares_p2p.training.data import build_dataset
    from ares_p2p.training.evaluate import example_losses
    from ares_p2p.training.lora import attach_lora, layout_of_model, write_parameters
    from ares_p2p.training.lora_spec import LoraSpec

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    numbers = cycle.training
    spec = BaseSpec(
        str(base), quantization=numbers["quantization"], compute_dtype=numbers["compute_dtype"]
    )
    lora = LoraSpec(numbers["rank"], numbers["alpha"], tuple(numbers["targets"]))
    model = attach_lora(load_base(spec), lora)
    layout = layout_of_model(model)
    rows = decode_jsonl(cycle.held_out.read_bytes())
    dataset = build_dataset(
        load_tokenizer(spec),
        (row.messages for row in rows),
        sequence_length=numbers["sequence_length"],
    )
    losses = []
    console = Console(stderr=True)
    for vector in track(thetas, description=f"held-out loss, {what}", console=console):
        write_parameters(model, layout, vector)
        losses.append(float(example_losses(model, dataset).mean))
    return losses


# --- ours ------------------------------------------------------------------------------------------


def our_points(report: dict[str, Any], cycle: Cycle, base: Path) -> list[Point]:
    """Return what a report of ours says at the end of each round."""
    rounds = report["rounds"]
    vectors = [cycle.start, *(cycle.states[row["round"]] for row in rounds)]
    losses = held_out_losses(cycle, base, vectors, "ours")
    begin_s = report["rounds"][0]["opened_s"]
    peers = [name for name, node in report["nodes"].items() if "seconds" in node]
    points = [Point(0.0, 0, 0, losses[0])]
    for row, loss in zip(rounds, losses[1:], strict=True):
        until = [one for one in report["rounds"] if one["round"] <= row["round"]]
        sent = max(sum(one["bytes"][name]["up"] for one in until) for name in peers)
        tokens = sum(one["tokens"] for one in until)
        points.append(Point(row["finished_s"] - begin_s, tokens, sent, loss))
    return points


async def keep_blobs(coordinator: Path) -> None:
    """Link every blob of a coordinator into a folder beside it: it forgets the older states."""
    kept = coordinator.parent / KEPT
    kept.mkdir()
    while True:
        for suffix in ("blob", "list"):  # both are put in place when they are whole
            for path in (coordinator / "blobs").glob(f"*.{suffix}"):
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    os.link(path, kept / path.name)
        await asyncio.sleep(KEEP_EVERY_S)


# --- hivemind.Optimizer ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RivalRun:
    """How `hivemind.Optimizer` is run."""

    steps_per_epoch: int  # of each volunteer: hivemind's target_batch_size, in our steps
    lr: float
    stop_s: float
    keep_every: int

    @property
    def name(self) -> str:
        """For tables."""
        return f"hivemind.Optimizer, {self.steps_per_epoch} steps an epoch"


async def run_rival(
    scenario: Scenario,
    how: RivalRun,
    cycle: Cycle,
    *,
    base: Path,
    out: Path,
    spaces: Spaces,
    screen: Screen,
) -> list[tuple[float, int, int, Theta]]:
    """Run it in the scenario's namespaces; return seconds, tokens, bytes and the adapter."""
    record = Record()
    for folder in ("logs", "kept"):
        (out / folder).mkdir()
    np.save(out / "start.npy", cycle.start)
    await asyncio.to_thread(spaces.build)
    wire = await WireProcess.start(spaces, seed=scenario.seed, log_file=out / "logs" / "wire.log")
    counters = Counters(wire.pid, frozenset(scenario.nodes))
    screen.counters = counters
    network = LabNetwork(out, scenario=scenario, spaces=spaces, record=record)
    sampling = asyncio.create_task(_sample(counters), name="lab-counters")
    try:
        meeting = await network.start("bootstrap", RIVAL, ("dht", str(PORT)))
        facts = await meeting.wait_for_event("ready", timeout_s=START_TIMEOUT_S)
        outside = [a for a in facts["addresses"] if spaces.addresses["bootstrap"] in a]
        peers = []
        for number, peer in enumerate(scenario.peers):
            first = number == 0
            config = RivalConfig(
                base=str(base),
                rows=str(cycle.rows),
                training=cycle.training,
                theta=str(out / "start.npy"),
                initial_peers=outside,
                port=PORT,
                seed=number,
                rows_per_epoch=(
                    len(scenario.peers)
                    * how.steps_per_epoch
                    * int(cycle.training["sequences_per_step"])
                ),
                lr=how.lr,
                stop_s=how.stop_s,
                go=str(out / "go"),
                keep=str(out / "kept") if first else "",
                keep_every=how.keep_every,
            )
            path = out / f"{peer.name}.json"
            path.write_text(json.dumps(asdict(config)))
            peers.append(await network.start(peer.name, RIVAL, (str(path),)))
        for child in peers:
            await child.wait_for_event("ready", timeout_s=START_TIMEOUT_S)
        begin_s = time.time()
        counters.sample(now_s=begin_s)
        (out / "go").touch()
        screen.say(f"{how.name}: {how.stop_s:.0f} s")
        network.note_processes()
        limit_s = how.stop_s + END_TIMEOUT_S
        for child in peers:
            await child.wait_for_event("done", timeout_s=limit_s)
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        await network.close()
        await wire.stop()
    return _rival_points(record, counters, scenario, out / "kept", begin_s=begin_s)


async def _sample(counters: Counters) -> None:
    while True:
        counters.sample(now_s=time.time())
        await asyncio.sleep(SAMPLE_S)


def _rival_points(
    record: Record, counters: Counters, scenario: Scenario, kept: Path, *, begin_s: float
) -> list[tuple[float, int, int, Theta]]:
    names = [peer.name for peer in scenario.peers]
    points = []
    for said in record.said:
        if said.event != "epoch" or said.node != names[0]:
            continue
        path = kept / f"{said.record['epoch']:06d}.npy"
        if not path.exists():
            continue
        at_s = float(said.record["at_s"])
        tokens = 0
        for name in names:
            mine = [
                one.record["tokens"]
                for one in record.said
                if one.node == name and one.event == "epoch" and one.record["at_s"] <= at_s
            ]
            tokens += max(mine, default=0)
        carried = counters.between(begin_s, at_s)
        sent = max(carried[name].up for name in names)
        points.append((at_s - begin_s, tokens, sent, np.load(path)))
    return points


# --- both ------------------------------------------------------------------------------------------


def reached(points: Sequence[Point], loss: float) -> Point | None:
    """Return where the loss was first at or below a value, between two looks in proportion."""
    before = points[0]
    for point in points[1:]:
        if point.loss <= loss:
            share = (before.loss - loss) / (before.loss - point.loss) if before.loss > loss else 0.0
            return Point(
                before.seconds + share * (point.seconds - before.seconds),
                round(before.tokens + share * (point.tokens - before.tokens)),
                round(before.up_bytes + share * (point.up_bytes - before.up_bytes)),
                loss,
            )
        before = point
    return None


def compare(ours: Sequence[Point], rival: Sequence[Point]) -> dict[str, Any]:
    """Return how ours and a rival came to the target: a share of the fall that ours reached."""
    best = min(point.loss for point in ours)
    target = ours[0].loss - SHARE_OF_FALL * (ours[0].loss - best)
    mine, other = reached(ours, target), reached(rival, target)
    assert mine is not None
    last = rival[-1]
    there = other or last
    return {
        "target_loss": target,
        "ours": asdict(mine),
        "rival": None if other is None else asdict(other),
        "rival_at_its_end": asdict(last),
        "is_lower_bound": other is None,
        "times_less_time": there.seconds / mine.seconds,
        "times_fewer_bytes": there.up_bytes / mine.up_bytes,
        "times_fewer_bytes_per_token": (last.up_bytes / max(1, last.tokens))
        / (ours[-1].up_bytes / max(1, ours[-1].tokens)),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the held-out loss over time and over bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.2), dpi=120, sharey=True, layout="constrained"
    )
    for run in result["runs"]:
        points = run["points"]
        losses = [point["loss"] for point in points]
        left.plot([p["seconds"] for p in points], losses, marker=".", label=run["name"])
        sent = [max(p["up_bytes"], 1e3) / 1e6 for p in points]
        right.plot(sent, losses, marker=".", label=run["name"])
    right.set_xscale("log")
    left.set_xlabel("seconds since the first step")
    left.set_ylabel("held-out loss, nats per token")
    right.set_xlabel("MB sent by one volunteer, all headers")
    left.set_title(result["says"], loc="left", fontsize=9)
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def print_result(result: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table(title=result["says"], title_justify="left")
    for header in ("run", "to the target", "sent each", "tokens", "last loss", "sent / M tokens"):
        table.add_column(header, justify="left" if header == "run" else "right")
    for run in result["runs"]:
        compared = run.get("compared")
        there = run["target"]
        last = run["points"][-1]
        seconds = f"{there['seconds']:.0f} s" if there else f"> {last['seconds']:.0f} s"
        sent = (
            f"{there['up_bytes'] / 1e6:.2f} MB" if there else f"> {last['up_bytes'] / 1e6:.1f} MB"
        )
        if compared:
            mark = ">= " if compared["is_lower_bound"] else ""
            seconds += f" ({mark}{compared['times_less_time']:.1f}x)"
            sent += f" ({mark}{compared['times_fewer_bytes']:.0f}x)"
        per_token = last["up_bytes"] / max(1, last["tokens"])
        table.add_row(
            run["name"],
            seconds,
            sent,
            f"{last['tokens']}",
            f"{last['loss']:.4f}",
            f"{per_token:.2f} MB",
        )
    console.print(table)
    console.print(f"target loss {result['target_loss']:.4f}")


async def run_all(flags: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run ours, then the rivals; return the result."""
    scenario, base = load_scenario(flags.scenario), flags.base
    folder = flags.out / "ours"
    fresh_folder(folder)
    spaces = Spaces(scenario.nodes)
    keeping = asyncio.create_task(keep_blobs(folder / "coordinator"), name="lab-keep")
    try:
        with Screen(console, "ours", tuple(scenario.nodes)) as screen:
            report = await run_scenario(
                scenario, base=base, out=folder, spaces=spaces, screen=screen
            )
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        spaces.remove()
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    if not report["passed"]:
        raise ChildEnded(f"our own run failed: {report['checks']} {report['failure']}")
    cycle = read_cycle(folder / "coordinator", base, report)
    ours = our_points(report, cycle, base)
    runs: list[dict[str, Any]] = [
        {"name": "ours", "points": [asdict(p) for p in ours], "lr": cycle.training["inner_lr"]}
    ]
    for steps in flags.steps:
        how = RivalRun(
            steps_per_epoch=steps,
            lr=flags.lr,
            stop_s=flags.patience * ours[-1].seconds,
            keep_every=max(1, 10 // steps),
        )
        own = flags.out / f"hivemind-{steps}"
        fresh_folder(own)
        spaces = Spaces(scenario.nodes)
        try:
            with Screen(console, how.name, tuple(scenario.nodes)) as screen:
                found = await run_rival(
                    scenario, how, cycle, base=base, out=own, spaces=spaces, screen=screen
                )
        finally:
            spaces.remove()
        losses = held_out_losses(cycle, base, [one[3] for one in found], how.name)
        points = [Point(0.0, 0, 0, ours[0].loss)]
        points += [Point(*one[:3], loss) for one, loss in zip(found, losses, strict=True)]
        runs.append(
            {
                "name": how.name,
                "lr": how.lr,
                "steps_per_epoch": steps,
                "points": [asdict(p) for p in points],
                "compared": compare(ours, points),
            }
        )
    best = min(point.loss for point in ours)
    target = ours[0].loss - SHARE_OF_FALL * (ours[0].loss - best)
    for run in runs:
        there = reached([Point(**p) for p in run["points"]], target)
        run["target"] = None if there is None else asdict(there)
    return {
        "benchmark": "swarm",
        "says": f"{len(scenario.peers)} volunteers. {scenario.says}",
        "versions": versions(),
        "target_loss": target,
        "runs": runs,
        "wire": report["wire"]["late_ms"],
        "training": cycle.training,
    }


def main() -> int:
    """Parse the flags, run, print; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", default="bench-4")
    parser.add_argument("--base", type=Path, default=ROOT / "data" / "base")
    parser.add_argument("--out", type=Path, default=ROOT / "lab-out" / "side-by-side")
    parser.add_argument("--output", type=Path, help="also write the JSON here, and a picture")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[1, 10], help="the rival's steps an epoch"
    )
    parser.add_argument("--lr", type=float, default=0.003, help="of the rival's AdamW")
    parser.add_argument(
        "--patience", type=float, default=5.5, help="how many times our time the rival gets"
    )
    parser.add_argument("--json", action="store_true", help="the result on stdout")
    flags = parser.parse_args()
    console = build_console(stderr=flags.json)
    try:
        check_machine()
        remove_abandoned()
        flags.out.mkdir(parents=True, exist_ok=True)
        result = asyncio.run(run_all(flags, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except AresError as fault:
        print(f"error [{fault.code}] {fault.message}\nnext: {fault.hint}", file=sys.stderr)
        return fault.exit_code
    except (ChildEnded, TimeoutError) as error:
        print(f"error {str(error) or 'it took too long'}: see {flags.out}", file=sys.stderr)
        return 1
    text = json.dumps(result, indent=1)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")
        draw(result, flags.output.with_suffix(".png"))
    if flags.json:
        print(text)
    else:
        print_result(result, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
