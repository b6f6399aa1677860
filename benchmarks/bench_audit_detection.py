"""What audits find, and what they cost: the lottery's rate times what one replay sees.

    python -m benchmarks.bench_audit_detection --output benchmarks/results/audit_detection.json

A simulated peer does 60 rounds a day. Each of its contributions is audited with the lottery's own
rate (`ares_p2p.rounds.lottery.audit_rate`), by the streak of contributions that were settled since
the last one that was not. An audit of a faked contribution finds it with the probability that the
shipped calibration measured.

Four questions: how soon is a peer found that fakes a share of its rounds; that leaves out a share
of the local steps in all of them; what faking is worth in a year; and what part of all training is
done again by auditors. Everything follows from the seed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ares_coordinator.audit.calibration.rule import detection_curve
from ares_p2p.rounds.lottery import LOWEST_RATE, NEWCOMER_ROUNDS, audit_rate

ROUNDS_A_DAY = 60
DAYS = 365
HORIZONS = {"an hour": 3, "a day": 60, "a week": 420, "a month": 1800}
FAKED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
VETERAN = 200  # rounds: from here on the rate is at its lowest
TURNOVER = (0.0, 0.01, 0.05, 0.20, 0.50)  # of the peers, replaced by newcomers every day
PEERS = 32
TRIALS = 2_000

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Rates:
    """The lottery's rates as a table, for many peers at once."""

    def __init__(self) -> None:
        last = math.ceil(NEWCOMER_ROUNDS / LOWEST_RATE)
        self._table = np.array([audit_rate(streak) for streak in range(last + 1)])

    def __call__(self, streaks: Ints) -> Floats:
        return self._table[np.minimum(streaks, self._table.size - 1)]


RATES = Rates()


def rounds_until_found(
    *, faked: float, found_per_audit: float, streak: int, limit: int, rng: np.random.Generator
) -> Ints:
    """Return, per trial, the round in which a faked contribution was first found; limit + 1: never.

    Args:
        faked: share of the rounds that are faked, each by its own lot.
        found_per_audit: probability that an audit of a faked one does not pass.
        streak: settled rounds before the first.
        limit: rounds.
    """
    streaks = np.full(TRIALS, streak, dtype=np.int64)
    first = np.full(TRIALS, limit + 1, dtype=np.int64)
    for number in range(1, limit + 1):
        audited = rng.random(TRIALS) < RATES(streaks)
        found = audited & (rng.random(TRIALS) < faked) & (rng.random(TRIALS) < found_per_audit)
        first = np.where(found & (first > limit), number, first)
        streaks += 1  # of those that were found it does not matter any more
    return first


def found_within(first: Ints) -> dict[str, float]:
    """Return the share of the trials that were found within each horizon."""
    return {name: float((first <= rounds).mean()) for name, rounds in HORIZONS.items()}


