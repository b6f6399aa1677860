"""What a volunteer keeps of its rounds: signed bytes exactly as received, and what pages proved.

A round's evidence grows as the round goes: plan, own commit, acknowledgement, commit set,
manifest, settlement, each as its envelope; then, from the ledger page that the settlement names,
the page's head, the proof that this log goes on from the one before, and the volunteer's own
leaves with their inclusion proofs. A page itself is not kept: what is left of it proves the same.
Beside that stand notes, in which the peer says itself what happened; nobody signed those.

Nothing here is believed because it lies on the disk: `ares_p2p.proofs.check` verifies all of it.
The form is JSON, so that a person can read it; its bounds are those of a file that anybody may
have changed. Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ares_p2p.crypto.merkle import MAX_LEVELS, consistency_path
from ares_p2p.errors import PayloadMalformed
from ares_p2p.ids import DIGEST_BYTES, Digest, PeerId
from ares_p2p.proofs.ledger import (
    MAX_LEAF_BYTES,
    LedgerPage,
    ProvenLeaf,
    page_reader,
    proven_leaves,
)
from ares_p2p.wire.codec import MAX_ENVELOPE_BYTES, MAX_INT, encode_envelope

ROUND_FORMAT = "ares-round-evidence/1"
CYCLE_FORMAT = "ares-cycle-evidence/1"
MAX_ROUND_BYTES = 2 * 1024 * 1024  # JSON: seven envelopes of 48 KiB and 1,000 leaves, in base64
MAX_LEAVES_KEPT = 1024  # own postings in one page; a clawback of a year of trust has 700
MAX_NOTES = 8  # newest; a round that goes wrong again and again must not grow its file
MAX_NOTE_CHARS = 300
# Envelopes of a round in the order in which they come; names as in `RoundEvidence`.
PARTS = ("plan", "commit", "ack", "commit_set", "manifest", "settlement", "audit_plan")


@dataclass(frozen=True, slots=True)
class Note:
    """What the peer saw itself: unsigned, for the reader.

    Attributes:
        what: refused, missed, lost, mismatch (of a part of a sum) or error.
    """

    at_ms: int
    what: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class LogLink:
    """What is left of a ledger page: its head follows from the log before it.

    Attributes:
        head: envelope of the page's `LedgerHead`.
        first: size of the log before the page.
        frontier: of the log before the page, as in the page.
        proof: RFC 9162 consistency proof from `first` to the head's size.
    """

    head: bytes
    first: int
    frontier: tuple[Digest, ...]
    proof: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class RoundEvidence:
    """One round as far as it came. Envelopes are bytes; empty: not held.

    Attributes:
        link: of the page that the settlement names, once that was had and verified.
        leaves: own postings in that page, of whichever round they speak.
        reports: envelopes of own `AuditReport`s.
        origin: where it was read from, for messages.
    """

    cycle: int
    round: int
    plan: bytes = b""
    commit: bytes = b""
    ack: bytes = b""
    commit_set: bytes = b""
    manifest: bytes = b""
    settlement: bytes = b""
    audit_plan: bytes = b""
    reports: tuple[bytes, ...] = ()
    link: LogLink | None = None
    leaves: tuple[ProvenLeaf, ...] = ()
    notes: tuple[Note, ...] = ()
    origin: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[int, int]:
        """(cycle, round)."""
        return self.cycle, self.round


@dataclass(frozen=True, slots=True)
class CycleEvidence:
    """What all rounds of a cycle share: its configuration, and its training set's size."""

    cycle: int
    config: bytes = b""  # envelope of the CycleConfig
    dataset: bytes = b""  # envelope of the DatasetManifest
    origin: str = field(default="", compare=False)


def with_note(evidence: RoundEvidence, note: Note) -> RoundEvidence:
    """Return the evidence with one more note; the same one twice in a row is one."""
    note = replace(note, message=note.message[:MAX_NOTE_CHARS])
    said = [(old.what, old.code, old.message) for old in evidence.notes[-1:]]
    if said == [(note.what, note.code, note.message)]:
        return evidence
    return replace(evidence, notes=(*evidence.notes, note)[-MAX_NOTES:])


def with_page(evidence: RoundEvidence, page: LedgerPage, worker: PeerId) -> RoundEvidence:
    """Return the evidence with what a page proves for `worker`; the page was checked before."""
    read = page_reader(page)
    if page.first:
        proof = consistency_path(page.first, second=page.size, read=read)
    else:
        proof = ()
    link = LogLink(encode_envelope(page.head), page.first, page.frontier, proof)
    leaves = tuple(proven_leaves(page, worker))
    return replace(evidence, link=link, leaves=leaves[:MAX_LEAVES_KEPT])


# --- as JSON -----------------------------------------------------------------------------------


