"""Lottery, verdicts and settlement over many rounds: who is audited, what is paid, and why not."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.audit.client import WorkerNotReady
from ares_coordinator.audit.queue import KEPT_ROUNDS
from ares_coordinator.audit.reports import AuditorDue, NoReports
from ares_coordinator.ledger.balances import verify_balances
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import DrawReason
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import (
    NO_PAGE,
    AuditOutcome,
    LedgerHead,
    Posting,
    PostingKind,
    PostingState,
    RoundSettlement,
    SettlementEntry,
)
from ares_p2p.errors import AuditFailed, AuditForfeit, AuditVoid, NetworkFault
from ares_p2p.proofs.ledger import check_page, decode_page
from ares_p2p.rounds.lottery import audit_rate, is_drawn
from payloads import identity
from sim.audit_books import PAY, PEOPLE, Books, Killed, die_at
from sim.samples import COORDINATOR, CYCLE
from sim.session_world import NETWORK

ANNA, BEN, CLEO, DORA = PEOPLE
PASS, VOID, FAIL = AuditOutcome.PASS, AuditOutcome.VOID, AuditOutcome.FAIL
NOT_DRAWN = AuditOutcome.NOT_DRAWN


async def played(books: Books, *, rounds: int | None = None) -> Books:
    """Play all rounds with everybody in them, and audit after each."""
    for number in range(books.config.rounds if rounds is None else rounds):
        books.play(number, *PEOPLE)
        await books.work()
    return books


def outcomes(entries: dict[int, SettlementEntry]) -> dict[AuditOutcome, list[int]]:
    """Return the rounds of each outcome."""
    found: dict[AuditOutcome, list[int]] = {}
    for number, entry in entries.items():
        found.setdefault(entry.outcome, []).append(number)
    return found


AGED, ROUNDS = 22, 40  # rounds that the `aged` books have seen, and those of their cycle


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books in which everybody has a history, so that the lottery leaves most of them out."""
    folder = tmp_path_factory.mktemp("aged")
    books = Books(folder, rounds=ROUNDS)

    async def live() -> None:
        for number in range(AGED):
            books.play(number, *PEOPLE, refused=[DORA] if number % 5 == 0 else [])
            await books.work()

    asyncio.run(live())
    books.close()
    return folder


@pytest.fixture
def reopened(aged: Path, tmp_path: Path) -> Callable[..., Books]:
    """Return a coordinator that starts over a copy of the aged books."""
    copies = itertools.count()

    def reopen(**changes: Any) -> Books:
        folder = tmp_path / f"copy-{next(copies)}"
        shutil.copytree(aged, folder)
        return Books(folder, rounds=ROUNDS, **changes)

    return reopen


async def continued(books: Books, rounds: int) -> Books:
    """Play further rounds after the aged ones."""
    for number in range(AGED, AGED + rounds):
        books.play(number, *PEOPLE)
        await books.work()
    return books


# --- the lottery -------------------------------------------------------------------------------


def test_every_used_contribution_is_settled_once_and_its_draw_can_be_recomputed(
    reopened: Callable[..., Books],
) -> None:
    books = reopened()
    postings = books.store.postings(limit=1000)
    for number in range(AGED):
        settlement = books.settlement(number)
        assert settlement is not None
        used = [row for row in books.store.contributions(CYCLE, number) if not row.code]
        listed = [entry.commit_sha256 for entry in settlement.entries]
        assert listed == [row.commit_sha256 for row in used]
        for entry in settlement.entries:
            drawn = is_drawn(books.seed(number), entry.commit_sha256, audit_rate(entry.streak))
            assert entry.outcome is (PASS if drawn else NOT_DRAWN)
            assert (entry.code, entry.reward_ucredits) == ("", PAY)
            assert entry.message.startswith("replayed" if drawn else "not drawn by the lottery")
            assert entry.streak == streak_before(postings, entry)
    trusted = [n for who in PEOPLE for n in outcomes(books.entries(who))[NOT_DRAWN]]
    assert min(trusted) >= 10
    assert 4 < len(trusted) < 36  # of 44; the rate falls to a half
    assert [books.balance(who)[1] for who in PEOPLE] == [AGED, AGED, AGED, AGED - 5]
    assert len(postings) == 2 * (4 * AGED - 5)
    verify_balances(books.store)


