"""Real sessions of peers in memory, against a coordinator that a test directs.

The sessions, their disks, the records, blobs and messages are the package's own; so are the rules
by which the coordinator here signs plans, commit sets, manifests, settlements and ledger pages.
Played are only the task (numpy) and the time: the clock jumps to the next sleeper when nobody has anything to do,
and what would run in a thread runs at once. So hours pass in milliseconds, and always the same way.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ares_coordinator.judge import judge_contributions
from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import (
    AuditOutcome,
    BaseFile,
    BaseRef,
    Commit,
    CommitAck,
    CommitSet,
    CycleConfig,
    DatasetContent,
    DatasetManifest,
    EntryStatus,
    Header,
    NetworkDescriptor,
    Posting,
    PostingKind,
    PostingState,
    RoundManifest,
    RoundSettlement,
    SettlementEntry,
)
from ares_p2p.errors import (
    AuditFailed,
    AuditVoid,
    CommitWithoutBlob,
    NetworkFault,
    PeerFault,
    UnknownRound,
)
from ares_p2p.ids import Digest, PeerId, blob_id_of
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs_memory import InMemoryBlobNetwork, InMemoryBlobs
from ares_p2p.network.control import InMemoryControl, InMemoryControlNetwork
from ares_p2p.network.invite import Invite
from ares_p2p.network.records_memory import InMemoryNetwork, InMemoryRecords
from ares_p2p.proofs.ledger import LedgerPage, encode_page
from ares_p2p.proofs.price import reward_ucredits
from ares_p2p.rounds.assignment import assigned_examples
from ares_p2p.rounds.commits import CommitBook, SignedCommit
from ares_p2p.rounds.lottery import audit_rate, is_drawn
from ares_p2p.rounds.manifest import build_manifest
from ares_p2p.rounds.plan import NO_DIGEST, RoundTimes, build_plan
from ares_p2p.rounds.seedchain import revealed_seed, seed_anchor
from ares_p2p.shards.format import Example, Message, Shard
from ares_p2p.shards.manifest import build_dataset_shards, chunks_of
from ares_p2p.training.base_files import base_files_digest
from ares_p2p.training.layout import Layout
from ares_p2p.training.replica import bind_layout, next_state, open_contribution
from ares_p2p.training.state import encode_snapshot, initial_state, state_digest
from ares_p2p.wire.codec import class_of, seal
from ares_peer.events import Event, PhaseChanged
from ares_peer.links import Links
from ares_peer.session import Session
from credit_samples import Books
from payloads import identity
from sim.samples import COORDINATOR, CYCLE, SECRET, START_MS, TRAINING, cycle_config
from sim.task import Task, make_task

E = TypeVar("E")

NETWORK = Invite("session-world", COORDINATOR.peer_id).network
EXAMPLES = 800  # all of the toy: a few would be learnt by heart
TIMES = RoundTimes(train_s=60.0, serve_s=20.0)
TICK_S = 0.2
LIMIT_S = 24 * 3600.0  # of played time; what is not there by then never comes


# --- time --------------------------------------------------------------------------------------


class VirtualClock:
    """Jumps to the next sleeper whenever the loop has nothing else to do."""

    def __init__(self) -> None:
        self._now_ms = START_MS
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def now_ms(self) -> int:
        return self._now_ms

    def pass_s(self, seconds: float) -> None:
        self._now_ms += int(seconds * 1000)

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        at_ms = self._now_ms + max(1, int(seconds * 1000))
        heapq.heappush(self._sleepers, (at_ms, next(self._count), woken))
        await woken

    async def run(self) -> None:
        ready: Any = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        while True:
            await asyncio.sleep(0)
            if ready:
                continue
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)  # cancelled
            if not self._sleepers:
                await asyncio.sleep(0.001)
                continue
            at_ms, _, woken = heapq.heappop(self._sleepers)
            self._now_ms = max(self._now_ms, at_ms)
            woken.set_result(None)


class AtOnce(ThreadPoolExecutor):
    """Runs in the caller what others run in a thread."""

    def submit(self, fn: Callable[..., E], /, *args: Any, **kwargs: Any) -> Future[E]:
        done: Future[E] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001
            done.set_exception(error)
        return done


# --- what the cycle is about -------------------------------------------------------------------


@cache
def the_task(rank: int = TRAINING.rank) -> Task:
    return make_task(0, rank=rank)


@cache
def the_dataset() -> tuple[DatasetContent, tuple[Shard, ...]]:
    rows = [
        Example(
            "reasoning",
            (Message("user", f"{n} + 1?"), Message("assistant", str(n + 1))),
            key=f"sum {n}",
            check="",
            teacher="program",
            licence="CC0-1.0",
        )
        for n in range(EXAMPLES)
    ]
    return build_dataset_shards(rows)


@dataclass(frozen=True)
class Trained:
    """What `LocalResult` is, without torch."""

    theta: Vector
    steps: int
    tokens: int
    loss_tokens: int
    mean_loss: float
    examples: int


@dataclass
class ToyRig:
    """Trains the toy; every step takes time of the clock."""

    clock: VirtualClock
    config: CycleConfig
    step_s: float = 0.5
    task: Task = field(default_factory=the_task)
    trained: list[int] = field(default_factory=list)  # rounds
    on_round: Callable[[int], None] = lambda number: None  # a test's hand in the middle of it

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
        on_step: Any = None,
    ) -> Any:
        self.trained.append(round_number)
        self.on_round(round_number)
        training, steps = self.config.training, 0
        tokens = training.sequences_per_step * training.sequence_length
        for step in range(1, max_steps + 1):
            self.clock.pass_s(self.step_s)
            steps = step
            if on_step is not None and not on_step(step, 2.0, tokens) and step >= min_steps:
                break
        assigned = assigned_examples(
            self.config.assignment_key, round_number=round_number, peer=peer, examples=EXAMPLES
        )
        theta, loss = self.task.local_steps(
            start, assigned, steps=steps, lr=lr, training=training, labels=self.task.labels
        )
        return Trained(theta, steps, steps * tokens, steps * tokens, loss, steps)


# --- the coordinator ---------------------------------------------------------------------------


@dataclass
class Host:
    """The coordinator's side of one cycle; a test calls its verbs, or lets it `drive`."""

    world: World
    links: Links
    config: CycleConfig
    config_sha256: Digest = NO_DIGEST
    book: CommitBook | None = None
    commit_set: tuple[CommitSet, Digest] | None = None
    manifests: list[tuple[RoundManifest, Digest]] = field(default_factory=list)
    works: dict[Digest, SignedCommit] = field(default_factory=dict)  # that were posted, by commit
    announced: list[str] = field(default_factory=list)
    submissions: list[Envelope] = field(default_factory=list)  # of commits, refused ones too
    books: Books = field(default_factory=lambda: Books(NETWORK.network_id, COORDINATOR))
    pages: dict[int, LedgerPage] = field(default_factory=dict)  # by round
    _seq: int = 0
    _streaks: dict[Digest, int] = field(default_factory=dict)  # by commit
    _seeds: dict[int, Digest] = field(default_factory=dict)  # by round

    def __post_init__(self) -> None:
        self.state = initial_state(
            self.world.task.layout, cycle=self.config.header.cycle, seed=self.config.init_seed
        )
        self.come_back()

    def header(self, round_number: int = 0) -> Header:
        now_ms = self.world.clock.now_ms()
        self._seq = max(self._seq + 1, now_ms)
        cycle = self.config.header.cycle
        return Header(NETWORK.network_id, cycle, round_number, self._seq, now_ms)

    async def publish(self, payload: Any) -> Digest:
        envelope = seal(COORDINATOR, payload)
        await self.links.records.publish(envelope)
        return envelope.payload_sha256

    async def publish_network(self, *, protocol: tuple[int, int] = (1, 1)) -> None:
        await self.publish(
            NetworkDescriptor(
                self.header(), "session-world", COORDINATOR.peer_id, ("/ip4/127.0.0.1",),
                *protocol, "",
            )
        )  # fmt: skip

    async def publish_cycle(self) -> None:
        content, shards = the_dataset()
        for shard in shards:
            for chunk in chunks_of(shard.data):
                await self.links.records.publish_chunk(chunk)
        dataset = DatasetManifest(self.header(), content, NO_DIGEST)
        self.config = dataclasses.replace(
            self.config, header=self.header(), dataset_sha256=await self.publish(dataset)
        )
        self.links.blobs.store.put(encode_snapshot(self.state))
        self.config_sha256 = await self.publish(self.config)

    # --- being there ---------------------------------------------------------------------------

    def come_back(self) -> None:
        self.world.control.handlers[COORDINATOR.peer_id] = self.handle

    def go_away(self) -> None:
        self.world.control.handlers.pop(COORDINATOR.peer_id, None)

    async def handle(self, envelope: Envelope, remote: PeerId) -> Envelope:
        if class_of(envelope) is not Commit:
            self.announced.append(remote)
            return seal(COORDINATOR, CommitAck(self.header(), envelope.payload_sha256, remote))
        self.submissions.append(envelope)
        if self.book is None:
            raise UnknownRound("no round is open")
        signed = self.book.add(envelope, now_ms=self.world.clock.now_ms(), sender=remote)
        header = self.header(signed.commit.header.round)
        return seal(COORDINATOR, CommitAck(header, signed.sha256, signed.peer))

    # --- a round -------------------------------------------------------------------------------

    async def open_round(self, number: int, *, times: RoundTimes = TIMES, **changes: Any) -> Digest:
        snapshot = encode_snapshot(self.state)
        plan = build_plan(
            header=self.header(number),
            config=self.config,
            config_sha256=self.config_sha256,
            previous_manifest_sha256=self.manifests[-1][1] if self.manifests else NO_DIGEST,
            state=self.links.blobs.store.put(snapshot),
            state_size_bytes=len(snapshot),
            times=times,
        )
        plan = dataclasses.replace(plan, **changes)
        digest = await self.publish(plan)
        self.book = CommitBook(self.config, plan, digest, EXAMPLES)
        return digest

    async def collect(self, wanted: int = 1) -> CommitBook:
        """Wait for commits, or for the deadline."""
        book = self.book
        assert book is not None
        clock = self.world.clock
        while len(book.commits) < wanted and clock.now_ms() < book.plan.commit_deadline_ms:
            await clock.sleep(TICK_S)
        return book

    async def close(self) -> None:
        book = self.book
        assert book is not None
        number = book.plan.header.round
        for item in await self.links.records.fetch_peers(
            Commit, cycle=self.config.header.cycle, round=number
        ):
            if item.signer not in book.commits:
                book.add(item.envelope, now_ms=book.plan.opens_ms)
        self.book = None
        seed = revealed_seed(SECRET, rounds=self.config.rounds, round_number=number)
        commit_set = book.close(header=self.header(number), seed=seed)
        self.commit_set = (commit_set, await self.publish(commit_set))
        self._closed = book

    async def finish(self, **changes: Any) -> RoundManifest:
        book, plan = self._closed, self._closed.plan
        commits = book.in_order()
        outcomes = [await self._fetched(signed) for signed in commits]
        judged = judge_contributions(commits, outcomes, layout=self.world.task.layout)
        used = [(item.vector, item.entry.coefficient) for item in judged if item.vector is not None]
        self.state = next_state(self.state, used, self.config.training)
        snapshot = encode_snapshot(self.state)
        assert self.commit_set is not None
        manifest = build_manifest(
            header=self.header(plan.header.round),
            plan_sha256=book.plan_sha256,
            commit_set_sha256=self.commit_set[1],
            entries=[item.entry for item in judged],
            next_state=self.links.blobs.store.put(snapshot),
            next_state_size_bytes=len(snapshot),
            final=plan.header.round + 1 == self.config.rounds,
        )
        manifest = dataclasses.replace(manifest, **changes)
        self._seeds[plan.header.round] = self.commit_set[0].revealed_seed
        used_commits = [
            c for c, item in zip(commits, judged, strict=True) if item.vector is not None
        ]
        self._streaks |= {c.sha256: self.books.streak(c.peer) for c in used_commits}
        for signed in used_commits:
            self.post(signed, PostingState.PENDING)
        self.manifests.append((manifest, await self.publish(manifest)))
        return manifest

    def post(self, signed: SignedCommit, state: PostingState, *, code: str = "") -> None:
        """Append a posting about a piece of training."""
        header, kind = signed.commit.header, PostingKind.CPU_TRAINING
        per_hour = self.config.reference_tokens_per_hour
        self.books.post(
            Posting(
                key=f"{state}:{kind}:{signed.sha256.hex()}:{signed.peer}",
                worker=signed.peer,
                kind=kind,
                state=state,
                amount_ucredits=reward_ucredits(
                    signed.commit.tokens, reference_tokens_per_hour=per_hour
                ),
                cycle=header.cycle,
                round=header.round,
                commit_sha256=signed.sha256,
                code=code,
                at_ms=self.world.clock.now_ms(),
            )
        )
        self.works[signed.sha256] = signed

    async def _fetched(self, signed: SignedCommit) -> VectorSource | PeerFault:
        commit = signed.commit
        for _ in range(50):  # peers look for the closed commits twice a second
            try:
                path = await self.links.blobs.fetch(
                    commit.blob_id,
                    sources=[signed.peer],
                    max_bytes=commit.blob_size_bytes,
                    timeout_s=5.0,
                )
            except NetworkFault:
                await self.world.clock.sleep(TICK_S)
                continue
            layout = bind_layout(
                self.world.task.layout, plan_sha256=commit.plan_sha256, peer=signed.peer
            )
            return open_contribution(
                path.read_bytes(), layout=layout, training=self.config.training
            )
        return CommitWithoutBlob("nobody served it")

    async def settle(
        self,
        number: int,
        *,
        fails: Mapping[PeerId, tuple[AuditOutcome, str]] | None = None,
        serves: bool = True,
    ) -> RoundSettlement:
        """Settle a round: postings, signed head, page and settlement, as the rules say.

        Args:
            fails: outcome and message of those that did not pass their audit.
            serves: whether the page can be had.
        """
        manifest, digest = self.manifests[number]
        verdicts = fails or {}
        entries = []
        for item in manifest.entries:
            if item.status is EntryStatus.REFUSED:
                continue
            outcome, message = verdicts.get(item.peer, (AuditOutcome.PASS, ""))
            streak = self._streaks[item.commit_sha256]
            is_drawn_here = is_drawn(self._seeds[number], item.commit_sha256, audit_rate(streak))
            if outcome is AuditOutcome.PASS and not is_drawn_here:
                outcome = AuditOutcome.NOT_DRAWN
            is_lost = outcome in (AuditOutcome.VOID, AuditOutcome.FAIL)
            code = {AuditOutcome.VOID: AuditVoid.code, AuditOutcome.FAIL: AuditFailed.code}.get(
                outcome, ""
            )
            state = PostingState.VOID if is_lost else PostingState.SETTLED
            signed = self.works[item.commit_sha256]
            self.post(signed, state, code=code)
            amount = 0 if is_lost else self.books.postings[-1].amount_ucredits
            entries.append(
                SettlementEntry(
                    item.commit_sha256, item.peer, outcome, code, message, amount, 0, streak
                )
            )
        page = self.books.seal(self.header(number))
        self.pages[number] = page
        data = encode_page(page)
        settlement = RoundSettlement(
            self.header(number),
            digest,
            tuple(
                dataclasses.replace(one, balance_ucredits=self.books.settled(one.peer))
                for one in entries
            ),
            page=blob_id_of(data),
            page_size_bytes=len(data),
        )
        if serves:
            self.links.blobs.store.put(data)
        await self.links.records.publish(page.head)
        await self.publish(settlement)
        return settlement

    async def play_round(self, number: int, *, wanted: int = 1) -> RoundManifest:
        await self.open_round(number)
        await self.collect(wanted)
        await self.close()
        return await self.finish()


