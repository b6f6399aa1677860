"""What attacks do to the model under several rules of aggregation: a table and a picture in docs/.

Real local steps, the real codec, the real outer step and the real robust mean, on the toy task of
tests/sim. The other rules are here to be compared with and are used nowhere else. What is shown is
the held-out loss after the rounds, divided by that of the honest peers alone under a plain mean,
as the mean over two seeds. Usage: python -m benchmarks.attacks [--rounds N]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "coordinator")]

from ares_p2p.averaging.aggregate import combine, robust_coefficients  # noqa: E402
from ares_p2p.averaging.bounds import check_contribution, reach_of  # noqa: E402
from ares_p2p.averaging.codec import decode, encode  # noqa: E402
from ares_p2p.errors import PeerFault  # noqa: E402
from ares_p2p.ids import sha256  # noqa: E402
from ares_p2p.rounds.assignment import assigned_examples  # noqa: E402
from ares_p2p.training.outer import outer_step  # noqa: E402
from ares_p2p.training.state import initial_state  # noqa: E402
from payloads import identity  # noqa: E402
from sim.samples import CYCLE, TRAINING  # noqa: E402
from sim.task import TRAIN_EXAMPLES, Task, make_task  # noqa: E402

Vector = npt.NDArray[np.float32]
Rows = npt.NDArray[np.float32]  # (contributions, parameters)
PEERS = 10
LIARS = (1, 2, 3)
SEEDS = (0, 1)
REACH = reach_of(TRAINING.max_steps, lr=TRAINING.inner_lr, beta2=TRAINING.beta2)
CLIPPED = 60_000.0  # what the codec carries at most
LEAST, MOST, DARK = 0.002, 1.0, 0.15  # of the picture's colours, in loss above the honest peers'
FINE = 2.0  # ratios below it are shown to the third decimal
DOCUMENT = ROOT / "docs" / "attacks.md"
PICTURE = ROOT / "docs" / "pictures" / "attacks.png"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


# --- rules: (contributions, parameters) -> the update, None when nothing is usable --------------


def plain_mean(rows: Rows, _task: Task, _bad: int) -> Vector | None:
    """Return the mean of everybody."""
    return rows.mean(axis=0)


def norm_clip(rows: Rows, _task: Task, _bad: int) -> Vector | None:
    """Return the mean after every norm above the median is scaled to it."""
    norms = np.linalg.norm(rows, axis=1)
    scales = np.minimum(1, np.median(norms) / np.maximum(norms, 1e-30))
    return (rows * scales[:, None].astype(np.float32)).mean(axis=0)


def centred_clip(rows: Rows, _task: Task, _bad: int) -> Vector | None:
    """Return three steps of centred clipping from zero, radius: the median norm."""
    radius = float(np.median(np.linalg.norm(rows, axis=1)))
    centre = np.zeros(rows.shape[1], dtype=np.float32)
    for _ in range(3):
        apart = rows - centre
        lengths = np.maximum(np.linalg.norm(apart, axis=1), 1e-30)
        pull = np.minimum(1, radius / lengths).astype(np.float32)
        centre = centre + (apart * pull[:, None]).mean(axis=0)
    return centre


def median(rows: Rows, _task: Task, _bad: int) -> Vector | None:
    """Return the median of every element."""
    return np.median(rows, axis=0).astype(np.float32)


def trimmed_mean(rows: Rows, _task: Task, bad: int) -> Vector | None:
    """Return the mean of every element without its `bad` largest and smallest values."""
    kept = np.sort(rows, axis=0)[bad : len(rows) - bad]
    return kept.mean(axis=0)


def multi_krum(rows: Rows, _task: Task, bad: int) -> Vector | None:
    """Return the mean of the n - bad contributions that lie closest to their neighbours."""
    squares = (rows.astype(np.float64) ** 2).sum(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        distances = squares[:, None] + squares[None, :] - 2 * (rows @ rows.T)
    near = np.sort(distances, axis=1)[:, 1 : len(rows) - bad - 1]
    chosen = np.argsort(near.sum(axis=1))[: len(rows) - bad]
    return rows[chosen].mean(axis=0)


def ours(rows: Rows, task: Task, _bad: int) -> Vector | None:
    """Return the robust mean of the protocol, after the checks that every blob passes."""
    usable = []
    for row in rows:
        try:
            check_contribution(row, size=task.layout.size, reach=REACH)
        except PeerFault:
            continue
        usable.append(row)
    if not usable:
        return None
    values = [one.value for one in robust_coefficients(usable, layout=task.layout)]
    return combine(usable, values) if any(values) else None


RULES: dict[str, Callable[[Rows, Task, int], Vector | None]] = {
    "mean": plain_mean,
    "norm clip": norm_clip,
    "centred clip": centred_clip,
    "median": median,
    "trimmed mean": trimmed_mean,
    "multi-Krum": multi_krum,
    "ours": ours,
}


# --- attacks: honest work of the liars -> what they send ----------------------------------------


def _noise(work: Rows, rng: np.random.Generator, factor: float) -> Rows:
    noise = rng.standard_normal(work.shape, dtype=np.float32)
    lengths = np.linalg.norm(work, axis=1) / np.linalg.norm(noise, axis=1)
    return noise * (factor * lengths)[:, None].astype(np.float32)


def _little(work: Rows) -> Rows:
    mean, deviation = work.mean(axis=0), work.std(axis=0)
    if len(work) == 1:
        deviation = np.abs(mean)
    return np.repeat((mean - deviation)[None], len(work), axis=0)


def _reaching(work: Rows) -> Rows:
    """Return the work as long as it can be without an element that no local steps could make."""
    return work * (REACH / np.abs(work).max(axis=1))[:, None].astype(np.float32)


Attack = Callable[[Rows, np.random.Generator], Rows]
ATTACKS: dict[str, Attack] = {
    "zeros": lambda work, _: np.zeros_like(work),
    "noise": lambda work, rng: _noise(work, rng, 1.0),
    "noise x 10": lambda work, rng: _noise(work, rng, 10.0),
    "sign flip": lambda work, _: -work,
    "sign flip x 10": lambda work, _: -10 * work,
    "one flip, sent by all": lambda work, _: -np.repeat(work[:1], len(work), axis=0),
    "scaled x 1e6": lambda work, _: 1e6 * work,
    "as long as steps reach": lambda work, _: _reaching(work),
    "label flip": lambda work, _: work,  # the labels were turned before the training
    "label flip, twice as long": lambda work, _: np.float32(1.95) * work,
    "a little is enough": lambda work, _: _little(work),
    "inner product": lambda work, _: np.repeat(-0.3 * work.mean(axis=0)[None], len(work), axis=0),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One run: `attack` is "" for the honest peers alone."""

    attack: str
    rule: str
    bad: int
    seed: int
    rounds: int


