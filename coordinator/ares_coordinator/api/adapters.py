"""The promoted adapters as downloads: for higher tiers at once, for everybody after a while.

A file may be fetched in ranges, so a broken download goes on where it was. Adapters that the
running cycle trains on travel between its peers by their own way as well; what a tier opens here
is the plain download.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from aiohttp import hdrs, web

from ares_coordinator.api.access import TIER, WORKER
from ares_coordinator.api.edge import json_list_reply
from ares_coordinator.api.schemas_base import Reply
from ares_coordinator.api.views import Views
from ares_coordinator.layout import DataLayout
from ares_coordinator.ledger.tiers import BENEFITS, LADDER, Tier
from ares_coordinator.store.rows import CycleRow
from ares_p2p.clock import Clock
from ares_p2p.errors import BadParameter, NotYetReleased, UnknownPath

MS_PER_H = 3_600_000
MAX_CYCLE_CHARS = 9
DOCUMENTS = (".json", ".md", ".safetensors")  # what a PEFT folder is made of


class AdapterFile(Reply):
    """One file of an adapter's folder."""

    name: str
    size_bytes: int
    sha256: str


class AdapterDownload(Reply):
    """One promoted adapter: `available_ms` says, tier by tier, from when on it may be fetched."""

    cycle: int
    version: str
    rank: int | None
    parameters: int | None
    promoted_ms: int
    public_ms: int
    available_ms: dict[str, int]
    available_to_you: bool
    files: list[AdapterFile]


@dataclass(frozen=True, slots=True)
class AdapterRoutes:
    """The downloads of one coordinator."""

    views: Views
    files: DataLayout
    clock: Clock
    public_release_h: float

    def routes(self) -> list[web.RouteDef]:
        """Return what to add to a router."""
        return [
            web.get("/adapters", self.index),
            web.get("/adapters/{cycle}/{name}", self.download),
        ]

    async def index(self, request: web.Request) -> web.Response:
        """Every promoted adapter, newest first, as a bare array."""
        db, tier = self.views.db, request[TIER]
        cycles = _promoted(await db.call(db.store.cycles))
        files = await asyncio.to_thread(lambda: [self._files(row.cycle) for row in cycles])
        return json_list_reply(
            request,
            [self._present(row, some, tier) for row, some in zip(cycles, files, strict=True)],
        )

    async def download(self, request: web.Request) -> web.StreamResponse:
        """One file of one adapter; ranges are served.

        Raises: BadParameter. UnknownPath: no such adapter or file. NotYetReleased.
        """
        number, name = _cycle_number(request), request.match_info["name"]
        db = self.views.db
        found = [row for row in _promoted(await db.call(db.store.cycles)) if row.cycle == number]
        if not found or name not in {path.name for path in self._paths(number)}:
            raise UnknownPath(f"cycle {number} has no promoted adapter with a file {name[:60]!r}")
        self._check_released(found[0], request)
        response = web.FileResponse(self.files.adapter(number) / name)
        response.headers[hdrs.CACHE_CONTROL] = "private, no-cache"
        return response

    def _check_released(self, row: CycleRow, request: web.Request) -> None:
        tier, now_ms = request[TIER], self.clock.now_ms()
        wait_ms = self._available_ms(row, tier) - now_ms
        if wait_ms <= 0:
            return
        who = "without a signature" if WORKER not in request else f"for the tier {tier}"
        raise NotYetReleased(
            f"the adapter of cycle {row.cycle} is not released {who} for another "
            f"{wait_ms / MS_PER_H:.1f} hours",
            hint="Wait, or sign the request: `ares-peer adapters` does; higher tiers wait less.",
        )

    def _available_ms(self, row: CycleRow, tier: Tier) -> int:
        share = BENEFITS[tier].release_share
        return row.updated_ms + int(self.public_release_h * MS_PER_H * share)

    def _paths(self, cycle: int) -> list[Path]:
        folder = self.files.adapter(cycle)
        if not folder.is_dir():
            return []
        return [
            path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in DOCUMENTS
        ]

    def _files(self, cycle: int) -> list[AdapterFile]:
        found = []
        for path in self._paths(cycle):
            stat = path.stat()
            digest = _sha256_of(path, stat.st_size, stat.st_mtime_ns)
            found.append(AdapterFile(name=path.name, size_bytes=stat.st_size, sha256=digest))
        return found

    def _present(self, row: CycleRow, files: list[AdapterFile], tier: Tier) -> AdapterDownload:
        available = {str(one): self._available_ms(row, one) for one in LADDER}
        return AdapterDownload(
            cycle=row.cycle,
            version=f"ares-v{row.version}",
            rank=row.rank,
            parameters=row.adapter_parameters,
            promoted_ms=row.updated_ms,
            public_ms=available[str(LADDER[0])],
            available_ms=available,
            available_to_you=available[str(tier)] <= self.clock.now_ms(),
            files=files,
        )


@lru_cache(maxsize=256)
def _sha256_of(path: Path, _size_bytes: int, _mtime_ns: int) -> str:
    """Return a file's digest in hex, computed once while it does not change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _promoted(cycles: Sequence[CycleRow]) -> Sequence[CycleRow]:
    return [row for row in reversed(cycles) if row.promoted]


def _cycle_number(request: web.Request) -> int:
    text = request.match_info["cycle"]
    if len(text) <= MAX_CYCLE_CHARS and text.isascii() and text.isdigit():
        return int(text)
    raise BadParameter(f"a cycle's number expected, {text[:20]!r} came")
