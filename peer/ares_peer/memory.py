"""The few things a peer must remember over a restart.

- its sequence number: with an older one it would be refused as a replay;
- its last commit, whole: one that was killed after it signed must hand in those very bytes
  again, because a second, different commit for the same round is equivocation;
- its audit reports, whole: a replay is not made twice, and a second, different report of the same
  audit is refused;
- the rounds whose credit has not been reported yet, those whose ledger page is not in the
  evidence yet, and the states it still serves.

Saved before anything that was signed leaves the process. A file that is not ours or damaged is a
fresh start: wall time is a safe sequence.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ares_p2p.clock import Clock
from ares_p2p.domain import Header
from ares_p2p.files import write_atomically
from ares_p2p.ids import DIGEST_BYTES, Digest
from ares_p2p.rounds.plan import NO_DIGEST

MAX_DUE = 512  # rounds whose page is still to come; as for settlements
MAX_UNSETTLED = 512  # rounds; bounds the file when settlements stay away for days
MAX_REPORTS = 256  # the newest audit reports, 600 bytes each; older ones are past their deadline

RoundKey = tuple[int, int]  # (cycle, round)


@dataclass(frozen=True, slots=True)
class KeptCommit:
    """A signed commit as it was, or is about to be, handed in.

    Attributes:
        is_over: its round's end was seen; there is nothing left to do for it.
    """

    plan_sha256: Digest
    envelope: bytes
    blob_id: Digest
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class KeptReport:
    """A signed audit report as it was, or is about to be, handed in.

    Attributes:
        is_over: it was taken, or refused for good.
    """

    commit_sha256: Digest
    envelope: bytes
    is_over: bool = False


@dataclass(slots=True)
class SessionMemory:
    """Owned by one session; its methods may be called from any thread."""

    path: Path
    clock: Clock
    network_id: str
    seq: int = 0
    last_commit: Digest = NO_DIGEST
    kept_commit: KeptCommit | None = None
    reports: tuple[KeptReport, ...] = ()  # oldest first
    unsettled: tuple[RoundKey, ...] = ()  # oldest first
    due: tuple[RoundKey, ...] = ()  # rounds whose settlement or page is not kept yet
    states: tuple[Digest, ...] = ()  # snapshots that are held and served, oldest first
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @staticmethod
    def load(path: Path, *, clock: Clock, network_id: str) -> SessionMemory:
        """Return what `path` remembers of this network; a fresh start when it holds nothing."""
        memory = SessionMemory(path, clock, network_id)
        try:
            stored = json.loads(path.read_bytes())
            if stored["network_id"] == network_id:
                memory.seq = int(stored["seq"])
                memory.last_commit = _digest(stored["last_commit"])
                memory.kept_commit = _kept_commit(stored.get("commit"))
                memory.reports = tuple(_kept_report(one) for one in stored.get("reports", []))
                rounds = stored.get("unsettled", [])
                memory.unsettled = tuple((int(cycle), int(number)) for cycle, number in rounds)
                rounds = stored.get("due", [])
                memory.due = tuple((int(cycle), int(number)) for cycle, number in rounds)
                memory.states = tuple(_digest(text) for text in stored.get("states", []))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return SessionMemory(path, clock, network_id)
        return memory

    def header(self, *, cycle: int = 0, round_number: int = 0) -> Header:
        """Return the header of the next payload: its sequence is above all earlier ones."""
        with self._lock:
            now_ms = self.clock.now_ms()
            self.seq = max(self.seq + 1, now_ms)
            self._save()
            return Header(self.network_id, cycle, round_number, self.seq, now_ms)

    # --- the last commit -----------------------------------------------------------------------

    def remember_commit(self, digest: Digest, kept: KeptCommit) -> None:
        """Note the newest own commit, which the next one will name; safe from a power cut too.

        Args:
            digest: of the commit's payload.
        """
        with self._lock:
            self.last_commit, self.kept_commit = digest, kept
            self._save(durable=True)

    def commit_for(self, plan_sha256: Digest) -> KeptCommit | None:
        """Return what was signed for this very plan, None when nothing was."""
        kept = self.kept_commit
        return kept if kept is not None and kept.plan_sha256 == plan_sha256 else None

    def end_commit(self, plan_sha256: Digest) -> None:
        """Note that the end of this plan's round was seen."""
        with self._lock:
            kept = self.commit_for(plan_sha256)
            if kept is not None:
                self.kept_commit = replace(kept, is_over=True)
                self._save()

    # --- audit reports -------------------------------------------------------------------------

    def remember_report(self, kept: KeptReport) -> None:
        """Note a signed report before it is sent; safe from a power cut too."""
        with self._lock:
            others = (one for one in self.reports if one.commit_sha256 != kept.commit_sha256)
            self.reports = (*others, kept)[-MAX_REPORTS:]
            self._save(durable=True)

    def report_on(self, commit_sha256: Digest) -> KeptReport | None:
        """Return what was reported on a commit, None when nothing was."""
        found = (one for one in self.reports if one.commit_sha256 == commit_sha256)
        return next(found, None)

    def end_report(self, commit_sha256: Digest) -> None:
        """Note that a report was taken or refused: there is nothing left to do for it."""
        with self._lock:
            self.reports = tuple(
                replace(one, is_over=True) if one.commit_sha256 == commit_sha256 else one
                for one in self.reports
            )
            self._save()

    # --- credit to come ------------------------------------------------------------------------

    def expect_credit(self, key: RoundKey) -> None:
        """Note a round that will say what it earned; the oldest is forgotten past the bound."""
        with self._lock:
            if key not in self.unsettled:
                self.unsettled = (*self.unsettled, key)[-MAX_UNSETTLED:]
                self._save()

    def expect_page(self, key: RoundKey) -> None:
        """Note a round whose settlement and ledger page are wanted as evidence."""
        with self._lock:
            if key not in self.due:
                self.due = (*self.due, key)[-MAX_DUE:]
                self._save()

    def forget_page(self, key: RoundKey) -> None:
        """Note that they are kept, or will not be had."""
        with self._lock:
            if key in self.due:
                self.due = tuple(other for other in self.due if other != key)
                self._save()

    def forget_credit(self, key: RoundKey) -> None:
        """Note that a round said it, or that nothing is to come."""
        self._keep_unsettled(other for other in self.unsettled if other != key)

    def forget_cycles_before(self, cycle: int) -> None:
        """Forget rounds of cycles so old that nobody publishes their settlements any more."""
        self._keep_unsettled(key for key in self.unsettled if key[0] >= cycle)
        for key in self.due:
            if key[0] < cycle:
                self.forget_page(key)

    def _keep_unsettled(self, kept: Iterable[RoundKey]) -> None:
        with self._lock:
            left = tuple(kept)
            if left != self.unsettled:
                self.unsettled = left
                self._save()

    # --- states --------------------------------------------------------------------------------

    def remember_states(self, states: tuple[Digest, ...]) -> None:
        """Note which snapshots lie in the blob store to be served."""
        with self._lock:
            self.states = states
            self._save()

    def _save(self, *, durable: bool = False) -> None:
        kept = self.kept_commit
        stored = {
            "network_id": self.network_id,
            "seq": self.seq,
            "last_commit": self.last_commit.hex(),
            "commit": None
            if kept is None
            else {
                "plan": kept.plan_sha256.hex(),
                "envelope": kept.envelope.hex(),
                "blob": kept.blob_id.hex(),
                "is_over": kept.is_over,
            },
            "reports": [
                {
                    "commit": one.commit_sha256.hex(),
                    "envelope": one.envelope.hex(),
                    "is_over": one.is_over,
                }
                for one in self.reports
            ],
            "unsettled": self.unsettled,
            "due": self.due,
            "states": [digest.hex() for digest in self.states],
        }
        write_atomically(self.path, json.dumps(stored).encode(), durable=durable)


def _digest(text: str) -> Digest:
    digest = bytes.fromhex(text)
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest of {len(digest)} bytes")
    return digest


def _kept_commit(stored: dict[str, Any] | None) -> KeptCommit | None:
    if stored is None:
        return None
    return KeptCommit(
        _digest(stored["plan"]),
        bytes.fromhex(stored["envelope"]),
        _digest(stored["blob"]),
        bool(stored.get("is_over")),
    )


def _kept_report(stored: dict[str, Any]) -> KeptReport:
    envelope = bytes.fromhex(stored["envelope"])
    return KeptReport(_digest(stored["commit"]), envelope, bool(stored.get("is_over")))
