"""An event loop in played time: when nothing is to be done it jumps to the next timer.

`asyncio.timeout`, `asyncio.sleep` and `loop.time` all follow the played time. What would run in a
thread runs at once, and its result arrives when the time that it took of the played clock is over;
so a thousand peers train at the same time. Processor time is booked to the role of the task that
spends it: `role` holds it, and tasks inherit it.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

R = TypeVar("R")
START_MS = 1_900_000_000_000
WORLD = "world"
role: ContextVar[str] = ContextVar("role", default=WORLD)


class _Selector(selectors.SelectSelector):
    """Passes played time instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nobody has anything to do, now or ever")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class PlayedLoop(asyncio.SelectorEventLoop):
    """The loop. `spent_s` has the processor seconds by role."""

    def __init__(self) -> None:
        self._played = _Selector()
        super().__init__(self._played)
        self.spent_s: Counter[str] = Counter()
        self.set_default_executor(PlayedThreads(self))
        self.clock = PlayedClock(self)

    def time(self) -> float:
        """Return the played seconds since the start."""
        return self._played.now_s

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        """See the base class; books what the callback spends."""
        return super().call_soon(self._booked, callback, args, context=context)

    def _booked(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        began_s = time.thread_time()
        try:
            callback(*args)
        finally:
            self.spent_s[role.get()] += time.thread_time() - began_s


class PlayedClock:
    """The program's `Clock` on the loop; `pass_s` is for what runs in a played thread."""

    def __init__(self, loop: PlayedLoop) -> None:
        self._loop = loop
        self.ahead_s = 0.0  # of the thread that runs just now

    def now_ms(self) -> int:
        return START_MS + round(1000 * (self._loop.time() + self.ahead_s))

    def pass_s(self, seconds: float) -> None:
        self.ahead_s += seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.001, seconds))

    async def run(self) -> None:
        """Do nothing: the loop itself lets time pass."""


class PlayedThreads(ThreadPoolExecutor):
    """Runs calls at once; a call that passed time ends that much later."""

    def __init__(self, loop: PlayedLoop) -> None:
        super().__init__(1)
        self._loop = loop

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        done: Future[R] = Future()
        clock = self._loop.clock
        before_s, clock.ahead_s = clock.ahead_s, 0.0
        try:
            finish = _resulting(done, fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 (it belongs to whoever awaits the call)
            finish = _failing(done, error)
        took_s, clock.ahead_s = clock.ahead_s, before_s
        if took_s:
            self._loop.call_later(took_s, finish)
        else:
            finish()
        return done


def _resulting(done: Future[R], result: R) -> Callable[[], None]:
    def finish() -> None:
        if done.set_running_or_notify_cancel():
            done.set_result(result)

    return finish


def _failing(done: Future[Any], error: BaseException) -> Callable[[], None]:
    def finish() -> None:
        if done.set_running_or_notify_cancel():
            done.set_exception(error)

    return finish
