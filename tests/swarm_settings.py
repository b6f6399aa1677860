"""Settings for cycles of seconds, on a base of a few thousand parameters."""

from __future__ import annotations

QUICK: dict[str, object] = {
    "rounds.rounds": 4,
    "rounds.min_peers": 1,
    "rounds.clock": "fixed",  # one processor for all: a process may be starved for seconds
    "rounds.train_s": 20,
    "rounds.serve_s": 10,
    "rounds.held_out_examples": 8,
    "data.examples_per_category": 24,
    "training.rank": 4,
    "training.alpha": 8,
    "training.min_steps": 3,
    "training.max_steps": 3,
    "training.sequence_length": 64,
    "training.sequences_per_step": 4,
    "credit.reference_tokens_per_hour": 10_000,
}
