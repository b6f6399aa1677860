"""Messages to the coordinator over HTTPS: the same envelopes, the same acknowledgements.

Who sends is authenticated by the request's signature, as libp2p does it on the other way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ares_p2p.crypto.envelope import Envelope, check_envelope
from ares_p2p.domain import AuditReport, Commit, Payload, PeerStatus
from ares_p2p.errors import PayloadMalformed, RpcTimeout
from ares_p2p.ids import PeerId
from ares_p2p.network.control import SUBMIT_TIMEOUT_S, SubmitHandler
from ares_p2p.network.http_api import (
    MAX_MESSAGE_BYTES,
    MAX_RECORDS_REPLY_BYTES,
    decode_bytes,
    encode_bytes,
    read_news,
)
from ares_p2p.network.http_client import ApiClient
from ares_p2p.network.watching import GRACE_S, News, WatchHandler, Wish
from ares_p2p.wire.codec import MAX_ENVELOPE_BYTES, class_of, decode_envelope, encode_envelope

TIME_TIMEOUT_S = 5.0
PATHS: dict[type[Payload], str] = {
    PeerStatus: "/register",
    Commit: "/training/gradient",
    AuditReport: "/audits/report",
}


class HttpControl:
    """`Control` of one peer behind HTTPS. Nobody can reach it: it answers nothing."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def on_submit(self, handler: SubmitHandler | None) -> None:
        """See `Control.on_submit`: nothing ever comes this way."""

    def on_watch(self, handler: WatchHandler | None) -> None:
        """See `Control.on_watch`: nothing ever comes this way."""

    async def watch(self, wishes: Sequence[Wish], *, to: PeerId, wait_s: float) -> list[News]:
        """See `Control.watch`."""
        self._check_coordinator(to)
        query = [("key", wish.key) for wish in wishes]
        query += [("known", wish.known_sha256.hex()) for wish in wishes]
        body = await self._api.get_json(
            "/watch",
            [*query, ("wait", str(round(wait_s)))],
            max_bytes=MAX_RECORDS_REPLY_BYTES,
            timeout_s=wait_s + GRACE_S,
            is_repeated=False,
        )
        return read_news(body, wishes)

    def _check_coordinator(self, peer: PeerId) -> None:
        if peer != self._api.coordinator:
            raise RpcTimeout(f"{peer} cannot be reached over HTTPS, only the coordinator can")

    async def submit(
        self, envelope: Envelope, *, to: PeerId, timeout_s: float = SUBMIT_TIMEOUT_S
    ) -> Envelope:
        """See `Control.submit`."""
        self._check_coordinator(to)
        cls = class_of(envelope)
        path = PATHS.get(cls)
        if path is None:
            raise PayloadMalformed(f"a {cls.__name__} is nothing that peers submit")
        body = json.dumps({"envelope": encode_bytes(encode_envelope(envelope))}).encode()
        if len(body) > MAX_MESSAGE_BYTES:
            raise PayloadMalformed(f"{len(body)} bytes of message, at most {MAX_MESSAGE_BYTES}")
        answer = await self._api.post(path, body, timeout_s=timeout_s)
        ack = decode_envelope(decode_bytes(answer.get("ack"), max_bytes=MAX_ENVELOPE_BYTES))
        check_envelope(ack, signer=to)
        return ack

    async def time_of(self, peer: PeerId) -> int:
        """See `Control.time_of`."""
        self._check_coordinator(peer)
        return await self._api.time_ms(timeout_s=TIME_TIMEOUT_S)
