"""The whole chain of a volunteer's evidence: whole when it is, and each link's break is named.

Two ways to break a link: the volunteer's file is changed after the fact (`tampered`), or the
coordinator signs something else in one place and is consistent everywhere after it (`lies`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from ares_p2p.averaging.runs import part_sizes
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import (
    AuditOutcome,
    AuditPlan,
    AuditReport,
    Commit,
    CommitAck,
    DatasetManifest,
    LedgerHead,
    PartRef,
    PostingKind,
    PostingState,
    RoundManifest,
)
from ares_p2p.errors import (
    AuditFailed,
    AuditForfeit,
    AuditReportWrong,
    AuditVoid,
    OpposesOthers,
    PoisonFound,
    RoundSetAside,
)
from ares_p2p.ids import sha256
from ares_p2p.proofs.accounts import RoundOutcome
from ares_p2p.proofs.check import (
    Contradiction,
    Report,
    check_contradiction,
    check_evidence,
    check_heads_agree,
)
from ares_p2p.proofs.evidence import (
    PARTS,
    Note,
    RoundEvidence,
    decode_cycle,
    decode_round,
    encode_cycle,
    encode_round,
    with_note,
)
from ares_p2p.proofs.findings import Finding, Link, Severity
from ares_p2p.proofs.ledger import HeadsContradict, leaf_of, open_head, proven_leaves
from ares_p2p.wire.codec import decode_envelope, decode_payload, encode_envelope, seal
from credit_samples import ME, OTHER, THIRD, TOKENS, Season
from payloads import identity
from sim.samples import COORDINATOR, NETWORK_ID

MALLORY = identity(66)
ROUNDS = 4
AT = 2  # the round in which a link is broken; before and after it all is well


def season(*, rounds: int = ROUNDS, **options: Any) -> Season:
    played = Season(**options)
    for number in range(rounds):
        played.play(number)
    return played


def check(
    played: Season,
    rounds: Iterable[RoundEvidence] | None = None,
    *,
    heads: Iterable[tuple[bytes, str]] = (),
    quick: bool = False,
) -> Report:
    return check_evidence(
        played.volunteer,
        cycles=played.cycles,
        rounds=played.evidence.values() if rounds is None else rounds,
        heads=heads,
        quick=quick,
    )


def by_parts(played: Season, count: int = 1, *, size: int | None = None) -> dict[str, Any]:
    """What a plan says of a round by parts, and what a manifest says of them."""
    training, parameters = played.config.training, played.config.parameters
    (expected,) = part_sizes(parameters, 1, bits=training.down_bits, block=training.codec_block)
    ref = PartRef(sha256(b"part"), expected if size is None else size)
    return {"plan": {"parts": 1}, "manifest": {"parts": (ref,) * count}}


def links(findings: Iterable[Finding]) -> set[Link]:
    return {finding.link for finding in findings}


def opened(data: bytes, cls: type) -> Any:
    envelope = decode_envelope(data)
    return decode_payload(envelope.payload_type, envelope.payload, cls)


def resigned(data: bytes, cls: type, who: Any = COORDINATOR, **changes: Any) -> bytes:
    return encode_envelope(seal(who, dataclasses.replace(opened(data, cls), **changes)))


def flipped(data: bytes) -> bytes:
    """Return an envelope whose payload says something a little different."""
    envelope = decode_envelope(data)
    payload = bytearray(envelope.payload)
    payload[-1] ^= 1
    return encode_envelope(dataclasses.replace(envelope, payload=bytes(payload)))


# --- rounds by parts -----------------------------------------------------------------------------


def test_rounds_by_parts_are_whole() -> None:
    played = season(down_bits=4)
    played.play(ROUNDS, lies=by_parts(played))
    played.play(ROUNDS + 1)
    assert check(played).findings == ()


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 2}, {"size": 7}], ids=str)
def test_other_parts_than_planned_are_named(wrong: dict[str, int]) -> None:
    played = season(down_bits=4)
    played.play(ROUNDS, lies=by_parts(played, **wrong))
    report = check(played)
    assert links(report.findings) == {Link.MANIFEST}
    assert "expected" in report.findings[0].message


def test_parts_that_nobody_planned_and_plans_that_cannot_be_are_named() -> None:
    played = season(down_bits=4)
    played.play(ROUNDS, lies={"manifest": by_parts(played)["manifest"]})
    assert links(check(played).findings) == {Link.MANIFEST}
    played = season(down_bits=4)
    played.play(ROUNDS, lies=by_parts(played) | {"plan": {"parts": 2}})
    assert Link.PLAN in links(check(played).findings)


def test_parts_are_not_judged_where_the_plan_is_not_held() -> None:
    played = season(down_bits=4)
    played.play(ROUNDS, lies=by_parts(played))
    held = dataclasses.replace(played.evidence[played.cycle, ROUNDS], plan=b"")
    rounds = [*list(played.evidence.values())[:-1], held]
    assert Link.MANIFEST not in links(check(played, rounds).findings)


# --- whole -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_honest_rounds_are_whole_and_add_up(device: str) -> None:
    played = season(rounds=25, device=device)
    report = check(played)
    assert report.findings == ()
    assert report.is_whole
    kind = PostingKind.GPU_TRAINING if device == "cuda:0" else PostingKind.CPU_TRAINING
    assert {account.kind for account in report.accounts} == {kind}
    assert [account.outcome for account in report.accounts] == [RoundOutcome.SETTLED] * 25
    assert report.balance.settled == 25 * played.price == report.balance.said_ucredits
    assert report.balance.by_kind[kind].settled == 25 * played.price
    assert report.balance.streak == 25
    assert [account.streak for account in report.accounts] == list(range(25))
    assert len(report.postings) == 50
    audits = {account.audit for account in report.accounts}
    assert audits == {"pass", "not_drawn"}, "the lottery must have left some out by now"


def test_quick_reading_gives_the_same_accounts() -> None:
    played = Season()
    played.play(0)
    played.play(1, verdict=AuditOutcome.VOID, code=AuditVoid.code, message="in between")
    played.play(2, refused=OpposesOthers.code)
    played.play(3, audits=(("", -1), (AuditReportWrong.code, 0)))
    whole, quick = check(played), check(played, quick=True)
    assert quick.accounts == whole.accounts
    assert quick.balance == whole.balance


def test_evidence_survives_its_form() -> None:
    played = season()
    for evidence in played.evidence.values():
        noted = with_note(evidence, Note(5, "lost", "", "why \u00e4"))
        assert decode_round(encode_round(noted)) == noted
    (cycle,) = played.cycles.values()
    assert decode_cycle(encode_cycle(cycle)) == cycle


# --- rounds that paid nothing ------------------------------------------------------------------


def only(report: Report, number: int) -> Any:
    (account,) = [one for one in report.accounts if one.round == number]
    return account


@pytest.mark.parametrize(
    ("verdict", "code"),
    [(AuditOutcome.VOID, AuditVoid.code), (AuditOutcome.FAIL, AuditFailed.code)],
)
def test_verdict_that_paid_nothing_is_explained_and_ends_the_streak(
    verdict: AuditOutcome, code: str
) -> None:
    played = Season()
    played.play(0)
    played.play(1, verdict=verdict, code=code, message="cosine drop 0.5")
    played.play(2)
    report = check(played)
    assert report.findings == ()
    account = only(report, 1)
    assert (account.outcome, account.code) == (RoundOutcome.VOID, code)
    assert (account.message, account.audit) == ("cosine drop 0.5", str(verdict))
    assert not account.is_paid
    assert only(report, 2).streak == 0
    assert report.balance.streak == 1
    assert report.balance.settled == 2 * played.price
    assert report.balance.by_kind[PostingKind.CPU_TRAINING].void == played.price


def test_refused_by_the_aggregate_is_explained() -> None:
    played = Season()
    played.play(0, refused=OpposesOthers.code)
    report = check(played)
    assert report.findings == ()
    account = only(report, 0)
    assert (account.outcome, account.code, account.message) == (
        RoundOutcome.REFUSED, OpposesOthers.code, "because",
    )  # fmt: skip
    assert account.ucredits == 0


def test_shadow_verdict_pays_and_keeps_its_remark() -> None:
    played = Season()
    played.play(0, verdict=AuditOutcome.FAIL, code=AuditFailed.code, message="shadow", shadow=True)
    report = check(played)
    assert report.findings == ()
    account = only(report, 0)
    assert (account.outcome, account.code) == (RoundOutcome.SETTLED, AuditFailed.code)
    assert report.balance.settled == played.price


def test_round_without_commit_says_why() -> None:
    played = Season()
    evidence = played.play(0, commits=False)
    played.evidence[evidence.key] = with_note(evidence, Note(1, "missed", "", "too slow by half"))
    report = check(played)
    assert report.findings == ()
    assert only(report, 0).outcome is RoundOutcome.MISSED
    assert only(report, 0).message == "too slow by half"


def test_refused_commit_says_why() -> None:
    played = Season()
    evidence = played.play(0, lists=False)
    note = Note(1, "refused", "ARES-E062", "3.0 s after the deadline")
    played.evidence[evidence.key] = with_note(dataclasses.replace(evidence, ack=b""), note)
    report = check(played)
    assert report.findings == ()
    account = only(report, 0)
    assert (account.outcome, account.code) == (RoundOutcome.REFUSED, "ARES-E062")
    assert account.message == "3.0 s after the deadline"


def test_forfeit_and_clawback_of_later_rounds_reach_the_earlier_ones() -> None:
    played = Season()
    for number in range(3):
        played.play(number)
    me, kind = ME.peer_id, PostingState
    settled = played.plays[1].commits[me]
    played.post(me, settled, kind.CLAWBACK, 1, code=AuditForfeit.code)
    played.play(3, verdict=AuditOutcome.FAIL, code=AuditFailed.code, message="another update")
    report = check(played)
    assert report.findings == ()
    account = only(report, 1)
    assert (account.outcome, account.code) == (RoundOutcome.CLAWBACK, AuditForfeit.code)
    totals = report.balance.by_kind[PostingKind.CPU_TRAINING]
    assert (totals.settled, totals.void, totals.clawback) == (
        2 * played.price, played.price, played.price,
    )  # fmt: skip
    assert report.balance.streak == 0


def test_corrected_round_holds_and_both_rounds_say_what_happened() -> None:
    played = season(rounds=3)
    played.play(3, corrects=True)
    report = check(played)
    assert report.findings == ()
    assert only(report, 2).outcome is RoundOutcome.SETTLED, "its credit depends on its audit alone"
    aside = only(report, 3)
    assert (aside.outcome, aside.code) == (RoundOutcome.SETTLED, RoundSetAside.code)
    held = [dataclasses.replace(one, settlement=b"", link=None, leaves=())
            if one.round >= 2 else one for one in played.evidence.values()]  # fmt: skip
    poisoned = only(check(played, held), 2)
    assert (poisoned.outcome, poisoned.code) == (RoundOutcome.PENDING, PoisonFound.code)
    assert poisoned.message == "the model was worse"


def test_correction_of_another_manifest_is_found() -> None:
    played = season(rounds=3)
    played.play(3, corrects=True, lies={"plan": {"previous_manifest_sha256": sha256(b"other")}})
    found = check(played).of(Severity.BROKEN)
    assert {Link.PLAN, Link.MANIFEST} <= links(found)


def test_plan_that_does_not_go_on_from_the_round_before_is_found() -> None:
    played = season(rounds=3)
    played.play(3, lies={"plan": {"previous_manifest_sha256": sha256(b"other")}})
    (broken,) = check(played).of(Severity.BROKEN)
    assert (broken.link, broken.round) == (Link.PLAN, 3)
    assert "round-0002" in broken.message


def test_pending_round_is_worth_its_price_and_nothing_is_missing() -> None:
    played = season()
    last = played.evidence[played.cycle, ROUNDS - 1]
    open_end = dataclasses.replace(last, settlement=b"", link=None, leaves=())
    report = check(played, [*list(played.evidence.values())[:-1], open_end])
    assert report.findings == ()
    assert only(report, ROUNDS - 1).outcome is RoundOutcome.PENDING
    assert report.balance.pending == played.price


def test_audits_of_others_are_paid_or_explained() -> None:
    played = Season()
    played.play(0, audits=(("", -1),))
    played.play(1, audits=((AuditReportWrong.code, 0),))
    report = check(played)
    assert report.findings == ()
    audits = [one for one in report.accounts if one.kind is PostingKind.AUDIT]
    assert [one.outcome for one in audits] == [RoundOutcome.SETTLED, RoundOutcome.VOID]
    assert (audits[1].code, audits[1].message) == (AuditReportWrong.code, "so")
    totals = report.balance.by_kind[PostingKind.AUDIT]
    assert (totals.settled, totals.void) == (played.price, played.price)
    assert only_training(report)[0].outcome is RoundOutcome.SETTLED


def only_training(report: Report) -> list[Any]:
    return [one for one in report.accounts if one.kind is not PostingKind.AUDIT]


# --- files that were changed -------------------------------------------------------------------


def _leaf_changed(evidence: RoundEvidence, **changes: Any) -> RoundEvidence:
    item = evidence.leaves[-1]
    leaf = leaf_of(dataclasses.replace(item.posting, **changes))
    return dataclasses.replace(
        evidence, leaves=(*evidence.leaves[:-1], dataclasses.replace(item, leaf=leaf))
    )


def _link_changed(evidence: RoundEvidence, **changes: Any) -> RoundEvidence:
    assert evidence.link is not None
    return dataclasses.replace(evidence, link=dataclasses.replace(evidence.link, **changes))


def _proof_changed(evidence: RoundEvidence) -> RoundEvidence:
    item = evidence.leaves[0]
    proof = (sha256(b"x"), *item.proof[1:])
    return dataclasses.replace(
        evidence, leaves=(dataclasses.replace(item, proof=proof), *evidence.leaves[1:])
    )


def _index_changed(evidence: RoundEvidence) -> RoundEvidence:
    item = evidence.leaves[0]
    return dataclasses.replace(
        evidence, leaves=(dataclasses.replace(item, index=item.index + 1), *evidence.leaves[1:])
    )


TAMPERED: dict[str, tuple[Callable[[RoundEvidence], RoundEvidence], Link]] = {
    "plan flipped": (lambda e: dataclasses.replace(e, plan=flipped(e.plan)), Link.PLAN),
    "plan cut": (lambda e: dataclasses.replace(e, plan=e.plan[:40]), Link.PLAN),
    "commit flipped": (lambda e: dataclasses.replace(e, commit=flipped(e.commit)), Link.COMMIT),
    "commit of somebody else": (
        lambda e: dataclasses.replace(e, commit=resigned(e.commit, Commit, who=MALLORY)),
        Link.COMMIT,
    ),
    "another own commit": (
        lambda e: dataclasses.replace(e, commit=resigned(e.commit, Commit, who=ME, steps=9)),
        Link.COMMIT_SET,
    ),
    "own commit for another plan": (
        lambda e: dataclasses.replace(
            e, commit=resigned(e.commit, Commit, who=ME, plan_sha256=bytes(32))
        ),
        Link.COMMIT,
    ),
    "ack flipped": (lambda e: dataclasses.replace(e, ack=flipped(e.ack)), Link.ACK),
    "ack of another commit": (
        lambda e: dataclasses.replace(
            e, ack=resigned(e.ack, CommitAck, commit_sha256=sha256(b"other"))
        ),
        Link.ACK,
    ),
    "ack of a stranger": (
        lambda e: dataclasses.replace(e, ack=resigned(e.ack, CommitAck, who=MALLORY)),
        Link.ACK,
    ),
    "commit set flipped": (
        lambda e: dataclasses.replace(e, commit_set=flipped(e.commit_set)),
        Link.COMMIT_SET,
    ),
    "manifest flipped": (
        lambda e: dataclasses.replace(e, manifest=flipped(e.manifest)),
        Link.MANIFEST,
    ),
    "another signed manifest": (
        lambda e: dataclasses.replace(
            e, manifest=resigned(e.manifest, RoundManifest, next_state_size_bytes=99)
        ),
        Link.SETTLEMENT,
    ),
    "settlement flipped": (
        lambda e: dataclasses.replace(e, settlement=flipped(e.settlement)),
        Link.SETTLEMENT,
    ),
    "leaf worth more": (lambda e: _leaf_changed(e, amount_ucredits=10**9), Link.INCLUSION),
    "leaf of another worker": (lambda e: _leaf_changed(e, worker=OTHER.peer_id), Link.POSTING),
    "leaf in another state": (
        lambda e: _leaf_changed(e, state=PostingState.PENDING),
        Link.INCLUSION,
    ),
    "inclusion proof": (_proof_changed, Link.INCLUSION),
    "leaf index": (_index_changed, Link.POSTING),
    "head flipped": (
        lambda e: _link_changed(e, head=flipped(e.link.head)),  # type: ignore[union-attr]
        Link.HEAD,
    ),
    "head of a stranger": (
        lambda e: _link_changed(
            e,
            head=resigned(e.link.head, LedgerHead, who=MALLORY),  # type: ignore[union-attr]
        ),
        Link.HEAD,
    ),
    "frontier": (
        lambda e: _link_changed(
            e,
            frontier=(sha256(b"x"), *e.link.frontier[1:]),  # type: ignore[union-attr]
        ),
        Link.CONSISTENCY,
    ),
    "frontier of another size": (lambda e: _link_changed(e, frontier=()), Link.HEAD),
    "consistency proof": (
        lambda e: _link_changed(e, proof=e.link.proof[:-1]),  # type: ignore[union-attr]
        Link.CONSISTENCY,
    ),
    "leaves without a head": (lambda e: dataclasses.replace(e, link=None), Link.HEAD),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_file_is_found_and_named(name: str) -> None:
    change, link = TAMPERED[name]
    played = season()
    key = (played.cycle, AT)
    changed = change(played.evidence[key])
    assert changed != played.evidence[key]
    played.evidence[key] = changed
    report = check(played)
    found = [one for one in report.of(Severity.BROKEN) if one.link is link]
    assert found, report.findings
    assert (found[0].cycle, found[0].round) in (key, (None, None))
    assert found[0].file == f"round-{AT:04}"
    assert found[0].message


def test_one_changed_leaf_does_not_accuse_the_coordinator_of_more() -> None:
    played = season()
    key = (played.cycle, AT)
    played.evidence[key] = _leaf_changed(played.evidence[key], amount_ucredits=10**9)
    assert [one.link for one in check(played).findings] == [Link.INCLUSION, Link.POSTING]
    assert [one.link for one in check(played).of(Severity.BROKEN)] == [Link.INCLUSION]


@pytest.mark.parametrize("part", PARTS[:6])
def test_part_of_another_round_is_found(part: str) -> None:
    played = season()
    key, other = (played.cycle, AT), played.evidence[played.cycle, AT - 1]
    changed = dataclasses.replace(played.evidence[key], **{part: getattr(other, part)})
    played.evidence[key] = changed
    assert not check(played).is_whole


def test_part_of_another_network_is_found() -> None:
    played = season()
    report = check_evidence(
        dataclasses.replace(played.volunteer, network_id="another"),
        cycles=played.cycles,
        rounds=played.evidence.values(),
    )
    assert Link.CONFIG in links(report.of(Severity.BROKEN))
    assert any("payload of network" in one.message for one in report.findings)


@pytest.mark.parametrize("part", ["config", "dataset"])
def test_tampered_cycle_file_is_found(part: str) -> None:
    played = season()
    (cycle,) = played.cycles.values()
    changed = dataclasses.replace(cycle, **{part: flipped(getattr(cycle, part))})
    played.cycles = {played.cycle: changed}
    (broken,) = check(played).of(Severity.BROKEN)
    assert (broken.link, broken.cycle, broken.file) == (Link.CONFIG, played.cycle, "cycle.json")


# --- a coordinator that lies -------------------------------------------------------------------

LIES: dict[str, tuple[dict[str, dict[str, Any]], Link]] = {
    "plan with a deadline before it opens": ({"plan": {"serve_deadline_ms": 5}}, Link.PLAN),
    "seed that is not of the chain": (
        {"commit_set": {"revealed_seed": sha256(b"chosen")}},
        Link.SEED,
    ),
    "root of other commits": ({"commit_set": {"root": sha256(b"other")}}, Link.COMMIT_SET),
    "manifest without entries": ({"manifest": {"entries": ()}}, Link.MANIFEST),
    "manifest of another commit set": (
        {"manifest": {"commit_set_sha256": sha256(b"other")}},
        Link.MANIFEST,
    ),
    "settlement without the commit": ({"settlement": {"entries": ()}}, Link.SETTLEMENT),
    "settlement of another manifest": (
        {"settlement": {"manifest_sha256": sha256(b"other")}},
        Link.SETTLEMENT,
    ),
    "reward below the price": ({"entry": {"reward_ucredits": 5}}, Link.PRICE),
    "nothing paid, and no reason": (
        {"entry": {"reward_ucredits": 0, "outcome": AuditOutcome.VOID}},
        Link.SETTLEMENT,
    ),
    "nothing paid in words nor in the ledger, and no reason": (
        {
            "entry": {"reward_ucredits": 0, "outcome": AuditOutcome.VOID},
            "posting": {"state": PostingState.VOID, "code": "ARES-E072"},
        },
        Link.SETTLEMENT,
    ),
    "voided with a reward": (
        {"entry": {"outcome": AuditOutcome.VOID, "code": "ARES-E072"}},
        Link.SETTLEMENT,
    ),
    "not drawn, says the settlement": (
        {"entry": {"outcome": AuditOutcome.NOT_DRAWN}},
        Link.LOTTERY,
    ),
    "streak that was not": ({"entry": {"streak": 0}}, Link.STREAK),
    "streak that is too long": ({"entry": {"streak": 40}}, Link.STREAK),
    "balance that was not": ({"entry": {"balance_ucredits": 1}}, Link.BALANCE),
    "settled without a posting": ({"posting": {"leave_out": True}}, Link.POSTING),
    "posting below the price": ({"posting": {"amount_ucredits": 5}}, Link.PRICE),
    "pending posting below the price": ({"pending": {"amount_ucredits": 5}}, Link.PRICE),
    "posting of another kind": ({"posting": {"kind": PostingKind.GPU_TRAINING}}, Link.POSTING),
    "posting of another round": ({"posting": {"round": 9}}, Link.POSTING),
    "posting voided without a reason": (
        {"posting": {"state": PostingState.VOID}},
        Link.POSTING,
    ),
    "paid in words, void in the ledger": (
        {"posting": {"state": PostingState.VOID, "code": "ARES-E072"}},
        Link.POSTING,
    ),
    "void in words, paid in the ledger": (
        {"entry": {"outcome": AuditOutcome.VOID, "code": "ARES-E072", "reward_ucredits": 0}},
        Link.SETTLEMENT,
    ),
    "head of another size": ({"head": {"size": 99}}, Link.CONSISTENCY),
    "head of another root": ({"head": {"root": sha256(b"other")}}, Link.CONSISTENCY),
}


@pytest.mark.parametrize("name", LIES)
def test_lie_of_the_coordinator_is_found_and_named(name: str) -> None:
    lies, link = LIES[name]
    played = Season()
    for number in range(ROUNDS):
        played.play(number, lies=lies if number == AT else None)
    report = check(played)
    found = [one for one in report.of(Severity.BROKEN) if one.link is link]
    assert found, report.findings
    assert AT in {one.round for one in found} or found[0].file == f"round-{AT:04}"
    early = [one for one in report.findings if one.round is not None and one.round < AT]
    assert not early, "what came before is whole"


def test_acknowledged_and_left_out_is_proven_by_two_signatures() -> None:
    played = season(rounds=1)
    played.play(1, lists=False)
    (broken,) = check(played).of(Severity.BROKEN)
    assert broken.link is Link.COMMIT_SET
    assert "acknowledged the commit and left it out" in broken.message
    assert broken.round == 1


def test_lottery_that_drew_an_old_hand_cannot_be_denied() -> None:
    """Once the rate has fallen, some are drawn: denying exactly those is found, others not."""
    played = season(rounds=30)
    outcomes = {n: only_of(played, n).outcome for n in range(30)}
    drawn = [n for n, outcome in outcomes.items() if n > 12 and outcome is AuditOutcome.PASS]
    spared = [n for n, outcome in outcomes.items() if outcome is AuditOutcome.NOT_DRAWN]
    assert drawn, "the sample must hold a drawn one"
    assert spared
    for number in (drawn[0], spared[0]):
        lying = Season()
        for n in range(number + 1):
            lies = {"entry": {"outcome": AuditOutcome.NOT_DRAWN}} if n == number else None
            lying.play(n, lies=lies)
        found = links(check(lying).of(Severity.BROKEN))
        assert found == ({Link.LOTTERY} if number in drawn else set())


def only_of(played: Season, number: int) -> Any:
    commit = played.plays[number].commits[ME.peer_id]
    entries = played.plays[number].settlement.entries
    return next(entry for entry in entries if entry.commit_sha256 == commit)


def test_audit_of_work_that_was_not_drawn_is_no_break() -> None:
    """An alarm or the operator may have any work audited."""
    played = season(rounds=30)
    spared = next(n for n in range(30) if only_of(played, n).outcome is AuditOutcome.NOT_DRAWN)
    again = Season()
    for number in range(30):
        again.play(number, verdict=AuditOutcome.PASS if number == spared else None)
    assert check(again).findings == ()


@pytest.mark.parametrize("amount", [1, 10**9])
def test_audit_paid_at_another_price_is_found(amount: int) -> None:
    played = Season()
    played.play(0, audits=(("", amount),))
    assert Link.PRICE in links(check(played).of(Severity.BROKEN))


def test_commit_that_breaks_the_rules_of_its_plan_is_found_without_the_commit_set() -> None:
    played = season()
    key = (played.cycle, AT)
    held = played.evidence[key]
    commit = resigned(held.commit, Commit, who=ME, steps=99)
    played.evidence[key] = dataclasses.replace(held, commit=commit, ack=b"", commit_set=b"")
    (broken,) = [one for one in check(played).of(Severity.BROKEN) if one.link is Link.COMMIT]
    assert "99 steps" in broken.message


def test_commit_for_another_plan_is_found_without_the_cycles_file() -> None:
    played = season()
    played.cycles = {}
    key = (played.cycle, AT)
    held = played.evidence[key]
    commit = resigned(held.commit, Commit, who=ME, plan_sha256=sha256(b"other"))
    played.evidence[key] = dataclasses.replace(held, commit=commit, ack=b"", commit_set=b"")
    (broken,) = [one for one in check(played).of(Severity.BROKEN) if one.link is Link.COMMIT]
    assert "it was made for plan" in broken.message


def test_signed_message_of_another_round_is_found_though_all_else_fits() -> None:
    played = season()
    key = (played.cycle, AT)
    held = played.evidence[key]
    header = dataclasses.replace(opened(held.ack, CommitAck).header, round=9)
    changed = dataclasses.replace(held, ack=resigned(held.ack, CommitAck, header=header))
    played.evidence[key] = changed
    (broken,) = check(played).of(Severity.BROKEN)
    assert (broken.link, broken.message) == (Link.ACK, "it is of cycle 3 round 9")


def test_head_that_seals_another_round_is_found() -> None:
    played = Season()
    for number in range(ROUNDS):
        header = dataclasses.replace(played.header(number), round=9)
        played.play(number, lies={"head": {"header": header}} if number == AT else None)
    (broken,) = check(played).of(Severity.BROKEN)
    assert (broken.link, broken.message) == (Link.HEAD, "it seals cycle 3 round 9")


def test_signed_data_set_that_the_configuration_does_not_name_is_found() -> None:
    played = season()
    (cycle,) = played.cycles.values()
    other = resigned(cycle.dataset, DatasetManifest, held_out_sha256=sha256(b"other"))
    played.cycles = {played.cycle: dataclasses.replace(cycle, dataset=other)}
    (broken,) = check(played).of(Severity.BROKEN)
    assert broken.message == "the data set is not the one that the configuration names"


def test_configuration_of_another_cycle_is_found() -> None:
    played = season()
    (cycle,) = played.cycles.values()
    played.cycles = {4: dataclasses.replace(cycle, cycle=4)}
    (broken,) = check(played).of(Severity.BROKEN)
    assert broken.message == "it is the configuration of cycle 3"


def test_audit_plan_of_another_commit_set_is_found() -> None:
    played = Season()
    evidence = played.play(0, audits=(("", -1),))
    for commit_set, wanted in (
        (decode_envelope(evidence.commit_set).payload_sha256, set()),
        (sha256(b"other"), {Link.AUDIT}),
    ):
        plan = AuditPlan(played.header(0), commit_set, (), 5)
        data = encode_envelope(seal(COORDINATOR, plan))
        held = dataclasses.replace(evidence, audit_plan=data)
        assert links(check(played, [held]).of(Severity.BROKEN)) == wanted


def test_own_report_decides_about_the_price_of_an_audit() -> None:
    """The assignment may hold more tokens than the work that was audited claimed."""
    played = Season()
    evidence = played.play(0, audits=(("", -1),))
    report = AuditReport(
        played.header(0), sha256(b"plan"), played.plays[0].commits[OTHER.peer_id], TOKENS + 1,
        0.0, 1.0, 0.0, sha256(b"replay"), "toy", "", "",
    )  # fmt: skip
    for who, link in ((ME, Link.PRICE), (MALLORY, Link.AUDIT)):
        held = dataclasses.replace(evidence, reports=(encode_envelope(seal(who, report)),))
        assert link in links(check(played, [held]).of(Severity.BROKEN))


def test_credit_that_is_taken_back_without_a_reason_is_found() -> None:
    played = season()
    commit = played.plays[1].commits[ME.peer_id]
    posting = played.post(ME.peer_id, commit, PostingState.CLAWBACK, 1)
    played.play(ROUNDS)
    (broken,) = check(played).of(Severity.BROKEN)
    assert broken.message == f"posting {posting.id} is clawback without a reason"


def test_settlement_about_a_commit_that_this_peer_never_made_is_found() -> None:
    played = season()
    entries = played.plays[AT].settlement.entries
    mine = only_of(played, AT)
    foreign = dataclasses.replace(mine, commit_sha256=sha256(b"never made"))
    lying = Season()
    for number in range(ROUNDS):
        lies = {"settlement": {"entries": (*entries, foreign)}} if number == AT else None
        lying.play(number, lies=lies)
    found = [one for one in check(lying).of(Severity.BROKEN) if one.link is Link.SETTLEMENT]
    assert [one.message for one in found] == ["it has an entry of this peer for another commit"]


def test_leaf_of_somebody_else_is_no_evidence_although_it_is_in_the_log() -> None:
    played = season()
    page = played.plays[AT].page
    assert page is not None
    (foreign, *_) = proven_leaves(page, OTHER.peer_id)
    key = (played.cycle, AT)
    held = played.evidence[key]
    played.evidence[key] = dataclasses.replace(held, leaves=(*held.leaves, foreign))
    (broken,) = check(played).of(Severity.BROKEN)
    assert broken.link is Link.POSTING
    assert f"is of {OTHER.peer_id}" in broken.message


def test_own_leaf_that_reads_otherwise_in_another_page_is_found() -> None:
    """A page that begins before the head before it, with one row rewritten."""
    played = season(rounds=1)
    books = played.books
    own = next(one for one in books.postings if one.worker == ME.peer_id)
    books.postings[own.id - 1] = dataclasses.replace(own, at_ms=7)
    books.heads.clear()
    played.play(1)
    messages = [one.message for one in check(played).of(Severity.BROKEN)]
    assert f"posting {own.id} reads otherwise in another page" in messages


def test_audit_that_pays_nothing_needs_a_reason() -> None:
    played = Season()
    played.play(0, audits=(("", 0),))
    messages = [one.message for one in check(played).of(Severity.BROKEN)]
    assert any(message.endswith(": no reward, and no reason") for message in messages)


# --- the log over several rounds ---------------------------------------------------------------


def rewritten() -> tuple[Season, Season]:
    """Return two seasons of one coordinator whose ledgers differ in an early row."""
    true, false = season(), Season()
    for number in range(ROUNDS):
        false.play(number, lies={"posting": {"at_ms": 7}} if number == 0 else None)
    return true, false


def test_rewritten_log_is_found_where_the_pages_meet() -> None:
    true, false = rewritten()
    mixed = [
        *(one for one in true.evidence.values() if one.round < AT),
        *(one for one in false.evidence.values() if one.round >= AT),
    ]
    report = check(true, mixed)
    found = [one for one in report.of(Severity.BROKEN) if one.link is Link.CONSISTENCY]
    assert found
    assert f"round-{AT - 1:04}" in found[0].message
    assert found[0].file == f"round-{AT:04}"


def test_head_from_the_dht_with_another_root_is_found() -> None:
    true, false = rewritten()
    size, envelope = false.books.heads[1]
    report = check(true, heads=[(encode_envelope(envelope), "head.json")])
    found = [one for one in report.of(Severity.BROKEN) if one.link is Link.HEAD]
    assert f"two signed heads of {size} postings" in found[0].message
    assert found[0].file == "head.json"


def test_log_that_shrank_is_found() -> None:
    played = season()
    head = open_head(
        played.books.heads[-1][1], coordinator=COORDINATOR.peer_id, network_id=NETWORK_ID
    )
    later = dataclasses.replace(
        head,
        size=2,
        root=sha256(b"less"),
        header=dataclasses.replace(head.header, seq=head.header.seq + 1),
    )
    report = check(played, heads=[(encode_envelope(seal(COORDINATOR, later)), "head.json")])
    (broken,) = report.of(Severity.BROKEN)
    assert broken.link is Link.HEAD
    assert "postings were taken out" in broken.message


def test_newest_head_of_the_dht_agrees() -> None:
    played = season()
    heads = [(encode_envelope(played.books.heads[-1][1]), "head.json")]
    assert check(played, heads=heads).findings == ()
    forged = encode_envelope(seal(MALLORY, opened(heads[0][0], LedgerHead)))
    (broken,) = check(played, heads=[(forged, "head.json")]).findings
    assert (broken.link, broken.file) == (Link.HEAD, "head.json")


# --- gaps: nothing wrong, nothing proven -------------------------------------------------------


def test_missing_rounds_are_gaps_and_what_follows_is_checked_still() -> None:
    played = season(rounds=8)
    kept = [one for one in played.evidence.values() if one.round not in (3, 4)]
    report = check(played, kept)
    assert report.is_whole
    assert [one.link for one in report.of(Severity.GAP)] == [Link.CONSISTENCY]
    (gap,) = report.of(Severity.GAP)
    pages = played.plays[3].page, played.plays[4].page
    assert pages[0] is not None
    assert pages[1] is not None
    assert f"postings {pages[0].first + 1} to {pages[1].size}" in gap.message
    assert only(report, 6).outcome is RoundOutcome.SETTLED


def test_volunteer_who_joined_late_is_checked_from_there() -> None:
    """Streak and balance of before are taken from the first settlement, then must go on."""
    for lie, link in (
        ({}, None),
        ({"entry": {"streak": 1}}, Link.STREAK),
        ({"entry": {"balance_ucredits": 1}}, Link.BALANCE),
    ):
        played = Season()
        for number in range(8):
            played.play(number, lies=lie if number == 6 else None)
        kept = [one for one in played.evidence.values() if one.round >= 4]
        report = check(played, kept)
        assert links(report.of(Severity.BROKEN)) == ({link} if link else set())


@pytest.mark.parametrize("state", [PostingState.VOID, PostingState.CLAWBACK])
def test_what_is_lost_of_before_the_first_page_is_no_false_alarm(state: PostingState) -> None:
    """Whether it had been settled is not held, so the balance is taken anew from there."""
    for lie, link in (({}, None), ({"entry": {"balance_ucredits": 1}}, Link.BALANCE)):
        played = Season()
        for number in range(6):
            played.play(number)
        old = played.plays[2].commits[ME.peer_id]
        played.post(ME.peer_id, old, state, 2, code=AuditForfeit.code)
        played.play(6)
        played.play(7, lies=lie)
        kept = [one for one in played.evidence.values() if one.round >= 4]
        assert links(check(played, kept).of(Severity.BROKEN)) == ({link} if link else set())


def test_missing_posting_is_a_gap_where_earlier_pages_are_not_held() -> None:
    played = Season()
    for number in range(4):
        lies = {"posting": {"leave_out": True}} if number == 3 else None
        played.play(number, lies=lies)
    last = played.evidence[played.cycle, 3]
    alone = dataclasses.replace(last, leaves=())
    report = check(played, [alone])
    assert report.is_whole
    assert Link.POSTING in links(report.of(Severity.GAP))


MISSING: dict[str, tuple[tuple[str, ...], Link]] = {
    "plan": (("plan",), Link.PLAN),
    "commit": (("commit", "ack"), Link.COMMIT),
    "commit set": (("commit_set",), Link.COMMIT_SET),
    "manifest": (("manifest",), Link.MANIFEST),
    "page": (("link", "leaves"), Link.POSTING),
    "settlement": (("settlement", "link", "leaves"), Link.SETTLEMENT),
    "all after the commit": (
        ("commit_set", "manifest", "settlement", "link", "leaves"),
        Link.COMMIT_SET,
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_link_is_named_as_a_gap(name: str) -> None:
    parts, link = MISSING[name]
    empty: dict[str, Any] = {"link": None, "leaves": ()}
    played = season()
    key = (played.cycle, AT)
    changes = {part: empty.get(part, b"") for part in parts}
    played.evidence[key] = dataclasses.replace(played.evidence[key], **changes)
    report = check(played)
    assert report.is_whole, report.findings
    assert link in links(one for one in report.of(Severity.GAP) if one.round == AT)


def test_missing_cycle_file_is_a_gap() -> None:
    played = season()
    played.cycles = {}
    report = check(played)
    assert report.is_whole
    assert links(report.findings) == {Link.CONFIG}
    assert len(report.findings) == ROUNDS


def test_deleted_file_of_a_round_that_was_posted_is_a_gap() -> None:
    played = Season()
    for number in range(3):
        played.play(number)
    settled = played.plays[1].commits[ME.peer_id]
    played.post(ME.peer_id, settled, PostingState.CLAWBACK, 1, code=AuditForfeit.code)
    played.play(3)
    kept = [one for one in played.evidence.values() if one.round != 1]
    report = check(played, kept)
    gaps = [one for one in report.of(Severity.GAP) if one.link is Link.COMMIT]
    assert [(one.cycle, one.round) for one in gaps] == [(played.cycle, 1)]


def test_acknowledgement_that_never_came_is_no_finding() -> None:
    played = season()
    key = (played.cycle, AT)
    played.evidence[key] = dataclasses.replace(played.evidence[key], ack=b"")
    assert check(played).findings == ()


# --- contradictions that a peer kept -----------------------------------------------------------


def _contradiction(**changes: Any) -> tuple[Contradiction, Season]:
    true, false = rewritten()
    page = false.plays[AT].page
    assert page is not None
    earlier = true.books.heads[AT - 1][1]
    return dataclasses.replace(Contradiction(earlier, page.head, page), **changes), true


def test_kept_contradiction_is_proof_for_anybody() -> None:
    found, played = _contradiction()
    finding = check_contradiction(found, played.volunteer, origin="contradiction.json")
    assert finding is not None
    assert finding.severity is Severity.BROKEN
    assert "had root" in finding.message
    assert finding.file == "contradiction.json"


def test_contradiction_that_is_none_proves_nothing() -> None:
    true, _ = rewritten()
    page = true.plays[AT].page
    assert page is not None
    honest = Contradiction(true.books.heads[AT - 1][1], page.head, page)
    assert check_contradiction(honest, true.volunteer) is None
    assert check_contradiction(dataclasses.replace(honest, page=None), true.volunteer) is None


def test_two_heads_of_one_size_contradict_without_a_page() -> None:
    true, false = rewritten()
    heads = [
        open_head(one.books.heads[0][1], coordinator=COORDINATOR.peer_id, network_id=NETWORK_ID)
        for one in (true, false)
    ]
    with pytest.raises(HeadsContradict, match="different roots"):
        check_heads_agree(*heads)
    check_heads_agree(heads[0], heads[0])
    contradiction = Contradiction(true.books.heads[0][1], false.books.heads[0][1])
    assert check_contradiction(contradiction, true.volunteer) is not None


def test_everything_that_is_checked_is_somebody_elses_too() -> None:
    """OTHER and THIRD are in the same rounds; their postings are none of ours."""
    report = check(season())
    assert {posting.worker for posting in report.postings} == {ME.peer_id}
    assert {ME.peer_id, OTHER.peer_id, THIRD.peer_id} == set(season().plays[0].commits)
    assert all(account.tokens == TOKENS for account in report.accounts)
    assert isinstance(season().books.heads[0][1], Envelope)