def _decoded(work: Rows, task: Task) -> Rows:
    cut = np.clip(work, -CLIPPED, CLIPPED).astype(np.float32)
    bits, layout = TRAINING.codec_bits, task.layout
    coded = [encode(row, bits=bits, layout_sha256=layout.digest_sha256) for row in cut]
    return np.stack([decode(data, layout=layout, bits=bits) for data in coded])


@cache  # the same in every case, and a third of its time
def _assigned(round_number: int, peer: int) -> tuple[int, ...]:
    """Return the examples of a peer's local steps in a round."""
    stream = assigned_examples(
        sha256(b"assignment"),
        round_number=round_number,
        peer=identity(peer).peer_id,
        examples=TRAIN_EXAMPLES,
    )
    return tuple(islice(stream, TRAINING.max_steps * TRAINING.sequences_per_step))


def play(case: Case) -> float:
    """Return the held-out loss, the mean over the last three states."""
    task = make_task(case.seed, rank=TRAINING.rank)
    state = initial_state(task.layout, cycle=CYCLE, seed=sha256(b"start %d" % case.seed))
    theta, mu, losses = state.theta, state.mu, []
    rng = np.random.default_rng(case.seed)
    honest = PEERS - case.bad
    peers = range(PEERS if case.attack else honest)
    for number in range(case.rounds):
        work = []
        for peer in peers:
            flipped = case.attack.startswith("label flip") and peer >= honest
            end, _ = task.local_steps(
                theta,
                iter(_assigned(number, peer)),
                steps=TRAINING.max_steps,
                lr=TRAINING.inner_lr,
                training=TRAINING,
                labels=task.classes - 1 - task.labels if flipped else task.labels,
            )
            work.append(theta - end)
        rows = np.stack(work)
        if case.attack:  # by the liars, who know each other's work
            rows[honest:] = ATTACKS[case.attack](rows[honest:], rng)
        update = RULES[case.rule](_decoded(rows, task), task, case.bad)
        if update is not None:
            theta, mu = outer_step(
                theta,
                mu,
                update.astype(np.float32),
                lr=TRAINING.outer_lr,
                momentum=TRAINING.outer_momentum,
            )
        losses.append(task.held_out_loss(theta))
    return float(np.mean(losses[-3:]))


