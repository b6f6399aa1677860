"""The record rules as hivemind runs them, inside the DHT process of every node.

hivemind asks `validate` for every value that another node wants stored or hands over; False
refuses it. For plain values (the coordinator's records) the newest (cycle, seq) per key is
remembered in bounded memory, and older ones are refused. Not so for subkeys: hivemind refuses a
whole dictionary when one entry is refused, so a single stale entry of one peer would hide all
others; there the lease's expiration keeps old entries from replacing new ones.

It must be picklable, because the DHT process may be spawned; counters stay in that process.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from hivemind.dht.validation import DHTRecord, RecordValidatorBase

from ares_p2p.errors import AresError, EnvelopeMalformed, Oversize, StaleSequence
from ares_p2p.ids import Digest, sha256
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.record_keys import msgpack_text
from ares_p2p.network.record_rules import (
    MAX_VALUE_BYTES,
    CheckedEnvelope,
    RawRecord,
    check_record,
)

REMEMBERED_KEYS = 8192  # plain keys with their newest seq: about 2 MB
REMEMBERED_VALUES = 8192  # values that already passed: 32 bytes each, spares two signatures
_PLAIN = b"\xc0"  # MessagePack nil: hivemind's mark of a plain value
_PEER_ID_CHARS = 52
_Entry = tuple[tuple[int, int], Digest]  # (cycle, seq) and the payload's digest


def unpack_bytes(packed: bytes) -> bytes:
    """Return the bytes that MessagePack `packed` consists of, and of nothing else.

    Raises: EnvelopeMalformed, Oversize.
    """
    if len(packed) > MAX_VALUE_BYTES + 5:
        raise Oversize(f"value of {len(packed)} bytes, at most {MAX_VALUE_BYTES}")
    width = {0xC4: 1, 0xC5: 2, 0xC6: 4}.get(packed[0]) if packed else None
    if width is None or int.from_bytes(packed[1 : 1 + width], "big") != len(packed) - 1 - width:
        raise EnvelopeMalformed("the value is not one MessagePack byte string")
    return packed[1 + width :]


def unpack_subkey(packed: bytes) -> str | None:
    """Return the subkey's text, None for a plain value.

    Raises: EnvelopeMalformed: neither; only peer ids are subkeys.
    """
    if packed == _PLAIN:
        return None
    try:
        text = packed[2:].decode("ascii")
    except UnicodeDecodeError as error:
        raise EnvelopeMalformed("the subkey is no peer id") from error
    if len(text) != _PEER_ID_CHARS or packed != msgpack_text(text):
        raise EnvelopeMalformed("the subkey is no peer id")
    return text


class AresRecordValidator(RecordValidatorBase):  # type: ignore[misc]
    """Refuses every DHT value that the rules of this network do not allow."""

    def __init__(self, network: NetworkRef, *, now_s: Callable[[], float] = time.time) -> None:
        self.network = network
        self.refused: Counter[str] = Counter()  # error code -> how often
        self._now_s = now_s
        self._newest: OrderedDict[bytes, _Entry] = OrderedDict()
        self._passed: OrderedDict[Digest, _Entry | None] = OrderedDict()

    def validate(self, record: DHTRecord) -> bool:
        """Return whether the record may be stored or used; never raises."""
        try:
            self.check(record)
        except AresError as error:
            self.refused[error.code] += 1
            return False
        return True

    def check(self, record: DHTRecord) -> None:
        """Refuse a record with the reason.

        Raises: PeerFault.
        """
        raw = RawRecord(
            bytes(record.key),
            unpack_subkey(record.subkey),
            unpack_bytes(record.value),
            float(record.expiration_time),
        )
        seen = sha256(raw.dht_id, record.subkey, repr(raw.expiration_s).encode(), raw.value)
        if seen in self._passed:
            self._passed.move_to_end(seen)
            passed = self._passed[seen]
            if passed is not None:
                self._check_newest(raw.dht_id, passed)
            return
        checked = check_record(raw, network=self.network, now_s=self._now_s())
        entry = None
        if isinstance(checked, CheckedEnvelope) and raw.subkey is None:
            header = checked.payload.header
            entry = (header.cycle, header.seq), checked.envelope.payload_sha256
            self._check_newest(raw.dht_id, entry)
        self._passed[seen] = entry
        if len(self._passed) > REMEMBERED_VALUES:
            self._passed.popitem(last=False)

    def _check_newest(self, dht_id: bytes, entry: _Entry) -> None:
        """Refuse what is older than the newest under this key, or differs at the same seq."""
        newest = self._newest.get(dht_id)
        if newest is not None and (entry[0] < newest[0] or (entry[0] == newest[0] and entry != newest)):
            raise StaleSequence(f"(cycle, seq) {entry[0]} after {newest[0]}")
        self._newest[dht_id] = entry
        self._newest.move_to_end(dht_id)
        if len(self._newest) > REMEMBERED_KEYS:
            self._newest.popitem(last=False)

    def merge_with(self, other: RecordValidatorBase) -> bool:
        """Return whether `other` says the same; a second network's rules stay apart."""
        return isinstance(other, AresRecordValidator) and other.network == self.network

