"""Forged contributions of ours, by which auditors are tested.

In a round that a secret draw names, and only while auditors are present, a fresh identity hands in
half of its assigned steps as if they were all. It enters after the first commit of a volunteer,
declares that one's machine, is served like any other, and takes nobody's seat. As a newcomer's
work it is audited for certain, and its audit must fail: so its credit is void in the end. Harmless:
an honest update, only a shorter one.

The identity is in the database before its commit is; a restart makes no second one. A round never
waits for it: made too late, it is left out.

What it cannot hide: nobody answers at its address, as at that of a volunteer that went offline.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from ares_coordinator.audit.assignments import Assignments
from ares_coordinator.audit.client import ComputeWorker
from ares_coordinator.context import RunningCycle
from ares_coordinator.desk import CommitDesk
from ares_coordinator.store.auditor_rows import DecoyRow
from ares_coordinator.store.thread import StoreThread
from ares_p2p import PROTOCOL_VERSION, __version__
from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import Commit, Header, PeerStatus, RoundPlan
from ares_p2p.errors import AresError
from ares_p2p.ids import Digest, sha256
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.records import Records
from ares_p2p.rounds.assignment import first_example
from ares_p2p.rounds.commits import CommitBook
from ares_p2p.rounds.lottery import draw
from ares_p2p.rounds.plan import NO_DIGEST
from ares_p2p.wire.codec import seal

HALF_THE_STEPS = "half-the-steps"
MIN_STEPS = 2  # of one step there is no half
_DOMAIN = b"ares/decoy/v1\0"

log = structlog.get_logger(__name__)


def is_decoy_round(secret: bytes, round_number: int, rate: float) -> bool:
    """Return whether a round gets a forged contribution, given that auditors are present.

    Args:
        secret: never revealed, so that nobody can know which rounds have one.
    """
    return draw(sha256(_DOMAIN, secret), round_number.to_bytes(32, "big")) < rate


@dataclass(slots=True)
class Decoys:
    """The forged contributions of one running cycle."""

    cycle: RunningCycle
    network_id: str
    db: StoreThread
    blobs: Blobs
    records: Records
    worker: ComputeWorker
    clock: Clock
    desk: CommitDesk
    assignments: Assignments
    folder: Path  # for a blob between worker and store
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def begin(self, plan: RoundPlan, plan_sha256: Digest) -> None:
        """Start to make a decoy for a round that opens, if it is to have one."""
        number, rate = plan.header.round, self.cycle.settings.audit.decoy_rate
        if plan.max_steps < MIN_STEPS:
            return
        if not is_decoy_round(self.cycle.row.secret_seed, number, rate):
            return
        if await self.assignments.qualified():
            self._start(self._make(plan, plan_sha256))

    async def close(self) -> None:
        """Let go of what is being made."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="decoy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make(self, plan: RoundPlan, plan_sha256: Digest) -> None:
        try:
            await self._forge(plan, plan_sha256)
        except (AresError, OSError) as fault:  # an audit that is not tested is no reason to stop
            log.warning("decoy_failed", why=str(fault))

    async def _forge(self, plan: RoundPlan, plan_sha256: Digest) -> None:
        identity = Identity.from_seed(await self._seed(plan))
        self.folder.mkdir(parents=True, exist_ok=True)
        out = self.folder / f"{plan_sha256.hex()[:16]}.blob"
        answer = await self.worker.forge(
            state=str(self.blobs.store.path(plan.state)),
            plan=plan_sha256.hex(),
            peer=identity.peer_id,
            steps=plan.max_steps,
            lr=plan.inner_lr,
            out=str(out),
        )
        size_bytes = out.stat().st_size
        blob_id = await asyncio.to_thread(self.blobs.store.put, out)
        out.unlink()
        header = plan.header

        async def commit(book: CommitBook) -> Envelope:
            """Sign the commit, once there is a volunteer's to look like."""
            device, profile = _machine(book, answer)
            payload = Commit(
                header=self._header(header.cycle, header.round),
                plan_sha256=plan_sha256,
                state=plan.state,
                blob_id=blob_id,
                blob_size_bytes=size_bytes,
                steps=plan.max_steps,
                tokens=answer["tokens"],
                first_example=first_example(
                    self.cycle.config.assignment_key,
                    round_number=header.round,
                    peer=identity.peer_id,
                    examples=self.cycle.examples,
                ),
                previous_commit_sha256=NO_DIGEST,
                mean_loss=answer["mean_loss"],
                device=device,
                profile=profile,
            )
            envelope = seal(identity, payload)
            await self.db.call(
                self.db.store.commit_decoy,
                header.cycle,
                header.round,
                commit_sha256=envelope.payload_sha256,
            )
            self._start(self._show(identity, payload))
            return envelope

        await self.desk.place(plan_sha256, commit)

    async def _seed(self, plan: RoundPlan) -> bytes:
        """Return the key of the round's decoy: the stored one, if an earlier run began it."""
        seed = secrets.token_bytes(32)
        row = DecoyRow(
            cycle=plan.header.cycle,
            round=plan.header.round,
            peer=Identity.from_seed(seed).peer_id,
            key_seed=seed,
            forgery=HALF_THE_STEPS,
        )
        stored = await self.db.call(self.db.store.begin_decoy, row)
        return stored.key_seed

    def _header(self, cycle: int, round_number: int) -> Header:
        now_ms = self.clock.now_ms()
        return Header(self.network_id, cycle, round_number, now_ms, now_ms)

    async def _show(self, identity: Identity, commit: Commit) -> None:
        """Leave in the DHT what every peer leaves there: its status.

        A commit lies there only when the coordinator did not answer its author.
        """
        status = PeerStatus(
            header=self._header(commit.header.cycle, 0),
            software=__version__,
            protocol=PROTOCOL_VERSION,
            device=commit.device,
            profile=commit.profile,
            tokens_per_s=0.0,
            state=commit.state,
            held_blobs=(),
        )
        await self._publish(seal(identity, status))

    async def _publish(self, envelope: Envelope) -> None:
        with contextlib.suppress(AresError):
            await self.records.publish(envelope, keep=False)


def _machine(book: CommitBook, answer: Mapping[str, Any]) -> tuple[str, str]:
    """Return the device and profile that a decoy declares: a volunteer's, where it can be.

    It must be of our own device class: bounds that nobody measured never say "fail".
    """
    own = (str(answer["device"]), str(answer["profile"]))
    for signed in book.commits.values():
        if signed.commit.device == own[0]:
            return signed.commit.device, signed.commit.profile
    return own
