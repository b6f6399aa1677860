"""Measures what honest replays and cheats look like on this machine, and chooses the bounds.

Every training runs in a child process of low priority, because the variables that hold a library
back from a processor's instructions are read once, at its start. What is finished lies in files,
so a run that was killed goes on where it was. Nothing here touches a running network: the result
is a file that an operator puts into `<data dir>/calibration`.

It cannot measure what is not there: another processor family, another GPU model. The builds stand
for them as far as variables and kernels can.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ares_coordinator.audit.calibration.plan import BEFORE_ROUNDING, Build, Plan, WorkFiles
from ares_coordinator.audit.calibration.rule import (
    FAIL_FLOORS,
    FAIL_MARGIN,
    FALSE_FAIL,
    PASS_FLOORS,
    PASS_MARGIN,
    QUANTILES,
    Row,
    entries_from,
    other_dtype,
    row_of,
    split_entries,
)
from ares_p2p import __version__
from ares_p2p.datadir import DataDirLock
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import AresError, ConfigFault, InternalFault, all_errors
from ares_p2p.files import write_atomically
from ares_p2p.processes import SUPERVISOR_PID_VARIABLE
from ares_p2p.proofs.thresholds import CONDITIONS, SCHEMA

WORK_FOLDER: Final = "work"
LOG_FILE: Final = "calibrate.log"
_CLASSES = {cls.code: cls for cls in all_errors()}
Job = Literal["chain", "updates", "measure"]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a run left.

    Args:
        file: the calibration, `<device>.json`.
        pictures: histograms per dtype, and the curves; none without matplotlib.
        content: of the file.
        cpu_s: what this run's children needed; less than the whole if it went on with another's.
    """

    file: Path
    pictures: tuple[Path, ...]
    content: dict[str, Any]
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, in trained updates."""

    what: str
    done: int
    total: int


def calibrate(
    plan: Plan, out: Path, *, on_progress: Callable[[Progress], None], keep_work: bool = False
) -> Calibrated:
    """Measure, choose, draw; returns when all of it lies in `out`.

    Args:
        out: folder of the results; `work/` in it holds what is finished of a run.
        on_progress: called after every finished piece.
        keep_work: leave the updates there: about 4 bytes per parameter, build and pair.
    Raises: ConfigFault: a plan without a pair or codec, or another run's work in the folder.
        DataDirLocked: another run works there. Others: what a child says.
    """
    _check(plan)
    files = WorkFiles(out / WORK_FOLDER)
    files.root.mkdir(parents=True, exist_ok=True)
    before_s = _children_s()
    with DataDirLock(files.root):
        _prepare(plan, files)
        counter = _Counter(plan.work_units(), on_progress)
        for dtype in plan.dtypes:
            reference, *others = plan.builds(dtype)
            is_signed = dtype == plan.dtypes[0]
            _do("chain" if is_signed else "updates", reference, plan, files, counter)
            for build in others:
                _do("updates", build, plan, files, counter)
            _do("measure", reference, plan, files, counter)
        rows = load_rows(plan, files)
        content = _content(plan, files, rows)
        path = out / f"{plan.device}.json"
        write_atomically(path, encode_content(content), durable=True)
        pictures = _draw(rows, content, out, name=plan.device)
    if not keep_work:
        shutil.rmtree(files.root)
    return Calibrated(path, pictures, content, _children_s() - before_s)


def load_rows(plan: Plan, files: WorkFiles) -> list[Row]:
    """Return everything that a finished run measured."""
    rows = []
    for dtype in plan.dtypes:
        for pair in plan.pairs(dtype):
            for item in json.loads(files.measures(dtype, pair).read_bytes()):
                rows.append(row_of(item, compute_dtype=dtype, pair=pair))  # noqa: PERF401
    return rows


def encode_content(content: dict[str, Any]) -> bytes:
    """Return the file's bytes: one entry's distribution a line, so that differences can be read."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            items = ",\n  ".join(json.dumps(item) for item in value)
            lines.append(f' "{key}": [\n  {items}\n ]')
        else:
            lines.append(f' "{key}": {json.dumps(value)}')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _check(plan: Plan) -> None:
    if plan.rounds < 1 or plan.peers < 1 or not plan.bits or not plan.dtypes:
        raise ConfigFault("a calibration needs a round, a peer, a codec and a dtype at least")
    if plan.training.max_steps < 2:
        raise ConfigFault("with one local step there is no step to skip: 2 or more expected")