def encode_round(evidence: RoundEvidence) -> bytes:
    """Return a round's evidence as JSON."""
    stored: dict[str, object] = {
        "format": ROUND_FORMAT,
        "cycle": evidence.cycle,
        "round": evidence.round,
    }
    stored |= {part: _text(getattr(evidence, part)) for part in PARTS if getattr(evidence, part)}
    if evidence.reports:
        stored["reports"] = [_text(report) for report in evidence.reports]
    if evidence.link is not None:
        link = evidence.link
        stored["link"] = {
            "head": _text(link.head),
            "first": link.first,
            "frontier": [node.hex() for node in link.frontier],
            "proof": [node.hex() for node in link.proof],
        }
    if evidence.leaves:
        stored["leaves"] = [
            {
                "index": item.index,
                "leaf": item.leaf.decode(errors="surrogateescape"),
                "proof": [node.hex() for node in item.proof],
            }
            for item in evidence.leaves
        ]
    if evidence.notes:
        stored["notes"] = [
            {"at_ms": note.at_ms, "what": note.what, "code": note.code, "message": note.message}
            for note in evidence.notes
        ]
    return json.dumps(stored, indent=1).encode()


def decode_round(data: bytes, *, origin: str = "") -> RoundEvidence:
    """Return the evidence in `data`; only its form is checked.

    Raises: PayloadMalformed.
    """
    stored = _object(data, ROUND_FORMAT)
    try:
        link = stored.get("link")
        return RoundEvidence(
            cycle=_count(stored["cycle"]),
            round=_count(stored["round"]),
            **{part: _bytes(stored[part]) for part in PARTS if part in stored},
            reports=tuple(_bytes(text) for text in _list(stored, "reports")),
            link=None if link is None else _link(link),
            leaves=tuple(_leaf(item) for item in _list(stored, "leaves")),
            notes=tuple(_note(item) for item in _list(stored, "notes")),
            origin=origin,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PayloadMalformed(f"no evidence of a round: {_why(error)}") from error


def encode_cycle(evidence: CycleEvidence) -> bytes:
    """Return a cycle's evidence as JSON."""
    stored = {
        "format": CYCLE_FORMAT,
        "cycle": evidence.cycle,
        "config": _text(evidence.config),
        "dataset": _text(evidence.dataset),
    }
    return json.dumps(stored, indent=1).encode()


def decode_cycle(data: bytes, *, origin: str = "") -> CycleEvidence:
    """Return the evidence in `data`; only its form is checked.

    Raises: PayloadMalformed.
    """
    stored = _object(data, CYCLE_FORMAT)
    try:
        return CycleEvidence(
            _count(stored["cycle"]),
            _bytes(stored["config"]),
            _bytes(stored["dataset"]),
            origin=origin,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise PayloadMalformed(f"no evidence of a cycle: {_why(error)}") from error


def _object(data: bytes, form: str) -> Mapping[str, Any]:
    if len(data) > MAX_ROUND_BYTES:
        raise PayloadMalformed(f"evidence of {len(data)} bytes, at most {MAX_ROUND_BYTES}")
    try:
        stored = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PayloadMalformed(f"no JSON: {_why(error)}") from error
    found = stored.get("format") if isinstance(stored, dict) else None
    if found != form:
        raise PayloadMalformed(f"format {str(found)[:40]!r}, {form!r} expected")
    assert isinstance(stored, dict)
    return stored


def _why(error: Exception) -> str:
    return f"{type(error).__name__} {str(error)[:80]}"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > 2 * MAX_ENVELOPE_BYTES:
        raise ValueError("an envelope that is no text, or too long")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("an envelope that is no base64") from error


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INT:
        raise ValueError(f"{str(value)[:20]} is no count")
    return value


def _list(stored: Mapping[str, Any], name: str) -> list[Any]:
    found = stored.get(name, [])
    if not isinstance(found, list) or len(found) > MAX_LEAVES_KEPT:
        raise ValueError(f"{name} is no list, or too long")
    return found


def _digests(found: object) -> tuple[Digest, ...]:
    if not isinstance(found, list) or len(found) > MAX_LEVELS:
        raise ValueError("no list of digests, or too long")
    digests = tuple(bytes.fromhex(text) for text in found)
    if any(len(digest) != DIGEST_BYTES for digest in digests):
        raise ValueError("a digest of another length")
    return digests


def _link(stored: Mapping[str, Any]) -> LogLink:
    return LogLink(
        _bytes(stored["head"]),
        _count(stored["first"]),
        _digests(stored["frontier"]),
        _digests(stored["proof"]),
    )


def _leaf(stored: Mapping[str, Any]) -> ProvenLeaf:
    leaf = stored["leaf"].encode(errors="surrogateescape")
    if len(leaf) > MAX_LEAF_BYTES:
        raise ValueError("a leaf that is too long")
    return ProvenLeaf(_count(stored["index"]), leaf, _digests(stored["proof"]))


def _note(stored: Mapping[str, Any]) -> Note:
    texts = [str(stored[name])[:MAX_NOTE_CHARS] for name in ("what", "code", "message")]
    return Note(_count(stored["at_ms"]), *texts)
