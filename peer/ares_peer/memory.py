"""The few things a peer must remember over a restart: its sequence number and its last commit.

A peer that forgot its sequence would sign with an older one and be refused as a replay; one that
forgot its last commit would break its own chain of commits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ares_p2p.clock import Clock
from ares_p2p.domain import Header
from ares_p2p.files import write_atomically
from ares_p2p.ids import Digest
from ares_p2p.rounds.plan import NO_DIGEST


@dataclass(slots=True)
class SessionMemory:
    """Owned by one session; saved before anything that was signed leaves the process."""

    path: Path
    clock: Clock
    network_id: str
    seq: int = 0
    last_commit: Digest = NO_DIGEST

    @staticmethod
    def load(path: Path, *, clock: Clock, network_id: str) -> SessionMemory:
        """Return what `path` remembers of this network; a fresh start when it holds nothing."""
        memory = SessionMemory(path, clock, network_id)
        try:
            stored = json.loads(path.read_bytes())
            if stored["network_id"] == network_id:
                memory.seq = int(stored["seq"])
                memory.last_commit = bytes.fromhex(stored["last_commit"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # first start, or a file that is not ours: wall time is a safe sequence
        return memory

    def header(self, *, cycle: int = 0, round_number: int = 0) -> Header:
        """Return the header of the next payload: its sequence is above all earlier ones."""
        now_ms = self.clock.now_ms()
        self.seq = max(self.seq + 1, now_ms)
        self._save()
        return Header(self.network_id, cycle, round_number, self.seq, now_ms)

    def remember_commit(self, digest: Digest) -> None:
        """Note the newest own commit, which the next one will name."""
        self.last_commit = digest
        self._save()

    def _save(self) -> None:
        stored = {
            "network_id": self.network_id,
            "seq": self.seq,
            "last_commit": self.last_commit.hex(),
        }
        write_atomically(self.path, json.dumps(stored).encode())
