"""Verdicts by the calibration: what a peer says of its machine decides which bounds hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ares_coordinator.audit.verdicts import Measures, judge_replay
from ares_p2p.domain import AuditOutcome
from ares_p2p.proofs.thresholds import shipped_calibration
from payloads import identity
from sim.samples import open_round

OURS = "cpu/amd-25-1/AVX2/sdpa/2.13.0+cpu/5.23.0/0.50.2"
OTHER_CPU = "cpu/intel-6-143/AVX512/sdpa/2.13.0+cpu/5.23.0/0.50.2"
GPU = "cuda/NVIDIA-H100-80GB-HBM3/sm90/sdpa/2.13.0+cu130/5.23.0/0.50.2"
PASS, VOID, FAIL = AuditOutcome.PASS, AuditOutcome.VOID, AuditOutcome.FAIL
ROUND = open_round()

# (cosine drop, quiet drop) of replays, as the calibration measured them
EQUAL, OTHER_KERNEL = (0.0, 0.0), (3.7e-5, 4e-6)
BFLOAT16_KERNEL, ONE_STEP_SKIPPED = (0.05, 0.008), (0.047, 0.028)
HALF_THE_STEPS = (0.3, 0.25)


def outcome(
    drops: tuple[float, float], *, claimed: str, dtype: str = "float32", by: str = OURS
) -> AuditOutcome:
    training = replace(ROUND.config.training, compute_dtype=dtype, codec_bits=2)
    config = replace(ROUND.config, training=training)
    commit = replace(ROUND.commit(identity(1), tokens=640), profile=claimed)
    measures = Measures(
        640, rho=0.1, norm_ratio=1.0, cosine_drop=drops[0], quiet_drop=drops[1], profile=by
    )
    return judge_replay(measures, commit, config, calibration=shipped_calibration()).outcome


@pytest.mark.parametrize("claimed", [OURS, OTHER_CPU])
def test_skipped_steps_fail_and_other_kernels_pass_in_float32(claimed: str) -> None:
    assert outcome(EQUAL, claimed=claimed) is PASS
    assert outcome(OTHER_KERNEL, claimed=claimed) is PASS
    assert outcome(ONE_STEP_SKIPPED, claimed=claimed) is FAIL
    assert outcome(HALF_THE_STEPS, claimed=claimed) is FAIL


def test_bfloat16_tells_a_skipped_step_from_a_kernel_by_the_quiet_tensors() -> None:
    of = {"claimed": OTHER_CPU, "dtype": "bfloat16"}
    assert outcome(BFLOAT16_KERNEL, **of) is PASS
    assert outcome(ONE_STEP_SKIPPED, **of) is VOID
    assert outcome((ONE_STEP_SKIPPED[0], 0.0), **of) is PASS, "the whole drop alone cannot"
    assert outcome(HALF_THE_STEPS, **of) is FAIL


def test_same_build_in_bfloat16_has_equal_bits_or_is_void() -> None:
    assert outcome(EQUAL, claimed=OURS, dtype="bfloat16") is PASS
    assert outcome(BFLOAT16_KERNEL, claimed=OURS, dtype="bfloat16") is VOID


@pytest.mark.parametrize("claimed", [GPU, "", "sim", "bfloat16/please/pass/me", OURS + "/x"])
def test_nobody_fails_by_numbers_that_were_not_taken_and_no_claim_widens_a_pass(
    claimed: str,
) -> None:
    assert outcome(EQUAL, claimed=claimed) is PASS
    assert outcome(OTHER_KERNEL, claimed=claimed) is PASS
    assert outcome(ONE_STEP_SKIPPED, claimed=claimed) is VOID
    assert outcome(HALF_THE_STEPS, claimed=claimed) is VOID


def test_unreadable_profile_of_the_auditor_accuses_nobody() -> None:
    assert outcome(HALF_THE_STEPS, claimed=OURS, by="") is VOID
