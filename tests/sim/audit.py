"""The books of a swarm in memory: the lottery, replays, verdicts, and what everybody is paid.

Lottery, replay, thresholds, postings and their folds are the package's own and pure; played is the
office around them, which the coordinator keeps in a database: one list of postings. A round's
audits are made and settled when the round ends; a fail is replayed once more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ares_coordinator.audit.lottery import draw_lottery
from ares_coordinator.audit.verdicts import Measures, Verdict, judge_replay, not_comparable
from ares_coordinator.ledger.balances import balance_of, fold_balances
from ares_coordinator.ledger.postings import (
    Stakes,
    deciding_postings,
    pending_postings,
    settling_postings,
    verdict_postings,
)
from ares_coordinator.ledger.standings import StandingsFold
from ares_coordinator.store.rows import ContributionRow
from ares_p2p.averaging.vectors import Vector
from ares_p2p.domain import (
    AuditOutcome,
    CycleConfig,
    EntryStatus,
    ManifestEntry,
    Posting,
    PostingState,
    RoundManifest,
)
from ares_p2p.errors import PeerFault
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.assignment import assigned_examples
from ares_p2p.rounds.commits import SignedCommit
from ares_p2p.training.layout import Layout
from ares_p2p.training.replay import Claim, replay_contribution
from ares_p2p.training.state import TrainingState
from sim.task import TRAIN_EXAMPLES, Task


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """What is public of a round that is over, and the blobs that the coordinator holds."""

    manifest: RoundManifest
    start: TrainingState  # S_r
    commits: Sequence[SignedCommit]
    seed: Digest
    blobs: Mapping[Digest, bytes]  # by commit digest


@dataclass(frozen=True, slots=True)
class Audited:
    """One drawn contribution and its verdict."""

    round: int
    peer: PeerId
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Trained:
    """The part of `LocalResult` that a replay reads."""

    theta: Vector
    tokens: int
    mean_loss: float


@dataclass(frozen=True, slots=True)
class ToyTrainer:
    """`TrainingRig` on the toy: what a replay trains with."""

    config: CycleConfig
    task: Task

    @property
    def layout(self) -> Layout:
        return self.task.layout

    def train(
        self,
        start: Vector,
        *,
        round_number: int,
        peer: PeerId,
        lr: float,
        min_steps: int,
        max_steps: int,
        on_step: object = None,
    ) -> _Trained:
        training = self.config.training
        theta, mean_loss = self.task.local_steps(
            start,
            assigned_examples(
                self.config.assignment_key,
                round_number=round_number,
                peer=peer,
                examples=TRAIN_EXAMPLES,
            ),
            steps=max_steps,
            lr=lr,
            training=training,
            labels=self.task.labels,
        )
        tokens = max_steps * training.sequences_per_step * training.sequence_length
        return _Trained(theta, tokens, mean_loss)


@dataclass
class AuditOffice:
    """Draws, replays and pays, round by round."""

    config: CycleConfig
    task: Task
    postings: list[Posting] = field(default_factory=list)
    audits: list[Audited] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._trainer = ToyTrainer(self.config, self.task)
        self._standings = StandingsFold()
        self._known: set[str] = set()
        self._drawn: set[Digest] = set()
        self._last_pass: dict[PeerId, int] = {}

    def finish(self, closed: ClosedRound) -> None:
        """Draw the lottery of a round, audit what it drew, and settle the rest."""
        head = closed.manifest.header
        works = [
            contribution_row(entry, signed)
            for entry, signed in zip(closed.manifest.entries, closed.commits, strict=True)
        ]
        lottery = draw_lottery(works, seed=closed.seed, streaks=self.streaks())
        price = self.config.reference_tokens_per_hour
        at_ms = head.issued_ms
        self._post(pending_postings(works, reference_tokens_per_hour=price, at_ms=at_ms))
        signed_by = {signed.sha256: signed for signed in closed.commits}
        for row in lottery:
            if row.drawn:
                self._drawn.add(row.commit_sha256)
                self._audit(signed_by[row.commit_sha256], closed, at_ms=at_ms)
        pending = [
            posting
            for posting in deciding_postings(self.postings).values()
            if posting.state is PostingState.PENDING and posting.round == head.round
        ]
        self._post(settling_postings(pending, at_ms=at_ms))

    def _audit(self, signed: SignedCommit, closed: ClosedRound, *, at_ms: int) -> None:
        verdict = self._replayed(signed, closed)
        if verdict.outcome is AuditOutcome.FAIL:
            verdict = self._replayed(signed, closed)
        number = closed.manifest.header.round
        self.audits.append(Audited(number, signed.peer, verdict))
        decided = deciding_postings(self.postings)
        (work,) = (one for one in decided.values() if one.commit_sha256 == signed.sha256)
        stakes = Stakes(work)
        if verdict.outcome is AuditOutcome.FAIL:
            own = [posting for posting in decided.values() if posting.worker == signed.peer]
            stakes = replace(
                stakes,
                pending=tuple(one for one in own if one.state is PostingState.PENDING),
                trusted=tuple(one for one in own if self._is_trusted(one)),
            )
        self._post(
            verdict_postings(stakes, verdict.outcome, code=verdict.code, clawback=True, at_ms=at_ms)
        )
        if verdict.outcome is AuditOutcome.PASS:
            self._last_pass[signed.peer] = number

    def _is_trusted(self, posting: Posting) -> bool:
        """Whether it was paid without an audit since its worker's last one that passed."""
        since = self._last_pass.get(posting.worker, -1)
        is_settled = posting.state is PostingState.SETTLED and posting.round > since
        return is_settled and posting.commit_sha256 not in self._drawn

    def _replayed(self, signed: SignedCommit, closed: ClosedRound) -> Verdict:
        commit = signed.commit
        claim = Claim(signed.peer, commit.plan_sha256, commit.steps, self.config.training.inner_lr)
        try:
            found = replay_contribution(
                self._trainer,
                claim,
                start=closed.start,
                blob=closed.blobs[signed.sha256],
                training=self.config.training,
            )
        except PeerFault as fault:
            return not_comparable(fault.message)
        seen = found.comparison
        measures = Measures(
            tokens=found.tokens,
            rho=seen.rho,
            norm_ratio=seen.norm_ratio,
            cosine_drop=seen.cosine_drop,
        )
        return judge_replay(measures, commit, self.config)

    def _post(self, postings: Sequence[Posting]) -> None:
        """Append what is new, as the store does: a key is posted once."""
        for posting in postings:
            if posting.key not in self._known:
                self._known.add(posting.key)
                self.postings.append(replace(posting, id=len(self.postings) + 1))
                self._standings.add(self.postings[-1])

    # --- what came of it -----------------------------------------------------------------------

    def streaks(self) -> dict[PeerId, int]:
        """Return how many contributions of each author were settled since one that was not."""
        return {peer: row.streak for peer, row in self._standings.rows().items()}

    def settled_ucredits(self) -> dict[PeerId, int]:
        """Return what everybody was paid and still has."""
        rows = defaultdict(list)
        for (peer, _), row in fold_balances(self.postings).items():
            rows[peer].append(row)
        return {peer: balance_of(found).settled_ucredits for peer, found in rows.items()}

    def deciding(self, peer: PeerId) -> list[Posting]:
        """Return the last word about every contribution of a peer, by round."""
        found = deciding_postings(self.postings).values()
        return sorted((one for one in found if one.worker == peer), key=lambda one: one.round)

    def verdicts_of(self, peer: PeerId) -> list[Verdict]:
        """Return the verdicts on a peer's contributions, oldest first."""
        return [audited.verdict for audited in self.audits if audited.peer == peer]


def contribution_row(entry: ManifestEntry, signed: SignedCommit) -> ContributionRow:
    """Return what the coordinator stores of a judged commit."""
    commit = signed.commit
    return ContributionRow(
        commit_sha256=signed.sha256,
        cycle=commit.header.cycle,
        round=commit.header.round,
        peer=signed.peer,
        coefficient=entry.coefficient,
        status=EntryStatus(entry.status),
        code=entry.code,
        message=entry.message,
        steps=commit.steps,
        tokens=commit.tokens,
        mean_loss=commit.mean_loss,
        device=commit.device,
        gpu=False,
        blob_bytes=commit.blob_size_bytes,
    )
