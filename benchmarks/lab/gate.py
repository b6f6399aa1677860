"""Who may dial whom, decided packet by packet as a home router with memory decides it. Pure.

A node whose `dial_in` is "none" can dial out and is answered; nobody can dial it. What was let
through before is remembered, so answers pass, and so does a dial from outside to the very port
that dialled the same address a moment ago: holes can be punched, as through most home routers.
Addresses are not translated; a real router's translation would only hide one that cannot be
dialled anyway.

It refuses: cut cables, dials that a side does not allow, addresses of nobody (multicast, other
networks), anything but IPv4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

Dial = Literal["all", "none"] | tuple[int, ...]
Why = Literal["cut", "dial", "nobody"]  # a packet was not let through

TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
SYN: Final = 0x02
ACK: Final = 0x10
ECHO_REQUEST: Final = 8
# How long a flow is remembered: what Linux routers take for UDP streams, and for a TCP dial that
# is not answered.
UDP_MEMORY_S: Final = 120.0
TCP_MEMORY_S: Final = 120.0
MAX_FLOWS: Final = 65_536  # bounds memory; the oldest are forgotten first

Flow = tuple[int, bytes, bytes]  # protocol, source and destination with their ports


@dataclass(slots=True)
class Side:
    """One node, as the gate sees it."""

    name: str
    dial_in: Dial = "all"
    dial_out: Dial = "all"
    is_cut: bool = False


@dataclass(slots=True)
class Gate:
    """Decides about IPv4 packets between the nodes of `sides` (by address, 4 bytes)."""

    sides: dict[bytes, Side]
    _flows: dict[Flow, float] = field(default_factory=dict)  # last packet; oldest first

    def refusal(self, packet: bytes, *, now_s: float) -> Why | None:
        """Return why `packet` must not pass; None: it may."""
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return "nobody"
        here, there = self.sides.get(packet[12:16]), self.sides.get(packet[16:20])
        if here is None or there is None:
            return "nobody"
        if here.is_cut or there.is_cut:
            return "cut"
        if here.dial_out == "all" and there.dial_in == "all" and self._is_open(here, there):
            return None
        return None if self._may_pass(packet, here, there, now_s) else "dial"

    @staticmethod
    def _is_open(here: Side, there: Side) -> bool:
        """Whether neither direction has rules: then there is nothing to remember."""
        return here.dial_in == "all" and there.dial_out == "all"

    def _may_pass(self, packet: bytes, here: Side, there: Side, now_s: float) -> bool:
        protocol, body = packet[9], (packet[0] & 0x0F) * 4
        if int.from_bytes(packet[6:8], "big") & 0x1FFF:
            return True  # a later fragment: useless without the first one
        if protocol == ICMP:
            asks = len(packet) > body and packet[body] == ECHO_REQUEST
            return not asks or (there.dial_in == "all" and here.dial_out == "all")
        if protocol not in (TCP, UDP) or len(packet) < body + (14 if protocol == TCP else 4):
            return False
        if protocol == TCP and packet[body + 13] & (SYN | ACK) != SYN:
            return True  # goes nowhere unless the dial before it was let through
        source = packet[12:16] + packet[body : body + 2]
        destination = packet[16:20] + packet[body + 2 : body + 4]
        flow, answer = (protocol, source, destination), (protocol, destination, source)
        memory_s = TCP_MEMORY_S if protocol == TCP else UDP_MEMORY_S
        known = any(
            key in self._flows and now_s - self._flows[key] <= memory_s for key in (flow, answer)
        )
        port = int.from_bytes(destination[4:], "big")
        if not known and not (_admits(there.dial_in, port) and _admits(here.dial_out, port)):
            return False
        self._flows.pop(flow, None)
        self._flows[flow] = now_s
        while len(self._flows) > MAX_FLOWS:
            del self._flows[next(iter(self._flows))]
        return True

    def forget(self, address: bytes) -> None:
        """Forget every flow of one node, as its router does when it starts again."""
        self._flows = {
            flow: at_s
            for flow, at_s in self._flows.items()
            if address not in (flow[1][:4], flow[2][:4])
        }


def _admits(rule: Dial, port: int) -> bool:
    return rule == "all" or (rule != "none" and port in rule)
