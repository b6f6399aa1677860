"""One run of a bootstrap node, from the lock on its data directory to the clean end.

It holds an identity that persists (its address is in invites), stores and validates records of
its one network, and relays for peers that cannot be reached. It refuses a data directory that
belongs to another network. Other bootstrap nodes named in the invite are joined when they
answer; when they do not, it runs alone and goes on trying.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ares_p2p.datadir import DataDirLock
from ares_p2p.errors import InviteWrongNetwork, NodeDied
from ares_p2p.network.addresses import check_ports_free, listen_addresses
from ares_p2p.network.invite import MAX_ADDRESSES, Invite, resolve_invite

if TYPE_CHECKING:
    from ares_p2p.network.node import Node

IDENTITY_FILE = "identity.key"
NETWORK_FILE = "network"


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """What the command line says."""

    network: str
    data_dir: Path
    host: str
    port: int
    announce: tuple[str, ...] = ()
    health_port: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What a node that runs tells the outside."""

    name: str
    network_id: str
    peer_id: str
    addresses: tuple[str, ...]
    invite: str
    health_port: int | None
    pid: int

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return asdict(self)


def run_bootstrap(options: BootstrapOptions, *, on_started: Callable[[Started], None]) -> None:
    """Run until SIGTERM or SIGINT; call it on the main thread.

    Raises: InviteMalformed, InviteWrongNetwork, DataDirLocked, PortTaken, KeyFileTooOpen,
        KeyFileMalformed, ClockSkewed, NodeDied.
    """
    network = asyncio.run(resolve_invite(options.network))
    options.data_dir.mkdir(parents=True, exist_ok=True)
    with DataDirLock(options.data_dir):
        check_same_network(options.data_dir, network)
        listen = listen_addresses(options.host, options.port)
        check_ports_free(listen)
        if options.health_port is not None:
            check_ports_free([f"/ip4/127.0.0.1/tcp/{options.health_port}"])
        from ares_p2p.network.node import Node  # brings torch: only when all the rest is right

        node = Node.start(
            identity_path=options.data_dir / IDENTITY_FILE,
            network=network.network,
            host_addresses=listen,
            announce_addresses=options.announce,
            initial_peers=network.addresses,
            relay_service=True,
            role="bootstrap",
            need_peers=False,
        )
        try:
            asyncio.run(_serve(node, network, options, on_started))
        finally:
            node.shutdown()


def check_same_network(data_dir: Path, network: Invite) -> None:
    """Refuse a data directory that served another network, remember this one.

    Raises: InviteWrongNetwork.
    """
    path = data_dir / NETWORK_FILE
    known = path.read_text(encoding="ascii").strip() if path.is_file() else network.network_id
    if known != network.network_id:
        raise InviteWrongNetwork(f"{data_dir} belongs to network {known}, not {network.network_id}")
    path.write_text(network.network_id + "\n", encoding="ascii")


def public_addresses(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Return what belongs into an invite: no loopback address where there is a better one."""
    outside = [a for a in addresses if not _is_loopback(a)]
    return tuple(outside or addresses)[:MAX_ADDRESSES]


def _is_loopback(address: str) -> bool:
    with contextlib.suppress(ValueError, IndexError):
        return ipaddress.ip_address(address.split("/")[2]).is_loopback
    return False


async def _serve(
    node: Node,
    network: Invite,
    options: BootstrapOptions,
    on_started: Callable[[Started], None],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        await node.open()
        stack.push_async_callback(node.close)
        health_port = None
        if options.health_port is not None:
            from ares_bootstrap.health import start_health

            runner, health_port = await start_health(node, port=options.health_port)
            stack.push_async_callback(runner.cleanup)
        addresses = public_addresses(node.addresses)
        on_started(
            Started(
                name=network.name,
                network_id=network.network_id,
                peer_id=node.peer_id,
                addresses=addresses,
                invite=replace(network, addresses=addresses).encode(),
                health_port=health_port,
                pid=os.getpid(),
            )
        )
        await _until_stopped(node, stop)


async def _until_stopped(node: Node, stop: asyncio.Event) -> None:
    dying = asyncio.create_task(node.wait_for_death(), name="ares-death")
    stopping = asyncio.create_task(stop.wait(), name="ares-stop")
    try:
        await asyncio.wait({dying, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            raise NodeDied(dying.result(), hint="Start it again; its identity is kept.")
    finally:
        dying.cancel()
        stopping.cancel()
