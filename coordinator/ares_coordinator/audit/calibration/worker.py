"""The child process of a calibration: one build of the libraries, one job.

Started as `python -m ares_coordinator.audit.calibration.worker` with the job as one line of JSON on
stdin; for every finished file it writes a line {"units": n} to stdout. A file that is there is not
made again. Low priority, one thread unless the build says otherwise.

Jobs: `chain` (the honest run that the states come from), `updates` (honest work on one build),
`measure` (every claim of a pair against every auditor's build).
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from ares_coordinator.audit.calibration.cheats import (
    STALE_ROUNDS,
    BatchEdit,
    Cheat,
    Honest,
    free_cheats,
    leave_out_examples,
    leave_out_rows,
    shorten,
)
from ares_coordinator.audit.calibration.plan import (
    BEFORE_ROUNDING,
    OTHER_DTYPE,
    Build,
    Plan,
    WorkFiles,
    peer_name,
    relation_kind,
)
from ares_p2p.averaging.codec import decode, encode
from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import AresError, InternalFault
from ares_p2p.files import write_atomically
from ares_p2p.ids import PeerId, sha256
from ares_p2p.processes import die_with_parent
from ares_p2p.proofs.profile import profile_here
from ares_p2p.proofs.sketch import compare_updates
from ares_p2p.rounds.assignment import assigned_examples
from ares_p2p.shards.format import decode_jsonl
from ares_p2p.training.layout import Layout
from ares_p2p.training.outer import outer_step, pseudo_gradient
from ares_p2p.training.state import initial_state

NICENESS = 10
CHEAT_AUDITORS = 3  # builds against which cheats are measured: the reference and two others


class Bench:
    """One loaded base on one build."""

    def __init__(self, plan: Plan, build: Build, files: WorkFiles) -> None:
        import torch

        from ares_p2p.training.base import BaseSpec, load_base, load_tokenizer
        from ares_p2p.training.lora import attach_lora, layout_of_model
        from ares_p2p.training.rig import lora_spec_of, tokenize_for

        torch.set_num_threads(build.threads)
        training = plan.training
        spec = BaseSpec(
            str(plan.base),
            quantization=cast("Any", training.quantization),
            compute_dtype=cast("Any", build.compute_dtype),
        )
        base: Any = load_base(
            spec, device=build.device, gradient_checkpointing=training.gradient_checkpointing
        )
        if build.attention != "sdpa":
            base.set_attn_implementation(build.attention)
        self.plan, self.build, self.files = plan, build, files
        self.model = attach_lora(base, lora_spec_of(training))
        self.layout: Layout = layout_of_model(self.model)
        rows = decode_jsonl(files.rows.read_bytes())
        self.dataset = tokenize_for(load_tokenizer(spec), rows, training)
        self.key = sha256(b"ares/calibration/v1\0", str(plan.seed).encode())

    def train(
        self,
        start: Vector,
        *,
        round_number: int,
        peer: PeerId,
        steps: int | None = None,
        rate: float = 1.0,
        edit: BatchEdit | None = None,
        on_path: Callable[[Vector], None] | None = None,
    ) -> Vector:
        """Return the update of local steps from theta `start`.

        Args:
            steps: the cycle's, if not given.
            rate: factor of the learning rate.
            edit: what a cheat does to its batches.
            on_path: told the update after every step.
        """
        from ares_p2p.training.data import batches
        from ares_p2p.training.inner import run_local_steps
        from ares_p2p.training.lora import read_parameters
        from ares_p2p.training.rig import inner_config_of

        training = self.plan.training
        indices = assigned_examples(
            self.key, round_number=round_number, peer=peer, examples=len(self.dataset)
        )
        assigned = batches(
            self.dataset,
            indices,
            sequence_length=training.sequence_length,
            sequences_per_step=training.sequences_per_step,
        )

        def note(_step: int, _loss: float, _tokens: int) -> bool:
            if on_path is not None:
                on_path(pseudo_gradient(start, read_parameters(self.model, self.layout)))
            return True

        result = run_local_steps(
            self.model,
            self.layout,
            start=start,
            batches=(
                batch if edit is None else edit(step, batch) for step, batch in enumerate(assigned)
            ),
            steps=training.max_steps if steps is None else steps,
            config=inner_config_of(training, lr=training.inner_lr * rate),
            on_step=note,
        )
        return pseudo_gradient(start, result.theta)


def run_chain(bench: Bench, tell: Callable[[int], None]) -> None:
    """Make the states of an honest run, each from the peers' mean, and the reference's updates."""
    plan, files, training = bench.plan, bench.files, bench.plan.training
    state = initial_state(bench.layout, cycle=1, seed=bench.key)
    theta, momentum = state.theta, state.mu
    for round_number in range(plan.rounds):
        _save(files.state(round_number), theta)
        updates = []
        for peer in range(plan.peers):
            path = files.update(bench.build, (round_number, peer))
            if not path.exists():
                _save(path, bench.train(theta, round_number=round_number, peer=peer_name(peer)))
            updates.append(_load(path))
            tell(1)
        mean = np.asarray(np.mean(updates, axis=0, dtype=np.float32))
        theta, momentum = outer_step(
            theta, momentum, mean, lr=training.outer_lr, momentum=training.outer_momentum
        )


def run_updates(bench: Bench, tell: Callable[[int], None]) -> None:
    """Do every pair's honest work on this build."""
    for pair in bench.plan.pairs(bench.build.compute_dtype):
        path = bench.files.update(bench.build, pair)
        if not path.exists():
            start = _load(bench.files.state(pair[0]))
            _save(path, bench.train(start, round_number=pair[0], peer=peer_name(pair[1])))
        tell(1)


