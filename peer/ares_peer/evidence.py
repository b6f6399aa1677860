"""The volunteer's own evidence on its disk: every round, as it goes, so that it can be checked.

    <data dir>/credits/
        about.json                         whose evidence it is: network, coordinator, peer
        cycle-0003/cycle.json.zst          the cycle's signed configuration and data set
        cycle-0003/round-0012.json.zst     one round (see `ares_p2p.proofs.evidence`)
        head.json                          the newest signed head that came without a page
        contradiction-<sizes>.json         two heads of which one is false, with their proof

Each file is replaced in one step: a SIGKILL leaves the round as it was a moment before. A round
takes its envelopes and its leaves and no more (measured: 3 kB with 3 peers, 21 kB with 64), so a
volunteer's years stay small, and nothing is ever deleted here.

A disk that is full must not stop the training: it is told once, and the round has a gap.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import zstandard

from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import LedgerHead
from ares_p2p.errors import AresError, ConfigFault, InternalFault, PayloadMalformed, PeerFault
from ares_p2p.files import NoSpaceLeft, write_atomically
from ares_p2p.ids import PeerId, public_key_of
from ares_p2p.proofs.check import Contradiction
from ares_p2p.proofs.evidence import (
    MAX_ROUND_BYTES,
    PARTS,
    CycleEvidence,
    Note,
    RoundEvidence,
    decode_cycle,
    decode_round,
    encode_cycle,
    encode_round,
    with_note,
    with_page,
)
from ares_p2p.proofs.findings import Finding, Link, Severity, Volunteer
from ares_p2p.proofs.ledger import LedgerPage, decode_page, encode_page, open_head
from ares_p2p.wire.codec import decode_envelope, encode_envelope
from ares_peer.events import ErrorRaised, Event

FOLDER: Final = "credits"
ABOUT_FILE: Final = "about.json"
HEAD_FILE: Final = "head.json"
CYCLE_FILE: Final = "cycle.json.zst"
DAMAGED: Final = ".damaged"
MAX_FILE_BYTES: Final = 64 * 1024 * 1024  # a contradiction holds a page; bounds a foreign file
_ROUNDS: Final = "round-*.json.zst"
_LEVEL: Final = 3  # under a millisecond; a higher one saves a hundredth, signatures are noise
_MAX_WINDOW_BYTES: Final = 8 * 1024 * 1024

RoundKey = tuple[int, int]  # (cycle, round)


@dataclass(slots=True)
class EvidenceStore:
    """Writes one peer's evidence. Owned by one session; called on its loop only."""

    folder: Path
    volunteer: Volunteer
    clock: Clock
    emit: Callable[[Event], None]
    heads: dict[int, tuple[LedgerHead, Envelope]] = field(default_factory=dict)  # verified, by size
    paged: set[int] = field(default_factory=set)  # sizes of the heads whose page is held too
    _last: RoundEvidence | None = None  # the round that was touched last: it is touched again
    _is_faulty: bool = False

    @staticmethod
    def open(
        folder: Path, volunteer: Volunteer, *, clock: Clock, emit: Callable[[Event], None]
    ) -> EvidenceStore:
        """Return the store of a folder, which need not be there.

        What another identity left in it is moved aside, whole: it is that one's evidence.
        """
        store = EvidenceStore(folder, volunteer, clock, emit)
        with contextlib.suppress(ConfigFault):
            earlier = read_volunteer(folder)
            if earlier is not None and earlier != volunteer:
                folder.rename(folder.with_name(f"{folder.name}-of-{earlier.peer}"))
        about = {
            "network_id": volunteer.network_id,
            "coordinator": volunteer.coordinator,
            "peer": volunteer.peer,
        }
        store._write(folder / ABOUT_FILE, json.dumps(about, indent=1).encode())
        store._load_heads()
        return store

    # --- rounds --------------------------------------------------------------------------------

    def round(self, key: RoundKey) -> RoundEvidence:
        """Return what is held of a round; nothing, when its file cannot be read.

        A damaged file is moved aside: what is left of it may be evidence still.
        """
        if self._last is None or self._last.key != key:
            path = self._path(key)
            self._last = RoundEvidence(*key)
            try:
                self._last = read_round(path)
            except OSError:
                pass
            except PayloadMalformed:
                path.replace(path.with_name(path.name + DAMAGED))
        return self._last

    def begin(self, key: RoundKey, plan: Envelope) -> None:
        """Note that a round opened; another plan for it begins it anew."""
        held, data = self.round(key), encode_envelope(plan)
        if held.plan and held.plan != data:
            self._save(RoundEvidence(*key, notes=held.notes))
            self.note(key, "lost", message="the coordinator opened the round once more")
        self.keep(key, plan=plan)

    def keep(self, key: RoundKey, *, durable: bool = False, **parts: Envelope | None) -> None:
        """Add envelopes to a round, by the names of `proofs.evidence.PARTS`; None adds nothing."""
        assert parts.keys() <= set(PARTS)
        new: dict[str, Any] = {
            part: encode_envelope(one) for part, one in parts.items() if one is not None
        }
        held = self.round(key)
        if any(getattr(held, part) != data for part, data in new.items()):
            self._save(replace(held, **new), durable=durable)

    def keep_report(self, key: RoundKey, report: bytes) -> None:
        """Add the envelope of an own audit report."""
        held = self.round(key)
        if report not in held.reports:
            self._save(replace(held, reports=(*held.reports, report)))

    def keep_page(self, key: RoundKey, page: LedgerPage, head: LedgerHead) -> bool:
        """Add what a page that was checked proves; False when it could not be stored."""
        self.heads[head.size] = (head, page.head)
        self.paged.add(head.size)
        return self._save(with_page(self.round(key), page, self.volunteer.peer), durable=True)

    def note(self, key: RoundKey, what: str, *, code: str = "", message: str = "") -> None:
        """Add what the peer saw itself."""
        held = self.round(key)
        noted = with_note(held, Note(self.clock.now_ms(), what, code, message))
        if noted is not held:
            self._save(noted)

    def keep_cycle(self, cycle: int, *, config: Envelope, dataset: Envelope | None) -> None:
        """Store a cycle's configuration and data set."""
        data = b"" if dataset is None else encode_envelope(dataset)
        evidence = CycleEvidence(cycle, encode_envelope(config), data)
        self._write(self._cycle_folder(cycle) / CYCLE_FILE, _packed(encode_cycle(evidence)))

    # --- heads ---------------------------------------------------------------------------------

    @property
    def newest_head(self) -> tuple[LedgerHead, Envelope] | None:
        """The largest head that was verified."""
        return self.heads[max(self.heads)] if self.heads else None

    def keep_head(self, head: LedgerHead, envelope: Envelope) -> None:
        """Store a head that came without a page; the newest one is kept."""
        self.heads[head.size] = (head, envelope)
        stored = json.dumps({"head": _text(encode_envelope(envelope))}).encode()
        self._write(self.folder / HEAD_FILE, stored)

    def keep_contradiction(self, found: Contradiction, *, sizes: tuple[int, int]) -> Path:
        """Store two heads that exclude each other, with the page that shows it."""
        stored = {
            "earlier": _text(encode_envelope(found.earlier)),
            "later": _text(encode_envelope(found.later)),
        }
        if found.page is not None:
            stored["page"] = _text(encode_page(found.page))
        path = self.folder / f"contradiction-{sizes[0]}-{sizes[1]}.json"
        self._write(path, json.dumps(stored, indent=1).encode(), durable=True)
        return path

    def _load_heads(self) -> None:
        """Learn the heads of the newest cycle: what comes next is compared with them."""
        paths = sorted(self.folder.glob("cycle-*/"), key=_number_of)
        heads: list[tuple[bytes, bool]] = []
        for path in sorted(paths[-1].glob(_ROUNDS), key=_number_of) if paths else ():
            try:
                link = read_round(path).link
            except (OSError, PayloadMalformed):
                continue
            if link is not None:
                heads.append((link.head, True))
        heads += [(data, False) for data, _ in read_heads(self.folder)]
        for data, has_page in heads:
            try:
                envelope = decode_envelope(data)
                head = open_head(
                    envelope,
                    coordinator=self.volunteer.coordinator,
                    network_id=self.volunteer.network_id,
                )
            except PeerFault:
                continue  # a file that somebody changed: `credits verify` says so
            self.heads[head.size] = (head, envelope)
            if has_page:
                self.paged.add(head.size)

    # --- files ---------------------------------------------------------------------------------

    def _cycle_folder(self, cycle: int) -> Path:
        return self.folder / f"cycle-{cycle:04}"

    def _path(self, key: RoundKey) -> Path:
        return self._cycle_folder(key[0]) / f"round-{key[1]:04}.json.zst"

    def _save(self, evidence: RoundEvidence, *, durable: bool = False) -> bool:
        self._last = evidence
        path = self._path(evidence.key)
        return self._write(path, _packed(encode_round(evidence)), durable=durable)

    def _write(self, path: Path, data: bytes, *, durable: bool = False) -> bool:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data, durable=durable)
        except OSError as error:
            if not self._is_faulty:
                self._is_faulty = True
                full = isinstance(error, NoSpaceLeft)
                self.emit(
                    ErrorRaised(
                        NoSpaceLeft.code if full else InternalFault.code,
                        f"evidence of this peer's credit could not be written: {error}",
                        NoSpaceLeft.default_hint if full else f"Check who may write {path.parent}.",
                    )
                )
            return False
        self._is_faulty = False
        return True


