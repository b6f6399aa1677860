"""The rule that turns measured distances into bounds, and what becomes of them in the file."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from ares_coordinator.audit.calibrate import encode_content
from ares_coordinator.audit.calibration.plan import (
    BEFORE_ROUNDING,
    OTHER_DTYPE,
    Build,
    Plan,
    relation_kind,
)
from ares_coordinator.audit.calibration.rule import (
    FAIL_FLOORS,
    PASS_FLOORS,
    Row,
    choose_bounds,
    detection_curve,
    entries_from,
    other_dtype,
    row_of,
    split_entries,
)
from ares_coordinator.settings import TrainingSection
from ares_p2p.proofs.profile import Relation, RelationKind
from ares_p2p.proofs.sketch import AuditThresholds, judge
from ares_p2p.proofs.thresholds import CONDITIONS, decode_calibration

SAME, DEVICE = RelationKind.SAME_BUILD, RelationKind.SAME_DEVICE


def row(
    claim: str,
    drop: float,
    *,
    honest: bool = False,
    relation: str = DEVICE,
    bits: int = 2,
    pair: int = 0,
    **more: Any,
) -> Row:
    item = {
        "claim": claim,
        "honest": honest,
        "share": 0.0 if honest else 0.1,
        "auditor": "eager",
        "relation": relation,
        "devices": "cpu",
        "bits": bits,
        "rho": 0.1,
        "norm_ratio": 1.0,
        "cosine_drop": drop,
        "quiet_drop": drop / 4,
        **more,
    }
    return row_of(item, compute_dtype="bfloat16", pair=(pair, 0))


def honest_rows(relation: str = DEVICE, bits: int = 2) -> list[Row]:
    drops = np.linspace(0.02, 0.08, 30)
    return [
        row("eager", float(drop), honest=True, relation=relation, bits=bits, pair=number)
        for number, drop in enumerate(drops)
    ]


def only(entries: list[dict[str, Any]], relation: str, bits: int = 2) -> dict[str, Any]:
    (found,) = [e for e in entries if (e["relation"], e["codec_bits"]) == (relation, bits)]
    return found


def test_bounds_by_hand() -> None:
    low, high = choose_bounds([0.01, 0.01, 0.01, 0.04], measure="cosine_drop")
    assert low == pytest.approx(0.06)
    quartile = 0.0175  # numpy's, between 0.01 and 0.04
    assert high == pytest.approx(quartile + (0.04 - quartile) * math.log(0.25e6))


def test_equal_bits_leave_the_floors() -> None:
    for measure, low in PASS_FLOORS.items():
        assert choose_bounds([0.0] * 9, measure=measure) == (low, FAIL_FLOORS[measure])
        assert choose_bounds([-1e-6], measure=measure) == (low, FAIL_FLOORS[measure])


def test_every_honest_row_passes_with_room_and_none_is_near_a_fail() -> None:
    rng = np.random.default_rng(0)
    values = 0.03 + rng.exponential(0.01, size=400)
    low, high = choose_bounds(values, measure="cosine_drop")
    assert low == pytest.approx(1.5 * values.max())
    assert high >= 3 * values.max()
    fresh = 0.03 + rng.exponential(0.01, size=200_000)
    assert (fresh > high).sum() == 0
    assert (fresh > low).mean() < 1e-3


def test_equal_profiles_pass_by_the_floor_and_fail_by_the_other_builds() -> None:
    rows = [*honest_rows(), row("again", 0.0, honest=True, relation=SAME)]
    rows += [row("skip-1", 0.1), row("skip-1", 0.1, relation=SAME)]
    entries = entries_from(rows)
    same, other = only(entries, SAME), only(entries, DEVICE)
    assert same["thresholds"]["pass_cosine_drop"] == PASS_FLOORS["cosine_drop"]
    assert other["thresholds"]["pass_cosine_drop"] == pytest.approx(0.12)
    assert same["thresholds"]["fail_cosine_drop"] == other["thresholds"]["fail_cosine_drop"]
    (skipped,) = same["cheats"]
    assert (skipped["pass"], skipped["void"], skipped["fail"]) == (0, 1, 0)
    (skipped,) = other["cheats"]
    assert skipped["pass"] == 1, "a tenth of the steps hides in this much noise"


def test_entry_counts_outcomes_and_independent_trainings() -> None:
    rows = [*honest_rows(), *honest_rows()]
    entry = only(entries_from(rows), DEVICE)
    honest = entry["honest"]
    assert (honest["trainings"], honest["comparisons"], honest["pass"]) == (30, 60, 60)
    assert honest["cosine_drop"][0] == 0.02
    assert honest["cosine_drop"][-1] == 0.08


def test_another_dtype_and_unrounded_updates_set_no_bounds() -> None:
    rows = [
        *honest_rows(),
        *honest_rows(bits=BEFORE_ROUNDING),
        row("again", 0.3, honest=True, relation=OTHER_DTYPE),
    ]
    judged, before = split_entries(entries_from(rows))
    assert [entry["relation"] for entry in judged] == [DEVICE]
    assert [entry["codec_bits"] for entry in before] == [BEFORE_ROUNDING]
    (seen,) = other_dtype(rows)
    assert seen["cosine_drop"][-1] == 0.3
    assert only(judged, DEVICE)["honest"]["cosine_drop"][-1] == 0.08


def test_detection_counts_steps_that_were_not_made() -> None:
    rows = honest_rows()
    for name, share, drop in (
        ("skip-1", 0.1, 0.05),
        ("skip-1", 0.1, 0.5),
        ("skip-2", 0.2, 0.5),
        ("half-last-step", 0.05, 0.01),
        ("skip-1-rescaled", 0.1, 0.01),
        ("seven-eighths", 0.125, 0.01),
    ):
        rows.append(row(name, drop, share=share))
    entry = only(entries_from(rows), DEVICE)
    assert detection_curve(entry) == [(0.05, 0.0), (0.1, 0.5), (0.2, 1.0)]


def test_written_calibration_is_read_back_with_its_bounds() -> None:
    training = TrainingSection().to_domain()
    entries = entries_from([*honest_rows(), row("zero", 0.95)])
    content = {
        "schema": 1,
        "training": {name: getattr(training, name) for name in CONDITIONS},
        "entries": entries,
        "before_rounding": [],
    }
    data = encode_content(content)
    assert json.loads(data) == content
    relation = Relation(DEVICE, "cpu", "bfloat16")
    bounds = decode_calibration(data, name="x").thresholds_for(2, relation)
    assert bounds == AuditThresholds(**entries[0]["thresholds"])
    assert judge(row("zero", 0.95).comparison, bounds) == "fail"


def test_builds_relate_like_their_profiles(tmp_path: Any) -> None:
    training = TrainingSection().to_domain()
    plan = Plan(tmp_path, training, "cpu", 2, 3, (2,), ("float32", "bfloat16"))
    reference, *others = plan.builds("float32")
    assert relation_kind(reference, reference) is SAME
    by_name = {build.name: build for build in others}
    assert relation_kind(by_name["threads"], reference) is SAME
    assert relation_kind(by_name["eager"], by_name["threads"]) is DEVICE
    assert relation_kind(by_name["eager"], by_name["eager"]) is SAME
    gpu = Build("reference", "float32", "cuda")
    assert relation_kind(reference, gpu) is RelationKind.CROSS_DEVICE
    assert len(list(plan.pairs("float32"))) == 6
    assert list(plan.pairs("bfloat16")) == [(0, 0), (1, 0)]
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