def run_measure(bench: Bench, tell: Callable[[int], None]) -> None:
    """Measure every pair: honest builds against each other, cheats against some of them."""
    dtype = bench.build.compute_dtype
    for pair in bench.plan.pairs(dtype):
        path = bench.files.measures(dtype, pair)
        if not path.exists():
            rows = list(_measured(bench, pair))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(rows).encode())
        tell(bench.plan.measure_units(dtype))


def _measured(bench: Bench, pair: tuple[int, int]) -> Iterator[dict[str, Any]]:
    plan, files, spans = bench.plan, bench.files, bench.layout.spans

    def honest(build: Build) -> _Claim:
        return _Claim(build.name, _load(files.update(build, pair)), build=build, bench=bench)

    auditors = [honest(build) for build in plan.builds(bench.build.compute_dtype)]
    path: list[Vector] = []
    update = bench.train(
        _load(files.state(pair[0])),
        round_number=pair[0],
        peer=peer_name(pair[1]),
        on_path=path.append,
    )
    again = _Claim("again", update, build=bench.build, bench=bench)
    for claim in (again, *auditors):
        for auditor in auditors:
            if claim is not auditor:  # equal by construction, that says nothing
                yield from claim.against(auditor, spans, is_honest=True)
    for cheat in _cheats(bench, pair, path):
        claim = _Claim(cheat.name, cheat.update, build=bench.build, bench=bench, share=cheat.share)
        for auditor in auditors[:CHEAT_AUDITORS]:
            yield from claim.against(auditor, spans, is_honest=False)
    if bench.build.compute_dtype != plan.dtypes[0]:
        yield from again.against(honest(plan.builds(plan.dtypes[0])[0]), spans, is_honest=True)


