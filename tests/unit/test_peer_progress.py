"""The peer's picture: what events add up to."""

from __future__ import annotations

import math

from ares_p2p.errors import AuditReportWrong, AuditVoid, ReportLate
from ares_peer.events import (
    AuditReported,
    AuditSettled,
    AuditStarted,
    CommitSent,
    CreditSettled,
    CycleDone,
    ErrorRaised,
    Event,
    FirstAccepted,
    IdentityKnown,
    Phase,
    PhaseChanged,
    RoundDone,
    RoundOpened,
    StepDone,
    SupervisorNote,
    SyncProgress,
    Traffic,
)
from ares_peer.progress import MAX_PENDING, MAX_REFUSALS, Status, advance, carried_over
from ares_peer.summary import status_rows, summary_rows

FRESH = Status(pid=1, started_s=1.0)


def folded(*events: Event, start: Status = FRESH) -> Status:
    status = start
    for number, event in enumerate(events):
        status = advance(status, event, now_ms=1000 + number)
    return status


def accepted(round_number: int) -> RoundDone:
    return RoundDone(1, round_number, "accepted", 1.0, "", "", "aa")


def test_accepted_round_is_pending_until_it_is_settled() -> None:
    status = folded(accepted(0), accepted(1))
    assert status.pending == ((1, 0), (1, 1))
    status = folded(CreditSettled(1, 0, "pass", 5, 105), start=status)
    assert status.pending == ((1, 1),)
    assert status.settled_ucredits == 105


def test_clipped_round_counts_as_accepted_and_is_pending() -> None:
    status = folded(RoundDone(1, 0, "clipped", 0.5, "ARES-E073", "long", "aa"))
    assert status.totals.rounds_accepted == 1
    assert status.totals.rounds_clipped == 1
    assert status.pending == ((1, 0),)


def test_refused_round_is_not_pending_and_keeps_its_reason() -> None:
    status = folded(RoundDone(1, 4, "refused", 0.0, "ARES-E070", "against", "aa"))
    assert status.pending == ()
    assert status.totals.rounds_refused == 1
    assert (status.refusals[0].code, status.refusals[0].message) == ("ARES-E070", "against")


def test_missed_round_is_no_refusal() -> None:
    status = folded(RoundDone(1, 4, "missed", 0.0, "", "too late", "aa"))
    assert status.totals.rounds_missed == 1
    assert status.refusals == ()


def test_round_told_twice_counts_once() -> None:
    status = folded(accepted(0), accepted(0))
    assert status.totals.rounds_accepted == 1
    status = folded(accepted(0), CreditSettled(1, 0, "pass", 1, 1), accepted(0))
    assert status.pending == ()


def test_void_and_failed_settlements_keep_their_reason_and_the_balance() -> None:
    status = folded(
        accepted(0),
        accepted(1),
        CreditSettled(1, 0, "void", 0, 40, "ARES-E072", "unclear"),
        CreditSettled(1, 1, "fail", 0, 40, "ARES-E071", "differs"),
    )
    assert (status.totals.rounds_void, status.totals.rounds_failed_audit) == (1, 1)
    assert [refusal.code for refusal in status.refusals] == ["ARES-E071", "ARES-E072"]
    assert status.settled_ucredits == 40
    assert status.pending == ()


def test_refusals_of_one_code_are_counted_and_codes_are_bounded() -> None:
    refused = [RoundDone(1, turn, "refused", 0.0, "ARES-E070", f"m{turn}", "") for turn in range(3)]
    status = folded(*refused)
    assert len(status.refusals) == 1
    assert (status.refusals[0].count, status.refusals[0].message) == (3, "m2")
    many = [RoundDone(2, turn, "refused", 0.0, f"X{turn}", "", "") for turn in range(100)]
    assert len(folded(*many).refusals) == MAX_REFUSALS


