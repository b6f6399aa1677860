"""Who is there: peers announce themselves, and say which cycle they are prepared for.

A volunteer's word about being present and about its speed decides only how long a round waits
for it (`roundclock`), never what it is paid. It must come over the volunteer's own connection with
a rising sequence, so that nobody speaks for another one. Bounded: a crowd of made-up identities
costs memory for the newest few thousand only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from ares_p2p.domain import PeerStatus
from ares_p2p.errors import StaleSequence, WrongSigner
from ares_p2p.ids import PeerId
from ares_p2p.rounds.audits import AUDITOR_ROLE, TRAINER_ROLE

PRESENT_FOR_MS = 35_000  # three announcements of a peer
LATELY_MS = 600_000  # who was here so lately may have left a commit in the DHT
NOTED_EVERY_MS = 60_000  # how often an announcement is worth a write to the disk
MAX_REMEMBERED = 4_096
MAX_TOKENS_PER_S = 1e7  # a display's bound; nothing is paid by it
MAX_UPLOAD_BYTES_PER_S = 1.25e9  # 10 Gbit/s; the round's clock bounds what a word can do
WAYS = ("p2p", "relay", "http")  # how a peer reaches the network


@dataclass(frozen=True, slots=True)
class Present:
    """What is remembered of one announcement."""

    seen_ms: int
    noted_ms: int  # when the database last heard of it
    seq: int
    cycle: int  # prepared for; 0: for none
    tokens_per_s: float
    role: str = TRAINER_ROLE
    upload_bytes_per_s: float = 0.0  # 0: it has not measured it
    way: str = ""  # one of WAYS; "": it does not say


@dataclass(slots=True)
class Presence:
    """The newest announcement of each peer."""

    _seen: OrderedDict[PeerId, Present] = field(default_factory=OrderedDict)

    def note(self, peer: PeerId, status: PeerStatus, *, remote: PeerId, now_ms: int) -> bool:
        """Remember an announcement; True when the database should hear of it.

        Raises: WrongSigner: sent over another's connection. StaleSequence: an older one.
        """
        if remote != peer:
            raise WrongSigner(f"an announcement of {peer}, sent by {remote}")
        before = self._seen.get(peer)
        if before is not None and status.header.seq <= before.seq:
            raise StaleSequence(f"announcement {status.header.seq} after {before.seq}")
        due = before is None or now_ms - before.noted_ms >= NOTED_EVERY_MS
        noted_ms = now_ms if due or before is None else before.noted_ms
        self._seen[peer] = Present(
            now_ms,
            noted_ms,
            status.header.seq,
            status.header.cycle,
            min(status.tokens_per_s, MAX_TOKENS_PER_S),
            AUDITOR_ROLE if status.role == AUDITOR_ROLE else TRAINER_ROLE,
            min(status.upload_bytes_per_s, MAX_UPLOAD_BYTES_PER_S),
            status.way if status.way in WAYS else "",
        )
        self._seen.move_to_end(peer)
        while len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return due

    def present(self, *, now_ms: int) -> dict[PeerId, Present]:
        """Return who announced itself lately."""
        return {
            peer: seen
            for peer, seen in self._seen.items()
            if now_ms - seen.seen_ms <= PRESENT_FOR_MS
        }

    def is_auditing(self, peer: PeerId, cycle: int, *, now_ms: int) -> bool:
        """Whether a peer is present to audit a cycle; may be asked from any thread."""
        seen = self._seen.get(peer)
        if seen is None or now_ms - seen.seen_ms > PRESENT_FOR_MS:
            return False
        return (seen.cycle, seen.role) == (cycle, AUDITOR_ROLE)

    def working_on(self, cycle: int, *, now_ms: int) -> set[PeerId]:
        """Return the present peers that train in a cycle: a round waits for them."""
        return self._of_role(TRAINER_ROLE, cycle, now_ms=now_ms)

    def lately_on(self, cycle: int, *, now_ms: int) -> set[PeerId]:
        """Return who trained in a cycle a while ago, also who is silent since."""
        return {
            peer
            for peer, seen in self._seen.items()
            if (seen.cycle, seen.role) == (cycle, TRAINER_ROLE)
            and now_ms - seen.seen_ms <= LATELY_MS
        }

    def auditors_of(self, cycle: int, *, now_ms: int) -> set[PeerId]:
        """Return the present peers that are prepared to audit a cycle: no round waits for them."""
        return self._of_role(AUDITOR_ROLE, cycle, now_ms=now_ms)

    def _of_role(self, role: str, cycle: int, *, now_ms: int) -> set[PeerId]:
        found = self.present(now_ms=now_ms)
        return {peer for peer, seen in found.items() if (seen.cycle, seen.role) == (cycle, role)}
