"""A swarm of 10 to 1,000 peers: what grows with the number of peers, and what does not.

    python -m benchmarks.bench_scale --peers 10 30 100 --exchange gather butterfly --output x.json
    python -m benchmarks.bench_scale --draw x.json          # the picture alone, from a result

The real sessions, rounds, exchange, store and clock in played time: see `benchmarks.scale`. Machines
and lines are mixed (20 Mbit/s up in the middle, ten steps in 20 s), and in every round a share of
the peers is killed and replaced by strangers. The vector has half a million elements, a contribution
139 kB; so the processor seconds are those of the protocol, and what a larger vector costs on top is
in `bench_aggregate` and `bench_codec`. A round has at most 100 seats: with more peers the rest
follows, and is refused a seat with the reason.

What is played and not real: the DHT (one dictionary with hivemind's latencies) and the training.
Audits are not played. Goal: what the coordinator sends in a round by parts does not grow with the
peers beyond small messages.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import sys
from pathlib import Path
from typing import Any

from benchmarks.scale.measure import Run, play

EXCHANGES = ("gather", "butterfly", "auto")
PANELS = (
    ("rounds per hour", lambda r: r["rounds_per_hour"], 1.0),
    ("a peer, MB a round, both ways", lambda r: _both_ways(r["peer"]), 1e-6),
    ("coordinator sends, MB a round", lambda r: r["coordinator"]["up_bytes_per_round"], 1e-6),
    ("coordinator receives, MB a round", lambda r: r["coordinator"]["down_bytes_per_round"], 1e-6),
    ("coordinator, processor s a round", lambda r: r["coordinator"]["cpu_s_per_round"], 1.0),
    ("newcomer's first commit, s (median)", lambda r: r["newcomers"].get("median_s"), 1.0),
)


def _both_ways(peer: dict[str, float]) -> float:
    return peer["up_bytes_per_round"] + peer["down_bytes_per_round"]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw every cost over the number of peers."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 7), constrained_layout=True)
    for axis, (title, value, factor) in zip(axes.flat, PANELS, strict=True):
        for kind in dict.fromkeys(run["asked"] for run in result["runs"]):
            found = [
                (run["peers"], factor * value(run))
                for run in result["runs"]
                if run["asked"] == kind and value(run) is not None
            ]
            axis.plot(*zip(*sorted(found), strict=True), marker="o", label=kind)
        axis.set_title(title, fontsize=10)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("peers")
        axis.grid(visible=True, which="both", alpha=0.3)
    axes.flat[0].legend()
    blob_kb = result["runs"][0]["blob_bytes"] / 1e3
    figure.suptitle(
        f"{blob_kb:.0f} kB contributions, {100 * result['runs'][0]['churn']:.0f} % of the peers "
        "replaced every round, 100 seats"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run_all(flags: argparse.Namespace) -> dict[str, Any]:
    """Play every size and exchange; return what goes into the JSON."""
    runs = []
    for kind in flags.exchange:
        for peers in flags.peers:
            run = Run(
                peers=peers,
                rounds=flags.rounds,
                warm=flags.warm,
                blob_bytes=flags.blob_bytes,
                frames=flags.frames,
                churn=flags.churn,
                exchange=kind,
                seed=flags.seed,
            )
            facts = play(run, say=lambda text: print(text, file=sys.stderr, flush=True))
            runs.append({"asked": kind, **facts})
            if flags.output:
                _write(flags.output, _result(runs))
    return _result(runs)


def _result(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "benchmark": "scale",
        "machine": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "goal": "by parts, what the coordinator sends does not grow beyond small messages",
        "runs": runs,
    }


def _write(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(result, path.with_suffix(".png"))


def main() -> None:
    """Parse the flags, play, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--exchange", nargs="+", choices=EXCHANGES, default=["gather", "butterfly"])
    parser.add_argument("--rounds", type=int, default=4, help="that are measured")
    parser.add_argument("--warm", type=int, default=2, help="rounds before")
    parser.add_argument("--churn", type=float, default=0.1, help="share replaced in every round")
    parser.add_argument(
        "--blob-bytes", type=int, default=0, help="as the lines see it; 0: as it is"
    )
    parser.add_argument("--frames", type=int, default=8, help="of the vector, 65,536 elements each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the JSON here, and a picture")
    parser.add_argument("--profile", type=Path, help="write where the processor time went")
    parser.add_argument("--draw", type=Path, help="only draw the picture of this result")
    flags = parser.parse_args()
    if flags.draw:
        draw(json.loads(flags.draw.read_text(encoding="utf-8")), flags.draw.with_suffix(".png"))
        return
    profile = cProfile.Profile()
    if flags.profile:
        profile.enable()
    result = run_all(flags)
    if flags.profile:
        profile.disable()
        with flags.profile.open("w", encoding="utf-8") as file:
            pstats.Stats(profile, stream=file).sort_stats("tottime").print_stats(60)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
