"""The way into hivemind's DHT process: start it, ask it, end it.

hivemind hands requests over through a pipe and answers through futures. Both can wait for ever
when the process is gone, so nothing here waits without a limit, requests are written by a thread
of their own (the pipe may block, the event loop may not), and the pipe's other end is closed on
our side, so that a dead process breaks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import psutil
from hivemind.dht import DHT
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError
from hivemind.utils.mpfuture import MPFuture

from ares_p2p.errors import NodeDied
from ares_p2p.network import dht_process
from ares_p2p.network.dht_process import ProcessFacts
from ares_p2p.processes import ProcessRef, is_alive, kill_processes, reference

STARTUP_TIMEOUT_S = 60.0  # hivemind's 15 s are too short on slow machines
SHUTDOWN_TIMEOUT_S = 5.0
FACTS_TIMEOUT_S = 15.0


@contextlib.contextmanager
def borrowed_event_loop() -> Iterator[None]:
    """Lend hivemind's futures an event loop, or they make one that nobody ever closes."""
    if asyncio._get_running_loop() is not None:
        yield
        return
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


_living: set[DhtChannel] = set()  # also of the process that this one is a fork of


def renew_futures() -> None:
    """Give hivemind's futures new locks, unless a living node of this process uses the old ones.

    The locks are shared with the DHT processes; one that was killed while it held one would
    make the next node of this process wait for ever.
    """
    mine = (channel for channel in _living if channel.owner_pid == os.getpid())
    if not any(channel.is_alive() for channel in mine):
        MPFuture.reset_backend()


class DhtChannel:
    """One DHT process."""

    def __init__(self, dht: DHT) -> None:
        self._dht: Any = dht
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._p2pd: ProcessRef | None = None
        self.owner_pid = os.getpid()

    def start(self) -> ProcessFacts:
        """Start the process and p2pd; on a fault neither is left.

        Raises: NodeDied: p2pd did not start.
        """
        try:
            self._dht.run_in_background(timeout=STARTUP_TIMEOUT_S + 10)
            self._dht._inner_pipe.close()
            facts: ProcessFacts = self.run_blocking(dht_process.describe, timeout_s=FACTS_TIMEOUT_S)
        except P2PDaemonError as error:
            self.stop()
            raise NodeDied(f"p2pd did not start: {error}") from error
        except BaseException:
            self.stop()
            raise
        self._p2pd = reference(facts.p2pd_pid)
        _living.add(self)
        threading.Thread(target=self._send_forever, name="ares-dht-sender", daemon=True).start()
        return facts

    @property
    def pid(self) -> int:
        """The DHT process."""
        return int(self._dht.pid)

    @property
    def sentinel(self) -> int:
        """A file descriptor that becomes readable when the process ends."""
        return int(self._dht.sentinel)

    def is_alive(self) -> bool:
        """Whether the DHT process and its p2pd run."""
        return bool(self._dht.is_alive()) and self._p2pd is not None and is_alive(self._p2pd)

    def run_blocking(self, coroutine: Any, *, timeout_s: float) -> Any:
        """Return what a function of `dht_process` gives; before there is an event loop.

        Raises: NodeDied: no answer in time.
        """
        try:
            return self._dht.run_coroutine(coroutine, return_future=True).result(timeout_s)
        except FutureTimeout as error:
            raise NodeDied(f"the DHT process did not answer for {timeout_s:.0f} s") from error

    async def run(self, coroutine: Any) -> Any:
        """Return what a function of `dht_process` gives. The caller brings the timeout.

        Raises: NodeDied: the pipe is broken.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Any] = loop.create_future()
        held: list[Any] = []  # hivemind refers to its futures weakly: keep it while we wait

        def settle(value: Any, error: BaseException | None) -> None:
            if result.done():
                return
            if error is None:
                result.set_result(value)
            else:
                result.set_exception(error)

        def settle_soon(value: Any, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, value, error)

        def send() -> None:
            try:
                future = self._dht.run_coroutine(coroutine, return_future=True)
            except (OSError, ValueError) as error:  # the pipe is broken or closed
                settle_soon(None, NodeDied(f"the DHT process takes no requests: {error}"))
                return
            held.append(future)
            future.add_done_callback(lambda done: settle_soon(done._result, done._exception))

        self._requests.put(send)
        return await result

    def _send_forever(self) -> None:
        while (send := self._requests.get()) is not None:
            send()

    def stop(self) -> None:
        """End the process and p2pd; by force when they do not end by themselves."""
        _living.discard(self)
        self._requests.put(None)
        if self._dht.pid is not None and self._dht.is_alive():
            self._stop_dht()
        if self._p2pd is not None:  # ended by its parent, or killed by the kernel; or about to be
            kill_processes([self._p2pd])
            with contextlib.suppress(psutil.Error):
                psutil.Process(self._p2pd.pid).wait(SHUTDOWN_TIMEOUT_S)

    def _stop_dht(self) -> None:
        dht = self._dht
        with contextlib.suppress(OSError, ValueError):
            if self._p2pd is None or is_alive(self._p2pd):
                dht.shutdown()  # asks, waits, then sends SIGTERM
            else:
                dht.terminate()  # it would wait for the dead p2pd
        dht.join(SHUTDOWN_TIMEOUT_S)
        if dht.is_alive():
            dht.kill()
            dht.join(SHUTDOWN_TIMEOUT_S)