def _prepare(plan: Plan, files: WorkFiles) -> None:
    """Write plan and rows, or check that the ones that lie there are this run's."""
    wanted = json.dumps(plan.to_json(), sort_keys=True).encode()
    if files.plan.exists():
        if files.plan.read_bytes() != wanted:
            raise ConfigFault(
                f"{files.root} holds an unfinished calibration with other settings",
                hint=f"Finish it with its own settings, or remove {files.root} or take another --out.",
            )
        return
    from ares_coordinator.distiller.pipeline import build_dataset
    from ares_coordinator.distiller.procedural import ProceduralTeacher
    from ares_p2p.shards.format import encode_jsonl

    counts = dict.fromkeys(CATEGORIES, plan.examples_per_category)
    dataset = build_dataset(ProceduralTeacher(), counts=counts, seed=plan.seed)
    write_atomically(files.rows, encode_jsonl(dataset.train))
    write_atomically(files.plan, wanted)  # last: with it, the rows are complete


class _Counter:
    def __init__(self, total: int, on_progress: Callable[[Progress], None]) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress

    def add(self, units: int, what: str) -> None:
        self._done += units
        self._on_progress(Progress(what, self._done, self._total))


def _do(job: Job, build: Build, plan: Plan, files: WorkFiles, counter: _Counter) -> None:
    """Run a job, unless everything that it makes is there."""
    pairs = list(plan.pairs(build.compute_dtype))
    made = [files.update(build, pair) for pair in pairs]
    units = len(pairs)
    if job == "measure":
        made = [files.measures(build.compute_dtype, pair) for pair in pairs]
        units *= plan.measure_units(build.compute_dtype)
    elif job == "chain":
        made += [files.state(number) for number in range(plan.rounds)]
    if all(path.exists() for path in made):
        counter.add(units, f"{job} {build.compute_dtype} {build.name}")
    else:
        _run_child(job, build, files, counter)


def _children_s() -> float:
    """Return the processor time of the children that ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run_child(job: Job, build: Build, files: WorkFiles, counter: _Counter) -> None:
    """Run one job to its end in a process of its own, with the build's variables.

    Raises: AresError: the child's own, by code. InternalFault: it died.
    """
    what = f"{job} {build.compute_dtype} {build.name}"
    counter.add(0, what)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(build.threads),
        "MKL_NUM_THREADS": str(build.threads),
        "HF_HUB_OFFLINE": "1",
        SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        **dict(build.environment),
    }
    with (files.root / LOG_FILE).open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "ares_coordinator.audit.calibration.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    fault: AresError | None = None
    try:
        order = {"job": job, "build": build.folder, "work": str(files.root)}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.close()
        for line in process.stdout:
            answer = json.loads(line)
            if "code" in answer:
                cls: type[AresError] = _CLASSES.get(answer["code"], InternalFault)
                fault = cls(answer["message"])
            else:
                counter.add(answer["units"], what)
    finally:
        process.kill()
        code = process.wait()
        process.stdout.close()
    if fault is not None:
        raise fault
    if code not in (0, -9):  # -9 is our own, after its last line
        raise InternalFault(f"the child of {what} ended with {code}")


def _content(plan: Plan, files: WorkFiles, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the calibration file holds."""
    training = plan.to_json()["training"]
    entries, before_rounding = split_entries(entries_from(rows))
    dtype = plan.dtypes[0]
    profiles = {
        build.folder: files.profile(build).read_text(encoding="utf-8")
        for name in plan.dtypes
        for build in plan.builds(name)
    }
    return {
        "schema": SCHEMA,
        "made_by": f"ares-coordinator {__version__}",
        "device": plan.device,
        "base": plan.base.name,
        "training": {key: training[key] for key in (*CONDITIONS, "targets")},
        "compute_dtype": dtype,
        "rounds": plan.rounds,
        "peers": plan.peers,
        "profiles": profiles,
        "rule": {
            "pass_margin": PASS_MARGIN,
            "fail_margin": FAIL_MARGIN,
            "false_fail": FALSE_FAIL,
            "pass_floors": PASS_FLOORS,
            "fail_floors": FAIL_FLOORS,
            "quantiles": QUANTILES,
        },
        "entries": entries,
        "before_rounding": before_rounding,
        "other_dtype": other_dtype(rows),
    }


def _draw(
    rows: Sequence[Row], content: dict[str, Any], out: Path, *, name: str
) -> tuple[Path, ...]:
    try:
        from ares_coordinator.audit.calibration.charts import draw_calibration
    except ImportError:  # matplotlib: pictures are a luxury of a calibration
        return ()
    judged = [row for row in rows if row.bits != BEFORE_ROUNDING]
    return draw_calibration(judged, content, out, name=name)
