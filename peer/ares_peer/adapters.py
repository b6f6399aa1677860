"""Fetches what the network has trained: the promoted adapters, as PEFT folders.

The request is signed with the peer's identity, so that the tier it earned opens what is not
public yet. A download that was broken off goes on where it was; a file counts only when its
sha256 fits, and the folder appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from ares_p2p.clock import Clock
from ares_p2p.crypto.keys import Identity
from ares_p2p.crypto.requests import sign_request
from ares_p2p.errors import (
    BlobUnavailable,
    ConfigFault,
    CoordinatorAway,
    HashMismatch,
    PayloadMalformed,
)
from ares_p2p.network.remote_errors import error_of_code

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
MAX_LIST_BYTES = 4 * 1024**2
MAX_HINT_CHARS = 300
CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
Progress = Callable[[str, int, int], None]  # file, bytes so far, bytes in all


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of an adapter."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RemoteAdapter:
    """One promoted adapter, as the API describes it."""

    cycle: int
    version: str
    public_ms: int
    is_available: bool  # to us, now
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class AdapterShop:
    """The downloads of one network, asked for as one peer.

    Attributes:
        api_url: as the network's descriptor names it, without `/api/ares`.
    """

    api_url: str
    network_id: str
    identity: Identity
    clock: Clock

    async def index(self) -> tuple[RemoteAdapter, ...]:
        """Return the promoted adapters, newest first.

        Raises: CoordinatorAway. PayloadMalformed: the answer is none of ours. PeerFault: refused.
        """
        async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
            with _network_faults(self.api_url):
                async with self._get(http, "/api/ares/adapters") as response:
                    await _check_status(response)
                    body = await response.content.read(MAX_LIST_BYTES)
        return _read_index(body)

    async def fetch(self, adapter: RemoteAdapter, folder: Path, *, progress: Progress) -> Path:
        """Return `folder/cycle-N` with every file of the adapter, verified.

        Raises: NotYetReleased. HashMismatch: a file is not what was announced. CoordinatorAway.
            ConfigFault: the folder cannot be written, or there is something else in its place.
        """
        target = folder / f"cycle-{adapter.cycle}"
        partial = folder / f".cycle-{adapter.cycle}.part"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
                for file in adapter.files:
                    if not _is_complete(target / file.name, file):
                        await self._fetch_file(http, adapter.cycle, file, partial, progress)
            target.mkdir(exist_ok=True)
            for path in sorted(partial.iterdir()):
                os.replace(path, target / path.name)
            partial.rmdir()
        except OSError as error:
            raise ConfigFault(f"cannot write to {folder}: {error.strerror}") from error
        return target

    async def _fetch_file(
        self,
        http: aiohttp.ClientSession,
        cycle: int,
        file: RemoteFile,
        partial: Path,
        progress: Progress,
    ) -> None:
        path = partial / file.name
        have = path.stat().st_size if path.exists() else 0
        if have > file.size_bytes:
            path.unlink()
            have = 0
        if have < file.size_bytes:
            where = f"/api/ares/adapters/{cycle}/{file.name}"
            with _network_faults(self.api_url):
                async with self._get(http, where, have=have) as response:
                    await _check_status(response)
                    mode = "ab" if response.status == 206 else "wb"
                    have = have if mode == "ab" else 0
                    with path.open(mode) as out:
                        async for data in response.content.iter_chunked(CHUNK_BYTES):
                            have += len(data)
                            if have > file.size_bytes:
                                break
                            out.write(data)
                            progress(file.name, have, file.size_bytes)
        if have < file.size_bytes:
            raise BlobUnavailable(
                f"{file.name} broke off after {have} of {file.size_bytes} bytes",
                hint="The same command goes on where it was.",
            )
        if not _is_complete(path, file):
            path.unlink()
            raise HashMismatch(f"{file.name} is not what the coordinator announced")

    def _get(
        self, http: aiohttp.ClientSession, path: str, *, have: int = 0
    ) -> Any:  # aiohttp's own context manager has no public name
        signed = sign_request(
            self.identity,
            network_id=self.network_id,
            method="GET",
            path=urlsplit(self.api_url).path.rstrip("/") + path,
            now_ms=self.clock.now_ms(),
        )
        headers = {"Authorization": signed}
        if have:
            headers["Range"] = f"bytes={have}-"
        return http.get(self.api_url.rstrip("/") + path, headers=headers)


def _is_complete(path: Path, file: RemoteFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest() == file.sha256


@contextmanager
def _network_faults(api_url: str) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CoordinatorAway(
            f"{api_url} does not answer: {str(error) or type(error).__name__}",
            hint="Try again later, or name the address with --api.",
        ) from error


async def _check_status(response: aiohttp.ClientResponse) -> None:
    """Raise the fault that a refusal names.

    Raises: the PeerFault or NetworkFault of the answer; PayloadMalformed: none of ours.
    """
    if response.status in (200, 206):
        return
    try:
        fault = (await response.json())["error"]
        code, message, hint = str(fault["code"]), str(fault["message"]), str(fault["hint"])
    except (aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
        raise PayloadMalformed(
            f"{response.url} answered {response.status}, and not as an ARES coordinator does"
        ) from error
    raised = error_of_code(code, message)
    if hint.isprintable():
        raised.hint = hint[:MAX_HINT_CHARS] or raised.hint
    raise raised


def _read_index(body: bytes) -> tuple[RemoteAdapter, ...]:
    try:
        return tuple(_read_adapter(item) for item in json.loads(body))
    except (ValueError, KeyError, TypeError) as error:
        raise PayloadMalformed(f"the list of adapters does not read: {error}") from error


def _read_adapter(item: dict[str, Any]) -> RemoteAdapter:
    files = tuple(
        RemoteFile(str(file["name"]), int(file["size_bytes"]), str(file["sha256"]))
        for file in item["files"]
    )
    for file in files:  # a name from outside becomes a path here
        if not _NAME.fullmatch(file.name) or not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"a file named {file.name[:60]!r}")
        if file.size_bytes < 0:
            raise ValueError(f"{file.name} of {file.size_bytes} bytes")
    return RemoteAdapter(
        int(item["cycle"]),
        str(item["version"])[:40],
        int(item["public_ms"]),
        bool(item["available_to_you"]),
        files,
    )
