"""The composition root: the only place that wires the coordinator's objects together.

Order matters: the node first (it forks), then the event loop, the database's thread, the API and
the engine as tasks of one group. SIGINT and SIGTERM end the process cleanly; what was running goes
on at the next start.
"""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web

from ares_coordinator.api.app import ApiSettings
from ares_coordinator.audit.client import ComputeWorker
from ares_coordinator.board import RecordBoard
from ares_coordinator.engine.conductor import Conductor
from ares_coordinator.engine.runner import Engine
from ares_coordinator.engine.schedule import Missed
from ares_coordinator.gateway import Gateway
from ares_coordinator.herald import Herald
from ares_coordinator.intake import Intake
from ares_coordinator.layout import DataLayout
from ares_coordinator.operatorkey import OperatorKey, keep_operator_key
from ares_coordinator.settings import IDENTITY_FILE, CoordinatorSettings
from ares_coordinator.store.connect import database_target
from ares_coordinator.store.rows import MetaKey
from ares_coordinator.store.thread import StoreThread
from ares_coordinator.tierbook import rules_of
from ares_coordinator.views import LiveViews
from ares_coordinator.web.site import create_site
from ares_p2p import PROTOCOL_VERSION
from ares_p2p.averaging.allreduce import GroupMember
from ares_p2p.clock import SystemClock
from ares_p2p.crypto.keys import load_identity
from ares_p2p.datadir import DataDirLock
from ares_p2p.domain import NetworkDescriptor
from ares_p2p.errors import NodeDied, PortTaken
from ares_p2p.ids import PeerId
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.invite import MAX_ADDRESSES, Invite
from ares_p2p.network.node import Node
from ares_p2p.network.records_hivemind import HivemindTransport

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """What a caller may want to show once the coordinator runs."""

    invite: str
    api_url: str
    peer_id: PeerId


def run_coordinator(
    data_dir: Path,
    settings: CoordinatorSettings,
    *,
    cycles: int,
    exit_when_done: bool,
    on_started: Callable[[Started], None],
) -> None:
    """Run until told to stop or, with `exit_when_done`, until the cycles are done.

    Raises: AresError: what keeps it from running.
    """
    with DataDirLock(data_dir):
        identity = load_identity(data_dir / IDENTITY_FILE)
        node = Node.start(
            identity_path=data_dir / IDENTITY_FILE,
            network=Invite(settings.network.name, identity.peer_id).network,
            host_addresses=(f"/ip4/{settings.network.host}/tcp/{settings.network.port}",),
            announce_addresses=settings.network.announce,
            initial_peers=settings.network.bootstrap,
            role="coordinator",
            need_peers=bool(settings.network.bootstrap),
        )
        try:
            asyncio.run(
                _serve(
                    data_dir,
                    settings,
                    node,
                    cycles=cycles,
                    exit_when_done=exit_when_done,
                    on_started=on_started,
                )
            )
        finally:
            node.shutdown()


