"""Nearest against stochastic rounding: held-out loss after equal tokens, on the toy task.

    python -m benchmarks.bench_rounding --output rounding.json

Nearest is the package's codec. Stochastic rounding takes the level above or below with the chance
that makes it right on average, drawn from a seed of round and peer, so that it could be replayed.
It is shown with its own range (the outermost levels at the block's largest magnitude: unbiased) and
with that of the codec (smaller steps, cut at the end). It exists here only.

Beside them the other widths of the codec, and 1 bit with error feedback.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ares_p2p.averaging.bounds import reach_of
from ares_p2p.averaging.codec import WIDTHS, EncodedVector, decode, open_encoded
from ares_p2p.averaging.feedback import RESIDUAL_BITS, encode_with_feedback
from ares_p2p.averaging.quantize import RANGE
from ares_p2p.averaging.vectors import Difference, Vector
from benchmarks.toy_rounds import (
    SETTINGS,
    Send,
    Task,
    held_out_losses,
    loss_at,
    task_of,
    through_codec,
)

BLOCK = SETTINGS.codec_block
EARLY = 10  # rounds


def unrounded(update: Vector, _peer: int, _round: int) -> Vector:
    """Send float32."""
    return update


def stochastic(*, bits: int, unbiased: bool) -> Send:
    """Return a stochastic codec."""
    levels = 1 << bits

    def send(update: Vector, peer: int, round_number: int) -> Vector:
        rng = np.random.Generator(np.random.Philox(key=[round_number, peer]))
        padded = np.zeros(-(-update.size // BLOCK) * BLOCK, dtype=np.float32)
        padded[: update.size] = update
        table = padded.reshape(-1, BLOCK)
        largest = np.abs(table).max(axis=1, keepdims=True)
        width = 2 / (levels - 1) if unbiased else 2 * RANGE[bits][BLOCK] / levels
        steps = (largest * np.float32(width)).astype(np.float16).astype(np.float32)
        steps[steps == 0] = 1
        codes = np.floor(table / steps + (levels - 1) / 2 + rng.random(table.shape))
        codes = np.clip(codes, 0, levels - 1)
        decoded: Vector = ((codes - (levels - 1) / 2) * steps).astype(np.float32)
        return decoded.reshape(-1)[: update.size].copy()

    return send


class WithFeedback:
    """Send 1 bit, and keep what it loses for the peer's next round."""

    def __init__(self, task: Task) -> None:
        self._layout = task.layout
        self._zero = np.zeros(task.layout.size, dtype=np.float32)
        self._lost: dict[int, EncodedVector] = {}

    def __call__(self, update: Vector, peer: int, _round: int) -> Vector:
        """Return what the others see of an update."""
        data, lost = encode_with_feedback(
            Difference(update, self._zero),
            self._lost.get(peer),
            layout=self._layout,
            residual_sha256=self._layout.digest_sha256,
            reach=reach_of(SETTINGS.max_steps, lr=SETTINGS.inner_lr, beta2=SETTINGS.beta2),
        )
        self._lost[peer] = open_encoded(lost, layout=self._layout, bits=RESIDUAL_BITS)
        return decode(data, layout=self._layout, bits=1)


def ways_of(task: Task) -> list[tuple[int, str, Send]]:
    """Return every way to measure, by bits and name."""
    ways: list[tuple[int, str, Send]] = [(32, "none", unrounded)]
    ways += [(bits, "nearest", through_codec(task, bits=bits)) for bits in WIDTHS]
    ways.append((1, "nearest, with error feedback", WithFeedback(task)))
    for bits in (2, 3):
        for name, unbiased in (("stochastic, unbiased", True), ("stochastic, cut", False)):
            ways.append((bits, name, stochastic(bits=bits, unbiased=unbiased)))
    return ways


def run(*, rounds: int, groups: list[int], seeds: int) -> dict[str, object]:
    """Measure every way; return what goes into the JSON."""
    rows: dict[tuple[int, int, str], list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        task = task_of(seed)
        probe = np.random.default_rng(seed).standard_normal(task.layout.size, dtype=np.float32)
        probe *= np.float32(0.002)
        for peers in groups:
            for bits, name, send in ways_of(task):
                error = np.linalg.norm(send(probe, peers, 0) - probe) / np.linalg.norm(probe)
                losses = held_out_losses(task, send, seed=seed, rounds=rounds, peers=peers)
                found = (float(error), loss_at(losses, EARLY), loss_at(losses, rounds))
                rows.setdefault((peers, bits, name), []).append(found)
    return {
        "benchmark": "rounding",
        "rounds": rounds,
        "early_rounds": EARLY,
        "seeds": seeds,
        "results": [
            {"peers": peers, "bits": bits, "rounding": name, **_summary(measured)}
            for (peers, bits, name), measured in rows.items()
        ],
    }


def _summary(measured: list[tuple[float, float, float]]) -> dict[str, object]:
    errors, early, end = np.array(measured).T
    return {
        "relative_error_gauss": round(float(errors.mean()), 3),
        "loss_early": round(float(early.mean()), 4),
        "loss": round(float(end.mean()), 4),
        "loss_early_by_seed": [round(float(value), 4) for value in early],
        "loss_by_seed": [round(float(value), 4) for value in end],
    }


def main() -> None:
    """Parse the flags, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peers", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    flags = parser.parse_args()
    result = run(rounds=flags.rounds, groups=flags.peers, seeds=flags.seeds)
    text = json.dumps(result, indent=2)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
