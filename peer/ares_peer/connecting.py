"""How a trainer comes into the network: its node, where there is one, and the ways on top.

The node starts before there is an event loop (it forks). Where HTTPS is possible, a node that finds
no bootstrap peer is no reason to stop: it goes on trying beside, and is used once it gets through.
A node that died cannot be started again in this process, because torch has its threads by then:
after a while the trainer ends between two rounds, and its next start makes a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from ares_p2p.clock import Clock
from ares_p2p.crypto.keys import Identity
from ares_p2p.errors import AresError, ConfigFault, NetworkFault, NodeDied
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.http_api import check_api_url
from ares_p2p.network.invite import Invite
from ares_p2p.network.records_watch import WatchedRecords
from ares_peer.events import ErrorRaised, Event, WayChanged
from ares_peer.links import Links
from ares_peer.settings import IDENTITY_FILE, TrainerSettings, remembered_api
from ares_peer.switched import SwitchingBlobs, SwitchingControl, SwitchingRecords
from ares_peer.switching import HttpServices, Services, Ways

if TYPE_CHECKING:
    from ares_p2p.network.http_client import ApiClient
    from ares_p2p.network.node import Node

RENEW_S = 1_800.0  # without a node; then a new start, between two rounds

log = structlog.get_logger(__name__)


def find_api(settings: TrainerSettings, invite: Invite) -> str:
    """Return the address of the coordinator's API: as the person, the network or the invite says.

    Raises: ConfigFault: the person names none that may be used, or wants this way alone, and
        nobody has named any.
    """
    if settings.api_url:
        return check_api_url(settings.api_url)
    for url in (remembered_api(settings.data_dir), invite.api_url):
        with contextlib.suppress(ConfigFault):  # an operator's mistake leaves P2P as it is
            return check_api_url(url)
    if settings.way == "http":
        raise ConfigFault(
            "the invite does not say where the coordinator's API is",
            hint="ares-peer join --way http --api-url https://...",
        )
    return ""


def start_node(
    settings: TrainerSettings, invite: Invite, *, api_url: str, emit: Callable[[Event], None]
) -> Node | None:
    """Start the node of this process; None where HTTPS has to do, and can.

    Args:
        emit: told why there is no node: the person can often mend it.

    Raises: as `Node.start`.
    """
    is_optional = settings.way == "auto" and bool(api_url)
    if settings.way == "http" or (is_optional and not invite.addresses):
        return None
    from ares_p2p.network.node import Node

    try:
        return Node.start(
            identity_path=settings.data_dir / IDENTITY_FILE,
            network=invite.network,
            host_addresses=(f"/ip4/{settings.host}/tcp/{settings.port}",),
            announce_addresses=settings.announce,
            initial_peers=invite.addresses,
            client_mode=settings.client_mode,
            role="peer",
            need_peers=not is_optional,
        )
    except NetworkFault as fault:
        if not is_optional:
            raise
        log.warning("no_node", code=fault.code, why=fault.message)
        emit(ErrorRaised(fault.code, fault.message, fault.hint))
        return None


@dataclass(frozen=True, slots=True)
class Connection:
    """The ways of one trainer, open."""

    ways: Ways
    links: Links
    node: Node | None
    api: ApiClient | None
    _blobs: SwitchingBlobs
    _keeping: tuple[asyncio.Task[None], ...]

    async def close(self) -> None:
        """Let go of everything; the node last."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await self._blobs.close()
        if self.ways.http is not None:
            await self.ways.http.blobs.close()
        if self.api is not None:
            await self.api.close()
        if self.node is not None:
            with contextlib.suppress(AresError, OSError):  # of a node that died: the cause counts
                await self.node.close()

    async def wait_for_renewal(self) -> str:
        """Return why a new start is due, a while after the node was lost; or never."""
        if self.node is None:
            why = "the node could not start"
        else:
            why = await self.node.wait_for_death()
        await asyncio.sleep(RENEW_S)
        return why


async def connect(
    settings: TrainerSettings,
    *,
    node: Node | None,
    identity: Identity,
    invite: Invite,
    api_url: str,
    clock: Clock,
    emit: Callable[[Event], None],
) -> Connection:
    """Open the node and the way over HTTPS, and find which of them works.

    Raises: NodeDied: there is no other way.
    """
    store = BlobStore(settings.data_dir / "blobs")
    p2p = await _p2p_services(node, store, is_optional=bool(api_url) and settings.way == "auto")
    http, api = _http_services(settings, api_url, identity, invite, clock, store)
    ways = Ways(
        p2p=p2p,
        http=http,
        coordinator=invite.coordinator,
        clock=clock,
        on_way=lambda way, why: emit(WayChanged(way.value, why)),
        addresses=None if node is None else node.visible_addresses,
        is_hidden=settings.client_mode,
    )
    blobs, control = SwitchingBlobs(ways), SwitchingControl(ways)
    records = WatchedRecords(
        SwitchingRecords(ways),
        lambda wishes, wait_s: control.watch(wishes, to=invite.coordinator, wait_s=wait_s),
        network_id=invite.network_id,
        clock=clock,
    )
    links = Links(
        identity=identity,
        network_id=invite.network_id,
        coordinator=invite.coordinator,
        records=records,
        blobs=blobs,
        control=control,
        clock=clock,
        way=lambda: ways.way.value,
        rest=records.rest,
    )
    await ways.begin()
    keeping = (
        asyncio.create_task(ways.keep(), name="ares-ways"),
        asyncio.create_task(records.keep(), name="ares-news"),
    )
    return Connection(ways, links, node, api, blobs, keeping)


async def _p2p_services(
    node: Node | None, store: BlobStore, *, is_optional: bool
) -> Services | None:
    if node is None:
        return None
    try:
        await node.open(store)
    except NodeDied as death:
        if not is_optional:
            raise
        log.warning("no_node", code=death.code, why=death.message)
        return None
    return Services(node.records, node.control, node.blobs)


def _http_services(
    settings: TrainerSettings,
    api_url: str,
    identity: Identity,
    invite: Invite,
    clock: Clock,
    store: BlobStore,
) -> tuple[HttpServices | None, ApiClient | None]:
    if not api_url or settings.way == "p2p":
        return None, None
    from ares_p2p.network.http_blobs import HttpBlobs
    from ares_p2p.network.http_client import ApiClient
    from ares_p2p.network.http_control import HttpControl
    from ares_p2p.network.http_records import HttpRecords

    api = ApiClient(api_url, identity=identity, network=invite.network, clock=clock)
    return HttpServices(HttpRecords(api), HttpControl(api), HttpBlobs(api, store)), api