# --- peers -------------------------------------------------------------------------------------


class Peer:
    """One volunteer's machine: a disk that survives, and one session at a time."""

    session_class: type[Session] = Session

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.identity: Identity = identity(number)
        self.folder = world.folder / f"peer-{number}"
        self.folder.mkdir()
        self.rig = ToyRig(world.clock, world.host.config, task=world.task)
        self.events: list[Any] = []
        self.on_event: Callable[[Event], None] = lambda event: None
        self.links = world.links(self.identity, self.folder / "blobs")
        self.session: Session | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    def start(self, *, exit_after_cycle: bool = False, base: Path | None = None) -> Peer:
        """Begin a session, as a new process would."""
        self.links = self.world.links(self.identity, self.folder / "blobs")

        def emit(event: Event) -> None:
            self.events.append(event)
            self.on_event(event)

        self.session = self.session_class(
            self.links,
            data_dir=self.folder,
            base=base,
            device="cpu",
            profile="toy",
            load_rig=lambda config, materials: self.rig,
            emit=emit,
            exit_after_cycle=exit_after_cycle,
        )
        self.task = asyncio.create_task(self.session.run())
        self.world.tasks.append(self.task)
        return self

    async def kill(self) -> None:
        """End the session as SIGKILL would: nothing more is said, what is on the disk stays."""
        assert self.task is not None
        self.world.blobs.servers.pop(self.peer_id, None)
        self.world.control.handlers.pop(self.peer_id, None)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def heard(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def said(self, text: str) -> bool:
        return any(text in event.detail for event in self.heard(PhaseChanged))

    async def hears(self, kind: type[E], count: int = 1) -> E:
        """Return the last of `count` events of a kind, once they are there."""
        await self.world.until(lambda: len(self.heard(kind)) >= count)
        return self.heard(kind)[count - 1]

    def blobs_held(self) -> set[Digest]:
        return set(self.links.blobs.store.ids())


# --- the world ---------------------------------------------------------------------------------


class World:
    """A network, its coordinator and its peers; an async context.

    Args:
        rank: of the toy's adapter, which decides how large a contribution is.
        bits: of the codec.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rounds: int = 3,
        rank: int = TRAINING.rank,
        bits: int = TRAINING.codec_bits,
    ) -> None:
        self.training = dataclasses.replace(TRAINING, codec_bits=bits)
        self.folder = folder
        self.task = the_task(rank)
        self.clock = VirtualClock()
        self.records = InMemoryNetwork(NETWORK, clock=self.clock)
        self.blobs = InMemoryBlobNetwork()
        self.control = InMemoryControlNetwork(clock=self.clock)
        self.tasks: list[asyncio.Task[Any]] = []
        links = self.links(COORDINATOR, folder / "coordinator")
        self.host = Host(self, links, self._config(rounds, links.blobs.store))
        self._ids = itertools.count(1)

    def links(self, who: Identity, folder: Path) -> Links:
        return Links(
            identity=who,
            network_id=NETWORK.network_id,
            coordinator=COORDINATOR.peer_id,
            records=InMemoryRecords(self.records, identity=who),
            blobs=InMemoryBlobs(self.blobs, peer_id=who.peer_id, store=BlobStore(folder)),
            control=InMemoryControl(
                self.control, peer_id=who.peer_id, coordinator=COORDINATOR.peer_id
            ),
            clock=self.clock,
        )

    def _config(self, rounds: int, store: BlobStore) -> CycleConfig:
        base, layout = make_base(self.folder / "base"), self.task.layout
        config = cycle_config(rounds=rounds)
        first = initial_state(layout, cycle=CYCLE, seed=config.init_seed)
        return dataclasses.replace(
            config,
            header=Header(NETWORK.network_id, CYCLE, 0, 1, START_MS),
            training=self.training,
            base=base_ref(base, store),
            layout_sha256=layout.digest_sha256,
            parameters=layout.size,
            initial_state=state_digest(first),
            seed_anchor=seed_anchor(SECRET, rounds=rounds),
        )

    def peer(self) -> Peer:
        return Peer(self, next(self._ids))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until something is so; a session that failed meanwhile fails here."""
        limit_ms = self.clock.now_ms() + int(LIMIT_S * 1000)
        while not condition():
            assert self.clock.now_ms() < limit_ms, "it never came"
            for task in self.tasks:
                if task.done() and not task.cancelled() and task.exception():
                    task.result()
            await self.clock.sleep(TICK_S)

    async def pass_s(self, seconds: float) -> None:
        await self.clock.sleep(seconds)

    async def __aenter__(self) -> World:
        asyncio.get_running_loop().set_default_executor(AtOnce(1))
        self._ticking = asyncio.create_task(self.clock.run())
        await self.host.publish_network()
        await self.host.publish_cycle()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (*self.tasks, self._ticking):
            task.cancel()
        await asyncio.gather(*self.tasks, self._ticking, return_exceptions=True)


def make_base(folder: Path, *, text: str = "{}") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").write_bytes(b"weights " * 1000)
    return folder


def base_ref(folder: Path, store: BlobStore) -> BaseRef:
    found = base_files_digest(folder)
    files = tuple(
        BaseFile(file.name, file.size_bytes, file.sha256, store.put(folder / file.name))
        for file in found.files
    )
    return BaseRef("toy", found.digest_sha256, files)


def statuses(done: Sequence[Any]) -> list[tuple[int, str]]:
    return [(event.round, event.status) for event in done]
