"""Records over HTTPS: the coordinator looks into the DHT for a peer whose P2P does not get there.

The values come with their leases and are verified here as if the DHT had brought them. A peer
behind this way writes its own subkeys only, and keeps no chunks of the dataset for others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from ares_p2p.errors import PayloadMalformed, RpcTimeout
from ares_p2p.ids import Digest
from ares_p2p.network.http_api import (
    MAX_KEYS,
    MAX_RECORDS_REPLY_BYTES,
    encode_bytes,
    read_found,
)
from ares_p2p.network.http_client import ApiClient
from ares_p2p.network.record_keys import RecordKey
from ares_p2p.network.record_rules import FoundValue
from ares_p2p.network.records import ReadChunk
from ares_p2p.network.records_dht import DhtRecords

READ_TIMEOUT_S = 12.0
STORE_TIMEOUT_S = 12.0


class HttpRecordTransport:
    """The coordinator's view of the DHT."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def store(self, key: RecordKey, value: bytes, expiration_s: float) -> bool:
        """Have a value of our own stored."""
        body = {
            "key": key.key,
            "subkey": key.subkey,
            "value": encode_bytes(value),
            "expiration_s": expiration_s,
        }
        answer = await self._api.put(
            "/records", json.dumps(body).encode(), timeout_s=STORE_TIMEOUT_S
        )
        return answer.get("stored") is True

    async def get_many(
        self,
        keys: Sequence[str],
        *,
        latest: bool,  # noqa: ARG002 (the coordinator always asks everybody near a key)
    ) -> dict[str, FoundValue]:
        """Ask for some keys.

        Raises: CoordinatorAway, RpcTimeout.
        """
        groups = [list(keys[i : i + MAX_KEYS]) for i in range(0, len(keys), MAX_KEYS)]
        found: dict[str, FoundValue] = {}
        for part in await asyncio.gather(*(self._get(group) for group in groups)):
            found.update(part)
        return found

    async def _get(self, keys: list[str]) -> dict[str, FoundValue]:
        body = await self._api.get_json(
            "/records",
            [("key", key) for key in keys],
            max_bytes=MAX_RECORDS_REPLY_BYTES,
            timeout_s=READ_TIMEOUT_S,
        )
        try:
            return read_found(body, keys)
        except PayloadMalformed as error:
            raise RpcTimeout(f"{self._api.api_url} gives no records: {error.message}") from error


class HttpRecords(DhtRecords):
    """`Records` of one peer behind HTTPS."""

    def __init__(self, api: ApiClient) -> None:
        super().__init__(
            HttpRecordTransport(api), identity=api.identity, network=api.network, clock=api.clock
        )

    def hold_chunks(self, digests: Sequence[Digest], read: ReadChunk) -> None:
        """See `Records.hold_chunks`: who cannot be reached keeps nothing for others."""
