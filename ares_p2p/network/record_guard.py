"""The record rules with memory: what a node that stores for others applies.

Over `record_rules` it adds what needs memory, all of it bounded: for plain values (the
coordinator's records) the newest (cycle, seq) per key is remembered and older ones are refused,
and values that passed once are not verified again. Subkeys are left out of the first: hivemind
refuses a whole dictionary when one entry is refused, so a single stale entry of one peer would
hide all others; there the lease's expiration keeps old entries from replacing new ones.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

from ares_p2p.errors import AresError, StaleSequence
from ares_p2p.ids import Digest, sha256
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.record_rules import CheckedEnvelope, RawRecord, check_record

REMEMBERED_KEYS = 8192  # plain keys with their newest seq: about 2 MB
REMEMBERED_VALUES = 8192  # values that already passed: 32 bytes each, spares two signatures
_Entry = tuple[tuple[int, int], Digest]  # (cycle, seq) and the payload's digest


class RecordGuard:
    """Decides for one node which values of one network it stores and believes."""

    def __init__(self, network: NetworkRef, *, now_s: Callable[[], float]) -> None:
        self.network = network
        self.refused: Counter[str] = Counter()  # error code -> how often
        self._now_s = now_s
        self._newest: OrderedDict[bytes, _Entry] = OrderedDict()
        self._passed: OrderedDict[Digest, _Entry | None] = OrderedDict()

    def is_allowed(self, record: RawRecord) -> bool:
        """Return whether the record may be stored or believed; counts why not."""
        try:
            self.check(record)
        except AresError as error:
            self.refused[error.code] += 1
            return False
        return True

    def check(self, record: RawRecord) -> None:
        """Refuse a record with the reason.

        Raises: what `check_record` raises. StaleSequence: older than the newest under this key,
            or another payload with the same seq.
        """
        place = f"{record.subkey}\0{record.expiration_s!r}\0".encode()
        seen = sha256(record.dht_id, place, record.value)
        if seen in self._passed:
            self._passed.move_to_end(seen)
            entry = self._passed[seen]
        else:
            entry = self._entry_of(record)
        if entry is not None:
            self._check_newest(record.dht_id, entry)
        self._passed[seen] = entry
        if len(self._passed) > REMEMBERED_VALUES:
            self._passed.popitem(last=False)

    def _entry_of(self, record: RawRecord) -> _Entry | None:
        checked = check_record(record, network=self.network, now_s=self._now_s())
        if not isinstance(checked, CheckedEnvelope) or record.subkey is not None:
            return None
        header = checked.payload.header
        return (header.cycle, header.seq), checked.envelope.payload_sha256

    def _check_newest(self, dht_id: bytes, entry: _Entry) -> None:
        newest = self._newest.get(dht_id, entry)
        if entry[0] < newest[0] or (entry[0] == newest[0] and entry != newest):
            raise StaleSequence(f"(cycle, seq) {entry[0]} after {newest[0]}")
        self._newest[dht_id] = entry
        self._newest.move_to_end(dht_id)
        if len(self._newest) > REMEMBERED_KEYS:
            self._newest.popitem(last=False)
