"""The child process that trains again and evaluates: the only place where the base is loaded.

It reads one JSON object per line on stdin and answers each with one on stdout. All inputs are
files that were verified before. Low priority: an audit must never slow a volunteer's round on the
same machine. Killed, it is started again, and the job is done again: every job is a pure
function of its files.

Jobs: `load` (once per cycle), `replay` (one contribution), `evaluate` (held-out losses).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import CycleConfig
from ares_p2p.errors import AresError, InternalFault
from ares_p2p.ids import PeerId
from ares_p2p.processes import die_with_parent
from ares_p2p.proofs.sketch import AuditThresholds, compare_updates, judge
from ares_p2p.shards.format import decode_jsonl
from ares_p2p.wire.codec import decode_envelope, decode_payload

NICENESS = 10


class Workbench:
    """One loaded cycle and what can be asked about it."""

    def __init__(self, job: dict[str, Any]) -> None:
        from ares_p2p.training.rig import TrainingRig, tokenize_for

        envelope: Envelope = decode_envelope(Path(job["config"]).read_bytes())
        self._config = decode_payload(envelope.payload_type, envelope.payload, CycleConfig)
        self._rig = TrainingRig.load(
            self._config,
            base=Path(job["base"]),
            stack=[Path(folder) for folder in job["stack"]],
            examples=decode_jsonl(Path(job["train"]).read_bytes()),
            device=job["device"],
        )
        held_out = decode_jsonl(Path(job["held_out"]).read_bytes())
        self._held_out = tokenize_for(self._rig.tokenizer, held_out, self._config.training)

    def replay(self, job: dict[str, Any]) -> dict[str, Any]:
        """Train the committed steps again and compare with the committed blob."""
        from ares_p2p.training.replica import bind_layout, decode_contribution, encode_contribution
        from ares_p2p.training.state import decode_snapshot

        layout, training = self._rig.layout, self._config.training
        peer = PeerId(job["peer"])
        bound = bind_layout(layout, plan_sha256=bytes.fromhex(job["plan"]), peer=peer)
        state = decode_snapshot(Path(job["state"]).read_bytes(), layout=layout)
        claimed = decode_contribution(
            Path(job["blob"]).read_bytes(), layout=bound, training=training
        )
        result = self._rig.train(
            state.theta,
            round_number=state.round,
            peer=peer,
            lr=job["lr"],
            min_steps=job["steps"],
            max_steps=job["steps"],
        )
        replayed = encode_contribution(state.theta, result.theta, layout=bound, training=training)
        own = decode_contribution(replayed, layout=bound, training=training)
        comparison = compare_updates(claimed, state.theta - result.theta, own_q=own)
        return {
            "outcome": judge(comparison, AuditThresholds()),
            "rho": comparison.rho,
            "norm_ratio": comparison.norm_ratio,
            "cosine_drop": comparison.cosine_drop,
            "tokens": result.tokens,
        }

    def evaluate(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return per-example losses under a state, or of the base with its stack alone."""
        import numpy as np

        from ares_p2p.training.evaluate import example_losses
        from ares_p2p.training.lora import write_parameters
        from ares_p2p.training.state import decode_snapshot

        layout = self._rig.layout
        theta = np.zeros(layout.size, dtype=np.float32)  # B = 0: the adapter changes nothing
        if job["state"] is not None:
            theta = decode_snapshot(Path(job["state"]).read_bytes(), layout=layout).theta
        write_parameters(self._rig.model, layout, theta)
        losses = example_losses(self._rig.model, self._held_out, indices=job["indices"])
        return {"nll": losses.nll_sum.tolist(), "tokens": losses.tokens.tolist()}


def main() -> None:
    """Answer jobs until stdin ends."""
    die_with_parent()
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    bench: Workbench | None = None
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if job["job"] == "load":
                bench = None
                bench = Workbench(job)
                answer: dict[str, Any] = {}
            elif bench is None:
                raise InternalFault("no cycle is loaded")
            else:
                answer = bench.replay(job) if job["job"] == "replay" else bench.evaluate(job)
        except AresError as fault:
            answer = {"code": fault.code, "message": fault.message}
        except Exception as error:  # noqa: BLE001 - one bad job must not end the process
            traceback.print_exc()
            answer = {
                "code": InternalFault.code,
                "message": f"{type(error).__name__}: {error}",
            }
        answers.write(json.dumps({**answer, "number": job["number"]}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
