"""The whole ledger in one file, for everybody who wants to check it: JSON, one object a line.

    {"format": "ares-ledger/1", "network_id": ..., "coordinator": peer id}     the first line
    {"leaf": base64, "sha256": hex}     posting 1, 2, 3 ...: the leaf, and its RFC 9162 leaf hash
    {"head": base64}                    an Envelope with a LedgerHead, after the last leaf it covers

Leaves stand in the order of the log and none is left out. Heads stand where they were signed;
leaves that no head covers yet may follow the last one. Each line can be read on its own, so a
file of any size is checked in bounded memory, and a line that is wrong is named by its number.

Pure. Source: RFC 9162, section 2.1.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.merkle import leaf_hash
from ares_p2p.errors import PayloadMalformed, PeerFault
from ares_p2p.ids import DIGEST_BYTES, Digest, PeerId, public_key_of
from ares_p2p.proofs.ledger import MAX_LEAF_BYTES
from ares_p2p.wire.codec import decode_envelope, encode_envelope

FORMAT = "ares-ledger/1"
MAX_LINE_BYTES = 4 * MAX_LEAF_BYTES  # a leaf in base64 and its hash; a head is smaller


@dataclass(frozen=True, slots=True)
class ExportStart:
    """The first line: whose ledger it is."""

    network_id: str
    coordinator: PeerId


@dataclass(frozen=True, slots=True)
class ExportedLeaf:
    """One row, and the hash that the log has for it; not compared yet."""

    leaf: bytes
    sha256: Digest


@dataclass(frozen=True, slots=True)
class ExportedHead:
    """A signed head; not verified yet."""

    envelope: Envelope


ExportLine = ExportStart | ExportedLeaf | ExportedHead


def start_line(network_id: str, coordinator: PeerId) -> str:
    """Return the first line, without its end."""
    return json.dumps({"format": FORMAT, "network_id": network_id, "coordinator": coordinator})


def leaf_line(leaf: bytes, sha256: Digest | None = None) -> str:
    """Return the line of a leaf.

    Args:
        sha256: what the log stores as the leaf's hash; computed when it is not given.
    """
    stored = leaf_hash(leaf) if sha256 is None else sha256
    return json.dumps({"leaf": base64.b64encode(leaf).decode(), "sha256": stored.hex()})


def head_line(envelope: Envelope) -> str:
    """Return the line of a signed head."""
    return json.dumps({"head": base64.b64encode(encode_envelope(envelope)).decode()})


def read_line(line: bytes) -> ExportLine:
    """Return what a line holds; only its form is checked.

    Raises: PayloadMalformed.
    """
    if len(line) > MAX_LINE_BYTES:
        raise PayloadMalformed(f"a line of {len(line)} bytes, at most {MAX_LINE_BYTES}")
    try:
        stored = json.loads(line)
        if "leaf" in stored:
            digest = bytes.fromhex(stored["sha256"])
            if len(digest) != DIGEST_BYTES:
                raise ValueError("a hash that is none")
            return ExportedLeaf(base64.b64decode(stored["leaf"], validate=True), digest)
        if "head" in stored:
            return ExportedHead(decode_envelope(base64.b64decode(stored["head"], validate=True)))
        if stored["format"] != FORMAT:
            raise ValueError(f"format {str(stored['format'])[:40]!r}, {FORMAT!r} expected")
        public_key_of(stored["coordinator"])
        return ExportStart(str(stored["network_id"]), PeerId(stored["coordinator"]))
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error, PeerFault) as error:
        raise PayloadMalformed(f"no line of a ledger file: {str(error)[:120]}") from error
