"""Rows for tests of the store, the ledger and the API, and the way of a round through the store."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ares_coordinator.audit.lottery import draw_lottery
from ares_coordinator.ledger.postings import Stakes, pending_postings, verdict_postings
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import (
    CommitRow,
    ContributionRow,
    CyclePhase,
    CycleRow,
    LotteryRow,
    RecordRow,
    VerdictRow,
)
from ares_p2p.domain import AuditOutcome, EntryStatus
from ares_p2p.errors import AuditFailed, AuditVoid
from ares_p2p.ids import Digest, PeerId, sha256
from payloads import identity

TOKENS_PER_HOUR = 10_000  # so that a token is worth 1000 micro-credits
NOW = 1_800_000_000_000
PASS = AuditOutcome.PASS
REASONS = {
    AuditOutcome.PASS: "",
    AuditOutcome.VOID: AuditVoid.code,
    AuditOutcome.FAIL: AuditFailed.code,
}


def peer(number: int) -> PeerId:
    """Return the id of a test peer."""
    return identity(number).peer_id


def digest(text: str) -> Digest:
    """Return a digest that a test can tell from others."""
    return sha256(text.encode())


def state(round_number: int) -> Digest:
    """Return the digest of the state that a round starts from."""
    return digest(f"state {round_number}")


def record(kind: str, cycle: int, round_number: int, *, peer: str = "", seq: int = 1) -> RecordRow:
    """Return a record whose bytes say what it is."""
    content = f"{kind} {cycle} {round_number} {peer} {seq}"
    return RecordRow(
        kind=kind,
        cycle=cycle,
        round=round_number,
        peer=peer,
        seq=seq,
        payload_sha256=digest(content),
        envelope=content.encode(),
        in_dht=kind != "ack",
        saved_ms=NOW,
    )


def commit(cycle: int, round_number: int, number: int, *, text: str = "commit") -> CommitRow:
    """Return a commit of a test peer."""
    content = f"{text} {cycle} {round_number} {number}"
    return CommitRow(
        commit_sha256=digest(content),
        cycle=cycle,
        round=round_number,
        peer=peer(number),
        envelope=content.encode(),
        received_ms=NOW + round_number,
    )


def contribution(of: CommitRow, *, tokens: int = 1000, gpu: bool = False) -> ContributionRow:
    """Return an accepted contribution."""
    return ContributionRow(
        commit_sha256=of.commit_sha256,
        cycle=of.cycle,
        round=of.round,
        peer=of.peer,
        coefficient=0.25,
        status=EntryStatus.ACCEPTED,
        code="",
        message="",
        steps=20,
        tokens=tokens,
        mean_loss=2.5,
        device="cuda" if gpu else "cpu",
        gpu=gpu,
        blob_bytes=4096,
    )


def refused(work: ContributionRow, *, code: str, message: str) -> ContributionRow:
    """Return the same contribution, refused."""
    status = EntryStatus.REFUSED
    return replace(work, status=status, coefficient=0.0, code=code, message=message)


def begin(store: Store, cycle: int = 1) -> CycleRow:
    """Begin a cycle and bring it to training; may be repeated."""
    row = store.begin_cycle(
        cycle,
        now_ms=NOW,
        secret_seed=digest(f"seed {cycle}"),
        assignment_key=digest(f"key {cycle}"),
        params_json='{"rounds":3}',
    )
    way = (CyclePhase.GENERATE, CyclePhase.PREPARE, CyclePhase.PUBLISH, CyclePhase.TRAIN)
    for before, after in pairwise(way):
        stored = store.cycle(cycle)
        if stored is not None and stored.phase == before:
            store.advance_phase(cycle, before, after, now_ms=NOW + 1)
    store.update_cycle(cycle, now_ms=NOW + 2, rounds_total=3, rank=8, adapter_parameters=4000)
    return row


def open_round(store: Store, cycle: int, round_number: int) -> None:
    """Open a round with its plan."""
    store.open_round(
        cycle,
        round_number,
        plan_sha256=digest(f"plan {cycle} {round_number}"),
        state_digest=state(round_number),
        now_ms=NOW + 10 * round_number,
        records=[record("plan", cycle, round_number)],
    )


def lottery(
    work: Sequence[ContributionRow], *, undrawn: Sequence[ContributionRow] = ()
) -> list[LotteryRow]:
    """Return a lottery of newcomers, which draws everything, but for what `undrawn` leaves out."""
    out = {one.commit_sha256 for one in undrawn}
    rows = draw_lottery(work, seed=digest("seed"), streaks={})
    return [replace(row, drawn=row.commit_sha256 not in out) for row in rows]


def finish_round(
    store: Store,
    work: Sequence[ContributionRow],
    cycle: int,
    number: int,
    *,
    undrawn: Sequence[ContributionRow] = (),
) -> bool:
    """Close and finish a round with what was contributed."""
    store.close_round(cycle, number, now_ms=NOW, records=[record("commits", cycle, number)])
    return store.finish_round(
        cycle,
        number,
        next_state_digest=state(number + 1),
        mean_loss=2.5,
        contributions=work,
        postings=pending_postings(
            work, reference_tokens_per_hour=TOKENS_PER_HOUR, at_ms=NOW + number
        ),
        lottery=lottery(work, undrawn=undrawn),
        now_ms=NOW + number,
        records=[record("manifest", cycle, number)],
    )


def play_round(
    store: Store,
    cycle: int,
    number: int,
    work: Sequence[ContributionRow],
    *,
    undrawn: Sequence[ContributionRow] = (),
) -> None:
    """Open, fill, close and finish a round."""
    open_round(store, cycle, number)
    for one in work:
        handed_in = CommitRow(one.commit_sha256, cycle, number, one.peer, b"signed", NOW + number)
        store.add_commit(handed_in)
    finish_round(store, work, cycle, number, undrawn=undrawn)


def verdict(work: ContributionRow, outcome: AuditOutcome = PASS) -> VerdictRow:
    """Return a verdict on a contribution."""
    code = REASONS[outcome]
    return VerdictRow(
        commit_sha256=work.commit_sha256,
        outcome=outcome,
        rho=0.01,
        norm_ratio=1.0,
        cosine_drop=0.0005,
        code=code,
        message="the replay differs" if code else "",
        done_ms=NOW + 5,
    )


def judge(store: Store, work: ContributionRow, outcome: AuditOutcome = PASS) -> bool:
    """Record a verdict and what it makes of the work's own credit."""
    pending = pending_postings([work], reference_tokens_per_hour=TOKENS_PER_HOUR, at_ms=NOW)
    postings = verdict_postings(
        Stakes(*pending), outcome, code=REASONS[outcome], clawback=True, at_ms=NOW + 5
    )
    return store.record_verdict(verdict(work, outcome), postings)


def promote(store: Store, cycle: int = 1) -> None:
    """Take a cycle that is in training to its end; its adapter is promoted as version `cycle`."""
    path = [CyclePhase.TRAIN, CyclePhase.STACK, CyclePhase.EVALUATE, CyclePhase.PROMOTE]
    path += [CyclePhase.SETTLE, CyclePhase.DONE]
    for here, there in itertools.pairwise(path):
        if there is CyclePhase.SETTLE:
            store.advance_phase(cycle, here, there, now_ms=NOW, promoted=True, version=cycle)
        else:
            store.advance_phase(cycle, here, there, now_ms=NOW)
