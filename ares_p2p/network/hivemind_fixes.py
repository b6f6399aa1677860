"""Mends for hivemind 1.1.12, applied once before any DHT exists (its children are forks).

Each function is one mend, says what goes wrong without it, and when it can go. Not here: what
arguments can do (`startup_timeout=60`, `check_if_identity_free=False`, a timeout on every call:
see `node`), and what a subclass of the averager can do (`ares_p2p.averaging.allreduce`).

Source: hivemind 1.1.12, read and reproduced.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hivemind.averaging.averager
import hivemind.averaging.partition
import hivemind.dht.dht
import hivemind.dht.protocol
from hivemind.averaging.control import StepControl
from hivemind.averaging.partition import AllreduceException
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import P2P
from hivemind.p2p.p2p_daemon_bindings.control import ControlClient
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.p2p.p2p_daemon_bindings.utils import (
    raise_if_failed,
    read_pbmsg_safe,
    write_pbmsg,
)
from hivemind.proto import p2pd_pb2
from hivemind.utils.mpfuture import MPFuture, SharedBytes
from hivemind.utils.timed_storage import ValueWithExpiration

from ares_p2p.network.processes import die_with_parent
from ares_p2p.network.record_keys import MAX_SUBKEYS

MAX_STREAM_MESSAGE_BYTES = 4 * 1024 * 1024 + 65_536  # hivemind's own bound for unary calls
_MARK = "_ares_fixes_applied"
_LAUNCHER = Path(__file__).with_name("p2pd_launcher.py")


@dataclass(slots=True)
class StartOptions:
    """What the next DHT of this process is started with; a fork inherits it."""

    relay_service: bool = False  # carry other peers' traffic
    socket_folder: Path | None = None


options = StartOptions()
_DEFAULT_SOCKETS = P2P._UNIX_SOCKET_PREFIX


def keep_sockets_in(folder: Path | None) -> None:
    """Let what this process starts next keep its Unix sockets there; None: hivemind's own place."""
    options.socket_folder = folder
    P2P._UNIX_SOCKET_PREFIX = _DEFAULT_SOCKETS if folder is None else f"/unix{folder}/"


def apply() -> None:
    """Apply every mend; calling it again does nothing."""
    if getattr(hivemind.dht.dht.DHT, _MARK, False):
        return
    setattr(hivemind.dht.dht.DHT, _MARK, True)
    fix_nonblocking_pipes()
    fix_orphaned_dht()
    fix_orphaned_p2pd_and_open_relay()
    fix_endless_dictionaries()
    fix_unbounded_dictionaries()
    fix_unbounded_messages()
    fix_leaking_streams()
    fix_shared_averages()
    fix_unchecked_parts()
    fix_late_cancellation()
    os.environ.setdefault("HIVEMIND_SHM_BUFFER_SIZE", "4096")  # 16: a segment every 16 DHT calls
    start_shared_memory()


