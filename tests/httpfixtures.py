"""The HTTPS way for tests: a coordinator's API on a real port of loopback, and clients of peers.

The application, the gateway behind it and the clients are the product's own; what stands for the
rest of the coordinator (its DHT, its blobs, who answers submissions) the test brings.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

from api_samples import FakeViews, empty_views
from ares_coordinator.api.app import ApiSettings, create_root_app
from ares_coordinator.board import RecordBoard
from ares_coordinator.gateway import Gateway
from ares_coordinator.intake import Intake
from ares_coordinator.store.rows import CommitRow
from ares_p2p.clock import Clock, SystemClock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.crypto.requests import NO_BODY, content_digest, sign_request
from ares_p2p.domain import Commit
from ares_p2p.errors import UnknownRound
from ares_p2p.ids import Digest, PeerId, blob_id_of, sha256
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.blobs_memory import InMemoryBlobNetwork, InMemoryBlobs
from ares_p2p.network.control import SubmitHandler
from ares_p2p.network.http_api import PREFIX as SWARM
from ares_p2p.network.http_blobs import HttpBlobs
from ares_p2p.network.http_client import ApiClient
from ares_p2p.network.records_memory import InMemoryNetwork
from ares_p2p.wire.codec import encode_envelope, seal
from netfixtures import COORDINATOR, MALLORY, NETWORK, payload
from store_samples import NOW, begin, open_round

__all__ = [
    "SWARM",
    "Raw",
    "Site",
    "blobs_of",
    "commit_of",
    "fetched",
    "http_site",
    "open_with_commits",
]


@dataclass
class Site:
    """A coordinator that is reachable over HTTP."""

    url: str
    views: FakeViews
    blobs: Blobs
    intake: Intake
    records: InMemoryNetwork
    clock: Clock
    board: RecordBoard
    handler: SubmitHandler | None = None
    apis: list[ApiClient] = field(default_factory=list)

    async def submit(self, envelope: Envelope, remote: PeerId) -> Envelope:
        """Stand in for the engine."""
        if self.handler is None:
            raise UnknownRound("this node takes no submissions")
        return await self.handler(envelope, remote)

    def api(self, who: Identity, **changes: Any) -> ApiClient:
        """Return a peer's client; closed with the site."""
        arguments = {"identity": who, "network": NETWORK, "clock": self.clock} | changes
        made = ApiClient(arguments.pop("url", self.url), **arguments)
        self.apis.append(made)
        return made


@asynccontextmanager
async def http_site(
    folder: Path, *, clock: Clock | None = None, limited: bool = False, fresh_s: float = 0.0
) -> AsyncIterator[Site]:
    """Serve an API over the empty books of a coordinator."""
    clock = clock or SystemClock()
    folder.mkdir(parents=True, exist_ok=True)
    views = await empty_views(folder)
    blobs = InMemoryBlobs(
        InMemoryBlobNetwork(), peer_id=COORDINATOR.peer_id, store=BlobStore(folder / "blobs")
    )
    intake = Intake(views.db, BlobStore(folder / "staging"), blobs.store)
    records = InMemoryNetwork(NETWORK, clock=clock)
    board = RecordBoard(identity=COORDINATOR, network=NETWORK, transport=records, clock=clock)
    site = Site("", views, blobs, intake, records, clock, board)
    gateway = Gateway(
        network=NETWORK,
        submit=site.submit,
        records=site.records,
        board=board,
        blobs=blobs,
        intake=intake,
        clock=clock,
        fresh_s=fresh_s,
    )
    settings = ApiSettings(network_id=NETWORK.network_id, limited=limited, swarm=gateway)
    app = create_root_app(views=views, settings=settings, clock=clock)
    async with TestServer(app) as server:
        site.url = str(server.make_url("")).rstrip("/")
        try:
            yield site
        finally:
            for api in site.apis:
                await api.close()
    await views.db.close()


# --- contributions, and requests by hand --------------------------------------------------------


def commit_of(who: Identity, blob: bytes, *, cycle: int = 1, number: int = 0) -> CommitRow:
    """Return a commit to a blob."""
    made = dataclasses.replace(
        payload(Commit, cycle=cycle, round=number),
        blob_id=blob_id_of(blob),
        blob_size_bytes=len(blob),
    )
    envelope = seal(who, made)
    return CommitRow(
        envelope.payload_sha256, cycle, number, who.peer_id, encode_envelope(envelope), NOW
    )


async def open_with_commits(site: Site, *commits: CommitRow) -> None:
    """Begin a cycle whose first round is open, and enter commits."""
    store, db = site.views.db.store, site.views.db

    def fill() -> None:
        begin(store)
        open_round(store, 1, 0)
        for one in commits:
            store.add_commit(one)

    await db.call(fill)


def blobs_of(site: Site, who: Identity, folder: Path, *held: bytes) -> HttpBlobs:
    """Return the blobs of a peer behind HTTP, with some that it holds."""
    store = BlobStore(folder / who.peer_id[-8:])
    for data in held:
        store.put(data)
    return HttpBlobs(site.api(who), store)


async def fetched(site: Site, who: Identity, folder: Path, blob_id: Digest) -> bytes:
    """Return what a peer behind HTTP fetches."""
    blobs = blobs_of(site, who, folder)
    path = await blobs.fetch(blob_id, sources=[COORDINATOR.peer_id], max_bytes=10**8, timeout_s=20)
    return path.read_bytes()


class Raw:
    """Requests as an attacker makes them: any header, any body."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.session = aiohttp.ClientSession()

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        who: Identity | None = MALLORY,
        signed_path: str = "",
        signed_body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str, dict[str, str]]:
        """Return status, error code and headers of the answer."""
        sent = dict(headers or {})
        if who is not None:
            digest = NO_BODY
            if method != "GET":
                digest = sha256(body if signed_body is None else signed_body)
                sent.setdefault("Content-Digest", content_digest(digest))
            sent["Authorization"] = sign_request(
                who,
                network_id=NETWORK.network_id,
                method=method,
                path=SWARM + (signed_path or path),
                now_ms=self.site.clock.now_ms(),
                body_sha256=digest,
            )
        async with self.session.request(
            method, self.site.url + SWARM + path, data=body or None, headers=sent
        ) as response:
            text = await response.read()
            code = ""
            if response.status >= 400:
                code = json.loads(text)["error"]["code"]
            return response.status, code, dict(response.headers)
