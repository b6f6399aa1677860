"""A peer's residuals on the disk: which one is used, what is kept, what counts as zero."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ares_p2p.averaging.vectors import Vector
from ares_p2p.training.layout import Layout, layout_of_shapes
from ares_p2p.training.replica import bind_layout
from ares_peer.residual import MAX_AGE_ROUNDS, Residuals
from payloads import identity
from sim.samples import TRAINING

F = np.float32
SIZE = 1_000
LAYOUT = layout_of_shapes({"x": (SIZE,)})
ZERO = np.zeros(SIZE, dtype=F)
UPDATE = np.random.default_rng(0).standard_normal(SIZE, dtype=F) * F(0.002)
ONE_BIT = dataclasses.replace(TRAINING, codec_bits=1)
CYCLE = 3


@pytest.fixture
def residuals(tmp_path: Path) -> Residuals:
    return Residuals(tmp_path / "residual")


def made(
    residuals: Residuals, number: int, *, cycle: int = CYCLE, layout: Layout = LAYOUT
) -> bytes:
    """Return a contribution of round `number`, always for the same update, without its head."""
    update: Vector = UPDATE[: layout.size]
    bound = bind_layout(layout, plan_sha256=bytes(32), peer=identity(1).peer_id)
    data = residuals.contribution(
        update, ZERO[: layout.size], place=(cycle, number), layout=bound, training=ONE_BIT
    )
    return data[56:]


def names(residuals: Residuals) -> list[str]:
    return sorted(path.name for path in residuals.folder.iterdir())


def test_each_round_adds_what_the_one_before_lost(residuals: Residuals) -> None:
    rounds = [made(residuals, number) for number in range(3)]
    assert len(set(rounds)) == 3
    assert names(residuals) == ["residual-3-1.bin", "residual-3-2.bin"]


def test_a_round_that_is_made_again_starts_from_the_same_residual(residuals: Residuals) -> None:
    """A peer that was killed before its commit must not add to what it never sent."""
    for number in range(3):
        first = made(residuals, number)
        assert made(residuals, number) == first


def test_another_cycle_or_an_old_round_starts_from_zero(residuals: Residuals) -> None:
    fresh = made(residuals, 0)
    assert made(residuals, 1) != fresh
    assert made(residuals, 1 + MAX_AGE_ROUNDS) != fresh
    assert made(residuals, 2 + 2 * MAX_AGE_ROUNDS) == fresh
    assert made(residuals, 0, cycle=CYCLE + 1) == fresh
    assert names(residuals) == ["residual-4-0.bin"]


def test_another_layout_starts_from_zero(residuals: Residuals) -> None:
    small = layout_of_shapes({"x": (512,)})
    fresh = made(residuals, 0, layout=small)
    made(residuals, 1)
    assert made(residuals, 2, layout=small) == fresh


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "renamed", "noise"])
def test_a_damaged_residual_counts_as_zero(residuals: Residuals, damage: str) -> None:
    fresh = made(residuals, 0)
    path = residuals.folder / "residual-3-0.bin"
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "renamed":  # as if it were another round's
        path.rename(residuals.folder / "residual-3-1.bin")
    else:
        noise = np.random.default_rng(1).bytes(len(whole))
        path.write_bytes({"empty": b"", "cut": whole[:-1], "noise": noise}[damage])
    assert made(residuals, 2) == fresh
    assert "residual-3-2.bin" in names(residuals)


def test_a_full_disk_costs_the_residual_and_not_the_round(
    residuals: Residuals, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, second = made(residuals, 0), made(residuals, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("ares_peer.residual.write_atomically", full)
    assert made(residuals, 1) == second
    assert names(residuals) == []  # what went into round 1 would count twice in round 2
    monkeypatch.undo()
    assert made(residuals, 2) == fresh


def test_files_of_others_are_left_alone(residuals: Residuals) -> None:
    residuals.folder.mkdir()
    other = residuals.folder / "residual-notes.txt"
    other.write_text("mine")
    made(residuals, 0)
    made(residuals, 9)
    assert other.read_text() == "mine"