# --- reading, for whoever checks ---------------------------------------------------------------


def read_volunteer(folder: Path) -> Volunteer | None:
    """Return whose evidence a folder holds; None when it holds none.

    Raises: ConfigFault: the file that says so is damaged.
    """
    path = folder / ABOUT_FILE
    try:
        stored = json.loads(path.read_bytes()[:MAX_ROUND_BYTES])
        names = (stored["network_id"], stored["coordinator"], stored["peer"])
        for name in names[1:]:
            public_key_of(name)
        return Volunteer(str(names[0]), PeerId(names[1]), PeerId(names[2]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AresError) as error:
        raise ConfigFault(
            f"{path} does not say whose evidence this is: {error}",
            hint=f"Remove {path}; the next `ares-peer join` writes it anew.",
        ) from error


def read_round(path: Path) -> RoundEvidence:
    """Return a round's evidence. Raises: OSError. PayloadMalformed: no such file."""
    return decode_round(_unpacked(path), origin=_origin(path))


def read_rounds(folder: Path, report: Callable[[Finding], None]) -> Iterator[RoundEvidence]:
    """Yield every round's evidence, oldest first; files that cannot be read are reported."""
    for path in round_paths(folder):
        try:
            evidence = read_round(path)
            if path != folder / _origin_of(evidence.key):
                raise PayloadMalformed(f"it holds round {evidence.round} of cycle {evidence.cycle}")
        except (OSError, PayloadMalformed) as error:
            report(_unreadable(path, error))
            continue
        yield evidence
    for path in sorted(folder.glob(f"cycle-*/{_ROUNDS}{DAMAGED}")):
        report(_unreadable(path, PayloadMalformed("it was damaged, and moved aside")))


def round_paths(folder: Path) -> list[Path]:
    """Return the files of all rounds, oldest first."""
    cycles = sorted(folder.glob("cycle-*/"), key=_number_of)
    return [path for cycle in cycles for path in sorted(cycle.glob(_ROUNDS), key=_number_of)]


def read_cycles(folder: Path, report: Callable[[Finding], None]) -> dict[int, CycleEvidence]:
    """Return every cycle's evidence; files that cannot be read are reported."""
    found = {}
    for path in sorted(folder.glob(f"cycle-*/{CYCLE_FILE}")):
        try:
            evidence = decode_cycle(_unpacked(path), origin=_origin(path))
        except (OSError, PayloadMalformed) as error:
            report(_unreadable(path, error))
            continue
        found[evidence.cycle] = evidence
    return found


def read_heads(folder: Path) -> list[tuple[bytes, str]]:
    """Return the head that came alone, with its file's name; one that is damaged is empty."""
    path = folder / HEAD_FILE
    try:
        stored = json.loads(path.read_bytes()[:MAX_ROUND_BYTES])
        return [(base64.b64decode(stored["head"], validate=True), HEAD_FILE)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        return [(b"", HEAD_FILE)]


def read_contradictions(
    folder: Path, report: Callable[[Finding], None]
) -> Iterator[tuple[Contradiction, str]]:
    """Yield the contradictions that were kept, with their files' names."""
    for path in sorted(folder.glob("contradiction-*.json")):
        try:
            with path.open("rb") as file:
                stored = json.loads(file.read(MAX_FILE_BYTES))
            parts = {name: base64.b64decode(text, validate=True) for name, text in stored.items()}
            page = decode_page(parts["page"]) if "page" in parts else None
            earlier, later = (decode_envelope(parts[name]) for name in ("earlier", "later"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, PeerFault) as error:
            report(_unreadable(path, error))
            continue
        yield Contradiction(earlier, later, page), path.name


def _unreadable(path: Path, error: Exception) -> Finding:
    text = error.message if isinstance(error, AresError) else str(error)
    return Finding(Severity.BROKEN, Link.FILE, text[:200], file=_origin(path))


def _origin(path: Path) -> str:
    return path.name if path.parent.name == FOLDER else f"{path.parent.name}/{path.name}"


def _origin_of(key: RoundKey) -> str:
    return f"cycle-{key[0]:04}/round-{key[1]:04}.json.zst"


def _number_of(path: Path) -> int:
    digits = "".join(char for char in path.name.partition(".")[0] if char.isdigit())
    return int(digits or 0)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _packed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def _unpacked(path: Path) -> bytes:
    """Return a file's content, bounded. Raises: OSError. PayloadMalformed."""
    with path.open("rb") as file:
        packed = file.read(MAX_ROUND_BYTES + 1)
    if len(packed) > MAX_ROUND_BYTES:
        raise PayloadMalformed(f"more than {MAX_ROUND_BYTES} bytes")
    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        with decoder.stream_reader(io.BytesIO(packed)) as reader:
            return reader.read(MAX_ROUND_BYTES + 1)
    except zstandard.ZstdError as error:
        raise PayloadMalformed(f"no zstandard frame: {error}") from error
