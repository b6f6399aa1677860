"""Each mend of hivemind: the bug is shown without it, then gone with it.

When a test of the bug fails after an upgrade of hivemind, its mend can go.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import uvloop
from hivemind.averaging.control import StepControl
from hivemind.averaging.partition import AllreduceException, TensorPartReducer
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
from hivemind.p2p import P2P
from hivemind.p2p.p2p_daemon_bindings.control import ControlClient
from hivemind.proto import dht_pb2
from hivemind.utils import MSGPackSerializer
from hivemind.utils.mpfuture import MPFuture, SharedBytes
from hivemind.utils.timed_storage import get_dht_time

from ares_p2p.network import hivemind_fixes as fixes
from ares_p2p.network.record_keys import MAX_SUBKEYS
from netfixtures import is_running, wait_until


@pytest.fixture(autouse=True)
def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put everything back after each test; other modules have it applied by their nodes."""
    import hivemind.averaging.averager as averager
    import hivemind.dht.dht as dht

    for owner, name in (
        (dht, "switch_to_uvloop"),
        (averager, "switch_to_uvloop"),
        (dht.DHT, "run"),
        (DHTProtocol, "call_find"),
        (ControlClient, "stream_open"),
        (DHTLocalStorage, "store_subkey"),
        (TensorPartReducer, "accumulate_part"),
        (StepControl, "cancel"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    for name in ("_make_process_args", "receive_raw_data"):
        monkeypatch.setattr(P2P, name, staticmethod(getattr(P2P, name)))


def original(function: Any) -> Any:
    """Return what a mend wrapped, or the function itself."""
    return getattr(function, "__wrapped__", function)


# --- a pipe that does not lose messages --------------------------------------------------------


@pytest.mark.parametrize("mended", [False, True])
def test_watched_pipes_stay_blocking(mended: bool) -> None:
    new_loop = (
        fixes.blocking_reader_loop(uvloop.new_event_loop) if mended else uvloop.new_event_loop
    )
    loop = new_loop()
    read_end, write_end = multiprocessing.Pipe(duplex=False)
    try:
        loop.add_reader(read_end.fileno(), lambda: None)
        assert os.get_blocking(read_end.fileno()) is mended
    finally:
        loop.remove_reader(read_end.fileno())
        loop.close()
        read_end.close()
        write_end.close()


# --- p2pd's command line -----------------------------------------------------------------------


def test_p2pd_relays_only_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(P2P, "_make_process_args", staticmethod(original(P2P._make_process_args)))
    assert not any("relayService" in argument for argument in P2P._make_process_args("p2pd", b=1))
    fixes.fix_orphaned_p2pd_and_open_relay()
    monkeypatch.setattr(fixes.options, "relay_service", False)
    assert "-relayService=0" in P2P._make_process_args("p2pd", b=1)
    monkeypatch.setattr(fixes.options, "relay_service", True)
    assert "-relayService=1" in P2P._make_process_args("p2pd", b=1)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("mended", [False, True])
def test_p2pd_dies_with_its_parent(tmp_path: Path, mended: bool) -> None:
    """A process that starts "p2pd" (a sleeper here) and is killed."""
    program = str(tmp_path / "p2pd")
    Path(program).symlink_to("/bin/sleep")
    pid_file = tmp_path / "pid"

    def parent() -> None:
        arguments = [program, "300"]
        if mended:
            launcher = str(fixes._LAUNCHER)
            arguments = [sys.executable, "-I", "-S", launcher, str(os.getpid()), *arguments]
        child = os.spawnv(os.P_NOWAIT, arguments[0], arguments)
        wait_until(lambda: program in Path(f"/proc/{child}/cmdline").read_text().split("\0")[:1])
        pid_file.write_text(str(child))
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    process.join(60)
    child = int(pid_file.read_text())
    if mended:
        assert wait_until(lambda: not is_running(child))
    else:
        assert is_running(child)
        os.kill(child, signal.SIGKILL)


# --- dictionaries without an end ---------------------------------------------------------------


class LyingStub:
    """Answers a search with an empty dictionary that never expires."""

    def __init__(self, dictionary: DictionaryDHTValue) -> None:
        self.dictionary = dictionary

    async def rpc_find(self, request: Any, timeout: float) -> Any:
        result = dht_pb2.FindResult(
            type=dht_pb2.FOUND_DICTIONARY,
            value=MSGPackSerializer.dumps(self.dictionary),
            expiration_time=float("inf"),
        )
        return dht_pb2.FindResponse(results=[result])


async def found_at_a_liar(dictionary: DictionaryDHTValue) -> Any:
    protocol = object.__new__(DHTProtocol)
    protocol.node_info = dht_pb2.NodeInfo()
    protocol.rpc_semaphore = asyncio.Semaphore()
    protocol.wait_timeout = 1.0
    protocol.record_validator = None
    protocol.get_stub = lambda _: LyingStub(dictionary)  # type: ignore[method-assign]
    key = DHTID.generate("key")
    return (await protocol.call_find(SimpleNamespace(), [key]))[key][0]  # type: ignore[arg-type]


async def test_empty_dictionaries_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DHTProtocol, "call_find", original(DHTProtocol.call_find))
    found = await found_at_a_liar(DictionaryDHTValue())
    assert found.expiration_time == float("inf")  # wins over every honest answer
    fixes.fix_endless_dictionaries()
    assert await found_at_a_liar(DictionaryDHTValue()) is None


async def test_a_dictionary_expires_with_its_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DHTProtocol, "call_find", original(DHTProtocol.call_find))
    fixes.fix_endless_dictionaries()
    dictionary, expiration = DictionaryDHTValue(), get_dht_time() + 50
    dictionary.store("subkey", b"value", expiration)
    found = await found_at_a_liar(dictionary)
    assert found.expiration_time == expiration


