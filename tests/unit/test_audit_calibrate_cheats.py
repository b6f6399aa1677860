"""Cheats do what their names say: nothing is called skipped that was done."""

from __future__ import annotations

import numpy as np

from ares_coordinator.audit.calibration.cheats import (
    Honest,
    free_cheats,
    leave_out_examples,
    leave_out_rows,
    shorten,
)
from ares_p2p.training.data import IGNORED, Batch
from ares_p2p.training.layout import layout_of_shapes

F = np.float32
LAYERS = 4
LAYOUT = layout_of_shapes({f"model.layers.{n}.q_proj.lora_A.weight": (2, 5) for n in range(LAYERS)})
RNG = np.random.default_rng(0)
PATH = list(np.cumsum(RNG.standard_normal((5, LAYOUT.size), dtype=F), axis=0, dtype=F))


def cheats() -> dict[str, np.ndarray]:
    honest = Honest(path=PATH, others=[PATH[0] * F(2)], previous=PATH[1] * F(3))
    return {cheat.name: cheat.update for cheat in free_cheats(honest, LAYOUT, seed=1)}


def batch() -> Batch:
    """Two rows of two examples of four tokens, the last two learnt, and two tokens of padding."""
    positions = np.tile([0, 1, 2, 3, 0, 1, 2, 3, 0, 1], (2, 1))
    tokens = np.arange(20).reshape(2, 10)
    learnt = np.isin(positions, (2, 3)) & (np.arange(10) < 8)
    return Batch(tokens, np.where(learnt, tokens, IGNORED), positions, 16, 8, 4)


def test_skipped_steps_are_the_path_before_the_end() -> None:
    found = cheats()
    for skipped in range(1, 5):
        assert (found[f"skip-{skipped}"] == PATH[-1 - skipped]).all()
    assert np.isclose(np.linalg.norm(found["skip-1-rescaled"]), np.linalg.norm(PATH[-1]))
    assert np.allclose(found["skip-1-extrapolated"], 2 * PATH[-2] - PATH[-3], atol=1e-5)


def test_gross_cheats_are_what_they_say() -> None:
    found, honest = cheats(), PATH[-1]
    assert not found["zero"].any()
    assert (found["sign-flip"] == -honest).all()
    assert (found["scaled-2"] == 2 * honest).all()
    assert (found["copied"] == PATH[0] * F(2)).all()
    assert (found["sent-again"] == PATH[1] * F(3)).all()
    assert np.isclose(np.linalg.norm(found["noise"]), np.linalg.norm(honest))
    alone = Honest(path=PATH, others=[], previous=None)
    names = {cheat.name for cheat in free_cheats(alone, LAYOUT, seed=1)}
    assert not names & {"copied", "sent-again"}


def test_upper_layers_only() -> None:
    found, honest = cheats(), PATH[-1]
    size = LAYOUT.size // LAYERS
    assert not found["upper-half-only"][: 2 * size].any()
    assert (found["upper-half-only"][2 * size :] == honest[2 * size :]).all()
    assert (found["last-step-top-only"][3 * size :] == honest[3 * size :]).all()
    assert (found["last-step-top-only"][: 3 * size] == PATH[-2][: 3 * size]).all()


def test_leaving_out_rows_of_one_step_or_of_all() -> None:
    whole = batch()
    half = leave_out_rows(0.5)(3, whole)
    assert (half.tokens == whole.tokens[:1]).all()
    assert half.loss_tokens == 4
    assert leave_out_rows(0.01)(0, whole).tokens.shape[0] == 1, "one row at least"
    only_last = leave_out_rows(0.5, only_step=9)
    assert only_last(8, whole) is whole
    assert only_last(9, whole).tokens.shape[0] == 1


def test_leaving_out_examples_unlearns_whole_examples_and_no_padding() -> None:
    whole = batch()
    fewer = leave_out_examples(1 / 4)(0, whole)
    assert fewer.loss_tokens == 6
    assert (fewer.labels[0, :4] == IGNORED).all()
    assert (fewer.labels[0, 4:] == whole.labels[0, 4:]).all()
    assert (fewer.labels[1] == whole.labels[1]).all()
    assert (fewer.tokens == whole.tokens).all()


def test_short_sequences_keep_the_first_part() -> None:
    short = shorten(0.5)(0, batch())
    assert short.tokens.shape == (2, 5)
    assert short.loss_tokens == 4
