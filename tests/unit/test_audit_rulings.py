"""What a report is worth: the whole table, and the postings that follow."""

from __future__ import annotations

import pytest

from ares_coordinator.audit.rulings import (
    MAX_RHO_GAP,
    MISSED,
    due_of,
    is_spot_checked,
    pending_pay,
    rule_on,
    ruling_postings,
)
from ares_coordinator.audit.verdicts import Measures, Verdict, not_comparable
from ares_coordinator.ledger.postings import following_posting
from ares_coordinator.store.auditor_rows import AssignmentRow, AuditResult
from ares_p2p.domain import AuditOutcome, AuditReport, Header, Posting, PostingState
from ares_p2p.errors import AuditForfeit, AuditReportWrong, AuditVoid, ReportLate
from ares_p2p.ids import sha256
from ares_p2p.rounds.plan import NO_DIGEST
from payloads import identity

PASS, VOID, FAIL = AuditOutcome.PASS, AuditOutcome.VOID, AuditOutcome.FAIL
AGREED, TRUSTED = AuditResult.AGREED, AuditResult.TRUSTED
CONTRADICTED, UNUSABLE = AuditResult.CONTRADICTED, AuditResult.UNUSABLE
RHO = {PASS: 0.05, VOID: 0.4, FAIL: 0.8}
DROP = {PASS: 0.001, VOID: 0.02, FAIL: 0.3}
AUDITOR = identity(4).peer_id
COMMIT = sha256(b"commit")
TASK = AssignmentRow(COMMIT, AUDITOR, 1, 2, 10, 20)


def said(outcome: AuditOutcome, *, rho: float | None = None, tokens: int = 640) -> Verdict:
    measures = Measures(tokens, RHO[outcome] if rho is None else rho, 1.0, DROP[outcome])
    return Verdict(outcome, "", "", measures)


@pytest.mark.parametrize(
    ("reported", "own", "result"),
    [
        (PASS, None, TRUSTED),
        (PASS, PASS, AGREED),
        (PASS, FAIL, CONTRADICTED),
        (PASS, VOID, UNUSABLE),
        (VOID, VOID, AGREED),
        (FAIL, FAIL, AGREED),
        (FAIL, PASS, CONTRADICTED),
        (VOID, PASS, UNUSABLE),
        (FAIL, None, UNUSABLE),
        (VOID, None, UNUSABLE),
    ],
)
def test_ruling_follows_the_table(
    reported: AuditOutcome, own: AuditOutcome | None, result: AuditResult
) -> None:
    ours = None if own is None else said(own)
    ruling = rule_on(said(reported), ours, is_decoy=False)
    assert ruling.result is result
    assert bool(ruling.code) == (result in (CONTRADICTED, UNUSABLE))
    assert ruling.is_caught == ((reported, own) == (PASS, FAIL))


def test_void_beside_fail_agrees_when_the_numbers_do() -> None:
    assert rule_on(said(VOID, rho=0.55), said(FAIL, rho=0.65), is_decoy=False).result is AGREED
    assert rule_on(said(FAIL, rho=1.4), said(VOID, rho=0.4), is_decoy=False).result is UNUSABLE


@pytest.mark.parametrize("gap", [MAX_RHO_GAP - 0.01, MAX_RHO_GAP + 0.01])
def test_right_word_with_other_numbers_is_not_paid(gap: float) -> None:
    """An auditor that says "fail" of everything finds every cheat, and replays none."""
    found = rule_on(said(FAIL, rho=0.7 + gap), said(FAIL, rho=0.7), is_decoy=True)
    assert found.result is (AGREED if gap < MAX_RHO_GAP else UNUSABLE)


def test_report_that_counts_other_tokens_is_not_paid() -> None:
    assert rule_on(said(PASS, tokens=641), said(PASS), is_decoy=False).result is UNUSABLE


def test_decoy_that_passes_is_caught_also_without_a_replay_of_ours() -> None:
    found = rule_on(said(PASS), None, is_decoy=True)
    assert (found.result, found.code, found.is_caught) == (
        CONTRADICTED,
        AuditReportWrong.code,
        True,
    )
    assert rule_on(said(PASS), not_comparable("gone"), is_decoy=True).is_caught


def test_decoy_that_our_own_replay_cannot_tell_catches_nobody() -> None:
    assert rule_on(said(PASS), said(PASS), is_decoy=True).result is AGREED
    assert not rule_on(said(PASS), said(VOID), is_decoy=True).is_caught


def test_honest_auditor_at_the_threshold_is_not_dismissed() -> None:
    """Rounding may put two honest replays on both sides of the bounds."""
    theirs = Verdict(PASS, "", "", Measures(640, 0.28, 1.0, 0.009))
    ours = Verdict(FAIL, "", "", Measures(640, 0.30, 1.0, 0.031))
    found = rule_on(theirs, ours, is_decoy=False)
    assert (found.result, found.is_caught) == (CONTRADICTED, False)


def test_report_with_a_reason_is_unusable_and_none_at_all_is_missed() -> None:
    assert rule_on(None, said(PASS), is_decoy=False).result is UNUSABLE
    assert rule_on(None, said(PASS), is_decoy=False, is_reported=False) == MISSED


