"""Rounds of one volunteer as an honest coordinator signs them, or one that lies in one place.

Everything is the package's own: commits enter a `CommitBook`, commit sets, manifests, settlements
and heads are signed, postings become leaves, pages are made from the tree. `Season.play` plays a
round to its settlement; `lies` changes a payload before it is signed, so that everything after it
is about the changed one, as with a coordinator that lies there and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.crypto.merkle import frontier_at, reader_of, root_at
from ares_p2p.domain import (
    AuditOutcome,
    AuditPay,
    Commit,
    CommitAck,
    DatasetContent,
    DatasetManifest,
    EntryStatus,
    Header,
    LedgerHead,
    ManifestEntry,
    Payload,
    Posting,
    PostingKind,
    PostingState,
    RoundCorrection,
    RoundManifest,
    RoundSettlement,
    SettlementEntry,
)
from ares_p2p.errors import AuditVoid, PoisonFound, RoundSetAside
from ares_p2p.ids import Digest, PeerId, blob_id_of, sha256
from ares_p2p.proofs.evidence import (
    PARTS,
    CycleEvidence,
    Note,
    RoundEvidence,
    with_note,
    with_page,
)
from ares_p2p.proofs.export import head_line, leaf_line, start_line
from ares_p2p.proofs.findings import Volunteer
from ares_p2p.proofs.ledger import LedgerPage, encode_page, leaf_of, open_head
from ares_p2p.proofs.price import reward_ucredits
from ares_p2p.rounds.assignment import first_example
from ares_p2p.rounds.commits import CommitBook
from ares_p2p.rounds.lottery import audit_rate, is_drawn
from ares_p2p.rounds.manifest import build_manifest
from ares_p2p.rounds.plan import NO_DIGEST, RoundTimes, build_plan
from ares_p2p.rounds.seedchain import revealed_seed, seed_anchor
from ares_p2p.wire.codec import decode_envelope, encode_envelope, seal
from ares_peer.evidence import EvidenceStore
from payloads import identity
from sim.samples import COORDINATOR, NETWORK_ID, SECRET, TRAINING, cycle_config

ME, OTHER, THIRD = identity(1), identity(2), identity(3)
EXAMPLES = 500
TOKENS = 640
_TIMES = RoundTimes(train_s=60.0, serve_s=20.0)
_ENDS = (PostingState.VOID, PostingState.CLAWBACK)


@dataclass
class Books:
    """A ledger in memory: postings, the log over them, signed heads and their pages."""

    network_id: str = NETWORK_ID
    coordinator: Identity = COORDINATOR
    postings: list[Posting] = field(default_factory=list)
    heads: list[tuple[int, Envelope]] = field(default_factory=list)

    def post(self, posting: Posting) -> Posting:
        stored = dataclasses.replace(posting, id=len(self.postings) + 1)
        self.postings.append(stored)
        return stored

    def leaves(self) -> list[bytes]:
        return [leaf_of(posting) for posting in self.postings]

    def seal(self, header: Header, *, changes: Mapping[str, Any] | None = None) -> LedgerPage:
        """Sign a head over all postings and return the page that leads to it."""
        first = self.heads[-1][0] if self.heads else 0
        leaves = self.leaves()
        read = reader_of(leaves)
        head = LedgerHead(header, len(leaves), root_at(len(leaves), read))
        envelope = seal(self.coordinator, dataclasses.replace(head, **(changes or {})))
        self.heads.append((len(leaves), envelope))
        return LedgerPage(envelope, first, frontier_at(first, read), tuple(leaves[first:]))

    def streak(self, worker: PeerId) -> int:
        count = 0
        for posting in self.postings:
            if posting.worker == worker:
                if posting.state in _ENDS:
                    count = 0
                elif posting.state is PostingState.SETTLED:
                    count += posting.kind is not PostingKind.AUDIT
        return count

    def settled(self, worker: PeerId) -> int:
        highest: dict[tuple[PostingKind, bytes], Posting] = {}
        for posting in self.postings:
            work = (posting.kind, posting.commit_sha256)
            before = highest.get(work)
            if posting.worker == worker and (
                before is None or posting.state.rank > before.state.rank
            ):
                highest[work] = posting
        return sum(
            posting.amount_ucredits
            for posting in highest.values()
            if posting.state is PostingState.SETTLED
        )


@dataclass
class Play:
    """What `Season.play` keeps of a round, besides the volunteer's evidence."""

    commits: dict[PeerId, Digest]
    settlement: RoundSettlement
    page: LedgerPage | None


