"""Shortcuts that a calibration plays, each as the update that its author would send.

Those that skip work are what thresholds are for; the others (noise, a flipped sign) show that
nothing gross slips through a bound that was drawn wide. `share` is the part of the honest work
that was not done, as far as it can be said: forward and backward passes over the assigned rows.

A cheat knows everything public and computes on the reference build. It does not know whether it
will be audited, nor on which build.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ares_p2p.averaging.vectors import Vector
from ares_p2p.training.data import IGNORED, Batch
from ares_p2p.training.layout import Layout

STALE_ROUNDS: Final = (1, 5)
SCALES: Final = (1.2, 2.0)
_LAYER: Final = re.compile(r"\.layers\.(\d+)\.")

BatchEdit = Callable[[int, Batch], Batch]  # (number of the step from 0, the assigned batch)


@dataclass(frozen=True, slots=True, eq=False)
class Cheat:
    """One dishonest update.

    Args:
        name: stable, for files and pictures.
        update: what is sent, before the codec.
        share: of the work that was not done, 0 to 1; None where it has no meaning.
    """

    name: str
    update: Vector
    share: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Honest:
    """What a cheat may start from.

    Args:
        path: the update after each step of the honest work, H vectors; the last is honest.
        others: honest updates of other peers in the same round.
        previous: its own honest update of the round before, if there was one.
    """

    path: Sequence[Vector]
    others: Sequence[Vector]
    previous: Vector | None


def free_cheats(honest: Honest, layout: Layout, *, seed: int) -> Iterator[Cheat]:
    """Yield the cheats that cost no training beyond the honest path."""
    whole, steps = honest.path[-1], len(honest.path)
    for skipped in range(1, steps):
        yield Cheat(f"skip-{skipped}", honest.path[-1 - skipped], skipped / steps)
    for skipped in (1, 2):
        if skipped + 1 >= steps:
            continue
        short, shorter = honest.path[-1 - skipped], honest.path[-2 - skipped]
        share = skipped / steps
        stretch = np.float32(np.linalg.norm(whole) / np.linalg.norm(short))
        yield Cheat(f"skip-{skipped}-rescaled", short * stretch, share)
        repeated = short + np.float32(skipped) * (short - shorter)
        yield Cheat(f"skip-{skipped}-extrapolated", repeated, share)
    yield from _layer_cheats(honest, layout)
    noise = np.random.default_rng(seed).standard_normal(whole.size, dtype=np.float32)
    yield Cheat("noise", noise * np.float32(np.linalg.norm(whole) / np.linalg.norm(noise)), 1.0)
    yield Cheat("zero", np.zeros_like(whole), 1.0)
    yield Cheat("sign-flip", -whole)
    for scale in SCALES:
        yield Cheat(f"scaled-{scale:g}", whole * np.float32(scale))
    for other in honest.others[:1]:
        yield Cheat("copied", other, 1.0)
    if honest.previous is not None:
        yield Cheat("sent-again", honest.previous, 1.0)


def _layer_cheats(honest: Honest, layout: Layout) -> Iterator[Cheat]:
    """Yield the cheats that save the backward pass of the lower layers."""
    layers = [int(found[1]) if (found := _LAYER.search(name)) else -1 for name in layout.names]
    count = max(layers) + 1
    if count < 2:
        return
    whole, steps = honest.path[-1], len(honest.path)
    short = honest.path[-2] if steps > 1 else np.zeros_like(whole)
    upper, top = np.zeros_like(whole), short.copy()
    for layer, (start, stop) in zip(layers, layout.spans, strict=True):
        if layer >= count // 2:
            upper[start:stop] = whole[start:stop]
        if layer >= count - max(1, count // 4):
            top[start:stop] = whole[start:stop]
    # a backward pass costs two forward passes; the lower half of it is left out
    yield Cheat("upper-half-only", upper, 1 / 3)
    yield Cheat("last-step-top-only", top, (2 / 3) * (1 - max(1, count // 4) / count) / steps)


def leave_out_rows(part: float, *, only_step: int | None = None) -> BatchEdit:
    """Return an edit that leaves out `part` of the rows, one at least, of every step or of one."""

    def edit(step: int, batch: Batch) -> Batch:
        if only_step is not None and step != only_step:
            return batch
        rows = batch.tokens.shape[0]
        return _rebuilt(batch, slice(0, max(1, rows - max(1, round(part * rows)))), slice(None))

    return edit


def leave_out_examples(part: float) -> BatchEdit:
    """Return an edit that does not learn from `part` of the examples of every step."""

    def edit(_: int, batch: Batch) -> Batch:
        starts = np.cumsum(batch.position_ids == 0, axis=1)  # (rows, width), from 1 in each row
        offsets = np.concatenate([[0], np.cumsum(starts.max(axis=1))[:-1]])
        number = starts + offsets[:, None] - 1  # of the example, padding is one of its own
        learnt = np.unique(number[batch.labels != IGNORED])
        dropped = learnt[: max(1, round(part * learnt.size))]
        if dropped.size == learnt.size:
            return batch
        labels = np.where(np.isin(number, dropped), IGNORED, batch.labels)
        return replace(batch, labels=labels, loss_tokens=int((labels != IGNORED).sum()))

    return edit


def shorten(part: float) -> BatchEdit:
    """Return an edit that keeps the first `part` of every row."""

    def edit(_: int, batch: Batch) -> Batch:
        width = max(2, round(part * batch.tokens.shape[1]))
        return _rebuilt(batch, slice(None), slice(0, width))

    return edit


def _rebuilt(batch: Batch, rows: slice, columns: slice) -> Batch:
    labels = batch.labels[rows, columns]
    return replace(
        batch,
        tokens=batch.tokens[rows, columns],
        labels=labels,
        position_ids=batch.position_ids[rows, columns],
        loss_tokens=int((labels != IGNORED).sum()),
    )
