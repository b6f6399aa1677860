"""The record rules as hivemind runs them, inside the DHT process of every node.

hivemind asks `validate` for every value that another node wants stored or hands over; False
refuses it. Keys come hashed, subkeys and values in MessagePack: whatever is not exactly one peer
id and one byte string is refused before anything parses it, because hivemind itself would
unpack it later, and a value that does not unpack leaves a search without an end.

It is forked (or pickled) into the DHT process; its counters stay there (`Node.refusals`).
"""

from __future__ import annotations

import time
from collections import Counter

from hivemind.dht.validation import DHTRecord, RecordValidatorBase

from ares_p2p.errors import EnvelopeMalformed, Oversize, PeerFault
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.record_guard import RecordGuard
from ares_p2p.network.record_keys import msgpack_text
from ares_p2p.network.record_rules import MAX_VALUE_BYTES, RawRecord

_PLAIN = b"\xc0"  # MessagePack nil: hivemind's mark of a plain value
_PEER_ID_CHARS = 52


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

    def __init__(self, network: NetworkRef) -> None:
        self.guard = RecordGuard(network, now_s=time.time)

    @property
    def refused(self) -> Counter[str]:
        """How often what was refused, by error code; only in the DHT process."""
        return self.guard.refused

    def validate(self, record: DHTRecord) -> bool:
        """Return whether the record may be stored or used; never raises."""
        try:
            raw = RawRecord(
                dht_id=bytes(record.key),
                subkey=unpack_subkey(record.subkey),
                value=unpack_bytes(record.value),
                expiration_s=float(record.expiration_time),
            )
        except PeerFault as error:
            self.refused[error.code] += 1
            return False
        return self.guard.is_allowed(raw)

    def merge_with(self, other: RecordValidatorBase) -> bool:
        """Return whether `other` says the same; a second network's rules stay apart."""
        return isinstance(other, AresRecordValidator) and other.guard.network == self.guard.network