def streak_before(postings: Sequence[Posting], entry: SettlementEntry) -> int:
    """Return the fold of an author's postings before the one that made a contribution pending."""
    own = [one for one in postings if one.worker == entry.peer]
    (begun,) = [
        one
        for one in own
        if one.commit_sha256 == entry.commit_sha256 and one.state is PostingState.PENDING
    ]
    return sum(one.id < begun.id and one.state is PostingState.SETTLED for one in own)


async def test_same_seed_and_streaks_draw_the_same_again(reopened: Callable[..., Books]) -> None:
    drawn = []
    for _ in range(2):
        books = await continued(reopened(), 3)
        drawn.append([books.store.lottery(CYCLE, number) for number in range(AGED + 3)])
    assert drawn[0] == drawn[1]
    rows = [row for rows in drawn[0] for row in rows]
    assert {row.drawn for row in rows} == {True, False}
    assert all(row.drawn for row in rows if row.streak < 10)


async def test_void_audit_costs_the_round_and_restarts_the_streak(
    reopened: Callable[..., Books],
) -> None:
    who, number = await drawn_later(reopened())
    books = await continued(reopened(script={(who.peer_id, number): ["void"]}), MORE)
    entries = books.entries(who)
    assert (entries[number].outcome, entries[number].code) == (VOID, AuditVoid.code)
    assert "neither close nor far" in entries[number].message
    assert entries[number].reward_ucredits == 0
    following = list(range(number + 1, AGED + MORE))
    assert [entries[later].streak for later in following] == list(range(len(following)))
    assert {entries[later].outcome for later in following} == {PASS}  # audited like a newcomer
    assert books.balance(who) == (0, len(entries) - 1, 1, 0)
    assert books.replays.restarts == 0


MORE = 8


async def drawn_later(honest: Books) -> tuple[Identity, int]:
    """Return whose work is drawn, in which further round, right after one that was trusted."""
    await continued(honest, MORE)
    for number in range(AGED + 1, AGED + MORE - 1):
        for who in PEOPLE:
            entries = honest.entries(who)
            if entries[number].outcome is PASS and entries[number - 1].outcome is NOT_DRAWN:
                return who, number
    raise AssertionError("the lottery drew nobody")


# --- a failed audit ----------------------------------------------------------------------------


@pytest.mark.parametrize("clawback", [True, False])
async def test_failed_audit_takes_back_exactly_what_was_trusted_since_the_last_pass(
    reopened: Callable[..., Books], clawback: bool
) -> None:
    honest = reopened()
    who, caught = await drawn_later(honest)
    passed = [number for number in outcomes(honest.entries(who))[PASS] if number < caught]
    trusted = list(range(passed[-1] + 1, caught))
    assert trusted
    books = await continued(
        reopened(script={(who.peer_id, caught): ["fail"]}, credit={"clawback": clawback}),
        caught + 1 - AGED,
    )
    entry = books.entries(who)[caught]
    assert (entry.outcome, entry.code, entry.reward_ucredits) == (FAIL, AuditFailed.code, 0)
    assert (books.replays.asked[who.peer_id, caught], books.replays.restarts) == (2, 1)
    postings = books.store.postings(limit=1000)
    taken = [one for one in postings if one.state is PostingState.CLAWBACK]
    lost = len(trusted) if clawback else 0
    assert [one.round for one in taken] == trusted[:lost]
    assert {(one.worker, one.code) for one in taken} <= {(who.peer_id, AuditForfeit.code)}
    assert ("other rounds are lost" in entry.message) == clawback
    kept = len(books.entries(who)) - 1 - lost
    assert books.balance(who) == (0, kept, 1, lost)
    assert entry.balance_ucredits == kept * PAY
    assert books.streak(who) == 0
    for other in PEOPLE:
        if other is not who:
            assert books.balance(other)[2:] == (0, 0)
    verify_balances(books.store)


async def test_failed_audit_forfeits_what_is_pending_and_says_over_what(tmp_path: Path) -> None:
    books = Books(tmp_path, rounds=4, script={(ANNA.peer_id, 1): ["fail"]})
    for number in range(4):  # all rounds are over before the first audit
        books.play(number, *PEOPLE)
    await books.queue.drain()
    entries = books.entries(ANNA)
    assert [entries[number].outcome for number in range(4)] == [PASS, FAIL, PASS, PASS]
    assert [entries[number].reward_ucredits for number in range(4)] == [PAY, 0, 0, 0]
    for number in (2, 3):
        assert entries[number].code == AuditForfeit.code
        assert entries[number].message == "lost because the audit of round 2 failed"
    assert books.balance(ANNA) == (0, 1, 3, 0)
    assert books.balance(BEN) == (0, 4, 0, 0)


