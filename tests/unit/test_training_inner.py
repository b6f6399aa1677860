"""Local steps: against torch's own Adam, determinism, limits; losses and their bootstrap."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from ares_p2p.errors import ConfigFault, NonFinite, ShapeMismatch
from ares_p2p.training.base import BaseSpec, load_base, load_tokenizer
from ares_p2p.training.data import IGNORED, Batch, TokenizedDataset, batches, build_dataset
from ares_p2p.training.evaluate import ExampleLosses, example_losses, paired_bootstrap
from ares_p2p.training.inner import InnerConfig, LocalResult, run_local_steps
from ares_p2p.training.lora import attach_lora, layout_of_model, write_parameters
from ares_p2p.training.lora_spec import LoraSpec
from ares_p2p.training.state import initial_state
from tinybase import build_tiny_base, tiny_chats

CONFIG = InnerConfig(lr=0.01, sequence_length=64, sequences_per_step=4)


class Place:
    """A loaded model with its data."""

    def __init__(self, folder: Path, **options: bool) -> None:
        spec = BaseSpec(str(folder), "none", "float32")
        self.model = attach_lora(load_base(spec, **options), LoraSpec(4, 8))
        self.layout = layout_of_model(self.model)
        self.start = initial_state(self.layout, cycle=1, seed=b"s").theta
        self.dataset = build_dataset(load_tokenizer(spec), tiny_chats(60), sequence_length=64)

    def stream(self, first: int = 0):
        indices = (i % len(self.dataset) for i in itertools.count(first))
        return batches(self.dataset, indices, sequence_length=64, sequences_per_step=4)

    def run(self, steps: int = 6, config: InnerConfig = CONFIG, **options: object) -> LocalResult:
        return run_local_steps(
            self.model,
            self.layout,
            start=self.start,
            batches=self.stream(),
            steps=steps,
            config=config,
            **options,  # type: ignore[arg-type]
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_tiny_base(folder)
    return folder


@pytest.fixture(scope="module")
def place(folder: Path) -> Place:
    return Place(folder)


def reference_loss(place: Place, batch: Batch) -> torch.Tensor:
    """The mean loss of a step, the plain way: whole logits, shifted labels."""
    logits = place.model(
        input_ids=torch.from_numpy(batch.tokens),
        position_ids=torch.from_numpy(batch.position_ids),
        use_cache=False,
    ).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]),
        torch.from_numpy(batch.labels[:, 1:]).reshape(-1),
        ignore_index=IGNORED,
    )


@pytest.mark.parametrize(("decay", "clip"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.05)])
def test_local_steps_agree_with_torch_adamw_of_beta1_zero(
    place: Place, decay: float, clip: float
) -> None:
    config = InnerConfig(
        lr=0.01, sequence_length=64, sequences_per_step=4, weight_decay=decay, max_grad_norm=clip
    )
    ours = place.run(config=config)
    write_parameters(place.model, place.layout, place.start)
    parameters = [p for p in place.model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(parameters, lr=0.01, betas=(0.0, 0.99), weight_decay=decay)
    losses = []
    for batch in itertools.islice(place.stream(), 6):
        loss = reference_loss(place, batch)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        adam.step()
        adam.zero_grad()
        losses.append(float(loss.detach()) * batch.loss_tokens)
    named = {
        name.replace(".ares.", "."): p.detach().numpy()
        for name, p in place.model.named_parameters()
        if p.requires_grad
    }
    theirs = place.layout.join(named)
    moved = np.linalg.norm(theirs - place.start)
    # RMSProp divides by |g|: where |g| is as small as rounding, the steps' signs may differ
    assert np.linalg.norm(ours.theta - theirs) < 0.02 * moved
    assert ours.mean_loss == pytest.approx(sum(losses) / ours.loss_tokens, rel=1e-3)


def test_local_steps_give_equal_bits_and_keep_their_input(place: Place) -> None:
    before = place.start.tobytes()
    torch.manual_seed(1)
    one = place.run()
    torch.manual_seed(2)
    two = place.run()
    assert one.theta.tobytes() == two.theta.tobytes()
    assert place.start.tobytes() == before
    assert not np.array_equal(one.theta, place.start)
    assert (one.steps, one.tokens, one.examples) == (two.steps, two.tokens, two.examples)


def test_result_counts_what_was_used(place: Place) -> None:
    used = list(itertools.islice(place.stream(), 6))
    result = place.run()
    assert result.steps == 6
    assert result.tokens == sum(batch.token_count for batch in used)
    assert result.loss_tokens == sum(batch.loss_tokens for batch in used)
    assert result.examples == sum(batch.examples for batch in used)


def test_callback_sees_every_step_and_ends_the_run_after_the_minimum(place: Place) -> None:
    seen: list[tuple[int, float, int]] = []

    def stop_at_once(step: int, loss: float, tokens: int) -> bool:
        seen.append((step, loss, tokens))
        return False

    result = place.run(on_step=stop_at_once, min_steps=3)
    assert result.steps == 3
    assert [step for step, _, _ in seen] == [1, 2, 3]
    assert sum(tokens for _, _, tokens in seen) == result.tokens
    shorter = place.run(steps=3)
    assert shorter.theta.tobytes() == result.theta.tobytes()


def test_run_ends_with_its_batches(place: Place) -> None:
    few = list(itertools.islice(place.stream(), 2))
    result = run_local_steps(
        place.model, place.layout, start=place.start, batches=few, steps=9, config=CONFIG
    )
    assert result.steps == 2
    with pytest.raises(ConfigFault):
        run_local_steps(
            place.model, place.layout, start=place.start, batches=[], steps=9, config=CONFIG
        )


def test_row_passes_and_checkpointing_change_rounding_only(place: Place, folder: Path) -> None:
    whole = place.run()
    moved = np.linalg.norm(whole.theta - place.start)
    in_rows = place.run(rows_per_pass=1)
    assert np.linalg.norm(in_rows.theta - whole.theta) < 0.02 * moved
    assert in_rows.mean_loss == pytest.approx(whole.mean_loss, rel=1e-3)
    checkpointed = Place(folder, gradient_checkpointing=True).run()
    assert np.linalg.norm(checkpointed.theta - whole.theta) < 0.02 * moved


def test_diverged_runs_are_an_error(place: Place) -> None:
    config = InnerConfig(lr=1e30, sequence_length=64, sequences_per_step=4)
    with pytest.raises(NonFinite, match="loss of step"):
        place.run(config=config)
    place.run()  # and leave nothing behind


def test_torch_settings_are_left_as_they_were(place: Place) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    place.run(steps=1)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not place.model.training


# --- evaluation -------------------------------------------------------------------------------


def test_example_losses_agree_with_one_by_one(place: Place) -> None:
    write_parameters(place.model, place.layout, place.run().theta)
    chosen = [5, 0, 17, 3]
    losses = example_losses(place.model, place.dataset, indices=chosen, tokens_per_pass=100)
    for place_, index in enumerate(chosen):
        (batch,) = batches(place.dataset, [index], sequence_length=64, sequences_per_step=1)
        with torch.inference_mode():
            expected = float(reference_loss(place, batch))
        assert losses.per_example[place_] == pytest.approx(expected, abs=1e-4)
        assert losses.tokens[place_] == batch.loss_tokens
    everything = example_losses(place.model, place.dataset)
    assert everything.per_example[chosen] == pytest.approx(losses.per_example, abs=1e-5)


def test_empty_examples_do_not_count(place: Place) -> None:
    data = place.dataset
    mixed = TokenizedDataset(
        (data.tokens[0], data.tokens[0][:0]), (data.loss_masks[0], data.loss_masks[0][:0]), 64, 0, 1
    )
    losses = example_losses(place.model, mixed)
    assert losses.tokens[1] == 0
    assert losses.mean == losses.per_example[0]
    with pytest.raises(ConfigFault):
        example_losses(place.model, mixed, indices=[])


def made_losses(values: np.ndarray) -> ExampleLosses:
    return ExampleLosses(values * 10, np.full(values.size, 10))


def test_bootstrap_finds_a_paired_gain_that_unpaired_noise_hides() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(2.0, 1.0, 320)
    before = made_losses(difficulty)
    after = made_losses(difficulty - 0.03 + rng.normal(0, 0.1, 320))
    gain = paired_bootstrap(before, after, seed=1)
    assert gain.low > 0
    assert gain.low < gain.mean < gain.high
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * 0.1 / 320**0.5, rel=0.15)
    assert gain == paired_bootstrap(before, after, seed=1)
    assert paired_bootstrap(before, before).mean == 0


def test_strata_remove_the_differences_between_categories() -> None:
    gains = np.repeat([0.0, 1.0], 50)
    before, after = made_losses(np.full(100, 2.0)), made_losses(2.0 - gains)
    loose = paired_bootstrap(before, after)
    strict = paired_bootstrap(before, after, strata=["a"] * 50 + ["b"] * 50)
    assert loose.high - loose.low > 0.1
    assert (strict.low, strict.mean, strict.high) == pytest.approx((0.5, 0.5, 0.5))


def test_bootstrap_refuses_what_is_not_paired() -> None:
    one, two = made_losses(np.ones(3)), made_losses(np.ones(4))
    with pytest.raises(ShapeMismatch):
        paired_bootstrap(one, two)
    with pytest.raises(ShapeMismatch):
        paired_bootstrap(one, one, strata=["a"])
    empty = ExampleLosses(np.zeros(2), np.zeros(2, dtype=np.int64))
    with pytest.raises(ConfigFault):
        paired_bootstrap(empty, empty)