@pytest.mark.parametrize("mended", [False, True])
def test_dictionaries_are_bounded(monkeypatch: pytest.MonkeyPatch, mended: bool) -> None:
    monkeypatch.setattr(DHTLocalStorage, "store_subkey", original(DHTLocalStorage.store_subkey))
    if mended:
        fixes.fix_unbounded_dictionaries()
    storage, key, now = DHTLocalStorage(), DHTID.generate("key"), get_dht_time()
    for number in range(3 * MAX_SUBKEYS):
        assert storage.store(key, b"value", now + 60 + number, subkey=f"peer{number}")
    found = storage.get(key)
    assert found is not None
    assert len(found.value) == (MAX_SUBKEYS if mended else 3 * MAX_SUBKEYS)
    assert f"peer{3 * MAX_SUBKEYS - 1}" in found.value


# --- streams -----------------------------------------------------------------------------------


async def test_announced_sizes_are_bounded() -> None:
    fixes.fix_unbounded_messages()
    reader = asyncio.StreamReader()
    reader.feed_data((2**40).to_bytes(8, "big") + b"x")
    with pytest.raises(ValueError, match="at most"):  # unmended it waits for a terabyte
        await asyncio.wait_for(P2P.receive_raw_data(reader), 5)
    reader = asyncio.StreamReader()
    reader.feed_data((5).to_bytes(8, "big") + b"hello")
    assert await P2P.receive_raw_data(reader) == b"hello"


class Writer:
    closed = False

    def write(self, data: bytes) -> None:
        raise ConnectionResetError

    def close(self) -> None:
        self.closed = True


async def test_streams_that_do_not_open_are_closed() -> None:
    fixes.fix_leaking_streams()
    writer = Writer()

    async def open_connection() -> tuple[None, Writer]:
        return None, writer

    client = SimpleNamespace(daemon_connector=SimpleNamespace(open_connection=open_connection))
    peer = SimpleNamespace(to_bytes=lambda: b"peer")
    with pytest.raises(ConnectionResetError):
        await ControlClient.stream_open(client, peer, ["protocol"])  # type: ignore[arg-type]
    assert writer.closed


# --- shared memory -----------------------------------------------------------------------------