@pytest.mark.parametrize(
    ("words", "outcome"),
    [(["fail", "pass"], PASS), (["fail", "void"], VOID), (["tokens", "tokens"], FAIL)],
)
async def test_fail_counts_only_when_a_second_replay_says_so(
    tmp_path: Path, words: Sequence[str], outcome: AuditOutcome
) -> None:
    books = await played(Books(tmp_path, rounds=2, script={(ANNA.peer_id, 0): words}))
    assert books.entries(ANNA)[0].outcome is outcome
    assert books.replays.asked[ANNA.peer_id, 0] == 2
    assert books.replays.restarts == 1  # by another process
    if outcome is FAIL:
        assert "claims 640 tokens, the assignment has 639" in books.entries(ANNA)[0].message


async def test_work_that_cannot_be_replayed_is_neither_paid_nor_punished(tmp_path: Path) -> None:
    books = await played(Books(tmp_path, rounds=3, script={(ANNA.peer_id, 1): ["broken"]}))
    entry = books.entries(ANNA)[1]
    assert (entry.outcome, entry.code) == (VOID, AuditVoid.code)
    assert entry.message.startswith("could not be replayed: the worker process died")
    assert books.balance(ANNA) == (0, 2, 1, 0)


async def test_a_worker_that_cannot_start_decides_nothing(tmp_path: Path) -> None:
    books = Books(tmp_path, rounds=2)
    books.play(0, *PEOPLE)
    books.replays.fault = WorkerNotReady("the base is gone")
    for _ in range(5):
        with pytest.raises(WorkerNotReady):
            await books.work()
    assert len(books.store.pending_audits(CYCLE)) == len(PEOPLE)
    books.replays.fault = None
    await books.work()
    assert all(books.balance(who) == (0, 1, 0, 0) for who in PEOPLE)


# --- shadow, holding time, audits on request ---------------------------------------------------


async def test_shadow_verdicts_are_recorded_and_pay_as_a_pass_would(tmp_path: Path) -> None:
    script = {(ANNA.peer_id, 2): ["fail"], (BEN.peer_id, 3): ["void"]}
    books = await played(Books(tmp_path, rounds=6, script=script, audit={"mode": "shadow"}))
    failed, void = books.entries(ANNA)[2], books.entries(BEN)[3]
    assert (failed.outcome, void.outcome) == (FAIL, VOID)
    assert (failed.code, void.code) == (AuditFailed.code, AuditVoid.code)
    assert failed.shadow
    assert failed.message.startswith("recorded only, paid: ")
    assert failed.reward_ucredits == void.reward_ucredits == PAY
    assert all(books.balance(who) == (0, 6, 0, 0) for who in PEOPLE)
    assert books.streak(ANNA) == 6
    assert [audit.shadow for audit in books.store.audits(CYCLE, 2)] == [True] * 4


async def test_without_audits_nothing_is_paid_and_everybody_is_told_why(
    reopened: Callable[..., Books],
) -> None:
    """Not even to those whom the lottery would have left out, and paid on trust."""
    books = await continued(reopened(audit={"mode": "off"}), 3)
    works = [books.entries(who)[number] for who in PEOPLE for number in range(AGED, AGED + 3)]
    assert {(one.outcome, one.code) for one in works} == {(VOID, AuditVoid.code)}
    assert {one.reward_ucredits for one in works} == {0}
    text = "this network does not audit: no work is verified, and none is paid"
    assert {one.message for one in works} == {text}
    assert not books.replays.asked
    settled_before = [books.entries(who)[AGED - 1].balance_ucredits for who in PEOPLE]
    settled_after = [books.entries(who)[AGED + 2].balance_ucredits for who in PEOPLE]
    assert settled_before == settled_after
    verify_balances(books.store)


def test_a_cycle_signed_with_one_bit_is_not_audited_whatever_the_file_says(tmp_path: Path) -> None:
    cycle = Books(tmp_path, rounds=1).cycle
    assert cycle.is_audited
    training = dataclasses.replace(cycle.config.training, codec_bits=1)
    config = dataclasses.replace(cycle.config, training=training)
    assert not dataclasses.replace(cycle, config=config).is_audited