def measured(rounds: int) -> dict[tuple[str, str, int], float]:
    """Return (attack, rule, liars) -> loss ratio."""
    wanted = [(attack, rule, bad) for attack in ATTACKS for rule in RULES for bad in LIARS]
    clean = [Case("", "mean", bad, seed, rounds) for bad in LIARS for seed in SEEDS]
    cases = [Case(*one, seed, rounds) for one in wanted for seed in SEEDS]
    everything = [*clean, *cases]
    with ProcessPoolExecutor(max_workers=2) as pool:
        played = _shown(pool.map(play, everything), len(everything))
        losses = dict(zip(everything, played, strict=True))
    return {
        (attack, rule, bad): float(
            np.mean(
                [
                    losses[Case(attack, rule, bad, seed, rounds)]
                    / losses[Case("", "mean", bad, seed, rounds)]
                    for seed in SEEDS
                ]
            )
        )
        for attack, rule, bad in wanted
    }


def _shown(results: Iterable[float], total: int) -> Iterable[float]:
    """Return the results as they come, with a progress bar."""
    from rich.progress import track

    return track(results, total=total, description="attacks")


def table(ratios: dict[tuple[str, str, int], float], rounds: int) -> str:
    """Return the generated part of the document."""
    lines = [f"Ten peers, {rounds} rounds, two seeds, 2-bit codec."]
    for bad in reversed(LIARS):
        lines += [
            "",
            f"### {bad} of 10",
            "",
            f"| attack | {' | '.join(RULES)} |",
            "|---|" + "---|" * len(RULES),
        ]
        for attack in ATTACKS:
            cells = [_text(ratios[attack, rule, bad]) for rule in RULES]
            lines.append(f"| {attack} | {' | '.join(cells[:-1])} | **{cells[-1]}** |")
    return "\n".join(lines)


def _text(ratio: float) -> str:
    if not np.isfinite(ratio):
        return "lost"
    return f"{ratio:.3f}" if ratio < FINE else f"{ratio:.1f}"


def draw(ratios: dict[tuple[str, str, int], float]) -> None:
    """Write one heat map for each number of liars."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    figure, maps = plt.subplots(
        1, len(LIARS), figsize=(16.5, 5.6), sharey=True, layout="constrained"
    )
    for axes, bad in zip(maps, LIARS, strict=True):
        values = np.array([[ratios[attack, rule, bad] for rule in RULES] for attack in ATTACKS])
        # what is lost is drawn above 1: one part of a hundred and ten times the loss both show
        lost = np.clip(np.nan_to_num(values, nan=1e3, posinf=1e3) - 1, LEAST, MOST)
        image = axes.imshow(lost, cmap="YlOrRd", norm=LogNorm(LEAST, MOST), aspect="auto")
        axes.set_xticks(
            range(len(RULES)), list(RULES), rotation=35, ha="left", rotation_mode="anchor"
        )
        axes.set_yticks(range(len(ATTACKS)), list(ATTACKS))
        axes.xaxis.tick_top()
        axes.set_xlabel(f"{bad} of {PEERS} lie", fontsize=12, labelpad=8)
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                color = "white" if lost[y, x] > DARK else "black"
                axes.text(x, y, _text(value), ha="center", va="center", color=color, fontsize=8)
    bar = figure.colorbar(image, ax=maps, shrink=0.8, pad=0.01)
    bar.set_ticks([0.002, 0.01, 0.1, 1], labels=["1.002", "1.01", "1.1", "2"])
    figure.suptitle("Held-out loss at the end, in parts of the honest peers' alone", fontsize=13)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, then renew the picture and the table between the document's marks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    ratios = measured(rounds)
    text = DOCUMENT.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table(ratios, rounds)}\n{END}{after}", encoding="utf-8")
    draw(ratios)
    print(table(ratios, rounds))


if __name__ == "__main__":
    main()
