"""One process's working place for a cycle: the base, its adapters, the tokenized examples.

A peer trains with it, an auditor replays with it: both run exactly this code from the same public
inputs (state, assignment, CycleConfig), which is what makes a contribution checkable.

It does no I/O but loading the base; it knows no network and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ares_p2p.averaging.vectors import Vector
from ares_p2p.domain import CycleConfig, TrainingConfig
from ares_p2p.errors import BaseDigestMismatch
from ares_p2p.ids import PeerId
from ares_p2p.rounds.assignment import assigned_examples
from ares_p2p.shards.format import Example
from ares_p2p.training.base import BaseSpec, ComputeDtype, Quantization, load_base, load_tokenizer
from ares_p2p.training.data import TokenizedDataset, batches, build_dataset
from ares_p2p.training.evaluate import ExampleLosses, example_losses
from ares_p2p.training.inner import InnerConfig, LocalResult, StepCallback, run_local_steps
from ares_p2p.training.layout import Layout
from ares_p2p.training.lora import attach_lora, layout_of_model, write_parameters
from ares_p2p.training.lora_spec import LoraSpec


def lora_spec_of(training: TrainingConfig) -> LoraSpec:
    """Return the adapter that a cycle trains."""
    return LoraSpec(training.rank, training.alpha, training.targets)


def inner_config_of(training: TrainingConfig, *, lr: float) -> InnerConfig:
    """Return the inner optimizer's settings; the rate comes from the round's plan."""
    return InnerConfig(
        lr=lr,
        beta2=training.beta2,
        eps=training.eps,
        max_grad_norm=training.max_grad_norm,
        sequences_per_step=training.sequences_per_step,
        sequence_length=training.sequence_length,
    )


@dataclass(slots=True)
class TrainingRig:
    """A loaded base with a trainable adapter. Not for two threads at once."""

    config: CycleConfig
    model: Any  # peft.PeftModel
    tokenizer: Any
    layout: Layout
    dataset: TokenizedDataset

    @staticmethod
    def load(
        config: CycleConfig,
        *,
        base: Path,
        stack: Sequence[Path],
        examples: Sequence[Example],
        device: str,
    ) -> TrainingRig:
        """Load everything a round's work needs; seconds to minutes.

        Args:
            base: folder of the base's files, whose digest the caller has checked.
            stack: folders of the earlier cycles' adapters, oldest first, checked likewise.
            examples: the training examples in the dataset's order.
            device: "cpu" or "cuda".
        Raises: BaseUnsupported; BaseDigestMismatch: the adapter's layout is not the signed one.
        """
        training = config.training
        spec = BaseSpec(
            str(base),
            quantization=cast("Quantization", training.quantization),
            compute_dtype=cast("ComputeDtype", training.compute_dtype),
        )
        tokenizer = load_tokenizer(spec)
        frozen = load_base(
            spec, device=device, gradient_checkpointing=training.gradient_checkpointing
        )
        model = attach_lora(frozen, lora_spec_of(training), stack=stack)
        layout = layout_of_model(model)
        if layout.digest_sha256 != config.layout_sha256:
            raise BaseDigestMismatch("the adapter on this base has another layout than signed")
        dataset = tokenize_for(tokenizer, examples, training)
        return TrainingRig(config, model, tokenizer, layout, dataset)

    def train(
        self, start: Vector, *, round_number: int, peer: PeerId, lr: float,
        min_steps: int, max_steps: int, on_step: StepCallback | None = None,
    ) -> LocalResult:  # fmt: skip
        """Make the local steps of `peer` in a round, from theta `start`: (layout.size,).

        The same arguments give the same bits on one build of torch; `on_step` may stop early.
        """
        indices = assigned_examples(
            self.config.assignment_key,
            round_number=round_number,
            peer=peer,
            examples=len(self.dataset),
        )
        inner = inner_config_of(self.config.training, lr=lr)
        return run_local_steps(
            self.model,
            self.layout,
            start=start,
            batches=batches(
                self.dataset,
                indices,
                sequence_length=inner.sequence_length,
                sequences_per_step=inner.sequences_per_step,
            ),
            min_steps=min_steps,
            steps=max_steps,
            config=inner,
            on_step=on_step,
        )

    def evaluate(self, theta: Vector, held_out: TokenizedDataset) -> ExampleLosses:
        """Return the losses of held-out examples under adapter values `theta`."""
        write_parameters(self.model, self.layout, theta)
        return example_losses(self.model, held_out)


def tokenize_for(
    tokenizer: Any, examples: Sequence[Example], training: TrainingConfig
) -> TokenizedDataset:
    """Return `examples` as token ids with the loss mask, cut at the sequence length."""
    return build_dataset(
        tokenizer,
        (example.messages for example in examples),
        sequence_length=training.sequence_length,
    )