def _cheats(bench: Bench, pair: tuple[int, int], path: list[Vector]) -> Iterator[Cheat]:
    plan, files = bench.plan, bench.files
    round_number, number = pair
    peer, steps = peer_name(number), plan.training.max_steps
    reference = bench.build
    same_round = [
        files.update(reference, (round_number, other))
        for other in range(plan.peers)
        if other != number
    ]
    before = files.update(reference, (round_number - 1, number))
    honest = Honest(
        path=path,
        others=[_load(file) for file in same_round if file.exists()],
        previous=_load(before) if before.exists() else None,
    )
    yield from free_cheats(honest, bench.layout, seed=1 + round_number * plan.peers + number)

    start = _load(files.state(round_number))

    def trained(name: str, share: float | None, **how: Any) -> Cheat:
        work = {"start": start, "round_number": round_number, "peer": peer, **how}
        return Cheat(name, bench.train(**work), share)

    def last_step(part: float) -> tuple[float, BatchEdit]:
        rows = plan.training.sequences_per_step
        return max(1, round(part * rows)) / rows / steps, leave_out_rows(part, only_step=steps - 1)

    share, edit = last_step(0.5)
    yield trained("half-last-step", share, edit=edit)
    yield trained("seven-eighths", 1 / 8, edit=leave_out_examples(1 / 8))
    if reference.compute_dtype != plan.dtypes[0]:
        return
    share, edit = last_step(0.25)
    yield trained("quarter-last-step", share, edit=edit)
    yield trained("half-batch", 0.5, edit=leave_out_rows(0.5))
    yield trained("short-sequences", 0.5, edit=shorten(0.5))
    yield trained("half-rate", None, rate=0.5)
    yield trained("half-steps-twice-the-rate", 0.5, steps=max(1, steps // 2), rate=2.0)
    yield trained("other-shard", 1.0, peer=PeerId("calibration-foreign"))
    for age in STALE_ROUNDS:
        if age <= round_number:
            yield trained(f"stale-{age}", None, start=_load(files.state(round_number - age)))


class _Claim:
    """An update as its author sends it, rounded by every codec once."""

    def __init__(
        self, name: str, update: Vector, *, build: Build, bench: Bench, share: float | None = None
    ) -> None:
        self.name, self.build, self.share, self.update = name, build, share, update
        self.rounded = {
            bits: _rounded(update, bits, bench) for bits in (*bench.plan.bits, BEFORE_ROUNDING)
        }

    def against(
        self, auditor: _Claim, spans: tuple[tuple[int, int], ...], *, is_honest: bool
    ) -> Iterator[dict[str, Any]]:
        """Yield how an auditor that did `auditor`'s work sees this claim, one row per codec."""
        is_signed = self.build.compute_dtype == auditor.build.compute_dtype
        for bits, own in auditor.rounded.items():
            found = compare_updates(self.rounded[bits], auditor.update, own_q=own, spans=spans)
            yield {
                "claim": self.name,
                "honest": is_honest,
                "share": self.share,
                "auditor": auditor.build.name,
                "relation": str(relation_kind(self.build, auditor.build))
                if is_signed
                else OTHER_DTYPE,
                "devices": "+".join(sorted({self.build.device, auditor.build.device})),
                "bits": bits,
                "rho": found.rho,
                "norm_ratio": found.norm_ratio,
                "cosine_drop": found.cosine_drop,
                "quiet_drop": found.quiet_drop,
            }


def _rounded(update: Vector, bits: int, bench: Bench) -> Vector:
    if bits == BEFORE_ROUNDING:
        return update
    name, block = bench.layout.digest_sha256, bench.plan.training.codec_block
    data = encode(update, bits=bits, layout_sha256=name, block=block)
    return decode(data, layout=bench.layout, bits=bits, block=block)


def _save(path: Path, vector: Vector) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    np.save(data, vector, allow_pickle=False)
    write_atomically(path, data.getvalue())


def _load(path: Path) -> Vector:
    return cast("Vector", np.load(path, allow_pickle=False))


def main() -> None:
    """Do one job, then end."""
    die_with_parent()
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        job = json.loads(sys.stdin.readline())
        files = WorkFiles(Path(job["work"]))
        plan = Plan.from_json(json.loads(files.plan.read_bytes()))
        named = {build.folder: build for dtype in plan.dtypes for build in plan.builds(dtype)}
        bench = Bench(plan, named[job["build"]], files)
        profile = profile_here(bench.build.device, attention=bench.build.attention)
        files.profile(bench.build).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(files.profile(bench.build), profile.text.encode())
        jobs = {"chain": run_chain, "updates": run_updates, "measure": run_measure}
        jobs[job["job"]](bench, lambda units: answer({"units": units}))
    except AresError as fault:
        answer({"code": fault.code, "message": fault.message})
    except Exception as error:  # noqa: BLE001 - the parent must hear of every end
        traceback.print_exc()
        answer({"code": InternalFault.code, "message": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
