"""Tells the others that this peer is there, what it can serve, and which cycle it works on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from ares_p2p import PROTOCOL_VERSION, __version__
from ares_p2p.domain import PeerStatus
from ares_p2p.errors import AresError, NetworkFault, NodeDied, NotAnAuditor, PeerFault
from ares_p2p.ids import Digest, PeerId, sha256
from ares_p2p.rounds.plan import NO_DIGEST
from ares_p2p.wire.codec import seal
from ares_peer.links import UNREACHABLE_WAY, Links
from ares_peer.memory import SessionMemory

SUBMIT_TIMEOUT_S = 5.0
DHT_EVERY_MS = 60_000  # for others who look for peers; a status lives three times as long there


@dataclass(frozen=True, slots=True)
class Presence:
    """What changes from one announcement to the next.

    Args:
        cycle: prepared for it, its rounds may wait for us; 0: they may not.
        state: the newest state that is held.
    """

    cycle: int = 0
    state: Digest = NO_DIGEST
    held_blobs: tuple[Digest, ...] = ()
    tokens_per_s: float = 0.0


@dataclass(slots=True)
class Announcer:
    """One per session.

    Args:
        presence: returns the facts of now.
        role: trainer, or auditor: no round waits for it.
        report: told when the coordinator says that this peer may not be what it is.
    """

    links: Links
    memory: SessionMemory
    device: str
    profile: str
    presence: Callable[[], Presence]
    role: str
    report: Callable[[AresError], None]
    _in_dht_ms: int = -DHT_EVERY_MS
    _in_dht: tuple[int, str] | None = None  # cycle and way, as said there

    async def announce(self) -> None:
        """Announce once; who is away will hear the next one.

        The coordinator hears it always; in the DHT it is said once a minute, and when it matters
        to others: another cycle, another way.

        Raises: NodeDied. DiskFull: the sequence number cannot be remembered.
        """
        now, now_ms = self.presence(), self.links.clock.now_ms()
        said = (now.cycle, self.links.way())
        is_due = said != self._in_dht or now_ms - self._in_dht_ms >= DHT_EVERY_MS
        if await self._send(now, to_dht=is_due):
            self._in_dht, self._in_dht_ms = said, now_ms

    async def leave(self) -> None:
        """Tell the coordinator that no round needs to wait for us; nothing may go wrong."""
        with contextlib.suppress(NodeDied, OSError):
            await self._send(Presence(), to_dht=False)

    async def peers_online(self) -> list[PeerId]:
        """Return the other peers that announced themselves lately, and that can be reached.

        Everybody has them in another order: who comes first is asked first, and else the same few
        would serve every newcomer.
        """
        found = await self.links.records.fetch_peers(PeerStatus)
        me = self.links.identity.peer_id
        others = [item for item in found if item.signer != me]
        reachable = [item.signer for item in others if item.payload.way != UNREACHABLE_WAY]
        return sorted(reachable, key=lambda peer: sha256(me.encode(), peer.encode()))

    async def _send(self, now: Presence, *, to_dht: bool) -> bool:
        """Send a status; whether it lies in the DHT now."""
        status = PeerStatus(
            header=self.memory.header(cycle=now.cycle),
            software=__version__,
            protocol=PROTOCOL_VERSION,
            device=self.device,
            profile=self.profile,
            tokens_per_s=now.tokens_per_s,
            state=now.state,
            held_blobs=now.held_blobs,
            role=self.role,
            upload_bytes_per_s=self.links.blobs.traffic.upload.bytes_per_s,
            way=self.links.way(),
        )
        envelope = seal(self.links.identity, status)
        try:
            await self.links.control.submit(
                envelope, to=self.links.coordinator, timeout_s=SUBMIT_TIMEOUT_S
            )
        except NodeDied:
            raise
        except NotAnAuditor as fault:
            self.report(fault)
        except (NetworkFault, PeerFault):
            pass
        if not to_dht:
            return False
        try:
            await self.links.records.publish(envelope, keep=False)
        except NodeDied:
            raise
        except (NetworkFault, PeerFault):
            return False
        return True