def blocking_reader_loop(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Any:
    """Return `new_loop` whose loops leave the pipes they watch in blocking mode."""

    @functools.wraps(new_loop)
    def new_blocking_reader_loop() -> asyncio.AbstractEventLoop:
        loop = new_loop()
        add_reader = loop.add_reader

        def add_blocking_reader(fd: int, callback: Callable[..., Any], *args: Any) -> None:
            add_reader(fd, callback, *args)
            os.set_blocking(fd, True)

        loop.add_reader = add_blocking_reader  # type: ignore[method-assign,assignment]
        return loop

    return new_blocking_reader_loop


def fix_nonblocking_pipes() -> None:
    """A control message of 65 kB or more kills the DHT process, and its caller waits for ever.

    uvloop's `add_reader` makes the pipe non-blocking, but `Connection.recv` needs it blocking:
    what does not arrive in one read is lost. Goes when hivemind reads its pipe without
    `add_reader`, or sets it back to blocking itself.
    """
    for module in (hivemind.dht.dht, hivemind.averaging.averager):
        module.switch_to_uvloop = blocking_reader_loop(module.switch_to_uvloop)


def fix_orphaned_dht() -> None:
    """A node killed by SIGKILL leaves its DHT process and sockets behind for ever.

    Goes when hivemind ties its processes to their parent.
    """
    run = hivemind.dht.dht.DHT.run

    @functools.wraps(run)
    def run_tied_to_parent(dht: Any) -> None:
        die_with_parent(dht._parent_pid, options.socket_folder)
        run(dht)

    hivemind.dht.dht.DHT.run = run_tied_to_parent


def fix_orphaned_p2pd_and_open_relay() -> None:
    """p2pd outlives a killed DHT process, and is an open relay for everybody by default.

    4 GiB and 30 minutes a circuit are a volunteer's whole uplink: only bootstrap nodes relay.
    Goes when `P2P.create` takes a relay argument and ties p2pd to its parent.
    """
    make_arguments = P2P._make_process_args

    @functools.wraps(make_arguments)
    def make_tied_arguments(*args: Any, **kwargs: Any) -> list[str]:
        arguments = make_arguments(*args, relayService=options.relay_service, **kwargs)
        return [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *arguments]

    P2P._make_process_args = staticmethod(make_tied_arguments)


def start_shared_memory() -> None:
    """Ctrl-C in the first second leaves a process that spins for ever.

    hivemind's futures live in shared memory, for which torch starts a helper process; the
    terminal's SIGINT kills it too, and torch waits for it without end. A helper that starts
    while SIGINT is blocked never gets one. Goes when torch starts it in a session of its own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SharedBytes.next()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _honest_dictionary(found: Any) -> Any:
    """Return a found value whose expiration is no later than what it holds; None if empty."""
    if found is None or not isinstance(found.value, DictionaryDHTValue):
        return found
    with found.value.freeze():
        expirations = [item.expiration_time for _, item in found.value.items()]
    if not expirations:
        return None
    found.value.latest_expiration_time = max(expirations)
    return ValueWithExpiration(found.value, max(expirations))


def fix_endless_dictionaries() -> None:
    """One lying node can make any record disappear for whoever asks it.

    A dictionary's entries are validated, its own expiration time is not: an empty one that
    expires at infinity passes, wins over every other answer and ends the search. Goes when
    hivemind takes a dictionary's expiration from its entries.
    """
    protocol = hivemind.dht.protocol.DHTProtocol
    call_find: Callable[..., Awaitable[Any]] = protocol.call_find

    @functools.wraps(call_find)
    async def call_find_honestly(self: Any, peer: Any, keys: Any) -> Any:
        found = await call_find(self, peer, keys)
        if found is None:
            return None
        return {key: (_honest_dictionary(value), near) for key, (value, near) in found.items()}

    protocol.call_find = call_find_honestly


def fix_unbounded_dictionaries() -> None:
    """A crowd of fresh identities fills a dictionary until its answers exceed 4 MiB and get lost.

    Bounded, it stays readable: the entries that expire first give way. Goes when hivemind bounds
    the subkeys of a dictionary.
    """
    storage = hivemind.dht.protocol.DHTLocalStorage
    store_subkey = storage.store_subkey

    @functools.wraps(store_subkey)
    def store_subkey_bounded(self: Any, key: Any, *entry: Any) -> bool:
        stored = bool(store_subkey(self, key, *entry))
        found = self.get(key)
        if found is not None and isinstance(found.value, DictionaryDHTValue):
            found.value.maxsize = MAX_SUBKEYS
            found.value._remove_outdated()
        return stored

    storage.store_subkey = store_subkey_bounded


def fix_unbounded_messages() -> None:
    """A peer that announces a huge message in a stream makes its receiver buffer all it sends.

    Goes when hivemind bounds `P2P.receive_raw_data`.
    """

    async def receive_bounded(reader: asyncio.StreamReader) -> bytes:
        header = await reader.readexactly(P2P.HEADER_LEN)
        size = int.from_bytes(header, P2P.BYTEORDER)
        if size > MAX_STREAM_MESSAGE_BYTES:
            raise ValueError(f"message of {size} bytes, at most {MAX_STREAM_MESSAGE_BYTES}")
        return await reader.readexactly(size)

    P2P.receive_raw_data = staticmethod(receive_bounded)


def fix_leaking_streams() -> None:
    """Every stream that cannot be opened, or is given up meanwhile, leaks a socket for a while.

    Goes when `ControlClient.stream_open` closes its connection on a fault.
    """

    async def stream_open_or_close(self: Any, peer_id: Any, protocols: Any) -> Any:
        reader, writer = await self.daemon_connector.open_connection()
        try:
            opening = p2pd_pb2.StreamOpenRequest(peer=peer_id.to_bytes(), proto=list(protocols))
            kind = p2pd_pb2.Request.STREAM_OPEN
            await write_pbmsg(writer, p2pd_pb2.Request(type=kind, streamOpen=opening))
            response = p2pd_pb2.Response()
            await read_pbmsg_safe(reader, response)
            raise_if_failed(response)
            return StreamInfo.from_protobuf(response.streamInfo), reader, writer
        except BaseException:
            writer.close()
            raise

    ControlClient.stream_open = stream_open_or_close


def fix_shared_averages() -> None:
    """One sender that hangs up stalls its whole group until the average times out.

    All senders wait for the same future of a part, and whoever stops waiting cancels it for all.
    Goes when hivemind shields it.
    """
    reducer = hivemind.averaging.partition.TensorPartReducer
    accumulate: Callable[..., Awaitable[Any]] = reducer.accumulate_part

    @functools.wraps(accumulate)
    async def accumulate_shielded(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.shield(accumulate(self, *args, **kwargs))

    reducer.accumulate_part = accumulate_shielded


def fix_unchecked_parts() -> None:
    """One sender fails the average for all with a part of another shape, or ruins it with a NaN.

    The part is counted before it is looked at, so that the sender's end is noticed one part too
    late, and nobody looks at its numbers and its weight at all. Goes when hivemind checks first.
    """
    reducer = hivemind.averaging.partition.TensorPartReducer
    accumulate: Callable[..., Awaitable[Any]] = reducer.accumulate_part

    @functools.wraps(accumulate)
    async def accumulate_checked(
        self: Any, sender_index: int, part_index: int, tensor_part: Any, weight: float = 1.0
    ) -> Any:
        if part_index >= self.num_parts or tensor_part.shape != self.part_shapes[part_index]:
            raise AllreduceException(f"a part of another shape: {tuple(tensor_part.shape)}")
        if not bool(tensor_part.isfinite().all()):
            raise AllreduceException("a part with numbers that are not finite")
        if not (math.isfinite(weight) and weight >= 0):
            raise AllreduceException(f"a part with a weight of {weight}")
        return await accumulate(self, sender_index, part_index, tensor_part, weight)

    reducer.accumulate_part = accumulate_checked


def fix_late_cancellation() -> None:
    """A step that was given up goes on looking for a group, and holds a seat in it.

    Whoever waits for the cancellation looks whether the step is cancelled when it is told, which
    was a moment before. Goes when `StepControl.cancel` cancels first.
    """

    @functools.wraps(StepControl.cancel)
    def cancel_first(self: Any) -> bool:
        if self._trigger is not None:
            self._trigger.cancel()
        is_cancelled = bool(MPFuture.cancel(self))
        if self._cancel is not None and not self._cancel.done():
            self._cancel.set_result(None)
        return is_cancelled

    StepControl.cancel = cancel_first