async def test_trusted_credit_stays_pending_for_the_holding_time(
    reopened: Callable[..., Books],
) -> None:
    books = await continued(reopened(credit={"hold_rounds": 2}), 4)
    assert len(books.settled()) == AGED + 4 - 2
    held = [row for number in (AGED + 2, AGED + 3) for row in books.store.lottery(CYCLE, number)]
    assert not all(row.drawn for row in held)
    for who in PEOPLE:
        waiting = sum(row.peer == who.peer_id and not row.drawn for row in held)
        assert books.balance(who)[0] == waiting  # what passed an audit waits for nothing


async def test_everything_settles_at_the_end_of_the_cycle(tmp_path: Path) -> None:
    books = await played(Books(tmp_path, rounds=3, credit={"hold_rounds": 9}), rounds=2)
    assert books.settled() == []
    books.play(2, *PEOPLE)
    await books.queue.drain()
    assert len(books.settled()) == 3


async def test_audit_on_request_takes_back_what_was_paid_on_trust(
    reopened: Callable[..., Books],
) -> None:
    books = reopened()
    number = outcomes(books.entries(ANNA))[NOT_DRAWN][-1]
    assert number >= AGED - KEPT_ROUNDS  # its contribution is held still
    books.replays.script = {(ANNA.peer_id, number): ["fail"]}
    commit_sha256 = books.entries(ANNA)[number].commit_sha256
    before = books.balance(ANNA)
    assert books.store.order_audit(commit_sha256, reason=DrawReason.ALARM, now_ms=1)
    assert not books.store.order_audit(commit_sha256, reason=DrawReason.ALARM, now_ms=2)
    await books.work()
    taken = {
        one.commit_sha256: one.code
        for one in books.store.postings(limit=1000)
        if one.state is PostingState.CLAWBACK
    }
    assert taken[commit_sha256] == AuditFailed.code
    assert books.balance(ANNA) == (0, before[1] - len(taken), 0, len(taken))
    verify_balances(books.store)


async def test_paid_work_that_we_cannot_replay_any_more_stays_paid(
    reopened: Callable[..., Books],
) -> None:
    books = reopened()
    number = outcomes(books.entries(ANNA))[NOT_DRAWN][-1]
    books.replays.script = {(ANNA.peer_id, number): ["broken"]}
    before = books.balance(ANNA)
    entry = books.entries(ANNA)[number]
    books.store.order_audit(entry.commit_sha256, reason=DrawReason.OPERATOR, now_ms=1)
    await books.work()
    assert books.store.pending_audits(CYCLE) == ()
    assert books.balance(ANNA) == before


async def test_round_waits_for_an_audit_on_request(reopened: Callable[..., Books]) -> None:
    books = reopened()
    books.play(AGED, *PEOPLE)
    row = next(row for row in books.store.lottery(CYCLE, AGED) if not row.drawn)
    books.store.order_audit(row.commit_sha256, reason=DrawReason.OPERATOR, now_ms=1)
    await books.work()
    settlement = books.settlement(AGED)
    assert settlement is not None
    (entry,) = [one for one in settlement.entries if one.commit_sha256 == row.commit_sha256]
    assert (entry.outcome, entry.reward_ucredits) == (PASS, PAY)
    assert entry.message.startswith("audited on request: replayed")


# --- pages and news ----------------------------------------------------------------------------


async def test_pages_of_all_rounds_are_served_and_prove_one_growing_log(tmp_path: Path) -> None:
    books = await played(Books(tmp_path, rounds=8))
    before: LedgerHead | None = None
    leaves = 0
    for settlement in books.settled():
        assert settlement.page != NO_PAGE
        data = books.blobs.store.read(settlement.page)
        assert len(data) == settlement.page_size_bytes
        page = decode_page(data)
        before = check_page(
            page,
            coordinator=COORDINATOR.peer_id,
            network_id=NETWORK.network_id,
            head_before=before,
        )
        assert (before.header.cycle, before.header.round) == (CYCLE, settlement.header.round)
        leaves += len(page.leaves)
    assert leaves == len(books.store.postings(limit=1000)) == 2 * 8 * len(PEOPLE)
    found = await books.records.fetch(LedgerHead)
    assert found is not None
    assert found.payload == before
    published = await books.records.fetch(RoundSettlement, cycle=CYCLE, round=7)
    assert published is not None
    assert published.payload == books.settlement(7)


