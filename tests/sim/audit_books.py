"""A coordinator's books over many rounds: lottery, audits and settlements without any training.

Store, lottery, queue, settlement and pages are the package's own, over real SQLite and a blob
folder. Played are the rounds (signed commits of peers that trained nothing), what a replay of each
would measure, the network and the time.

`Books(folder)` over the same folder is what a restart finds. `deadly` names a failpoint: reaching
it ends the queue as SIGKILL would end the process, between two things that it does.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.audit.lottery import draw_lottery
from ares_coordinator.audit.queue import AuditQueue
from ares_coordinator.audit.reports import NoReports, Reports
from ares_coordinator.context import RunningCycle
from ares_coordinator.herald import Herald, payload_of
from ares_coordinator.layout import DataLayout
from ares_coordinator.ledger.postings import pending_postings
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.rows import CommitRow, ContributionRow, CyclePhase, RecordRow
from ares_coordinator.store.sql import open_store
from ares_coordinator.store.thread import StoreThread
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import (
    Commit,
    EntryStatus,
    RoundManifest,
    RoundSettlement,
    SettlementEntry,
)
from ares_p2p.errors import InternalFault
from ares_p2p.ids import Digest, PeerId, blob_id_of, sha256
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs_memory import InMemoryBlobNetwork, InMemoryBlobs
from ares_p2p.network.records_dht import DhtRecords
from ares_p2p.network.records_memory import InMemoryNetwork
from ares_p2p.rounds.seedchain import revealed_seed
from ares_p2p.wire.codec import encode_envelope, seal
from payloads import identity
from sim.samples import COORDINATOR, CYCLE, SECRET, START_MS, cycle_config, header, open_round
from sim.session_world import NETWORK, AtOnce, the_task

TOKENS = 640
PAY = 6_400_000  # micro-credits for them
TOKENS_PER_HOUR = 1_000  # that are worth ten credits
MEASURES = {
    "pass": (0.01, 1.0, 0.0003),
    "void": (0.31, 0.93, 0.020),
    "fail": (1.2, 0.9, 0.700),
}


class Killed(BaseException):
    """The process is gone."""


class QuickClock:
    """Sleeps take no time."""

    def __init__(self) -> None:
        self._now_ms = START_MS

    def now_ms(self) -> int:
        self._now_ms += 1
        return self._now_ms

    async def sleep(self, seconds: float) -> None:
        self._now_ms += int(seconds * 1000)
        await asyncio.sleep(0)


class PlayedReplays:
    """What a replay measures, by who committed in which round; who is not named is honest.

    A word for each replay of the same work, the last one for all further ones: "pass", "void",
    "fail", "tokens" (others than claimed), "broken" (no answer at all).
    """

    def __init__(self, script: Mapping[tuple[PeerId, int], Sequence[str]]) -> None:
        self.script = script
        self.rounds: dict[str, int] = {}  # plan digest in hex -> round
        self.asked: Counter[tuple[PeerId, int]] = Counter()
        self.restarts = 0
        self.fault: Exception | None = None

    async def replay(self, *, peer: PeerId, plan: str, **_: Any) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        place = (peer, self.rounds[plan])
        words = self.script.get(place, ("pass",))
        word = words[min(self.asked[place], len(words) - 1)]
        self.asked[place] += 1
        if word == "broken":
            raise InternalFault("the worker process died twice over a replay job")
        rho, norm_ratio, drop = MEASURES.get(word, MEASURES["pass"])
        tokens = TOKENS - 1 if word == "tokens" else TOKENS
        return {"tokens": tokens, "rho": rho, "norm_ratio": norm_ratio, "cosine_drop": drop}

    async def restart(self) -> None:
        self.restarts += 1


class Books:
    """One life of a coordinator over a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        rounds: int = 30,
        script: Mapping[tuple[PeerId, int], Sequence[str]] | None = None,
        reports: Reports | None = None,
        **settings: Any,
    ) -> None:
        self.config = cycle_config(rounds=rounds, reference_tokens_per_hour=TOKENS_PER_HOUR)
        self.clock = QuickClock()
        self.store = open_store(folder / "ares.db")
        self.db = StoreThread(self.store, AtOnce(1))
        self.network = InMemoryNetwork(NETWORK, clock=self.clock)
        self.records = DhtRecords(
            self.network, identity=COORDINATOR, network=NETWORK, clock=self.clock
        )
        self.blobs = InMemoryBlobs(
            InMemoryBlobNetwork(), peer_id=COORDINATOR.peer_id, store=BlobStore(folder / "blobs")
        )
        self.replays = PlayedReplays(script or {})
        self._begin_cycle()
        row = self.store.cycle(CYCLE)
        assert row is not None
        self.cycle = RunningCycle(
            row,
            self.config,
            sha256(b"config"),
            the_task().layout,
            800,
            CoordinatorSettings.model_validate({"network": {"name": "books"}, **settings}),
            DataLayout(folder),
        )
        self.herald = Herald(COORDINATOR, NETWORK.network_id, self.db, self.records, self.clock)
        self.queue = AuditQueue(
            self.cycle,
            self.herald,
            self.db,
            self.blobs,
            self.replays,  # type: ignore[arg-type]
            self.clock,
            reports=reports or NoReports(),
        )
        for number in range(rounds):
            self.replays.rounds[self._plan(number).payload_sha256.hex()] = number

    def _begin_cycle(self) -> None:
        for number in range(1, CYCLE + 1):
            end = CyclePhase.TRAIN if number == CYCLE else CyclePhase.DONE
            self.store.begin_cycle(
                number, now_ms=START_MS, secret_seed=SECRET, assignment_key=bytes(32)
            )
            stored = self.store.cycle(number)
            assert stored is not None
            if stored.phase is CyclePhase.GENERATE:
                self.store.advance_phase(number, CyclePhase.GENERATE, end, now_ms=START_MS)

    # --- rounds --------------------------------------------------------------------------------

    def _state(self, number: int) -> Digest:
        return blob_id_of(b"state %d" % number)

    def _plan(self, number: int) -> RecordRow:
        plan = open_round(number, rounds=self.config.rounds).plan
        return self.herald.signed(dataclasses.replace(plan, state=self._state(number)))

    def seed(self, number: int) -> Digest:
        """The revealed seed of a round."""
        return revealed_seed(SECRET, rounds=self.config.rounds, round_number=number)

    def play(self, number: int, *people: Identity, refused: Sequence[Identity] = ()) -> None:
        """Open, fill, close and finish a round, as the round keeper does."""
        plan, now_ms = self._plan(number), self.clock.now_ms()
        for state in (number, number + 1):
            self.blobs.store.put(b"state %d" % state)
        self.store.open_round(
            CYCLE,
            number,
            plan_sha256=plan.payload_sha256,
            state_digest=self._state(number),
            now_ms=now_ms,
            records=[plan],
        )
        works = [self._commit(number, plan.payload_sha256, who) for who in people]
        for row in works:
            self.store.add_commit(row)
        self.store.close_round(CYCLE, number, now_ms=now_ms)
        gone = {who.peer_id for who in refused}
        used = [self._contribution(row, is_refused=row.peer in gone) for row in works]
        manifest = self.herald.signed(
            RoundManifest(
                header(number),
                plan.payload_sha256,
                sha256(b"commits"),
                (),
                self._state(number + 1),
                9,
                final=number + 1 == self.config.rounds,
            )
        )
        self.store.finish_round(
            CYCLE,
            number,
            next_state_digest=self._state(number + 1),
            mean_loss=2.5,
            contributions=used,
            postings=pending_postings(
                used, reference_tokens_per_hour=TOKENS_PER_HOUR, at_ms=now_ms
            ),
            lottery=draw_lottery(
                used,
                seed=self.seed(number),
                streaks=self.store.streaks([row.peer for row in works]),
                on_trust=self.cycle.is_audited,
            ),
            now_ms=now_ms,
            records=[manifest],
        )

    def _commit(self, number: int, plan_sha256: Digest, who: Identity) -> CommitRow:
        opened = open_round(number, rounds=self.config.rounds)
        blob = self.blobs.store.put(b"work of %d by " % number + who.public_key)
        commit: Commit = opened.commit(who, plan_sha256=plan_sha256, blob_id=blob, tokens=TOKENS)
        envelope = seal(who, commit)
        return CommitRow(
            commit_sha256=envelope.payload_sha256,
            cycle=CYCLE,
            round=number,
            peer=who.peer_id,
            envelope=encode_envelope(envelope),
            received_ms=self.clock.now_ms(),
        )

    def _contribution(self, row: CommitRow, *, is_refused: bool) -> ContributionRow:
        return ContributionRow(
            commit_sha256=row.commit_sha256,
            cycle=row.cycle,
            round=row.round,
            peer=row.peer,
            coefficient=0.0 if is_refused else 1.0,
            status=EntryStatus.REFUSED if is_refused else EntryStatus.ACCEPTED,
            code="ARES-E070" if is_refused else "",
            message="",
            steps=10,
            tokens=TOKENS,
            mean_loss=2.5,
            device="cpu",
            gpu=False,
            blob_bytes=100,
        )

    # --- audits --------------------------------------------------------------------------------

    async def work(self) -> None:
        """Do all that can be done now."""
        while await self.queue.step():
            pass

    def close(self) -> None:
        """Let go of the database."""
        self.store.close()

    # --- what came of it -----------------------------------------------------------------------

    def settlement(self, number: int) -> RoundSettlement | None:
        """The signed settlement of a round."""
        record = self.store.record("settlement", CYCLE, number)
        return None if record is None else payload_of(record, RoundSettlement)

    def settled(self) -> list[RoundSettlement]:
        """All settlements, in the order of their rounds."""
        found = [self.settlement(number) for number in range(self.config.rounds)]
        return [one for one in found if one is not None]

    def entries(self, who: Identity) -> dict[int, SettlementEntry]:
        """A peer's entries by round."""
        return {
            one.header.round: entry
            for one in self.settled()
            for entry in one.entries
            if entry.peer == who.peer_id
        }

    def balance(self, who: Identity) -> tuple[int, int, int, int]:
        """Pending, settled, void and taken back, in pieces of work."""
        for row in self.store.totals(who.peer_id):
            return (
                row.pending_ucredits // PAY,
                row.settled_ucredits // PAY,
                row.void_ucredits // PAY,
                row.clawback_ucredits // PAY,
            )
        return (0, 0, 0, 0)

    def streak(self, who: Identity) -> int:
        """A peer's streak."""
        return self.store.streaks([who.peer_id])[who.peer_id]


def die_at(patch: pytest.MonkeyPatch, name: str) -> None:
    """End the queue at a failpoint, once."""

    def failpoint(reached: str) -> None:
        if reached == name:
            patch.undo()
            raise Killed(name)

    patch.setattr("ares_coordinator.audit.queue.failpoint", failpoint)


PEOPLE = tuple(identity(number) for number in range(20, 24))
