"""Who is asked to replay what, and what a report may say."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.domain import AuditAssignment, AuditPlan, AuditReport, Header
from ares_p2p.errors import (
    NotAnAuditor,
    PayloadMalformed,
    PeerFault,
    ReportLate,
    StepsOutOfRange,
)
from ares_p2p.ids import PeerId, sha256
from ares_p2p.rounds.audits import (
    MAX_COSINE_DROP,
    MAX_MEASURE,
    assign_audits,
    assigned_to,
    bounded_drop,
    bounded_measure,
    check_report,
)
from ares_p2p.rounds.lottery import ranked_auditors
from payloads import identity

SEED, COMMIT, PLAN_SHA256 = sha256(b"seed"), sha256(b"commit"), sha256(b"plan")
PEERS = tuple(identity(number).peer_id for number in range(6))
AUTHOR, AUDITOR, OTHER = PEERS[:3]
HEADER = Header("net", 1, 4, 7, 1_000)
PLAN = AuditPlan(HEADER, sha256(b"commits"), (AuditAssignment(COMMIT, AUDITOR),), deadline_ms=5_000)
REPORT = AuditReport(
    header=HEADER,
    audit_plan_sha256=PLAN_SHA256,
    commit_sha256=COMMIT,
    tokens=640,
    rho=0.1,
    norm_ratio=1.0,
    cosine_drop=0.0,
    replay_sha256=sha256(b"replay"),
    profile="cpu",
    code="",
    message="",
)


def drawn(count: int) -> list[tuple[bytes, PeerId]]:
    return [(sha256(b"%d" % number), PEERS[number % len(PEERS)]) for number in range(count)]


def test_each_commit_goes_to_the_first_of_the_seeds_ranking_without_its_author() -> None:
    found = assign_audits(SEED, drawn(40), PEERS)
    assert len(found) == 40
    for item, (commit, author) in zip(found, sorted(drawn(40)), strict=True):
        others = tuple(peer for peer in PEERS if peer != author)
        assert item == AuditAssignment(commit, ranked_auditors(SEED, commit, others)[0])
        assert item.auditor != author


def test_order_of_presence_changes_nothing_and_another_seed_everything() -> None:
    once = assign_audits(SEED, drawn(40), PEERS)
    assert assign_audits(SEED, list(reversed(drawn(40))), tuple(reversed(PEERS))) == once
    assert assign_audits(sha256(b"other"), drawn(40), PEERS) != once


def test_work_of_the_only_auditor_is_asked_of_nobody() -> None:
    assert assign_audits(SEED, [(COMMIT, AUTHOR)], (AUTHOR,)) == ()
    assert assign_audits(SEED, [(COMMIT, AUTHOR)], ()) == ()


def test_work_is_spread_evenly() -> None:
    found = assign_audits(SEED, drawn(600), PEERS)
    counts = [len([item for item in found if item.auditor == peer]) for peer in PEERS]
    assert all(60 < count < 140 for count in counts)


def test_assigned_to_names_only_ones_own() -> None:
    assert assigned_to(PLAN, AUDITOR) == (COMMIT,)
    assert assigned_to(PLAN, OTHER) == ()


def check(
    report: AuditReport = REPORT, *, auditor: PeerId = AUDITOR, now_ms: int = 4_000, **changes: Any
) -> None:
    check_report(
        dataclasses.replace(report, **changes),
        auditor=auditor,
        plan=PLAN,
        plan_sha256=PLAN_SHA256,
        max_tokens=640,
        now_ms=now_ms,
    )


def test_honest_report_passes_up_to_the_deadline() -> None:
    check()
    check(now_ms=5_000)
    check(rho=MAX_MEASURE, norm_ratio=MAX_MEASURE, cosine_drop=MAX_COSINE_DROP)
    check(tokens=0, code="ARES-E036", message="nobody serves it")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"audit_plan_sha256": sha256(b"other")}, NotAnAuditor),
        ({"header": dataclasses.replace(HEADER, round=5)}, NotAnAuditor),
        ({"header": dataclasses.replace(HEADER, cycle=2)}, NotAnAuditor),
        ({"commit_sha256": sha256(b"other")}, NotAnAuditor),
        ({"auditor": OTHER}, NotAnAuditor),
        ({"now_ms": 5_001}, ReportLate),
        ({"tokens": 641}, StepsOutOfRange),
        ({"rho": 1e308}, PayloadMalformed),
        ({"norm_ratio": MAX_MEASURE * 2}, PayloadMalformed),
        ({"cosine_drop": 2.1}, PayloadMalformed),
        ({"quiet_drop": 2.1}, PayloadMalformed),
        ({"profile": "p" * 201}, PayloadMalformed),
        ({"message": "m" * 201}, PayloadMalformed),
        ({"code": "E071"}, PayloadMalformed),
        ({"code": "ARES-E071 and more"}, PayloadMalformed),
    ],
)
def test_report_that_cannot_be_is_refused(changes: dict[str, Any], fault: type[PeerFault]) -> None:
    with pytest.raises(fault):
        check(**changes)


@given(st.floats())
def test_whatever_was_measured_fits_a_report(value: float) -> None:
    for bound, most in ((bounded_measure, MAX_MEASURE), (bounded_drop, MAX_COSINE_DROP)):
        found = bound(value)
        assert 0 <= found <= most
        if 0 <= value <= most:
            assert found == value
        if math.isnan(value) or value > most:
            assert found == most
