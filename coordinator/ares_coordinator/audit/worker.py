"""The child process that trains again and evaluates: the only place where the base is loaded.

It reads one JSON object per line on stdin and answers each with one on stdout. All inputs are
files that were verified before. Low priority: an audit must never slow a volunteer's round on the
same machine. Killed, it is started again, and the job is done again: every job is a pure
function of its files.

Jobs: `load` (once per cycle), `replay` (one contribution), `forge` (one that auditors must find),
`evaluate` (held-out losses).
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
from ares_p2p.proofs.profile import profile_here
from ares_p2p.shards.format import decode_jsonl
from ares_p2p.training.replay import Claim, forge_contribution, replay_contribution
from ares_p2p.training.state import TrainingState, decode_snapshot
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
        self._device = job["device"]
        self._profile = profile_here(job["device"]).text
        held_out = decode_jsonl(Path(job["held_out"]).read_bytes())
        self._held_out = tokenize_for(self._rig.tokenizer, held_out, self._config.training)

    def replay(self, job: dict[str, Any]) -> dict[str, Any]:
        """Train the committed steps again and compare with the committed blob.

        The answer is what was measured, and on which profile; `audit.verdicts` says what it means.
        """
        found = replay_contribution(
            self._rig,
            _claim(job),
            start=self._state(job),
            blob=Path(job["blob"]).read_bytes(),
            training=self._config.training,
        )
        comparison = found.comparison
        return {
            "rho": comparison.rho,
            "norm_ratio": comparison.norm_ratio,
            "cosine_drop": comparison.cosine_drop,
            "quiet_drop": comparison.quiet_drop,
            "profile": self._profile,
            "tokens": found.tokens,
        }

    def forge(self, job: dict[str, Any]) -> dict[str, Any]:
        """Write a contribution to the file `out` of which only half of the steps were made."""
        forgery = forge_contribution(
            self._rig, _claim(job), start=self._state(job), training=self._config.training
        )
        Path(job["out"]).write_bytes(forgery.data)
        return {
            "tokens": forgery.tokens,
            "mean_loss": forgery.mean_loss,
            "device": self._device,
            "profile": self._profile,
        }

    def _state(self, job: dict[str, Any]) -> TrainingState:
        return decode_snapshot(Path(job["state"]).read_bytes(), layout=self._rig.layout)

    def evaluate(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return per-example losses under a state, or of the base with its stack alone."""
        import numpy as np

        from ares_p2p.training.evaluate import example_losses
        from ares_p2p.training.lora import write_parameters

        layout = self._rig.layout
        theta = np.zeros(layout.size, dtype=np.float32)  # B = 0: the adapter changes nothing
        if job["state"] is not None:
            theta = decode_snapshot(Path(job["state"]).read_bytes(), layout=layout).theta
        write_parameters(self._rig.model, layout, theta)
        losses = example_losses(self._rig.model, self._held_out, indices=job["indices"])
        return {"nll": losses.nll_sum.tolist(), "tokens": losses.tokens.tolist()}


def _claim(job: dict[str, Any]) -> Claim:
    return Claim(PeerId(job["peer"]), bytes.fromhex(job["plan"]), job["steps"], job["lr"])


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
                jobs = {"replay": bench.replay, "forge": bench.forge, "evaluate": bench.evaluate}
                answer = jobs[job["job"]](job)
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