class Season:
    """One cycle of rounds, and what `me` keeps of it."""

    def __init__(
        self,
        *,
        rounds: int = 30,
        me: Identity = ME,
        device: str = "cpu",
        cycle: int = 3,
        down_bits: int = 0,
    ) -> None:
        self.me, self.device, self.cycle = me, device, cycle
        self.books = Books()
        self.now_ms, self.seq = 1_900_000_000_000, 0
        self.evidence: dict[tuple[int, int], RoundEvidence] = {}
        self.plays: dict[int, Play] = {}
        content = DatasetContent((), (("code", EXAMPLES),), EXAMPLES, 9)
        dataset = self.signed(DatasetManifest(self.header(), content, NO_DIGEST))
        self.config = dataclasses.replace(
            cycle_config(
                rounds=rounds,
                seed_anchor=seed_anchor(SECRET, rounds=rounds),
                training=dataclasses.replace(TRAINING, down_bits=down_bits),
            ),
            header=self.header(),
            dataset_sha256=dataset.payload_sha256,
        )
        config = self.signed(self.config)
        self.config_sha256 = config.payload_sha256
        self.cycles = {
            cycle: CycleEvidence(
                cycle, encode_envelope(config), encode_envelope(dataset), origin="cycle.json"
            )
        }
        self.volunteer = Volunteer(NETWORK_ID, COORDINATOR.peer_id, me.peer_id)
        self._previous_manifest = NO_DIGEST
        self._last_commit = NO_DIGEST
        self._last_manifest: RoundManifest | None = None

    # --- signing -------------------------------------------------------------------------------

    def header(self, round_number: int = 0) -> Header:
        self.now_ms += 100
        self.seq += 1
        return Header(NETWORK_ID, self.cycle, round_number, self.seq, self.now_ms)

    def signed(self, payload: Payload) -> Envelope:
        return seal(COORDINATOR, payload)

    # --- a round -------------------------------------------------------------------------------

    def play(
        self,
        number: int,
        *,
        verdict: AuditOutcome | None = None,
        code: str = "",
        message: str = "",
        refused: str = "",
        commits: bool = True,
        lists: bool = True,
        shadow: bool = False,
        corrects: bool = False,
        audits: tuple[tuple[str, int], ...] | None = None,
        lies: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> RoundEvidence:
        """Play a round to its settlement and return what the volunteer has of it.

        Args:
            verdict: of the volunteer's audit; None: a pass if it is drawn, else none.
            code, message: the reason beside a verdict that pays nothing.
            refused: the code with which the aggregate refuses the volunteer's contribution.
            commits: whether the volunteer commits.
            lists: whether the coordinator closes its commit with the others.
            corrects: the manifest takes the volunteer's work of the round before out again as
                poison; this round's own work is set aside.
            audits: (code, micro-credits or -1 for the price) of replays of OTHER's work.
            lies: part -> fields that are changed before the part is signed.
        """
        lie: dict[str, Mapping[str, Any]] = {name: {} for name in _PARTS} | dict(lies or {})
        assert lie.keys() == _PARTS
        plan = build_plan(
            header=self.header(number),
            config=self.config,
            config_sha256=self.config_sha256,
            previous_manifest_sha256=self._previous_manifest,
            state=self.config.initial_state if number == 0 else sha256(b"state %d" % number),
            state_size_bytes=100,
            times=_TIMES,
        )
        plan = dataclasses.replace(plan, **lie["plan"])
        plan_envelope = self.signed(plan)
        plan_sha256 = plan_envelope.payload_sha256
        book = CommitBook(self.config, plan, plan_sha256, EXAMPLES)
        evidence = RoundEvidence(
            self.cycle, number, encode_envelope(plan_envelope), origin=f"round-{number:04}"
        )
        for who in (self.me, OTHER, THIRD):
            if who is self.me and not commits:
                continue
            envelope = seal(who, self._commit(who, number, plan_sha256, plan.state))
            if who is self.me:
                self._last_commit = envelope.payload_sha256
                ack = CommitAck(self.header(number), envelope.payload_sha256, who.peer_id)
                evidence = dataclasses.replace(
                    evidence,
                    commit=encode_envelope(envelope),
                    ack=encode_envelope(self.signed(dataclasses.replace(ack, **lie["ack"]))),
                )
                if not lists:
                    continue
            book.add(envelope, now_ms=plan.opens_ms + 1)
        seed = revealed_seed(SECRET, rounds=self.config.rounds, round_number=number)
        commit_set = book.close(header=self.header(number), seed=seed)
        commit_set = dataclasses.replace(commit_set, **lie["commit_set"])
        set_envelope = self.signed(commit_set)
        mine = book.commits.get(self.me.peer_id)
        entries = [
            ManifestEntry(
                one.sha256,
                one.peer,
                0.0 if refused and one is mine else 0.5,
                EntryStatus.REFUSED if refused and one is mine else EntryStatus.ACCEPTED,
                refused if one is mine else "",
                "because" if refused and one is mine else "",
            )
            for one in book.in_order()
        ]
        manifest = build_manifest(
            header=self.header(number),
            plan_sha256=plan_sha256,
            commit_set_sha256=set_envelope.payload_sha256,
            entries=entries,
            next_state=sha256(b"state %d" % (number + 1)),
            next_state_size_bytes=100,
            final=number + 1 == self.config.rounds,
        )
        if corrects:
            manifest = self._correcting(manifest)
        manifest = dataclasses.replace(manifest, **lie["manifest"])
        manifest_envelope = self.signed(manifest)
        self._previous_manifest = manifest_envelope.payload_sha256
        self._last_manifest = manifest
        streaks = {entry.peer: self.books.streak(entry.peer) for entry in entries}
        accepted = [entry for entry in entries if entry.status is not EntryStatus.REFUSED]
        for entry in accepted:
            changes = lie["pending"] if entry.peer == self.me.peer_id else {}
            self.post(entry.peer, entry.commit_sha256, PostingState.PENDING, number, **changes)
        outcomes = {}
        for entry in accepted:
            is_me = entry.peer == self.me.peer_id
            drawn = is_drawn(seed, entry.commit_sha256, audit_rate(streaks[entry.peer]))
            outcome = AuditOutcome.PASS if drawn else AuditOutcome.NOT_DRAWN
            outcome = verdict if verdict is not None and is_me else outcome
            outcomes[entry.commit_sha256] = outcome
            passes = outcome in (AuditOutcome.PASS, AuditOutcome.NOT_DRAWN) or shadow
            state = PostingState.SETTLED if passes else PostingState.VOID
            changes = {**({} if passes else {"code": code}), **(lie["posting"] if is_me else {})}
            if changes.pop("leave_out", False):
                continue
            state = changes.pop("state", state)
            self.post(entry.peer, entry.commit_sha256, state, number, **changes)
        others = next(entry.commit_sha256 for entry in entries if entry.peer == OTHER.peer_id)
        for pay_code, _ in audits or ():
            state = PostingState.VOID if pay_code else PostingState.SETTLED
            kind = PostingKind.AUDIT
            self.post(self.me.peer_id, others, state, number, kind=kind, code=pay_code)
        page = self.books.seal(self.header(number), changes=lie["head"])
        settled = []
        for entry in accepted:
            outcome, is_me = outcomes[entry.commit_sha256], entry.peer == self.me.peer_id
            passes = outcome in (AuditOutcome.PASS, AuditOutcome.NOT_DRAWN) or shadow
            row = SettlementEntry(
                commit_sha256=entry.commit_sha256,
                peer=entry.peer,
                outcome=outcome,
                code=code if is_me else "",
                message=message if is_me else "",
                reward_ucredits=self.price if passes else 0,
                balance_ucredits=self.books.settled(entry.peer),
                streak=streaks[entry.peer],
                shadow=shadow and is_me,
            )
            settled.append(dataclasses.replace(row, **(lie["entry"] if is_me else {})))
        balance = self.books.settled(self.me.peer_id)
        pays = tuple(
            AuditPay(
                others,
                self.me.peer_id,
                pay_code,
                "so" if pay_code else "",
                0 if pay_code else (self.price if amount < 0 else amount),
                balance,
            )
            for pay_code, amount in audits or ()
        )
        data = encode_page(page)
        settlement = RoundSettlement(
            self.header(number),
            manifest_envelope.payload_sha256,
            tuple(settled),
            pays,
            blob_id_of(data),
            len(data),
        )
        settlement = dataclasses.replace(settlement, **lie["settlement"])
        evidence = dataclasses.replace(
            evidence,
            commit_set=encode_envelope(set_envelope),
            manifest=encode_envelope(manifest_envelope),
            settlement=encode_envelope(self.signed(settlement)),
        )
        evidence = with_page(evidence, page, self.me.peer_id)
        self.evidence[evidence.key] = evidence
        digests = {entry.peer: entry.commit_sha256 for entry in entries}
        self.plays[number] = Play(digests, settlement, page)
        return evidence

    def _correcting(self, manifest: RoundManifest) -> RoundManifest:
        """Return a manifest that corrects the one before."""
        before = self._last_manifest
        assert before is not None
        poison = {"coefficient": 0.0, "status": EntryStatus.REFUSED, "code": PoisonFound.code}
        correction = RoundCorrection(
            before.header.round,
            self._previous_manifest,
            tuple(
                dataclasses.replace(entry, **poison, message="the model was worse")
                if entry.peer == self.me.peer_id
                else entry
                for entry in before.entries
            ),
            held_out_before=2.0,
            held_out_bad=3.0,
            held_out_after=1.9,
        )
        aside = {"coefficient": 0.0, "code": RoundSetAside.code, "message": "set aside"}
        entries = tuple(dataclasses.replace(entry, **aside) for entry in manifest.entries)
        return dataclasses.replace(manifest, entries=entries, corrections=(correction,))

    @property
    def price(self) -> int:
        """What every commit here is worth."""
        per_hour = self.config.reference_tokens_per_hour
        return reward_ucredits(TOKENS, reference_tokens_per_hour=per_hour)

    def post(
        self,
        worker: PeerId,
        commit: Digest,
        state: PostingState,
        round_number: int,
        **changes: Any,
    ) -> Posting:
        gpu = worker == self.me.peer_id and self.device.startswith("cuda")
        kind = PostingKind.GPU_TRAINING if gpu else PostingKind.CPU_TRAINING
        self.now_ms += 10
        posting = Posting(
            key="",
            worker=worker,
            kind=kind,
            state=state,
            amount_ucredits=self.price,
            cycle=self.cycle,
            round=round_number,
            commit_sha256=commit,
            code="",
            at_ms=self.now_ms,
        )
        posting = dataclasses.replace(posting, **changes)
        key = f"{posting.state}:{posting.kind}:{commit.hex()}:{worker}"
        return self.books.post(dataclasses.replace(posting, key=key))

    def _commit(self, who: Identity, number: int, plan_sha256: Digest, state: Digest) -> Commit:
        blob = b"work of " + who.public_key
        return Commit(
            header=self.header(number),
            plan_sha256=plan_sha256,
            state=state,
            blob_id=blob_id_of(blob),
            blob_size_bytes=len(blob),
            steps=10,
            tokens=TOKENS,
            first_example=first_example(
                self.config.assignment_key,
                round_number=number,
                peer=who.peer_id,
                examples=EXAMPLES,
            ),
            previous_commit_sha256=self._last_commit if who is self.me else NO_DIGEST,
            mean_loss=2.5,
            device=self.device if who is self.me else "cpu",
            profile="toy",
        )


def store_season(played: Season, folder: Path) -> None:
    """Write what the volunteer has of a season as its session would."""
    store = EvidenceStore.open(
        folder, played.volunteer, clock=FixedClock(), emit=lambda event: None
    )
    (cycle,) = played.cycles.values()
    config, dataset = decode_envelope(cycle.config), decode_envelope(cycle.dataset)
    store.keep_cycle(cycle.cycle, config=config, dataset=dataset)
    for key, evidence in played.evidence.items():
        store.begin(key, decode_envelope(evidence.plan))
        for part in PARTS[1:]:
            data = getattr(evidence, part)
            store.keep(key, **{part: decode_envelope(data) if data else None})
        page = played.plays[evidence.round].page
        if evidence.link is not None and page is not None:
            head = open_head(page.head, coordinator=COORDINATOR.peer_id, network_id=NETWORK_ID)
            store.keep_page(key, page, head)
        for note in evidence.notes:
            store.note(key, note.what, code=note.code, message=note.message)


def export_of(played: Season) -> list[str]:
    """Return the lines of a file with the whole ledger."""
    heads = dict(played.books.heads)
    lines = [start_line(NETWORK_ID, COORDINATOR.peer_id)]
    for size, leaf in enumerate(played.books.leaves(), start=1):
        lines.append(leaf_line(leaf))
        lines += [head_line(heads[size])] if size in heads else []
    return lines


def season_of_the_docs() -> Season:
    """Return the rounds whose picture stands in docs/credits.md."""
    played = Season()
    for number in range(6):
        if number == 1:
            played.play(
                number,
                verdict=AuditOutcome.VOID,
                code=AuditVoid.code,
                message="the replay is neither close nor far: cosine drop 0.0201, norm ratio "
                "1.021, rho 0.412",
            )
        elif number == 3:
            slow = played.play(number, commits=False)
            note = Note(
                played.now_ms,
                "missed",
                "",
                "7 of at least 10 steps took 118 s; the rest does not fit before the deadline, "
                "so nothing was committed",
            )
            played.evidence[slow.key] = with_note(slow, note)
        else:
            played.play(number)
    return played


class FixedClock:
    """It is always the same time."""

    def now_ms(self) -> int:
        return 1_900_000_000_000

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


_PARTS = {
    "plan", "ack", "commit_set", "manifest", "pending", "posting", "entry", "settlement", "head",
}  # fmt: skip
