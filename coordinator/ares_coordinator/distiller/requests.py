"""The desk: every request is in the ledger before it leaves, and no request is paid twice.

    reserve   its worst case, in the transaction that checks the caps; or take what is known of it
    send      within the pacing of `pacing`
    finish    store the reply and its real cost; or release what was certainly not billed; or
              count as lost what nobody knows the fate of: it stays charged and is not sent again

Killed at any moment, the next run finds answers where they came, and counts the rest as lost. A
stop lets what is on its way come in first: it is paid for. A cap that only reservations of
requests on their way stand against is waited for, as their real cost is lower.

A refusal by policy (the kinds of `POLICY`) ends the run, also when it is found in the ledger: the
same words are asked again only under another permission.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol

import structlog

from ares_coordinator.distiller.answers import POLICY, Answer, NoAnswer, read_reply
from ares_coordinator.distiller.asks import (
    Ask,
    build_parameters,
    prompt_bytes,
    request_key,
    with_cache_marks,
)
from ares_coordinator.distiller.budget import CategorySpent, caps_of, check_caps, prices_of
from ares_coordinator.distiller.pacing import Pacer, Slot, Stopped
from ares_coordinator.distiller.promptcache import CacheMeter
from ares_coordinator.distiller.replies import MaybeBilled, ModelFacts, NotAnswered, Reply, Why
from ares_coordinator.distiller.schemas import NotAsAsked, read_json
from ares_coordinator.settings import TeacherSection
from ares_coordinator.store.request_rows import (
    RequestPlace,
    RequestState,
    Reserved,
    Spent,
    StoredReply,
)
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.errors import (
    TeacherAway,
    TeacherBudgetSpent,
    TeacherFault,
    TeacherNotPermitted,
)

log = structlog.get_logger(__name__)

MAX_TRIES: Final = 8  # of one request that is not billed; with their pauses about three minutes
MAX_LOST_IN_A_ROW: Final = 6  # a connection that swallows every answer spends money for nothing
MAX_BAD_IN_A_ROW: Final = 6  # then it is not the request, but what all of them have in common
MS_PER_DAY: Final = 86_400_000


class Client(Protocol):
    """What the desk needs of `OpusClient`."""

    async def facts(self) -> ModelFacts:
        """Return what the model can do."""

    async def send(self, parameters: Mapping[str, Any]) -> Reply:
        """Send one request."""


def check_permission(teacher: TeacherSection) -> None:
    """Refuse to ask a teacher without the operator's word that its answers may train a model.

    Raises: TeacherNotPermitted.
    """
    missing = [
        f"teacher.{name}"
        for name in ("permission_ref", "licence")
        if not getattr(teacher, name).strip()
    ]
    if missing:
        raise TeacherNotPermitted(
            f"{' and '.join(missing)} not set: most providers' terms forbid training a model on "
            "their model's answers without permission, so nothing is asked before you name the "
            "agreement (or the open licence of the weights) that you have",
            hint="Set teacher.permission_ref and teacher.licence in config.toml, or "
            "teacher.kind to procedural.",
        )


class RequestDesk:
    """Answers questions, from the ledger where it can. Use with `async with`.

    Args:
        run_id: of this process's run; whatever other runs left on its way is lost.
        cycle: whose caps count; 0 for none.
        resend_lost: the operator's word that lost requests may be sent, and perhaps paid, again.
    """

    def __init__(
        self,
        teacher: TeacherSection,
        *,
        client: Client,
        db: StoreThread,
        clock: Clock,
        run_id: str,
        cycle: int,
        rng: random.Random,
        resend_lost: bool = False,
    ) -> None:
        check_permission(teacher)
        self._teacher = teacher
        self._client = client
        self._db = db
        self._clock = clock
        self._run_id = run_id
        self._cycle = cycle
        self._resend_lost = resend_lost
        self._prices = prices_of(teacher)
        self._caps = caps_of(teacher)
        self._pacer = Pacer(most=teacher.max_concurrency, clock=clock, rng=rng)
        self.cache = CacheMeter(self._prices)
        self.cost_microusd = 0  # of the answers that came in this run
        self.counts: Counter[str] = Counter()  # asked, from_ledger, lost, refused, ...
        self._pending: dict[bytes, asyncio.Task[Answer]] = {}
        self._on_their_way: Counter[str] = Counter()  # by category
        self._ends = 0  # requests that were on their way and are not any more
        self._settled = asyncio.Condition()
        self._in_a_row: Counter[str] = Counter()

    async def __aenter__(self) -> RequestDesk:
        """Look at the model, and settle what an earlier run left behind.

        Raises: TeacherFault, TeacherAway: nothing can be asked.
        """
        await self._client.facts()
        store, now_ms = self._db.store, self._clock.now_ms()
        lost = await self._db.call(store.lose_requests, run_id=self._run_id, now_ms=now_ms)
        again = 0
        if self._resend_lost:
            again = await self._db.call(store.release_lost_requests, now_ms=now_ms)
        if lost or again:
            log.warning("teacher_requests_lost", lost=lost, may_be_sent_again=again)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def halt(self) -> None:
        """Send nothing more."""
        await self._pacer.stop()
        async with self._settled:
            self._settled.notify_all()

    async def stop(self) -> None:
        """Send nothing more, and wait for what is on its way."""
        await self.halt()
        while self._pending:
            await asyncio.wait([*self._pending.values()])

    @property
    def limit(self) -> int:
        """How many requests may be on their way now."""
        return self._pacer.limit

    @property
    def is_stopping(self) -> bool:
        """Whether the desk was told to stop."""
        return self._pacer.is_stopping

    async def ask_json(self, ask: Ask) -> tuple[Any, Answer]:
        """Return the value of an answer that must fit `ask.schema`, and the answer.

        Raises: as `ask`. NoAnswer: it does not fit.
        """
        assert ask.schema is not None, "a question for JSON has a schema"
        answer = await self.ask(ask)
        try:
            return read_json(answer.text, ask.schema), answer
        except NotAsAsked as error:
            raise NoAnswer("not_json", str(error)) from error

    async def ask(self, ask: Ask) -> Answer:
        """Return the answer to a question; the same question at the same time is asked once.

        Raises: NoAnswer: there is none that can be used. TeacherBudgetSpent. TeacherRefused and other
            TeacherFault, TeacherAway: the run ends. Stopped: it was told to end, or had to.
        """
        parameters = build_parameters(
            ask,
            await self._client.facts(),
            effort=self._teacher.effort,
            thinking_tokens=self._teacher.thinking_tokens,
        )
        key = self._key(ask, parameters, sample=0)
        task = self._pending.get(key)
        if task is None:
            task = asyncio.create_task(self._settle(ask, parameters), name=f"ask-{ask.purpose}")
            self._pending[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)  # who waits may go away; what was sent is paid for

    def _key(self, ask: Ask, parameters: Mapping[str, Any], *, sample: int) -> bytes:
        server = self._teacher.base_url.rstrip("/")
        return request_key(parameters, purpose=ask.purpose, sample=sample, server=server)

    def _forget(self, key: bytes, task: asyncio.Task[Answer]) -> None:
        del self._pending[key]
        if not task.cancelled():
            task.exception()  # looked at, should nobody wait for it any more

    async def _settle(self, ask: Ask, parameters: Mapping[str, Any]) -> Answer:
        sample, tries = 0, 0
        while True:
            key = self._key(ask, parameters, sample=sample)
            seen = self._ends
            try:
                async with self._pacer.slot() as slot, self._halting():
                    reserved = await self._reserve(ask, parameters, key)
                    if reserved.state is RequestState.SENT:
                        reply = await self._send(ask, parameters, key, slot)
                        return self._read(reply, key, self._teacher.permission_ref)
            except TeacherBudgetSpent as fault:
                if self._ends == seen and not self._may_free_budget(ask, fault):
                    raise
                await self._until_one_ends(seen)
                continue
            except NotAnswered as fault:
                tries += 1
                if fault.why is Why.BAD_REQUEST:
                    async with self._halting():
                        raise self._bad(fault) from fault
                if tries == MAX_TRIES:
                    await self.halt()
                    raise TeacherAway(
                        f"no answer after {MAX_TRIES} tries: {fault.detail}"
                    ) from fault
                if fault.why is not Why.OVERLOADED:  # overload pauses everybody already
                    await self._pacer.wait(self._pacer.backoff_s(tries))
                continue
            if reserved.state is RequestState.LOST:
                raise NoAnswer("lost", "sent by a run that did not see the answer")
            assert reserved.reply is not None, "what is done has a reply"
            if (
                reserved.reply.refusal in POLICY
                and reserved.permission_ref != self._teacher.permission_ref
            ):
                sample += 1  # the same words, under another permission
                continue
            self.counts["from_ledger"] += 1
            async with self._halting():
                return self._read(reserved.reply, key, reserved.permission_ref)

    @contextlib.asynccontextmanager
    async def _halting(self) -> AsyncIterator[None]:
        """Let nothing more leave once a fault ends the run, before its slot is free again."""
        try:
            yield
        except (TeacherFault, TeacherAway) as fault:
            if not isinstance(fault, TeacherBudgetSpent):  # smaller requests may still fit
                await self.halt()
            raise

    async def _reserve(self, ask: Ask, parameters: Mapping[str, Any], key: bytes) -> Reserved:
        worst = self._prices.worst_case_microusd(
            prompt_bytes=prompt_bytes(parameters), max_tokens=parameters["max_tokens"]
        )

        def check(spent: Spent) -> None:
            check_caps(spent, self._caps, next_microusd=worst)

        now_ms = self._clock.now_ms()
        place = RequestPlace(
            run_id=self._run_id,
            day=now_ms // MS_PER_DAY,
            cycle=self._cycle,
            category=ask.category,
            purpose=ask.purpose,
        )
        return await self._db.call(
            self._db.store.reserve_request,
            key,
            place,
            model=self._teacher.model,
            permission_ref=self._teacher.permission_ref,
            worst_microusd=worst,
            check=check,
            now_ms=now_ms,
        )

    def _may_free_budget(self, ask: Ask, fault: TeacherBudgetSpent) -> bool:
        """Whether a reservation of a request on its way stands against the cap."""
        if isinstance(fault, CategorySpent):
            return self._on_their_way[ask.category] > 0
        return self._on_their_way.total() > 0

    async def _until_one_ends(self, seen: int) -> None:
        """Wait until more requests came to an end than `seen`.

        Raises: Stopped.
        """
        async with self._settled:
            await self._settled.wait_for(lambda: self._ends != seen or self._pacer.is_stopping)
        if self._pacer.is_stopping:
            raise Stopped

    async def _send(
        self, ask: Ask, parameters: Mapping[str, Any], key: bytes, slot: Slot
    ) -> StoredReply:
        self._on_their_way[ask.category] += 1
        self.counts["asked"] += 1
        try:
            return await self._sent(ask, parameters, key, slot)
        finally:
            self._on_their_way[ask.category] -= 1
            self._ends += 1
            async with self._settled:
                self._settled.notify_all()

    async def _sent(
        self, ask: Ask, parameters: Mapping[str, Any], key: bytes, slot: Slot
    ) -> StoredReply:
        names = self._shared_prefixes(ask)
        store = self._db.store
        try:
            marked = with_cache_marks(
                parameters, system="system" in names, document="document" in names
            )
            reply = await self._client.send(marked)
        except NotAnswered as fault:
            await self._note(
                store.release_request, key, code=fault.why.value, now_ms=self._clock.now_ms()
            )
            self.counts[fault.why.value] += 1
            if fault.why is Why.OVERLOADED:
                self._pacer.refused(slot, fault.headers)
            raise
        except MaybeBilled as fault:
            await self._note(
                store.lose_request, key, code=str(fault)[:200], now_ms=self._clock.now_ms()
            )
            raise self._lost(fault) from fault
        except (TeacherFault, TeacherAway) as fault:
            await self._note(
                store.release_request, key, code=fault.code, now_ms=self._clock.now_ms()
            )
            raise
        cost = self._prices.cost_microusd(reply.usage)
        stored = StoredReply(
            text=reply.text,
            stop_reason=reply.stop_reason,
            refusal=reply.refusal,
            model=reply.model,
            usage=reply.usage,
            cost_microusd=cost,
        )
        await self._note(store.finish_request, key, stored, now_ms=self._clock.now_ms())
        self.cost_microusd += cost
        self._in_a_row.clear()
        self._pacer.answered(reply.headers, next_tokens=parameters["max_tokens"])
        for name in names.values():
            self.cache.note(name, reply.usage)
        if reply.refusal in POLICY:
            log.error(
                "teacher_refused",
                category=reply.refusal,
                explanation=reply.explanation,
                request_id=reply.request_id,
            )
        return stored

    async def _note(self, fn: Any, *args: Any, **kwargs: Any) -> None:
        """Write the end of a request into the ledger, also when this task is being cancelled."""
        writing = asyncio.ensure_future(self._db.call(fn, *args, **kwargs))
        await _finished(writing)

    def _shared_prefixes(self, ask: Ask) -> dict[str, str]:
        """Return the parts of a request to mark for the cache, and their names for the meter."""
        system = len(ask.system.encode())
        found = {}
        name = f"{ask.category} {ask.purpose}"
        if self.cache.should_mark(name, prefix_bytes=system):
            found["system"] = name
        name = f"{ask.category} document"
        if ask.document and self.cache.should_mark(
            name, prefix_bytes=system + len(ask.document.encode())
        ):
            found["document"] = name
        return found

    def _read(self, reply: StoredReply, key: bytes, permission_ref: str) -> Answer:
        self.counts["refused"] += bool(reply.refusal)
        return read_reply(reply, key=key, permission_ref=permission_ref)

    def _lost(self, fault: MaybeBilled) -> Exception:
        self.counts["lost"] += 1
        self._in_a_row["lost"] += 1
        if self._in_a_row["lost"] >= MAX_LOST_IN_A_ROW:
            return TeacherAway(
                f"{MAX_LOST_IN_A_ROW} requests in a row were sent and not answered, the last one: "
                f"{fault}; they count as spent"
            )
        return NoAnswer("lost", str(fault))

    def _bad(self, fault: NotAnswered) -> Exception:
        self._in_a_row["bad"] += 1
        if self._in_a_row["bad"] >= MAX_BAD_IN_A_ROW:
            return TeacherFault(
                f"{MAX_BAD_IN_A_ROW} requests in a row were refused as wrong: {fault.detail}",
                hint="Check the [teacher] section of config.toml against what the model takes.",
            )
        return NoAnswer("bad_request", fault.detail)


async def _finished(work: asyncio.Future[None]) -> None:
    """Wait for a piece of work to its end, and only then pass a cancellation on."""
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        with contextlib.suppress(asyncio.CancelledError):
            await work
        raise