def by_faked_rounds(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Fake a share of the rounds grossly (an audit always finds it); newcomers and veterans."""
    rows = []
    for streak in (0, VETERAN):
        for faked in FAKED:
            first = rounds_until_found(
                faked=faked,
                found_per_audit=1.0,
                streak=streak,
                limit=max(HORIZONS.values()),
                rng=rng,
            )
            row = {"streak": streak, "faked_rounds": faked, "found_within": found_within(first)}
            rows.append(row | {"median_rounds": float(np.median(first))})
    return rows


def by_skipped_steps(calibration: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Leave out a share of the steps in every round, seen by an auditor's other build."""
    rows = []
    for entry in calibration["entries"]:
        if entry["relation"] != "same-device":
            continue
        for share, caught in detection_curve(entry):
            first = rounds_until_found(
                faked=1.0,
                found_per_audit=caught,
                streak=VETERAN,
                limit=max(HORIZONS.values()),
                rng=rng,
            )
            rows.append(
                {
                    "compute_dtype": entry["compute_dtype"],
                    "codec_bits": entry["codec_bits"],
                    "skipped_steps": share,
                    "found_per_audit": caught,
                    "streak": VETERAN,
                    "found_within": found_within(first),
                }
            )
    return rows


Strategy = Callable[[Ints, np.random.Generator], Bools]  # streaks -> who fakes this round


def worth_of_faking(rng: np.random.Generator, *, trials: int = 200) -> list[dict[str, Any]]:
    """Return what faking brings in a year, for peers that go on after every find.

    All shares are of the rounds of the year. `profit` is what was paid beyond what was worked:
    with `void` a find costs that round and the streak; with `clawback` (a fail, where the network
    has it switched on) also every round that was paid on trust since the last audit that passed.
    """

    def always(share: float) -> Strategy:
        return lambda streaks, rng: rng.random(streaks.size) < share

    strategies: dict[str, Strategy] = {
        f"{share:.0%} of the rounds": always(share) for share in FAKED
    }
    strategies["only while rarely audited"] = lambda streaks, _: streaks >= VETERAN
    rounds = ROUNDS_A_DAY * DAYS
    rows = []
    for name, is_faked in strategies.items():
        streaks = np.zeros(trials, dtype=np.int64)
        on_trust = np.zeros(trials, dtype=np.int64)  # paid since the last audit that passed
        fakes = finds = taken_back = 0
        for _ in range(rounds):
            faked = is_faked(streaks, rng)
            audited = rng.random(trials) < RATES(streaks)
            found = faked & audited
            taken_back += int(on_trust[found].sum())
            on_trust = np.where(audited, 0, on_trust + 1)
            streaks = np.where(found, 0, streaks + 1)
            fakes, finds = fakes + int(faked.sum()), finds + int(found.sum())
        total = trials * rounds
        rows.append(
            {
                "strategy": name,
                "faked": fakes / total,
                "found": finds / max(1, fakes),
                "finds_a_year": finds / trials,
                "profit_void": (fakes - finds) / total,
                "profit_clawback": (fakes - finds - taken_back) / total,
            }
        )
    return rows


def cost_of_audits(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the share of the honest training of a year that is done again, by daily turnover.

    Without turnover this is one peer's year, from its first round on.
    """
    rows = []
    for turnover in TURNOVER:
        streaks = np.zeros(PEERS, dtype=np.int64)
        audits = joins = 0
        by_day = []
        for _ in range(DAYS):
            today = 0
            for _ in range(ROUNDS_A_DAY):
                today += int((rng.random(PEERS) < RATES(streaks)).sum())
                streaks += 1
            gone = rng.random(PEERS) < turnover
            streaks[gone] = 0
            joins += int(gone.sum())
            audits += today
            by_day.append(today / (PEERS * ROUNDS_A_DAY))
        rows.append(
            {
                "daily_turnover": turnover,
                "joins": joins,
                "share_of_training": audits / (PEERS * ROUNDS_A_DAY * DAYS),
                "first_day": by_day[0],
                "last_30_days": float(np.mean(by_day[-30:])),
            }
        )
    return rows


def run(seed: int) -> dict[str, Any]:
    """Simulate everything; return what goes into the JSON."""
    file = resources.files("ares_p2p.proofs") / "calibration" / "cpu.json"
    calibration = json.loads(file.read_bytes())
    rng = np.random.default_rng(seed)
    return {
        "benchmark": "audit_detection",
        "seed": seed,
        "rounds_a_day": ROUNDS_A_DAY,
        "trials": TRIALS,
        "lowest_rate": LOWEST_RATE,
        "newcomer_rounds": NEWCOMER_ROUNDS,
        "calibration": {name: calibration[name] for name in ("device", "training", "rounds")},
        "by_faked_rounds": by_faked_rounds(rng),
        "by_skipped_steps": by_skipped_steps(calibration, rng),
        "worth_of_faking": worth_of_faking(rng),
        "cost": cost_of_audits(rng),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the four answers."""
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    figure, axes = plt.subplots(2, 2, figsize=(11.5, 8))
    (first, second), (third, fourth) = axes
    for streak, style in ((0, "-"), (VETERAN, "--")):
        rows = [row for row in result["by_faked_rounds"] if row["streak"] == streak]
        who = "newcomer" if streak == 0 else f"after {VETERAN} settled rounds"
        for number, name in enumerate(HORIZONS):
            first.plot(
                [100 * row["faked_rounds"] for row in rows],
                [100 * row["found_within"][name] for row in rows],
                style,
                color=f"C{number}",
                marker=".",
                label=f"{who}, {name}",
            )
    first.set_xscale("log")
    first.set_xlabel("faked rounds, %")
    first.set_ylabel("found within that time, %")
    first.set_title("Faking whole rounds", fontsize=10)
    first.legend(fontsize=7)

    cases = sorted({(r["compute_dtype"], r["codec_bits"]) for r in result["by_skipped_steps"]})
    for number, (dtype, bits) in enumerate(cases):
        rows = [
            row
            for row in result["by_skipped_steps"]
            if (row["compute_dtype"], row["codec_bits"]) == (dtype, bits)
        ]
        second.plot(
            [100 * row["skipped_steps"] for row in rows],
            [100 * row["found_within"]["a day"] for row in rows],
            "-" if dtype == "float32" else "--",
            color=f"C{number % 4}",
            marker=".",
            label=f"{dtype}, {bits} bits",
        )
    second.set_xscale("log")
    second.set_xlabel("share of the local steps left out in every round, %")
    second.set_ylabel("found within a day, %")
    second.set_title(f"Leaving out steps, after {VETERAN} settled rounds", fontsize=10)
    second.legend(fontsize=7)

    rows = result["worth_of_faking"]
    places = np.arange(len(rows))
    for offset, key, label in (
        (-0.2, "profit_void", "void: the round alone is lost"),
        (0.2, "profit_clawback", "fail with clawback"),
    ):
        third.barh(places + offset, [100 * row[key] for row in rows], height=0.4, label=label)
    third.set_yticks(places, [row["strategy"] for row in rows], fontsize=7)
    third.axvline(0, color="black", lw=0.8)
    third.set_xlabel("paid beyond what was worked, % of an honest year's credit")
    third.set_title("What grossly faking brings", fontsize=10)
    third.legend(fontsize=7)

    rows = result["cost"]
    fourth.bar(
        [f"{row['daily_turnover']:.0%}" for row in rows],
        [100 * row["share_of_training"] for row in rows],
    )
    fourth.axhline(100 * LOWEST_RATE, color="black", lw=1, ls=":")
    fourth.set_xlabel("peers replaced by newcomers every day")
    fourth.set_ylabel("training done again, %")
    fourth.set_title("Cost of audits over a year", fontsize=10)
    for axis in (first, second, fourth):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Parse the flags, simulate, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, help="also write the JSON here, and a picture")
    flags = parser.parse_args()
    result = run(flags.seed)
    text = json.dumps(result, indent=1)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")
        draw(result, flags.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
