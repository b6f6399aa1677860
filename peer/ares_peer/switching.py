"""The services of both ways, and the one that is in use: P2P, else HTTPS.

A call goes by the way of the moment. When the network process dies under it, it is made again over
HTTPS; when the coordinator does not answer, both ways are probed at once, and the caller tries
again by itself as it always does. A download that the way is taken from under goes on over the
other one, with what is here already. What a session gets is in `switched`; how it is decided, in
`ways`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from ares_p2p.clock import Clock
from ares_p2p.errors import AresError, CoordinatorAway, InternalFault, NodeDied, RpcTimeout
from ares_p2p.ids import PeerId
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.control import Control
from ares_p2p.network.http_blobs import HttpBlobs
from ares_p2p.network.records import Records
from ares_peer.ways import SUSPECT_PROBE_S, Probe, Way, WayChoice, is_relayed

T = TypeVar("T")

MIN_FETCH_S = 1.0
NODE_DIED = "the P2P node of this machine ended"
AWAY_BY_P2P = "the coordinator does not answer over P2P"

OnWay = Callable[[Way, str], None]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """Everything by one way."""

    records: Records
    control: Control
    blobs: Blobs


@dataclass(frozen=True, slots=True)
class HttpServices(Services):
    """Everything over HTTPS."""

    blobs: HttpBlobs


class Ways:
    """The ways of one peer, and the one of the moment. At least one of them must be there.

    Args:
        addresses: returns what the node announces now.
        is_hidden: the node listens nowhere: others come through a relay, or by lines it opened.
        on_way: told of every change, and why; also of the first way.
    """

    def __init__(
        self,
        *,
        p2p: Services | None,
        http: HttpServices | None,
        coordinator: PeerId,
        clock: Clock,
        on_way: OnWay,
        addresses: Callable[[], Awaitable[tuple[str, ...]]] | None = None,
        is_hidden: bool = False,
    ) -> None:
        if p2p is None and http is None:
            raise InternalFault("a peer without any way into the network")
        self.http = http
        self.clock = clock
        self._p2p = p2p
        self._coordinator = coordinator
        self._on_way = on_way
        self._addresses = addresses
        self._choice = WayChoice(is_http=p2p is None)
        self._is_hidden = self._is_relayed = is_hidden
        self._said: Way | None = None
        self._left = asyncio.Event()  # the way of the moment was left; then it is another event
        self._suspicion = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    @property
    def is_http(self) -> bool:
        """Whether the way of the moment is HTTPS."""
        return self._choice.is_http

    @property
    def way(self) -> Way:
        """The way of the moment."""
        if self.is_http:
            return Way.HTTP
        return Way.RELAY if self._is_relayed else Way.P2P

    @property
    def current(self) -> Services:
        """The services of the moment."""
        services = self.http if self.is_http else self._p2p
        assert services is not None
        return services

    @property
    def any_p2p(self) -> Services | None:
        """The services over P2P, whether or not they are the way of the moment."""
        return self._p2p

    def on_http(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever HTTPS becomes the way."""
        self._listeners.append(listener)

    # --- calls ---------------------------------------------------------------------------------

    async def call(self, act: Callable[[Services], Awaitable[T]]) -> T:
        """Return what `act` gives by the way of the moment.

        Raises: what `act` raises; NodeDied only where there is no other way.
        """
        try:
            return await act(self.current)
        except NodeDied as death:
            self._bury(death)
            return await act(self.current)
        except (CoordinatorAway, RpcTimeout):
            self._suspicion.set()
            raise

    async def fetch(self, act: Callable[[Blobs, float], Awaitable[T]], *, timeout_s: float) -> T:
        """Return what `act` fetches within a time; begin again when the way is left meanwhile.

        Raises: as `call`.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        return await self._until_left(
            lambda way: act(way.blobs, max(MIN_FETCH_S, end_s - loop.time()))
        )

    async def hold(self, act: Callable[[Services], Awaitable[T]]) -> T:
        """Return what a call gives that may wait long; begin again when the way is left.

        Raises: as `call`.
        """
        try:
            return await self._until_left(act)
        except (CoordinatorAway, RpcTimeout):
            self._suspicion.set()
            raise

    async def _until_left(self, act: Callable[[Services], Awaitable[T]]) -> T:
        while True:
            acting = asyncio.ensure_future(act(self.current))
            leaving = asyncio.create_task(self._left.wait())
            try:
                await asyncio.wait({acting, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if acting.done():
                    return acting.result()
            except NodeDied as death:
                self._bury(death)
            finally:
                for task in (acting, leaving):
                    task.cancel()
                await asyncio.gather(acting, leaving, return_exceptions=True)

    def _bury(self, death: NodeDied) -> None:
        """Do without the node from now on.

        Raises: NodeDied: there is no other way.
        """
        if self.http is None:
            raise death
        if self._p2p is not None:
            self._p2p = None
            log.warning("node_died", why=death.message)
        if not self.is_http:
            self._choice.leave(now_ms=self.clock.now_ms())
            self._changed(NODE_DIED)

    # --- the choice ----------------------------------------------------------------------------

    async def begin(self) -> None:
        """Find the way to start with: HTTPS where P2P does not answer and it does."""
        if self._p2p is None or self.http is None:
            await self.look()
            return
        probe = await self._probe()
        if not self.is_http and not probe.p2p and probe.http:
            self._choice.leave(now_ms=self.clock.now_ms())
            self._changed(AWAY_BY_P2P)
        else:
            self._say("")

    async def keep(self) -> None:
        """Watch both ways, until cancelled."""
        while True:
            await asyncio.sleep(SUSPECT_PROBE_S)  # at least, however many calls fail
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._choice.pause_s - SUSPECT_PROBE_S):
                    await self._suspicion.wait()
            self._suspicion.clear()
            await self.look()

    async def look(self) -> None:
        """Probe once, and decide."""
        if self._p2p is None or self.http is None:  # there is no choice
            await self._look_at_addresses()
            self._say("")
            return
        was_http, probe = self.is_http, await self._probe()
        if was_http is self.is_http and self._choice.hear(probe, now_ms=self.clock.now_ms()):
            self._changed(AWAY_BY_P2P if self.is_http else "P2P works again")
        else:
            self._say("")

    async def _probe(self) -> Probe:
        """Ask by each way that the choice depends on."""
        p2p = await self._answers(self._p2p)
        if p2p and not self.is_http:
            await self._look_at_addresses()
            return Probe(p2p=True, http=True)  # nobody needs to know
        return Probe(p2p=p2p, http=await self._answers(self.http))

    async def _answers(self, services: Services | None) -> bool:
        if services is None:
            return False
        try:
            await services.control.time_of(self._coordinator)
        except NodeDied as death:
            self._bury(death)
            return False
        except AresError:
            return False
        return True

    async def _look_at_addresses(self) -> None:
        if self._addresses is not None and self._p2p is not None:
            with contextlib.suppress(AresError):
                self._is_relayed = self._is_hidden or is_relayed(await self._addresses())

    def _changed(self, why: str) -> None:
        left, self._left = self._left, asyncio.Event()
        left.set()
        self._say(why)
        if self.is_http:
            for listener in self._listeners:
                listener()

    def _say(self, why: str) -> None:
        if self.way is not self._said:
            self._said = self.way
            log.info("way", way=self.way.value, why=why)
            self._on_way(self.way, why)
