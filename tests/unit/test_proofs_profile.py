"""Profiles: the line that travels, hostile ones, and what two of them have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.errors import PayloadMalformed
from ares_p2p.proofs.profile import (
    MAX_PROFILE_CHARS,
    Profile,
    RelationKind,
    parse_profile,
    processor_name,
    profile_here,
    relation_of,
)
from ares_p2p.rounds.audits import MAX_PROFILE_CHARS as MAX_REPORTED_CHARS

OURS = Profile("cpu", "amd-25-1", "AVX2", "sdpa", "2.13.0+cpu", "5.23.0", "0.50.2")
GPU = replace(OURS, device="cuda", hardware="NVIDIA-H100-80GB-HBM3", capability="sm90")


def kind(claimed: str, auditor: Profile = OURS) -> RelationKind:
    return relation_of(claimed, auditor.text, compute_dtype="float32").kind


def test_profile_travels_as_one_line() -> None:
    assert OURS.text == "cpu/amd-25-1/AVX2/sdpa/2.13.0+cpu/5.23.0/0.50.2"
    assert parse_profile(OURS.text) == OURS
    assert len(GPU.text) <= MAX_PROFILE_CHARS <= MAX_REPORTED_CHARS


def test_profile_here_is_the_same_twice_and_fits() -> None:
    here = profile_here("cpu")
    assert here.device == "cpu"
    assert here == profile_here("cpu") == parse_profile(here.text)
    assert profile_here("cpu", attention="eager") != here


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sim",
        "cpu/AVX2/torch-2.13.0+cpu/bnb-0.50.2",
        OURS.text + "/more",
        OURS.text.replace("amd-25-1", ""),
        OURS.text.replace("amd-25-1", "a" * 49),
        OURS.text.replace("amd-25-1", "[red]amd"),
        OURS.text.replace("amd-25-1", "a\nb"),
        OURS.text.replace("amd-25-1", "ａｍｄ"),
        "/".join(["a" * 48] * 7),
        "a" * 1_000_000,
    ],
)
def test_hostile_profile_is_refused_and_relates_to_nothing(text: str) -> None:
    with pytest.raises(PayloadMalformed):
        parse_profile(text)
    assert kind(text) is RelationKind.UNKNOWN


@given(st.text(max_size=300))
def test_any_text_has_a_relation(text: str) -> None:
    found = relation_of(text, OURS.text, compute_dtype="bfloat16")
    assert found.compute_dtype == "bfloat16"
    assert isinstance(found.kind, RelationKind)


def test_relation_names_what_two_profiles_share() -> None:
    assert kind(OURS.text) is RelationKind.SAME_BUILD
    assert kind(GPU.text) is RelationKind.CROSS_DEVICE
    for name in ("hardware", "capability", "attention", "torch", "transformers", "bitsandbytes"):
        other = replace(OURS, **{name: "other"})
        assert kind(other.text) is RelationKind.SAME_DEVICE, name
    cross = relation_of(GPU.text, OURS.text, compute_dtype="float32")
    assert cross == relation_of(OURS.text, GPU.text, compute_dtype="float32")
    assert cross.text == "cpu+cuda/cross-device/float32"


def test_no_claim_changes_the_dtype_that_was_signed() -> None:
    claimed = replace(OURS, attention="bfloat16").text
    assert relation_of(claimed, OURS.text, compute_dtype="float32").compute_dtype == "float32"


def test_processor_is_named_by_family(tmp_path: Path) -> None:
    intel = tmp_path / "intel"
    intel.write_text("processor : 0\nvendor_id : GenuineIntel\ncpu family : 6\nmodel : 143\n")
    assert processor_name(intel) == "intel-6-143"
    arm = tmp_path / "arm"
    arm.write_text("processor : 0\nCPU implementer : 0x41\nCPU part : 0xd0c\n")
    assert processor_name(arm) == "arm-0x41-0xd0c"
    assert processor_name(tmp_path / "none")
