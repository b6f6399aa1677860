"""From chat examples to packed batches: tokens, loss mask, positions. Deterministic throughout.

Template. Examples are ChatML; the loss is on what the assistant says and on its `<|im_end|>`. The
network's own template (`CHATML_TEMPLATE`) is used whatever template the base ships, since the mask
comes from its `generation` marks.

Truncation. An example longer than the sequence keeps its *first* tokens. If no assistant token is
left (the prompt alone fills the sequence), the example stays in the dataset as an empty one, so
that indices mean the same to everybody, and packing passes over it. `truncated` counts them.

Packing. Examples fill the rows of a batch in stream order, each into the first row with room;
the first that fits nowhere starts the next batch. Examples are never split. A row's rest is padding
that nothing attends to, and a batch is as wide as its fullest row.

Isolation. Packed examples do not see each other if, and only if, positions restart, no attention
mask is passed and the cache is off: transformers then builds the block-diagonal mask itself. Any
other combination leaks silently (transformers 5.23); a unit test compares logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from ares_p2p.errors import ConfigFault
from ares_p2p.training.chatml import CHATML_TEMPLATE

IGNORED = -100  # label of tokens without loss; torch's cross entropy skips it


class Message(Protocol):
    """One turn of a chat."""

    @property
    def role(self) -> str:
        """Who speaks: system, user, assistant, tool."""
        ...

    @property
    def content(self) -> str:
        """What is said."""
        ...


Chat = Sequence[Message] | Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedDataset:
    """Examples as token ids, made once and kept.

    Args:
        tokens: per example, (length,) int32; length 0 for one without a token to learn.
        loss_masks: per example, (length,) bool; True where the token itself is learnt.
        sequence_length: the bound on lengths.
        pad_token: fills rows.
        truncated: how many examples were cut.
    """

    tokens: tuple[npt.NDArray[np.int32], ...]
    loss_masks: tuple[npt.NDArray[np.bool_], ...]
    sequence_length: int
    pad_token: int
    truncated: int

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one optimizer step sees.

    Args:
        tokens: (rows, width) int64.
        labels: (rows, width) int64; the token itself where it is learnt, else `IGNORED`.
        position_ids: (rows, width) int64; restart at every example.
        token_count: tokens that are no padding.
        loss_tokens: tokens that are learnt.
        examples: how many indices of the stream the batch took, empty examples included.
    """

    tokens: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    token_count: int
    loss_tokens: int
    examples: int


def build_dataset(
    tokenizer: PreTrainedTokenizerBase, chats: Iterable[Chat], *, sequence_length: int
) -> TokenizedDataset:
    """Tokenize `chats`, in order.

    Args:
        tokenizer: the base's.
        chats: per example its turns, as mappings or objects with `role` and `content`.
        sequence_length: longest example, in tokens.
    Returns: the dataset; index i is the i-th chat.
    Raises: ConfigFault: the tokenizer has no usable mask (no fast tokenizer).
    """
    if not tokenizer.is_fast:
        raise ConfigFault("the loss mask needs a fast tokenizer (tokenizer.json)")
    tokens: list[npt.NDArray[np.int32]] = []
    masks: list[npt.NDArray[np.bool_]] = []
    truncated = 0
    for chat in chats:
        encoded: Any = tokenizer.apply_chat_template(
            [_as_mapping(message) for message in chat],
            chat_template=CHATML_TEMPLATE,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        mask = np.asarray(encoded["assistant_masks"], dtype=np.bool_)
        if ids.size > sequence_length:
            ids, mask, truncated = ids[:sequence_length], mask[:sequence_length], truncated + 1
        if not mask[1:].any():
            ids, mask = ids[:0], mask[:0]
        tokens.append(ids)
        masks.append(mask)
    pad = tokenizer.pad_token_id
    return TokenizedDataset(
        tuple(tokens), tuple(masks), sequence_length, pad if isinstance(pad, int) else 0, truncated
    )


def batches(
    dataset: TokenizedDataset,
    indices: Iterable[int],
    *,
    sequence_length: int,
    sequences_per_step: int,
) -> Iterator[Batch]:
    """Pack the examples that `indices` names, in that order, into batches.

    Args:
        dataset: tokenized examples.
        indices: the assigned stream; may be endless, may repeat.
        sequence_length: tokens per row.
        sequences_per_step: rows per batch.
    Returns: batches, lazily; a finite stream ends with a smaller one.
    Raises: ConfigFault: examples longer than a row, or a dataset without a token to learn.
    """
    if dataset.sequence_length > sequence_length:
        raise ConfigFault(
            f"dataset cut at {dataset.sequence_length} tokens for rows of {sequence_length}"
        )
    if not any(len(tokens) for tokens in dataset.tokens):
        raise ConfigFault("no example has a token to learn within the sequence length")
    rows: list[list[int]] = [[] for _ in range(sequences_per_step)]
    room = [sequence_length] * sequences_per_step
    taken = 0
    for index in indices:
        length = len(dataset.tokens[index])
        row = next((r for r, free in enumerate(room) if free >= length), None)
        if row is None:
            yield _build_batch(dataset, rows, examples=taken)
            rows = [[] for _ in range(sequences_per_step)]
            room, taken, row = [sequence_length] * sequences_per_step, 0, 0
        taken += 1
        if length:
            rows[row].append(index)
            room[row] -= length
    if any(rows):
        yield _build_batch(dataset, rows, examples=taken)


def _build_batch(dataset: TokenizedDataset, rows: list[list[int]], *, examples: int) -> Batch:
    filled = [row for row in rows if row]
    width = max(sum(len(dataset.tokens[index]) for index in row) for row in filled)
    tokens = np.full((len(filled), width), dataset.pad_token, dtype=np.int64)
    labels = np.full_like(tokens, IGNORED)
    positions = np.zeros_like(tokens)
    count = 0
    for number, row in enumerate(filled):
        start = 0
        for index in row:
            ids, mask = dataset.tokens[index], dataset.loss_masks[index]
            stop = start + len(ids)
            tokens[number, start:stop] = ids
            # an example's first token has no context: its predictor belongs to another example
            labels[number, start + 1 : stop] = np.where(mask[1:], ids[1:], IGNORED)
            positions[number, start:stop] = np.arange(len(ids))
            start = stop
        positions[number, start:] = np.arange(width - start)
        count += start
    loss_tokens = int((labels != IGNORED).sum())
    return Batch(tokens, labels, positions, count, loss_tokens, examples)


def _as_mapping(message: Message | Mapping[str, str]) -> dict[str, str]:
    if isinstance(message, Mapping):
        return {"role": message["role"], "content": message["content"]}
    return {"role": message.role, "content": message.content}
