"""Waiting at the coordinator for what it signs next: what is asked, and what is answered.

A peer names keys of the coordinator's records and what it has of each, and gets what differs: at
once, or as soon as there is something, or nothing at the end of the wait. A record comes as it
lies in the DHT, signed and leased, and is verified in the same way; a large one is only named,
and read from the DHT, so that what the coordinator sends stays small messages. The DHT remains the
place where every record lies. Pure; source: ADR 0010.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ares_p2p.errors import NetworkFault, Oversize, PayloadMalformed, PeerFault
from ares_p2p.ids import DIGEST_BYTES, Digest, PeerId
from ares_p2p.network.record_keys import MAX_RECORD_BYTES
from ares_p2p.network.remote_errors import error_of_code
from ares_p2p.wire.v1 import ares_pb2 as pb

WAIT_S = 20.0  # of one call: a renewal costs about a kilobyte, and proxies give up after 60 s
GRACE_S = 8.0  # on top, before a call counts as lost
MAX_WAIT_S = 30.0
MAX_WISHES = 64  # of one call: about 60 bytes each
MAX_KEY_CHARS = 160
INLINE_BYTES = 4096  # of a value: every peer is sent it; larger ones come from the DHT
NOTHING: Digest = b""


@dataclass(frozen=True, slots=True)
class Wish:
    """A key, and the payload's digest that the asker has; `NOTHING`: none."""

    key: str
    known_sha256: Digest = NOTHING


@dataclass(frozen=True, slots=True)
class News:
    """What lies under a key; an empty value: in the DHT only."""

    key: str
    payload_sha256: Digest
    value: bytes = b""
    expiration_s: float = 0.0


WatchHandler = Callable[[Sequence[Wish], float, PeerId], Awaitable[Sequence[News]]]


def check_wishes(wishes: Sequence[Wish]) -> None:
    """Refuse a question out of bounds.

    Raises: PayloadMalformed.
    """
    if not 0 < len(wishes) <= MAX_WISHES:
        raise PayloadMalformed(f"{len(wishes)} keys, 1 to {MAX_WISHES} expected")
    for wish in wishes:
        if len(wish.key) > MAX_KEY_CHARS or len(wish.known_sha256) not in (0, DIGEST_BYTES):
            raise PayloadMalformed("a key, and the sha256 of a payload or nothing expected")


def check_news(news: Sequence[News], wishes: Sequence[Wish]) -> None:
    """Refuse an answer to something else, or out of bounds; what it says is verified later.

    Raises: PayloadMalformed, Oversize.
    """
    asked = {wish.key for wish in wishes}
    if len(news) > len(asked) or any(item.key not in asked for item in news):
        raise PayloadMalformed("the answer holds a key that was not asked for")
    for item in news:
        if len(item.payload_sha256) != DIGEST_BYTES:
            raise PayloadMalformed("the answer holds no sha256 of a payload")
        if len(item.value) > MAX_RECORD_BYTES:
            raise Oversize(f"a record of {len(item.value)} bytes, at most {MAX_RECORD_BYTES}")


def build_request(wishes: Sequence[Wish], wait_s: float) -> pb.WatchRequest:
    """Return the question as a message."""
    rows = [pb.RecordWish(key=wish.key, known_sha256=wish.known_sha256) for wish in wishes]
    return pb.WatchRequest(wishes=rows, wait_ms=round(1000 * wait_s))


async def answer_watch(
    handler: WatchHandler | None, request: pb.WatchRequest, remote: PeerId
) -> pb.WatchReply:
    """Return the reply to a question; only coded faults leave this node."""
    try:
        if handler is None:
            raise PayloadMalformed("this node signs no records")
        if len(request.wishes) > MAX_WISHES:
            raise PayloadMalformed(f"{len(request.wishes)} keys, at most {MAX_WISHES} expected")
        wishes = [Wish(row.key, row.known_sha256) for row in request.wishes]
        news = await handler(wishes, request.wait_ms / 1000, remote)
    except (PeerFault, NetworkFault) as error:
        return pb.WatchReply(code=error.code, message=error.message)
    rows = [
        pb.RecordNews(
            key=item.key,
            payload_sha256=item.payload_sha256,
            value=item.value,
            expiration_s=item.expiration_s,
        )
        for item in news
    ]
    return pb.WatchReply(news=rows)


def read_watch_reply(reply: pb.WatchReply, wishes: Sequence[Wish]) -> list[News]:
    """Return the news in a reply.

    Raises: what the reply names; PayloadMalformed, Oversize.
    """
    if reply.code:
        raise error_of_code(reply.code, reply.message)
    news = [News(row.key, row.payload_sha256, row.value, row.expiration_s) for row in reply.news]
    check_news(news, wishes)
    return news