async def _serve(
    data_dir: Path,
    settings: CoordinatorSettings,
    node: Node,
    *,
    cycles: int,
    exit_when_done: bool,
    on_started: Callable[[Started], None],
) -> None:
    files, clock = DataLayout(data_dir), SystemClock()
    await node.open(files.blobs)
    db = await StoreThread.open(database_target(data_dir, settings.database.url))
    transport = HivemindTransport(node)
    board = RecordBoard(
        identity=node.identity, network=node.network, transport=transport, clock=clock
    )
    herald = Herald(node.identity, node.network.network_id, db, node.records, clock, board)
    worker = ComputeWorker(files.logs / "worker.log")
    engine = Engine(settings, files, db, herald, node.records, node.blobs, clock, worker)
    conductor = Conductor(
        engine, db, clock, settings.schedule.timezone, Missed(settings.schedule.missed)
    )
    await conductor.load()
    intake = Intake(db, BlobStore(files.staging), node.blobs.store)
    engine.intake = intake
    engine.seat_in = functools.partial(GroupMember, node.p2p)
    if settings.audit.mode == "off":
        strategy = settings.averaging.strategy
        log.warning("nothing_is_verified_nothing_is_paid", audit="off", averaging=strategy)
    gateway = Gateway(
        network=node.network,
        submit=engine.handle,
        records=transport,
        board=board,
        blobs=node.blobs,
        intake=intake,
        clock=clock,
    )
    addresses = (*settings.network.bootstrap, *node.addresses)[:MAX_ADDRESSES]
    invite = Invite(
        settings.network.name, node.peer_id, addresses, settings.network.api_url
    ).encode()
    views = LiveViews(
        settings=settings,
        db=db,
        engine=engine,
        conductor=conductor,
        node=node,
        clock=clock,
        invite=invite,
    )
    key = keep_operator_key(data_dir)
    runner = await _start_api(settings, views, gateway, conductor, key, files=files)
    host, port = runner.addresses[0][:2]
    keep_operator_key(data_dir, api=f"http://{host}:{port}")
    api_url = settings.network.api_url or f"http://{host}:{port}"
    try:
        node.control.on_submit(engine.handle)
        node.control.on_watch(board.watch)
        await _remember_network(db, settings, node)
        on_started(Started(invite, api_url, node.peer_id))
        await _describe_network(herald, db, settings, node, api_url=api_url)
        watching = asyncio.create_task(views.watch(), name="watch")
        try:
            await _until_stopped(conductor, node, cycles=cycles, exit_when_done=exit_when_done)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        await runner.cleanup()
        await engine.close()
        await node.close()
        await db.close()


async def _start_api(
    settings: CoordinatorSettings,
    views: LiveViews,
    gateway: Gateway,
    conductor: Conductor,
    key: OperatorKey,
    *,
    files: DataLayout,
) -> web.AppRunner:
    api = ApiSettings(
        network_id=gateway.network.network_id,
        tiers=rules_of(settings.credit),
        files=files,
        public_release_h=settings.credit.public_release_h,
        limited=settings.network.api_limits,
        proxies=settings.network.api_proxies,
        origins=settings.network.api_origins,
        swarm=gateway,
        controls=conductor,
        operator_token=key.token,
    )
    app = create_site(views=views, settings=api)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, settings.network.api_host, settings.network.api_port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise PortTaken(
            f"the API cannot listen on {settings.network.api_host}:{settings.network.api_port}: "
            f"{error.strerror}",
            hint="Set network.api_port in config.toml, or run with --set network.api_port=0.",
        ) from error
    return runner


async def _remember_network(db: StoreThread, settings: CoordinatorSettings, node: Node) -> None:
    for key, value in (
        (MetaKey.NETWORK_ID, node.network.network_id),
        (MetaKey.COORDINATOR, node.peer_id),
        (MetaKey.NETWORK_NAME, settings.network.name),
    ):
        await db.call(db.store.set_meta, key, value)


async def _describe_network(
    herald: Herald, db: StoreThread, settings: CoordinatorSettings, node: Node, *, api_url: str
) -> None:
    """Publish the network's descriptor: the first thing a newcomer reads."""
    record = herald.signed(
        NetworkDescriptor(
            header=await herald.header(NetworkDescriptor),
            name=settings.network.name,
            coordinator=node.peer_id,
            bootstrap_addresses=settings.network.bootstrap or node.addresses,
            protocol_min=PROTOCOL_VERSION,
            protocol_max=PROTOCOL_VERSION,
            api_url=api_url,
        )
    )
    await db.call(db.store.replace_record, record)
    await herald.publish(record)


async def _until_stopped(
    conductor: Conductor, node: Node, *, cycles: int, exit_when_done: bool
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    working = asyncio.create_task(
        conductor.run(cycles=cycles, exit_when_done=exit_when_done), name="engine"
    )
    stopping = asyncio.create_task(stop.wait(), name="stop")
    dying = asyncio.create_task(node.wait_for_death(), name="node")
    tasks = {working, stopping, dying}
    try:
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if dying in done:
                raise NodeDied(dying.result())
            if stopping in done:
                return
            if working in done:
                working.result()
                return
    finally:
        for task in (working, stopping, dying):
            task.cancel()
        await asyncio.gather(working, stopping, dying, return_exceptions=True)
