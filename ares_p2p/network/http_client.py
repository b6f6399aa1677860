"""Requests to a coordinator's API, signed as one peer: the ground of the HTTPS way.

Everything but the question for the time is signed. Every request has a timeout and every answer a
bound; a redirect is an error, because a signed request must not be led elsewhere; certificates are
verified as the system does. What asks again by itself are requests that change nothing, or nothing
the second time: after a broken connection, a 5xx or "too many requests", with growing pauses for as
long as its timeout allows. A refusal of the coordinator arrives as that very error; a server that
is no coordinator counts as away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from ares_p2p.clock import Clock
from ares_p2p.crypto.keys import Identity
from ares_p2p.crypto.requests import NO_BODY, content_digest, sign_request
from ares_p2p.errors import (
    AresError,
    CoordinatorAway,
    NetworkFault,
    Oversize,
    PayloadMalformed,
    PeerFault,
)
from ares_p2p.ids import PeerId, sha256
from ares_p2p.network.http_api import PREFIX, check_api_url, is_at_home
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.remote_errors import error_of_code

CALL_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 8.0
MAX_ERROR_BYTES = 16 * 1024
MAX_JSON_BYTES = 256 * 1024
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.4, 5.0  # between two tries, at most; half of it at least
LEAST_TIMEOUT_S = 1.0  # of the last try
CONNECTIONS = 8  # at a time, to the one host
Query = Sequence[tuple[str, str]]


class _TryAgain(Exception):
    """An attempt that came to nothing; another one may not."""

    def __init__(self, fault: AresError, *, pause_s: float = 0.0) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.pause_s = pause_s  # what the server asks for


class ApiClient:
    """One peer's requests to one coordinator. Made anywhere, used on one event loop.

    Args:
        api_url: what stands before `/api/ares`.
    Raises: ConfigFault: no address that may be used.
    """

    def __init__(
        self, api_url: str, *, identity: Identity, network: NetworkRef, clock: Clock
    ) -> None:
        self.api_url = check_api_url(api_url)
        self.identity = identity
        self.network = network
        self.clock = clock
        parts = urlsplit(self.api_url)
        self._path = parts.path
        self._at_home = is_at_home(parts.hostname or "")
        self._session: aiohttp.ClientSession | None = None

    @property
    def coordinator(self) -> PeerId:
        """Who is expected behind the address."""
        return self.network.coordinator

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                auto_decompress=False,  # a small answer may not become a large one
                headers={"Accept-Encoding": "identity"},
                trust_env=not self._at_home,  # closed networks have proxies
            )
        return self._session

    async def close(self) -> None:
        """Let go of the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # --- requests ------------------------------------------------------------------------------

    async def get_json(
        self,
        path: str,
        query: Query = (),
        *,
        max_bytes: int = MAX_JSON_BYTES,
        timeout_s: float = CALL_TIMEOUT_S,
        is_repeated: bool = True,
    ) -> bytes:
        """Return the body of a GET, tried again while there is time.

        Args:
            is_repeated: False: one try, for whoever has something better to do than to wait.
        Raises: what the coordinator answers with. CoordinatorAway. Oversize.
        """
        if is_repeated:
            return await self._repeated("GET", path, query, b"", max_bytes, timeout_s)
        try:
            return await self._once("GET", path, query, b"", max_bytes, timeout_s)
        except _TryAgain as failed:
            raise failed.fault from failed

    async def put(
        self, path: str, body: bytes, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> dict[str, Any]:
        """Send what may arrive twice; return the answer.

        Raises: as `get_json`. PayloadMalformed: the answer is none.
        """
        return _object(await self._repeated("PUT", path, (), body, MAX_JSON_BYTES, timeout_s))

    async def post(self, path: str, body: bytes, *, timeout_s: float) -> dict[str, Any]:
        """Send once; return the answer.

        Raises: as `put`.
        """
        try:
            return _object(await self._once("POST", path, (), body, MAX_JSON_BYTES, timeout_s))
        except _TryAgain as failed:
            raise failed.fault from failed

    async def stream(
        self, path: str, *, headers: Mapping[str, str], wanted: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield the body of a GET in pieces; the caller sees to it that they keep coming.

        Args:
            wanted: the status that is expected.
        Raises: as `get_json`, at once.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with self._answer("GET", path, (), b"", timeout, headers) as response:
                if response.status != wanted:
                    raise PayloadMalformed(f"status {response.status}, {wanted} expected")
                async for piece in response.content.iter_any():
                    yield piece
        except _TryAgain as failed:
            raise failed.fault from failed

    async def _repeated(
        self, method: str, path: str, query: Query, body: bytes, max_bytes: int, timeout_s: float
    ) -> bytes:
        loop = asyncio.get_running_loop()
        end_s, pause_s = loop.time() + timeout_s, FIRST_PAUSE_S
        while True:
            left_s = max(LEAST_TIMEOUT_S, end_s - loop.time())
            try:
                return await self._once(method, path, query, body, max_bytes, left_s)
            except _TryAgain as failed:
                wait_s = max(failed.pause_s, pause_s * random.uniform(0.5, 1.0))
                if loop.time() + wait_s >= end_s:
                    raise failed.fault from failed
            await asyncio.sleep(wait_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    async def _once(
        self,
        method: str,
        path: str,
        query: Query,
        body: bytes,
        max_bytes: int,
        timeout_s: float,
        *,
        is_signed: bool = True,
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(
            total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s)
        )
        async with self._answer(
            method, path, query, body, timeout, {}, is_signed=is_signed
        ) as response:
            return await _bounded(response, max_bytes)

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        query: Query,
        body: bytes,
        limits: aiohttp.ClientTimeout,
        headers: Mapping[str, str],
        *,
        is_signed: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request; yield its answer when that is a good one.

        Raises: _TryAgain: none came, or a passing one. What a refusal names.
        """
        sent = f"{PREFIX}{path}" + (f"?{urlencode(query, safe='/')}" if query else "")
        digest = sha256(body) if method != "GET" else NO_BODY
        sent_headers = dict(headers)
        if is_signed:
            sent_headers["Authorization"] = sign_request(
                self.identity,
                network_id=self.network.network_id,
                method=method,
                path=f"{self._path}{sent}",
                now_ms=self.clock.now_ms(),
                body_sha256=digest,
            )
        if digest:
            sent_headers["Content-Digest"] = content_digest(digest)
            sent_headers["Content-Type"] = "application/octet-stream"
        try:
            async with self._opened().request(
                method,
                f"{self.api_url}{sent}",
                data=body if digest else None,
                headers=sent_headers,
                timeout=limits,
                allow_redirects=False,
            ) as response:
                if response.status not in (200, 206):
                    raise await self._refusal(response)
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = "it took too long" if isinstance(error, TimeoutError) else type(error).__name__
            raise _TryAgain(CoordinatorAway(f"{self.api_url} does not answer: {why}")) from error

    async def _refusal(self, response: aiohttp.ClientResponse) -> Exception:
        """Return what an answer that is no good one means."""
        status, wait = response.status, response.headers.get("Retry-After", "")
        where = f"{self.api_url} answers {status}"
        if 300 <= status < 400:
            return CoordinatorAway(f"{where}: it leads elsewhere, where no peer follows")
        try:
            said = json.loads(await _bounded(response, MAX_ERROR_BYTES))["error"]
            fault = error_of_code(str(said["code"]), str(said["message"]))
        except (ValueError, KeyError, TypeError, RecursionError, AresError):
            fault = CoordinatorAway(f"{where}, and not as an ARES coordinator does")
            return _TryAgain(fault) if status >= 500 or status == 429 else fault
        if status == 429 and wait.isascii() and wait.isdigit():
            pause_s = min(float(wait), LONGEST_PAUSE_S)
            return _TryAgain(CoordinatorAway(f"{where}: {fault.message}"), pause_s=pause_s)
        if status >= 500 and not isinstance(fault, NetworkFault):
            fault = CoordinatorAway(f"{where}: {fault.message}")
        return _TryAgain(fault) if status >= 500 else fault

    # --- who is there --------------------------------------------------------------------------

    async def time_ms(self, *, timeout_s: float) -> int:
        """Return the coordinator's wall time, after making sure that it runs this network.

        Raises: CoordinatorAway: nobody answers, or another network's coordinator does.
        """
        try:
            body = await self._once(
                "GET", "/time", (), b"", MAX_ERROR_BYTES, timeout_s, is_signed=False
            )
            answer = _object(body)
            now_ms, network_id = float(answer["now_ms"]), answer["network_id"]
        except _TryAgain as failed:
            raise failed.fault from failed
        except (PeerFault, KeyError, TypeError, ValueError) as error:
            raise CoordinatorAway(f"{self.api_url} is no coordinator's API") from error
        if network_id != self.network.network_id:
            raise CoordinatorAway(f"at {self.api_url} is another network's coordinator")
        if not math.isfinite(now_ms):
            raise CoordinatorAway(f"{self.api_url} tells no time")
        return int(now_ms)


async def _bounded(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > max_bytes:
            raise Oversize(f"an answer of more than {max_bytes:,} bytes")
    return bytes(data)


def _object(body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        answer = json.loads(body)
        if isinstance(answer, dict):
            return answer
    raise PayloadMalformed("the coordinator's answer is no JSON object")