def test_spot_checks_come_at_their_rate_and_need_the_secret() -> None:
    commits = [sha256(b"%d" % number) for number in range(2_000)]
    checked = [is_spot_checked(b"s" * 32, commit, 0.25) for commit in commits]
    assert 0.2 < sum(checked) / len(checked) < 0.3
    assert checked != [is_spot_checked(b"t" * 32, commit, 0.25) for commit in commits]
    assert all(is_spot_checked(b"s" * 32, commit, 1.0) for commit in commits)


# --- postings ----------------------------------------------------------------------------------


def report(commit: bytes = COMMIT, *, tokens: int = 640, code: str = "") -> AuditReport:
    header = Header("net", 1, 2, 1, 1)
    return AuditReport(header, NO_DIGEST, commit, tokens, 0.0, 1.0, 0.0, NO_DIGEST, "cpu", code, "")


def pay(commit: bytes = COMMIT) -> Posting:
    return pending_pay(report(commit), AUDITOR, reference_tokens_per_hour=10_000, at_ms=5)[0]


def test_pending_pay_is_the_price_of_the_replayed_tokens() -> None:
    posting = pay()
    assert (posting.worker, posting.amount_ucredits) == (AUDITOR, 640 * 1_000)
    assert posting.state is PostingState.PENDING


def test_report_that_compared_nothing_earns_nothing() -> None:
    for made in (report(code="ARES-E036"), report(tokens=0)):
        assert pending_pay(made, AUDITOR, reference_tokens_per_hour=10_000, at_ms=5) == ()


def states(postings: tuple[Posting, ...]) -> dict[bytes, tuple[PostingState, str]]:
    return {one.commit_sha256: (one.state, one.code) for one in postings}


def test_contradicted_report_voids_its_own_pay_only() -> None:
    ruling = rule_on(said(FAIL), said(PASS), is_decoy=False)
    found = ruling_postings(
        ruling,
        TASK,
        pending=[pay(), pay(sha256(b"2"))],
        unconfirmed=[following_posting(pay(sha256(b"3")), PostingState.SETTLED, code="", at_ms=1)],
        clawback=True,
        at_ms=9,
    )
    assert states(found) == {COMMIT: (PostingState.VOID, AuditReportWrong.code)}


@pytest.mark.parametrize("clawback", [True, False])
def test_caught_auditor_loses_what_is_pending_and_unconfirmed(clawback: bool) -> None:
    settled = following_posting(pay(sha256(b"3")), PostingState.SETTLED, code="", at_ms=1)
    found = ruling_postings(
        rule_on(said(PASS), said(FAIL), is_decoy=True),
        TASK,
        pending=[pay(), pay(sha256(b"2"))],
        unconfirmed=[settled],
        clawback=clawback,
        at_ms=9,
    )
    wanted = {
        COMMIT: (PostingState.VOID, AuditReportWrong.code),
        sha256(b"2"): (PostingState.VOID, AuditForfeit.code),
    }
    if clawback:
        wanted[sha256(b"3")] = (PostingState.CLAWBACK, AuditForfeit.code)
    assert states(found) == wanted


def test_paid_ruling_posts_nothing_before_its_round_is_settled() -> None:
    for ruling in (rule_on(said(PASS), None, is_decoy=False), rule_on(said(PASS), said(PASS),
                   is_decoy=False)):  # fmt: skip
        assert (
            ruling_postings(ruling, TASK, pending=[pay()], unconfirmed=[], clawback=True, at_ms=9)
            == ()
        )


def decided(result: AuditResult, code: str = "", message: str = "") -> AssignmentRow:
    return AssignmentRow(COMMIT, AUDITOR, 1, 2, 10, 20, b"report", 15, result, code, message)


def test_due_of_a_paid_task_is_its_pending_posting() -> None:
    due = due_of(decided(TRUSTED), pay(), shadow=False)
    assert (due.code, due.pay) == ("", pay())


def test_due_of_a_task_that_is_not_paid_says_why() -> None:
    wrong = decided(CONTRADICTED, AuditReportWrong.code, "honest work was reported as failed")
    void = following_posting(pay(), PostingState.VOID, code=AuditReportWrong.code, at_ms=9)
    due = due_of(wrong, void, shadow=False)
    assert (due.code, due.pay) == (AuditReportWrong.code, None)
    assert "honest" in due.message
    missed = due_of(decided(AuditResult.MISSED, ReportLate.code, "late"), None, shadow=False)
    assert (missed.code, missed.message, missed.pay) == (ReportLate.code, "late", None)


def test_due_of_good_work_that_was_lost_with_another_report_says_so() -> None:
    lost = following_posting(pay(), PostingState.VOID, code=AuditForfeit.code, at_ms=9)
    due = due_of(decided(AGREED), lost, shadow=False)
    assert (due.code, due.pay) == (AuditForfeit.code, None)
    assert "another report" in due.message


def test_shadow_mode_pays_and_tells() -> None:
    wrong = decided(CONTRADICTED, AuditReportWrong.code, "why")
    due = due_of(wrong, pay(), shadow=True)
    assert (due.code, due.pay) == (AuditReportWrong.code, pay())
    assert "recorded only" in due.message


def test_work_below_a_micro_credit_is_said_to_be_worth_nothing() -> None:
    assert due_of(decided(AGREED), None, shadow=False).code == AuditVoid.code
