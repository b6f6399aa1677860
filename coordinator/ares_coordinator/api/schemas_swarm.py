"""The replies and bodies of the HTTPS way. Envelopes and record values are base64.

Nothing in a reply has to be believed: acknowledgements and records are signed, blobs are hashed.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ares_coordinator.api.schemas_base import Reply
from ares_p2p.network.http_api import MAX_MESSAGE_BYTES, MAX_STORE_BYTES
from ares_p2p.network.watching import MAX_KEY_CHARS


class Body(BaseModel):
    """Base of what is sent here."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class MessageBody(Body):
    """A signed message: a PeerStatus, a Commit or an AuditReport."""

    envelope: str = Field(max_length=MAX_MESSAGE_BYTES)


class RecordBody(Body):
    """A value for the DHT, with its lease. The subkey is the sender's own peer id."""

    key: str = Field(max_length=MAX_KEY_CHARS)
    subkey: str | None = Field(default=None, max_length=MAX_KEY_CHARS)
    value: str = Field(max_length=MAX_STORE_BYTES)
    expiration_s: float = Field(ge=0, allow_inf_nan=False)


class TimeReply(Reply):
    """The coordinator's clock, and which network it runs."""

    now_ms: int
    network_id: str
    coordinator: str


class AckReply(Reply):
    """The coordinator's signed acknowledgement."""

    worker_id: str
    ack: str


class RecordRow(Reply):
    """One value of the DHT; a dictionary is a row per subkey."""

    key: str
    subkey: str | None
    value: str
    expiration_s: float


class RecordsReply(Reply):
    """What lies under the keys that were asked for; nothing: no row."""

    records: list[RecordRow]


class NewsRow(Reply):
    """What the coordinator signed under a key; an empty value: it is in the DHT only."""

    key: str
    payload_sha256: str
    value: str
    expiration_s: float


class NewsReply(Reply):
    """What differs from what the asker has; nothing: no news until the end of the wait."""

    news: list[NewsRow]


class StoredReply(Reply):
    """Whether the DHT took a value."""

    stored: bool


class UploadReply(Reply):
    """How far an upload is: `missing` holds the first runs of missing chunks, [first, end)."""

    complete: bool
    missing: list[tuple[int, int]]
