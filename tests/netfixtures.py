"""Networks for tests: signed payloads, a clock by hand, real nodes on loopback.

Nodes run in the test's own process (`start_node`) or in forked ones that can be killed
(`ForkedNode`); both are the real thing, with their own DHT process and p2pd.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity, save_identity
from ares_p2p.domain import Header, NetworkDescriptor, Payload
from ares_p2p.network.invite import Invite, NetworkRef
from ares_p2p.wire.codec import seal
from payloads import identity, sample

P = TypeVar("P", bound=Payload)
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
NAME = "test-net"
COORDINATOR, ALICE, BOB, MALLORY = (identity(number) for number in (100, 101, 102, 103))
NETWORK: NetworkRef = Invite(NAME, COORDINATOR.peer_id).network
READY_TIMEOUT_S = 90.0  # a busy machine; about one second on an idle one


class HandClock:
    """A clock that moves only when told to."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def pass_s(self, seconds: float) -> None:
        self._now_ms += int(seconds * 1000)

    async def sleep(self, seconds: float) -> None:
        self.pass_s(seconds)


def payload(
    cls: type[P],
    *,
    cycle: int = 0,
    round: int = 0,  # noqa: A002
    seq: int = 1,
    network: NetworkRef = NETWORK,
    **changes: Any,
) -> P:
    """Return a valid payload of a kind with this header."""
    header = Header(network.network_id, cycle, round, seq, 1_700_000_000_000)
    if cls is NetworkDescriptor:
        changes = {"name": NAME, "coordinator": network.coordinator} | changes
    return dataclasses.replace(sample(cls), header=header, **changes)


def signed(who: Identity, cls: type[P], **arguments: Any) -> Envelope:
    """Return such a payload, signed."""
    return seal(who, payload(cls, **arguments))


# --- real nodes --------------------------------------------------------------------------------


def key_file(folder: Path, who: Identity) -> Path:
    """Return the key file of an identity, made in `folder`."""
    path = folder / f"{who.peer_id[-8:]}.key"
    if not path.exists():
        save_identity(who, path)
    return path


def start_node(folder: Path, who: Identity, **arguments: Any) -> Any:
    """Return a started node; on the main thread, with no event loop running."""
    from ares_p2p.network.node import Node

    return Node.start(
        identity_path=key_file(folder, who),
        network=arguments.pop("network", NETWORK),
        host_addresses=arguments.pop("host_addresses", LOOPBACK),
        **arguments,
    )


@dataclass(frozen=True)
class NodeFacts:
    """What a forked node says of itself."""

    peer_id: str
    addresses: tuple[str, ...]
    pids: tuple[int, ...]  # its DHT process and p2pd
    socket_folder: str


class ForkedNode:
    """A node in a process of its own.

    Args:
        prepare: runs in the new process before the node starts, e.g. to patch a clock.
    """

    def __init__(
        self,
        folder: Path,
        who: Identity,
        *,
        prepare: Callable[[], None] | None = None,
        **arguments: Any,
    ) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_run_forked, args=(theirs, self._pipe, folder, who, prepare, arguments)
        )
        self.process.start()
        theirs.close()
        if not self._pipe.poll(READY_TIMEOUT_S):
            self.end()
            raise TimeoutError("the forked node did not start")
        answer = self._pipe.recv()
        if isinstance(answer, BaseException):
            self.end()
            raise answer
        self.facts: NodeFacts = answer

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def all_pids(self) -> tuple[int, ...]:
        return (self.pid, *self.facts.pids)

    def kill(self) -> None:
        """SIGKILL the node's own process, nothing else."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.join(30)

    def end(self) -> None:
        """End it in an orderly way, or by force."""
        with contextlib.suppress(OSError):
            self._pipe.send("end")  # closing is not enough: later forks hold copies of this end
        self.process.join(30)
        self._pipe.close()
        if self.process.is_alive():
            self.process.kill()
            self.process.join(30)


def _run_forked(
    pipe: Any,
    other_end: Any,
    folder: Path,
    who: Identity,
    prepare: Callable[[], None] | None,
    arguments: dict[str, Any],
) -> None:
    from hivemind.utils.mpfuture import MPFuture

    MPFuture.reset_backend()  # locks of its own: this process may be killed while it holds them
    other_end.close()
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    try:
        if prepare is not None:
            prepare()
        node = start_node(folder, who, **arguments)
    except BaseException as error:  # noqa: BLE001
        pipe.send(error)
        return

    async def live() -> None:
        await node.open(folder / f"blobs-{who.peer_id[-8:]}")
        facts = NodeFacts(node.peer_id, node.addresses, node.process_ids, str(node._folder.path))
        pipe.send(facts)
        await asyncio.to_thread(_wait_for_end, pipe)
        await node.close()

    asyncio.run(live())


def _wait_for_end(pipe: Any) -> None:
    try:
        pipe.recv()
    except EOFError:
        return


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 30.0) -> bool:
    """Poll for something that no event announces, e.g. another process's end."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