def test_pending_is_bounded() -> None:
    status = folded(*(accepted(turn) for turn in range(MAX_PENDING + 10)))
    assert len(status.pending) == MAX_PENDING
    assert status.pending[-1] == (1, MAX_PENDING + 9)


def test_refused_commit_is_a_refusal_and_brings_no_tokens() -> None:
    status = folded(
        CommitSent(1, 0, 10, 1000, "cc", accepted=True),
        CommitSent(1, 1, 10, 1000, "cc", accepted=False, code="ARES-E062", message="late"),
    )
    assert status.totals.tokens == 1000
    assert status.refusals[0].code == "ARES-E062"


def test_traffic_adds_up_over_trainers() -> None:
    status = folded(
        SupervisorNote("started"),
        Traffic(10, 100),
        Traffic(30, 300),
        SupervisorNote("started"),
        Traffic(5, 50),
    )
    assert (status.totals.up_bytes, status.totals.down_bytes) == (35, 350)


def test_steps_move_the_round_and_a_broken_loss_is_none() -> None:
    opened = RoundOpened(1, 2, 9, 5000, "ab")
    status = folded(opened, StepDone(3, 8, 2.5, 100.0))
    assert status.round is not None
    assert (status.round.step, status.round.max_steps, status.round.loss) == (3, 8, 2.5)
    status = folded(StepDone(4, 8, math.nan, math.nan), start=status)
    assert status.round is not None
    assert (status.round.loss, status.round.tokens_per_s) == (None, 0.0)
    assert folded(StepDone(1, 2, 1.0, 1.0)).round is None


def test_phase_sync_identity_error_and_end_of_cycle() -> None:
    status = folded(
        IdentityKnown("12D3", "tiny-net", "Ada", ("/ip4/1.2.3.4/tcp/1",)),
        PhaseChanged(Phase.SYNCING, "cycle 1"),
        SyncProgress("base", 1, 2),
        ErrorRaised("ARES-E032", "away", "wait"),
        FirstAccepted(2.5),
    )
    assert status.sync is not None
    assert (status.network, status.name, status.first_accepted_s) == ("tiny-net", "Ada", 2.5)
    assert status.last_error is not None
    assert status.last_error.at_ms == 1003
    status = folded(PhaseChanged(Phase.WAITING), CycleDone(1, "ff"), start=status)
    assert status.sync is None
    assert (status.state, status.round) == ("ff", None)


def test_last_event_tells_outcomes_not_phases() -> None:
    status = folded(accepted(0), PhaseChanged(Phase.WAITING), StepDone(1, 2, 1.0, 1.0))
    assert status.last_event == "round 1 accepted"


def test_new_run_carries_totals_but_no_moment() -> None:
    earlier = folded(accepted(0), ErrorRaised("c", "m"), PhaseChanged(Phase.STOPPED), Traffic(7, 8))
    fresh = Status(pid=2, started_s=9.0, device="CPU", peer_id="12D3")
    status = carried_over(earlier, fresh)
    assert (status.pid, status.device, status.peer_id) == (2, "CPU", "12D3")
    assert status.totals == earlier.totals
    assert status.pending == ((1, 0),)
    assert (status.phase, status.last_error) == (Phase.STARTING, None)


def test_summary_counts_this_run_only() -> None:
    refused = RoundDone(1, 1, "refused", 0.0, "ARES-E070", "against", "")
    before = folded(accepted(0), refused, CreditSettled(1, 0, "pass", 1_000_000, 1_000_000))
    after = folded(
        accepted(2),
        RoundDone(1, 3, "refused", 0.0, "ARES-E070", "against", ""),
        CreditSettled(1, 2, "pass", 500_000, 1_500_000),
        Traffic(1000, 2000),
        start=before,
    )
    assert dict(summary_rows(before, after)) == {
        "rounds accepted": "1",
        "rounds refused": "1",
        "reason": "1x against [ARES-E070]",
        "tokens": "0",
        "credit": "0.50 earned; 1.50 settled, 0 rounds pending",
        "traffic": "1.00 kB sent, 2.00 kB received",
    }