def test_the_shared_memory_helper_never_gets_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    monkeypatch.setattr(
        SharedBytes, "next", lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    fixes.start_shared_memory()
    assert signal.SIGINT in masks[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_mends_are_applied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import hivemind.dht.dht as dht

    fixes.apply()
    run = dht.DHT.run
    fixes.apply()
    assert dht.DHT.run is run


# --- averaging ---------------------------------------------------------------------------------


def original_reducer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo both mends of the reducer, as far as they were applied."""
    function = TensorPartReducer.accumulate_part
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    monkeypatch.setattr(TensorPartReducer, "accumulate_part", function)


@pytest.mark.parametrize("mended", [False, True])
async def test_a_sender_that_hangs_up_leaves_the_others_their_average(
    monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    original_reducer(monkeypatch)
    if mended:
        fixes.fix_shared_averages()
    reducer = TensorPartReducer((torch.Size([2]),), num_senders=3)
    one, two = (
        asyncio.create_task(reducer.accumulate_part(sender, 0, torch.full((2,), float(sender))))
        for sender in (0, 1)
    )
    await asyncio.sleep(0)
    one.cancel()  # its part was counted; it hung up while it waited for the average
    await asyncio.sleep(0)
    with contextlib.suppress(asyncio.InvalidStateError):
        await asyncio.wait_for(reducer.accumulate_part(2, 0, torch.full((2,), 2.0)), 5)
    if mended:
        assert (await two).tolist() == [1.0, 1.0]
    else:
        with pytest.raises(asyncio.CancelledError):
            await two


@pytest.mark.parametrize("mended", [False, True])
async def test_a_part_is_checked_before_it_is_counted(
    monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    original_reducer(monkeypatch)
    if mended:
        fixes.fix_unchecked_parts()
    reducer = TensorPartReducer((torch.Size([2]),), num_senders=2)
    waiting = asyncio.create_task(reducer.accumulate_part(0, 0, torch.ones(2)))
    await asyncio.sleep(0)
    with pytest.raises((RuntimeError, AllreduceException)):
        await reducer.accumulate_part(1, 0, torch.ones(3))
    reducer.on_sender_failed(1)  # what its stream does then
    if mended:
        assert (await asyncio.wait_for(waiting, 5)).tolist() == [1.0, 1.0]
    else:
        assert not (await asyncio.wait({waiting}, timeout=0.1))[0]  # it would wait for ever
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        (torch.tensor([1.0, float("nan")]), 1.0),
        (torch.tensor([1.0, float("inf")]), 1.0),
        (torch.tensor(1.0), 1.0),  # a scalar would be spread over everything
        (torch.ones(2), -3.0),
        (torch.ones(2), float("nan")),
    ],
)
async def test_numbers_and_weights_that_are_none_are_refused(
    monkeypatch: pytest.MonkeyPatch, part: torch.Tensor, weight: float
) -> None:
    original_reducer(monkeypatch)
    reducer = TensorPartReducer((torch.Size([2]),), num_senders=1)
    assert (await reducer.accumulate_part(0, 0, part, weight)).shape == (2,)
    fixes.fix_unchecked_parts()
    reducer = TensorPartReducer((torch.Size([2]),), num_senders=1)
    with pytest.raises(AllreduceException):
        await reducer.accumulate_part(0, 0, part, weight)
    assert reducer.num_parts_received == [0]


@pytest.mark.parametrize("mended", [False, True])
async def test_a_cancelled_step_is_cancelled_when_it_is_told(
    monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    monkeypatch.setattr(StepControl, "cancel", original(StepControl.cancel))
    if mended:
        fixes.fix_late_cancellation()
    trigger, seen = MPFuture(), list[bool]()
    step = StepControl(get_dht_time() + 5, get_dht_time() + 9, False, 1.0, b"")
    teller = SimpleNamespace(
        set_result=lambda _: seen.append(step.cancelled()), done=lambda: bool(seen)
    )
    step.attach(trigger, teller)
    step.cancel()
    assert seen == [mended]
