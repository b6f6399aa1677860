"""Calibrations: what ships, what a network puts over it, and what nobody measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.settings import TrainingSection
from ares_p2p.errors import ConfigFault
from ares_p2p.proofs.profile import Relation, RelationKind
from ares_p2p.proofs.sketch import AuditThresholds, ReplayComparison, judge
from ares_p2p.proofs.thresholds import (
    CONDITIONS,
    MAX_FILE_BYTES,
    Key,
    decode_calibration,
    encode_bounds,
    load_calibration,
    shipped_calibration,
    thresholds_for,
)

BITS = (2, 3, 4, 8)
DTYPES = ("float32", "bfloat16")
CPU = Relation(RelationKind.SAME_DEVICE, "cpu", "float32")
GPU = Relation(RelationKind.SAME_DEVICE, "cuda", "float32")
UNKNOWN = Relation(RelationKind.UNKNOWN, "", "float32")
TRAINING = TrainingSection().to_domain()
NARROW = AuditThresholds(0.001, 0.002, 0.01, 0.02, 0.003, 0.004)


def file_of(*keys: Key, bounds: AuditThresholds = NARROW, **changes: Any) -> bytes:
    content = {
        "schema": 1,
        "training": {name: getattr(TRAINING, name) for name in CONDITIONS},
        "entries": [encode_bounds(key, bounds) for key in keys],
        **changes,
    }
    return json.dumps(content).encode()


def zero_update() -> ReplayComparison:
    return ReplayComparison(1.0, 0.0, 0.0, 0.95, 0.95)


@pytest.mark.parametrize(("bits", "dtype"), [*product(BITS, DTYPES)])
def test_shipped_bounds_cover_processors_for_every_codec(bits: int, dtype: str) -> None:
    shipped = shipped_calibration()
    for kind in (RelationKind.SAME_BUILD, RelationKind.SAME_DEVICE):
        relation = Relation(kind, "cpu", dtype)
        assert shipped.is_measured(bits, relation)
        bounds = thresholds_for(bits, relation)
        assert 0 < bounds.pass_cosine_drop < bounds.fail_cosine_drop < 1
        assert judge(zero_update(), bounds) == "fail"
        assert judge(ReplayComparison(0.0, 1.0, 1.0, 0.0, 0.0), bounds) == "pass"
    same, other = (
        thresholds_for(bits, Relation(kind, "cpu", dtype))
        for kind in (RelationKind.SAME_BUILD, RelationKind.SAME_DEVICE)
    )
    assert same.pass_cosine_drop <= other.pass_cosine_drop
    assert same.fail_cosine_drop == other.fail_cosine_drop, "no punishment for an unnamed driver"


def test_what_nobody_measured_is_void_at_most() -> None:
    cross = Relation(RelationKind.CROSS_DEVICE, "cpu+cuda", "float32")
    for relation in (GPU, UNKNOWN, cross, replace(UNKNOWN, compute_dtype="float16")):
        assert not shipped_calibration().is_measured(2, relation)
        bounds = thresholds_for(2, relation)
        assert judge(zero_update(), bounds) == "void"
        assert judge(ReplayComparison(9.0, math.inf, -1.0, 1.95, 1.9), bounds) == "void"
        assert (
            judge(ReplayComparison(9.0, math.nan, math.nan, math.nan, math.nan), bounds) == "void"
        )
        assert judge(ReplayComparison(0.0, 1.0, 1.0, 0.0, 0.0), bounds) == "pass"


def test_unknown_passes_no_more_than_the_widest_of_its_dtype() -> None:
    widest = thresholds_for(2, CPU)
    assert thresholds_for(2, UNKNOWN).pass_cosine_drop == widest.pass_cosine_drop
    bfloat16 = thresholds_for(2, replace(UNKNOWN, compute_dtype="bfloat16"))
    assert bfloat16.pass_cosine_drop > widest.pass_cosine_drop


def test_own_calibration_counts_over_the_shipped_one(tmp_path: Path) -> None:
    assert load_calibration(tmp_path / "none").bounds == shipped_calibration().bounds
    (tmp_path / "cuda.json").write_bytes(file_of(Key(GPU, 2), Key(CPU, 2)))
    own = load_calibration(tmp_path)
    assert own.thresholds_for(2, GPU) == own.thresholds_for(2, CPU) == NARROW
    assert own.thresholds_for(3, CPU) == thresholds_for(3, CPU)
    assert not shipped_calibration().is_measured(2, GPU)


def test_differences_name_the_settings_that_were_not_measured() -> None:
    found = decode_calibration(file_of(Key(CPU, 2)), name="x")
    assert found.differences(TRAINING) == ()
    other = replace(TRAINING, inner_lr=0.01, max_steps=50, codec_bits=8)
    assert found.differences(other) == ("max_steps 10", "inner_lr 0.003")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        file_of(Key(CPU, 2), schema=2),
        file_of(Key(CPU, 2), Key(CPU, 2)),
        file_of(Key(CPU, 2), bounds=replace(NARROW, fail_cosine_drop=math.inf)),
        file_of(Key(CPU, 2), bounds=replace(NARROW, pass_quiet_drop=math.nan)),
        file_of(Key(CPU, 2), bounds=replace(NARROW, pass_cosine_drop=0.5)),
        file_of(Key(CPU, 2), training={}),
        file_of(Key(CPU, 2)).replace(b"same-device", b"near"),
        file_of(Key(CPU, 2)).replace(b"fail_quiet_drop", b"fail"),
        b" " * (MAX_FILE_BYTES + 1),
    ],
)
def test_broken_calibration_is_refused_with_its_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(data)
    with pytest.raises(ConfigFault, match=r"mine\.json"):
        load_calibration(tmp_path)


def test_shipped_distributions_are_what_the_decision_rests_on() -> None:
    """No honest comparison is refused; docs/adr/0005 says from which share on no cheat passes."""
    file = resources.files("ares_p2p.proofs") / "calibration" / "cpu.json"
    content = json.loads(file.read_bytes())
    always_found = {"float32": 0.05, "bfloat16": 0.30}
    for entry in content["entries"]:
        honest, limits = entry["honest"], entry["thresholds"]
        assert honest["pass"] == honest["comparisons"] >= 8
        for measure in ("cosine_drop", "quiet_drop", "norm_deviation"):
            if entry["relation"] == "same-build":
                assert honest[measure][-1] == 0, "equal profiles gave equal bits"
            else:
                assert limits[f"pass_{measure}"] >= 1.499 * honest[measure][-1]
                assert limits[f"fail_{measure}"] >= 2.999 * honest[measure][-1]
        for cheat in entry["cheats"]:
            share = 1.0 if cheat["share"] is None else cheat["share"]
            if share >= always_found[entry["compute_dtype"]]:
                assert cheat["pass"] == 0, (entry["compute_dtype"], cheat["name"])
