"""Tokens, masks, packing; and that packed examples cannot see each other."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ares_p2p.errors import ConfigFault
from ares_p2p.training.base import BaseSpec, load_base, load_tokenizer
from ares_p2p.training.data import IGNORED, TokenizedDataset, batches, build_dataset
from tinybase import build_tiny_base, tiny_chats


@dataclass(frozen=True)
class Turn:
    role: str
    content: str


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_tiny_base(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(base: Path):
    return load_tokenizer(BaseSpec(str(base)))


def synthetic(*lengths: int, sequence_length: int = 10) -> TokenizedDataset:
    """Example i holds the token i + 1; all but its first token are learnt."""
    tokens = tuple(np.full(n, i + 1, dtype=np.int32) for i, n in enumerate(lengths))
    masks = tuple(np.arange(n) > 0 for n in lengths)
    return TokenizedDataset(tokens, masks, sequence_length, pad_token=0, truncated=0)


# --- tokens and masks -------------------------------------------------------------------------


def test_loss_is_on_assistant_content_and_its_end_only(tokenizer) -> None:
    chat = [
        {"role": "system", "content": "say"},
        {"role": "user", "content": "red"},
        {"role": "assistant", "content": "green blue"},
        {"role": "user", "content": "music"},
        {"role": "assistant", "content": "bread"},
    ]
    dataset = build_dataset(tokenizer, [chat], sequence_length=200)
    ids, mask = dataset.tokens[0], dataset.loss_masks[0]
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nsay<|im_end|>\n<|im_start|>user\nred<|im_end|>\n"
        "<|im_start|>assistant\ngreen blue<|im_end|>\n"
        "<|im_start|>user\nmusic<|im_end|>\n<|im_start|>assistant\nbread<|im_end|>\n"
    )
    assert tokenizer.decode(ids[mask]) == "green blue<|im_end|>bread<|im_end|>"


def test_objects_and_mappings_give_the_same(tokenizer) -> None:
    chat = tiny_chats(1)[0]
    turns = [Turn(message["role"], message["content"]) for message in chat]
    dataset = build_dataset(tokenizer, [chat, turns], sequence_length=64)
    assert np.array_equal(dataset.tokens[0], dataset.tokens[1])


def test_long_examples_keep_their_start_and_hopeless_ones_become_empty(tokenizer) -> None:
    chat = tiny_chats(1)[0]
    whole = build_dataset(tokenizer, [chat], sequence_length=64)
    length = len(whole.tokens[0])
    prompt = int(np.argmax(whole.loss_masks[0]))
    cut = build_dataset(tokenizer, [chat, chat], sequence_length=prompt + 1)
    assert np.array_equal(cut.tokens[0], whole.tokens[0][: prompt + 1])
    assert int(cut.loss_masks[0].sum()) == 1
    assert cut.truncated == 2
    hopeless = build_dataset(tokenizer, [chat], sequence_length=prompt)
    assert len(hopeless) == 1
    assert len(hopeless.tokens[0]) == 0
    assert build_dataset(tokenizer, [chat], sequence_length=length).truncated == 0


# --- packing ----------------------------------------------------------------------------------


def test_packing_by_hand() -> None:
    dataset = synthetic(4, 5, 3, 6, 2)
    stream = batches(dataset, range(5), sequence_length=10, sequences_per_step=2)
    first, second = list(stream)
    # 4 and 5 share row 0; 3 starts row 1 and 6 joins it; 2 fits nowhere and starts the next
    assert first.tokens.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2, 2], [3, 3, 3, 4, 4, 4, 4, 4, 4]]
    assert first.position_ids.tolist() == [
        [0, 1, 2, 3, 0, 1, 2, 3, 4],
        [0, 1, 2, 0, 1, 2, 3, 4, 5],
    ]
    assert first.labels[0].tolist() == [IGNORED, 1, 1, 1, IGNORED, 2, 2, 2, 2]
    assert (first.token_count, first.loss_tokens, first.examples) == (18, 14, 4)
    assert second.tokens.tolist() == [[5, 5]]
    assert (second.token_count, second.loss_tokens, second.examples) == (2, 1, 1)


def test_padding_restarts_positions_and_is_not_learnt() -> None:
    dataset = synthetic(6, 8, 2)
    (batch,) = batches(dataset, range(3), sequence_length=10, sequences_per_step=2)
    assert batch.tokens.tolist() == [[1, 1, 1, 1, 1, 1, 3, 3], [2] * 8]
    dataset = synthetic(6, 8)
    (batch,) = batches(dataset, range(2), sequence_length=10, sequences_per_step=2)
    assert batch.tokens[0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert batch.labels[0, 6:].tolist() == [IGNORED, IGNORED]
    assert batch.token_count == 14


def test_empty_examples_are_counted_and_passed_over() -> None:
    dataset = synthetic(4, 0, 4, 0, 4, sequence_length=8)
    first, second = batches(dataset, range(5), sequence_length=8, sequences_per_step=1)
    assert first.tokens.tolist() == [[1, 1, 1, 1, 3, 3, 3, 3]]
    assert (first.examples, second.examples) == (4, 1)


def test_batches_account_for_every_example_of_any_stream() -> None:
    rng = np.random.default_rng(0)
    dataset = synthetic(*rng.integers(0, 10, size=50).tolist())
    indices = rng.integers(0, 50, size=400).tolist()
    made = list(batches(dataset, indices, sequence_length=10, sequences_per_step=3))
    assert sum(batch.examples for batch in made) == 400
    assert sum(batch.token_count for batch in made) == sum(
        len(dataset.tokens[index]) for index in indices
    )
    again = list(batches(dataset, iter(indices), sequence_length=10, sequences_per_step=3))
    for one, two in zip(made, again, strict=True):
        assert np.array_equal(one.tokens, two.tokens)
        assert np.array_equal(one.labels, two.labels)


def test_endless_streams_are_read_lazily() -> None:
    stream = batches(synthetic(4), itertools.repeat(0), sequence_length=10, sequences_per_step=2)
    assert [next(stream).examples for _ in range(3)] == [4, 4, 4]


def test_datasets_that_cannot_be_packed_are_refused() -> None:
    with pytest.raises(ConfigFault, match="rows of 9"):
        next(batches(synthetic(4), [0], sequence_length=9, sequences_per_step=1))
    with pytest.raises(ConfigFault, match="no example"):
        next(
            batches(synthetic(0, 0), itertools.cycle([0]), sequence_length=10, sequences_per_step=1)
        )


# --- isolation --------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_packed_examples_do_not_see_each_other(base: Path, tokenizer, quantization: str) -> None:
    spec = BaseSpec(str(base), quantization, "float32")  # type: ignore[arg-type]
    model = load_base(spec)
    dataset = build_dataset(tokenizer, tiny_chats(10), sequence_length=128)
    (batch,) = batches(dataset, range(10), sequence_length=128, sequences_per_step=2)
    assert batch.tokens.shape[0] == 2

    def forward(tokens: np.ndarray, positions: np.ndarray, **extra: object) -> torch.Tensor:
        with torch.inference_mode():
            return model(
                input_ids=torch.from_numpy(tokens),
                position_ids=torch.from_numpy(positions),
                use_cache=False,
                **extra,
            ).logits

    packed = forward(batch.tokens, batch.position_ids)
    row = 0
    starts = np.flatnonzero(batch.position_ids[row] == 0)
    assert len(starts) >= 3
    for start, stop in itertools.pairwise(starts):
        alone = forward(
            batch.tokens[row : row + 1, start:stop], np.arange(stop - start, dtype=np.int64)[None]
        )
        # the same numbers in matrices of other shapes: float32 rounding of logits of about 5
        assert torch.allclose(packed[row, start:stop], alone[0], rtol=0, atol=5e-5)

    # the test can fail: with an attention mask the same batch leaks
    leaking = forward(
        batch.tokens, batch.position_ids, attention_mask=torch.ones(batch.tokens.shape)
    )
    second = slice(starts[1], starts[2])
    assert not torch.allclose(packed[row, second], leaking[row, second], rtol=0, atol=1e-2)