async def test_states_and_contributions_go_when_nobody_needs_them_and_pages_stay(
    tmp_path: Path,
) -> None:
    books = await played(Books(tmp_path, rounds=8))
    rows = books.store.rounds(CYCLE)
    held = [row.round for row in rows if books.blobs.store.has(row.state_digest)]
    assert held == [0, *range(8 - KEPT_ROUNDS, 8)]  # a late joiner may want the first, too
    assert all(books.blobs.store.has(one.page) for one in books.settled())


async def test_settlement_waits_for_the_network_and_is_announced_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ares_coordinator.herald.PUBLISH_TRIES", 1)
    books = Books(tmp_path, rounds=2)
    books.play(0, *PEOPLE)
    books.network.is_down = True
    with pytest.raises(NetworkFault):
        await books.work()
    assert books.settlement(0) is not None
    books.network.is_down = False
    await books.work()
    assert await books.records.fetch(RoundSettlement, cycle=CYCLE, round=0) is not None


class CrowdOfAuditors(NoReports):
    """A task for every commit of a round, each with a long story."""

    def dues(self, store: Store, cycle: int, round_number: int) -> Sequence[AuditorDue]:
        return [
            AuditorDue(row.commit_sha256, ANNA.peer_id, "ARES-E078", "x" * 500, None)
            for row in store.contributions(cycle, round_number)
        ]


async def test_largest_settlement_fits_a_record(tmp_path: Path) -> None:
    crowd = [identity(number) for number in range(100, 200)]
    script = {(who.peer_id, 0): ["fail"] for who in crowd}
    books = Books(tmp_path, rounds=1, script=script, reports=CrowdOfAuditors())
    books.play(0, *crowd)
    await books.queue.drain()
    settlement = books.settlement(0)
    assert settlement is not None
    assert len(settlement.entries) == len(settlement.audits) == 100
    assert await books.records.fetch(RoundSettlement, cycle=CYCLE, round=0) is not None


# --- kills -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ledger:
    """What must not depend on a kill: everything but times and ids of heads."""

    postings: tuple[tuple[str, PostingState, PostingKind, int, str], ...]
    entries: tuple[tuple[SettlementEntry, ...], ...]

    @classmethod
    def of(cls, books: Books) -> Ledger:
        found = books.store.postings(limit=10_000)
        return cls(
            tuple((one.key, one.state, one.kind, one.amount_ucredits, one.code) for one in found),
            tuple(one.entries for one in books.settled()),
        )


KILL_SCRIPT = {(ANNA.peer_id, 2): ["fail"], (BEN.peer_id, 2): ["void"]}


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """The ledger of a life without kills."""
    books = Books(tmp_path_factory.mktemp("unharmed"), rounds=4, script=KILL_SCRIPT)

    async def live() -> Ledger:
        await played(books)
        await books.queue.drain()
        return Ledger.of(books)

    yield asyncio.run(live())
    books.close()


@pytest.mark.parametrize("moment", ["audit", "verdict", "settle-2", "settle-2-page"])
async def test_kill_anywhere_leaves_the_same_ledger(
    tmp_path: Path, moment: str, unharmed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Books(tmp_path, rounds=4, script=KILL_SCRIPT)
    await played(books, rounds=2)
    books.play(2, *PEOPLE)
    with monkeypatch.context() as patch:
        die_at(patch, moment)
        with pytest.raises(Killed):
            await books.work()
    books.close()
    again = Books(tmp_path, rounds=4, script=KILL_SCRIPT)
    await again.work()
    again.play(3, *PEOPLE)
    await again.queue.drain()
    assert Ledger.of(again) == unharmed
    for settlement in again.settled():  # a page that was never written is made anew
        assert again.blobs.store.has(settlement.page)
    found = await again.records.fetch(RoundSettlement, cycle=CYCLE, round=2)
    assert found is not None
    assert found.payload == again.settlement(2)
    verify_balances(again.store)


async def test_a_restart_in_the_next_cycle_still_publishes_the_newest_head(
    reopened: Callable[..., Books],
) -> None:
    books = reopened()  # with a DHT that has forgotten everything
    assert await books.records.fetch(LedgerHead) is None
    await books.herald.republish(CYCLE + 1, from_round=0)
    found = await books.records.fetch(LedgerHead)
    assert found is not None
    assert found.payload.size == len(books.store.postings(limit=1000))