def test_status_rows_say_what_a_volunteer_asks() -> None:
    status = folded(
        IdentityKnown("12D3", "tiny-net", "", ("/ip4/1.2.3.4/tcp/1",)),
        RoundOpened(1, 2, 9, 61_000, "ab"),
        PhaseChanged(Phase.TRAINING),
        StepDone(3, 8, 2.5, 1100.0),
        RoundDone(1, 1, "refused", 0.0, "ARES-E070", "against", "cd"),
    )
    rows = dict(status_rows(status, running=True, now_ms=31_000))
    assert rows["round"] == "round 3/9 of cycle 1, step 3/8, 0:30 to the deadline"
    assert rows["speed"] == "loss 2.500, 1,100 tokens/s"
    assert rows["last refusal"] == "round 2 of cycle 1: against [ARES-E070]"
    assert rows["peer"] == "running for 0:30 as process 1"
    gone = dict(status_rows(status, running=False, now_ms=61_004))
    assert gone["peer"] == "not running: ended without saying so 1:00 ago"
    assert "phase" not in gone


def reported(round_number: int, *, accepted: bool = True) -> AuditReported:
    code = "" if accepted else ReportLate.code
    return AuditReported(1, round_number, "cd", 640, accepted, code, "" if accepted else "late")


def test_running_replay_is_shown_as_a_round_with_its_steps() -> None:
    started = AuditStarted(1, 4, 90, "cd", "12D3KooW", 40, 99_000)
    status = folded(PhaseChanged(Phase.AUDITING), started, StepDone(7, 40, 2.0, 50.0))
    assert status.round is not None
    assert (status.round.round, status.round.step, status.round.max_steps) == (4, 7, 40)
    assert status.round.deadline_ms == 99_000


def test_replays_are_pending_until_their_round_says_what_they_earned() -> None:
    status = folded(reported(0), reported(0), reported(1))
    assert (status.totals.audits_reported, status.pending) == (3, ((1, 0), (1, 1)))
    paid = AuditSettled(1, 0, "cd", 640, 640)
    status = folded(paid, paid, start=status)
    assert (status.totals.audits_paid, status.pending) == (2, ((1, 1),))
    assert status.settled_ucredits == 640
    assert status.totals.rounds_accepted == 0


def test_contradicted_replay_keeps_its_reason_and_the_new_balance() -> None:
    wrong = AuditSettled(1, 0, "cd", 0, 5, AuditReportWrong.code, "a forgery was passed")
    unusable = AuditSettled(1, 0, "ce", 0, 5, AuditVoid.code, "other numbers")
    status = folded(reported(0), wrong, unusable)
    totals = status.totals
    assert (totals.audits_contradicted, totals.audits_unpaid, totals.audits_paid) == (1, 1, 0)
    assert [one.code for one in status.refusals] == [AuditVoid.code, AuditReportWrong.code]
    assert status.settled_ucredits == 5
    rows = dict(status_rows(status, running=False, now_ms=2_000))
    assert rows["audits"] == "1 reported, 1 contradicted, 1 not paid"
    assert "other numbers" in rows["last refusal"]


def test_report_that_was_not_taken_is_a_refusal() -> None:
    status = folded(reported(3, accepted=False))
    assert (status.totals.audits_reported, status.pending) == (0, ())
    assert (status.refusals[0].code, status.refusals[0].round) == (ReportLate.code, 3)


def test_status_says_the_role_and_the_summary_counts_replays() -> None:
    auditor = Status(pid=1, started_s=1.0, role="auditor")
    assert dict(status_rows(auditor, running=True, now_ms=2_000))["role"] == "auditor"
    assert "audits" not in dict(status_rows(auditor, running=True, now_ms=2_000))
    done = folded(reported(0), start=auditor)
    assert dict(summary_rows(auditor, done))["replays reported"] == "1"
