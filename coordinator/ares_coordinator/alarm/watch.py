"""Looks at the held-out loss of every new state, and finds what made it worse beyond noise.

The look at the state that round r led to begins when its manifest is signed, and runs while round
r + 1 trains: nothing waits for it but the *end* of round r + 1, which may have to correct round r.
A look that fails, or that takes too long, is given up for that: the loss is still noted when it
comes, and no alarm follows. The last round has no round after it: it is looked at before it ends.

What was found is in the database with the loss, in one transaction. After a kill a look whose loss
is missing is made again; one whose loss is there is over, and the next manifest can be signed from
what it left. Alarms need two neighbouring looks, so `rounds.held_out_every` above 1 means none.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from ares_coordinator.alarm.bisect import find_culprits
from ares_coordinator.alarm.correct import correction_rows
from ares_coordinator.alarm.noise import Losses, change_between, is_alarming, is_mended
from ares_coordinator.alarm.past import read_books, read_past
from ares_coordinator.alarm.remake import (
    paid_although_poison,
    reason_of,
    suspects_of,
    used_vectors,
    without,
)
from ares_coordinator.context import RunningCycle
from ares_coordinator.evaluation import losses_of
from ares_coordinator.herald import payload_of
from ares_coordinator.judge import Judged
from ares_coordinator.store.alarm_rows import AlarmRow, CorrectionRow
from ares_coordinator.store.rows import RoundRow
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.domain import RoundManifest
from ares_p2p.errors import AresError
from ares_p2p.files import write_atomically
from ares_p2p.ids import Digest
from ares_p2p.network.blobs import Blobs
from ares_p2p.training.replica import next_state
from ares_p2p.training.roundsum import PartLayout
from ares_p2p.training.state import TrainingState, encode_snapshot

TICK_S = 0.2
MAX_LOOKS = 3  # at a time; a look that would be one more is skipped
MAX_KEPT = 4  # losses of states, so that each is looked at once
SEARCH_PATIENCE = 3  # how many serve times longer a round waits once there is an alarm

log = structlog.get_logger(__name__)


class Evaluator(Protocol):
    """What a look needs of `audit.client.ComputeWorker`."""

    async def evaluate(
        self, *, state: Path | None, indices: list[int] | None, urgent: bool = False
    ) -> dict[str, Any]:
        """Return {"nll": [...], "tokens": [...]} of held-out examples under a snapshot."""
        ...


@dataclass(slots=True)
class Look:
    """One look under way."""

    task: asyncio.Task[Any] | None = None
    is_searching: bool = False  # there is an alarm
    is_late: bool = False  # nobody waits for it any more


@dataclass(frozen=True, slots=True)
class Start:
    """Where a round starts, and how its sum is split: all that its end depends on but the work."""

    state: TrainingState
    parts: tuple[PartLayout, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """Losses at a round's start, and at its end as it was judged first."""

    before: Losses
    bad: Losses


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to; without culprits, the message says why."""

    evaluations: int
    message: str
    culprits: frozenset[Digest] = frozenset()
    losses: Losses | None = None  # without the culprits


@dataclass(slots=True)
class PoisonWatch:
    """The looks of one cycle.

    Args:
        indices: the held-out examples that are asked about.
        folder: for snapshots of states that may never come to be.
    """

    cycle: RunningCycle
    db: StoreThread
    blobs: Blobs
    worker: Evaluator
    clock: Clock
    indices: list[int]
    folder: Path
    _looks: dict[int, Look] = field(default_factory=dict)
    _losses: OrderedDict[Digest, Losses] = field(default_factory=OrderedDict)

    # --- beside the rounds ---------------------------------------------------------------------

    async def resume(self) -> None:
        """Look again at the newest state if an earlier run did not get to the end of its look."""
        rows = await self.db.call(self.db.store.rounds, self.cycle.number)
        done = [row for row in rows if row.next_state_digest is not None]
        if done and done[-1].held_out_loss is None:
            assert done[-1].next_state_digest is not None
            self.begin(done[-1], done[-1].next_state_digest)

    def begin(self, row: RoundRow, state: Digest) -> None:
        """Begin to look at the state that a finished round led to, if it is one to look at."""
        every = self.cycle.settings.rounds.held_out_every
        if (row.round + 1) % every or len(self._looks) >= MAX_LOOKS or row.round in self._looks:
            return
        look = self._looks[row.round] = Look()
        look.task = asyncio.create_task(self._look(row, state, look), name=f"look-{row.round}")
        look.task.add_done_callback(lambda _: self._looks.pop(row.round, None))

    async def decide(self, round_number: int, *, until_ms: int) -> None:
        """Return when the look at what a round led to is over, or given up.

        Args:
            until_ms: when it is given up, unless there is an alarm already.
        """
        look = self._looks.get(round_number)
        if look is None or look.task is None:
            return
        if not await self._waited(look, until_ms=until_ms):
            look.is_late = True
            log.warning("look_given_up", round=round_number, alarm=look.is_searching)

    async def drain(self) -> None:
        """Wait for the looks that are under way."""
        tasks = [look.task for look in self._looks.values() if look.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """End what is under way; the next start begins it again."""
        for look in self._looks.values():
            if look.task is not None:
                look.task.cancel()
        await self.drain()

    async def _waited(self, look: Look, *, until_ms: int) -> bool:
        """Wait for a look; longer when there is an alarm. False: it is not over."""
        assert look.task is not None
        patience_ms = int(SEARCH_PATIENCE * self.cycle.settings.rounds.serve_s * 1000)
        while not look.task.done():
            limit_ms = until_ms + (patience_ms if look.is_searching else 0)
            if self.clock.now_ms() >= limit_ms:
                return False
            await self.clock.sleep(TICK_S)
        return True

    async def _look(self, row: RoundRow, state: Digest, look: Look) -> None:
        try:
            after = await self._losses_of(state)
            alarm, corrections = await self._judged(row, after, look)
            if look.is_late and alarm is not None and corrections:
                text = f"{alarm.message}, found too late"
                alarm = dataclasses.replace(alarm, corrected_in_round=None, message=text)
                corrections = ()
            # from here to the call nothing may wait: what is stored is what the round will read
            await self._record(row, after, alarm, corrections)
        except AresError as fault:
            log.warning("look_failed", round=row.round, code=fault.code, why=fault.message)
        except Exception:  # a look is a bystander: whatever is wrong with it stops no round
            log.exception("look_failed", round=row.round)

    async def _judged(
        self, row: RoundRow, after: Losses, look: Look
    ) -> tuple[AlarmRow | None, Sequence[CorrectionRow]]:
        """Return the alarm about a finished round, and what the next one has to change."""
        is_last = row.round + 1 == self.cycle.config.rounds  # it was looked at before its end
        if is_last or self.cycle.settings.rounds.held_out_every != 1:
            return None, ()
        before = await self._losses_of(row.state_digest)
        books = await self.db.call(read_books, self.db.store, row.cycle, row.round)
        entries = payload_of(books.manifest, RoundManifest).entries
        used = sum(1 for entry in entries if entry.coefficient)
        if not is_alarming(before, after, contributions=used):
            return None, ()
        look.is_searching = True
        seen = Seen(before, after)
        past = await asyncio.to_thread(read_past, books, self.cycle, self.blobs.store)
        start = Start(past.start, past.parts)
        found = await self._search(past.judged, start, seen, look)
        if not found.culprits:
            return self._alarm(row, seen, found, corrected_in=None), ()
        kept = await self._without(past.judged, found, seen)
        rows = correction_rows(
            [item.entry for item in past.judged],
            [item.entry for item in kept],
            cycle=row.cycle,
            round_number=row.round,
            at_ms=self.clock.now_ms(),
        )
        return self._alarm(row, seen, found, corrected_in=row.round + 1), rows

    # --- the last round ------------------------------------------------------------------------

    async def sift(
        self, row: RoundRow, start: Start, judged: list[Judged], *, until_ms: int
    ) -> list[Judged]:
        """Return the judgement of a cycle's last round without what makes the model worse.

        Nothing was signed yet, so what is taken out is left out of the round's own manifest. It
        is accepted and not used: whether it is paid is for its audit to say.
        """
        if self.cycle.settings.rounds.held_out_every != 1:
            return judged
        look = Look()
        task = asyncio.create_task(self._sifted(row, start, judged, look), name="sift")
        look.task = task
        try:
            if not await self._waited(look, until_ms=until_ms):
                log.warning("look_given_up", round=row.round, alarm=look.is_searching)
                return judged
            kept, losses, alarm = task.result()
        except AresError as fault:
            log.warning("look_failed", round=row.round, code=fault.code, why=fault.message)
            return judged
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if alarm is not None:
            await self._record(row, losses, alarm, ())
        return kept

    async def _sifted(
        self, row: RoundRow, start: Start, judged: list[Judged], look: Look
    ) -> tuple[list[Judged], Losses, AlarmRow | None]:
        """Return the judgement, the losses after it, and the alarm if there was one."""
        seen = Seen(await self._losses_of(row.state_digest), await self._losses_with(judged, start))
        if not is_alarming(seen.before, seen.bad, contributions=len(suspects_of(judged))):
            return judged, seen.bad, None
        look.is_searching = True
        found = await self._search(judged, start, seen, look)
        if found.losses is None:
            return judged, seen.bad, self._alarm(row, seen, found, corrected_in=None)
        kept = paid_although_poison(await self._without(judged, found, seen))
        return kept, found.losses, self._alarm(row, seen, found, corrected_in=row.round)

    # --- the search ----------------------------------------------------------------------------

    async def _search(self, judged: list[Judged], start: Start, seen: Seen, look: Look) -> Found:
        """Look for contributions without which the round is mended."""
        suspects, layout = suspects_of(judged), self.cycle.layout
        asked: dict[frozenset[Digest], Losses] = {}
        search = find_culprits(suspects)
        try:
            trial = next(search)
            while not look.is_late:
                kept = await asyncio.to_thread(without, judged, trial, layout=layout)
                asked[trial] = await self._losses_with(kept, start)
                left = len(suspects_of(kept))
                trial = search.send(
                    is_mended(seen.before, seen.bad, asked[trial], contributions=left)
                )
            return Found(len(asked), "the search took too long")
        except StopIteration as stop:
            culprits: frozenset[Digest] = stop.value
        except AresError as fault:
            return Found(len(asked), f"the search failed: {fault.message}")
        if not culprits:
            return Found(len(asked), "no few contributions explain it")
        text = f"without {len(culprits)} of {len(suspects)} contributions it is mended"
        return Found(len(asked), text, culprits, asked[culprits])

    async def _without(self, judged: list[Judged], found: Found, seen: Seen) -> list[Judged]:
        """Return the judgement without the culprits, each with its reason."""
        assert found.losses is not None
        message = reason_of(
            before=float(seen.before.mean()),
            bad=float(seen.bad.mean()),
            after=float(found.losses.mean()),
            removed=len(found.culprits),
        )
        layout = self.cycle.layout
        return await asyncio.to_thread(
            without, judged, found.culprits, layout=layout, message=message
        )

    async def _losses_with(self, judged: list[Judged], start: Start) -> Losses:
        """Return the losses of the state that a judgement leads to; it is kept nowhere."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"look-{secrets.token_hex(8)}.snapshot"

        def write() -> None:
            training = self.cycle.config.training
            following = next_state(start.state, used_vectors(judged), training, start.parts)
            write_atomically(path, encode_snapshot(following))

        try:
            await asyncio.to_thread(write)
            return await self._evaluated(path)
        finally:
            path.unlink(missing_ok=True)

    async def _losses_of(self, state: Digest) -> Losses:
        known = self._losses.get(state)
        if known is None:
            known = await self._evaluated(self.blobs.store.path(state))
            self._losses[state] = known
            while len(self._losses) > MAX_KEPT:
                self._losses.popitem(last=False)
        return known

    async def _evaluated(self, snapshot: Path) -> Losses:
        answer = await self.worker.evaluate(state=snapshot, indices=self.indices, urgent=True)
        losses = losses_of(answer)
        return losses.per_example[losses.tokens > 0]

    # --- what was found ------------------------------------------------------------------------

    def _alarm(
        self, row: RoundRow, seen: Seen, found: Found, *, corrected_in: int | None
    ) -> AlarmRow:
        return AlarmRow(
            cycle=row.cycle,
            round=row.round,
            corrected_in_round=corrected_in,
            held_out_before=float(seen.before.mean()),
            held_out_bad=float(seen.bad.mean()),
            held_out_after=None if found.losses is None else float(found.losses.mean()),
            standard_error=change_between(seen.before, seen.bad).standard_error,
            evaluations=found.evaluations,
            message=found.message,
            at_ms=self.clock.now_ms(),
        )

    async def _record(
        self,
        row: RoundRow,
        losses: Losses,
        alarm: AlarmRow | None,
        corrections: Sequence[CorrectionRow],
    ) -> None:
        loss = float(losses.mean())
        is_new = await self.db.call(
            self.db.store.record_look,
            row.cycle,
            row.round,
            held_out_loss=loss,
            alarm=alarm,
            corrections=corrections,
        )
        log.info("held_out", round=row.round, loss=round(loss, 4))
        if alarm is None or not is_new:
            return
        facts = {
            "cycle": alarm.cycle,
            "round": alarm.round,
            "held_out_before": round(alarm.held_out_before, 4),
            "held_out_bad": round(alarm.held_out_bad, 4),
            "corrected_in_round": alarm.corrected_in_round,
            "message": alarm.message,
        }
        log.warning("poison_alarm", **facts)
        await self.db.call(
            self.db.store.add_event, "alarm", json.dumps(facts), now_ms=self.clock.now_ms()
        )
