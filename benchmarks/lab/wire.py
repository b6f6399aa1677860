"""The process in the middle: every packet between two nodes passes it once.

    ip netns exec HUB python -m benchmarks.lab.wire        (the lab starts it)

It reads IP packets from a TUN device to which the hub routes whatever comes out of a cable, keeps
each for the delay of both cables, and writes it back. Packets between two nodes never overtake
each other. A relay of packets and not of TCP connections: handshakes, congestion control and QUIC
then meet the delay as they would outside. `netem` does the same in the kernel where there is one.

Control, one JSON object a line on stdin: first the settings, then changes and questions for the
counts. Each is answered with one line on stdout. It ends with its stdin.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import ipaddress
import json
import os
import random
import select
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.lab.gate import Gate, Side

TUN_FILE: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
MAX_PACKET_BYTES: Final = 65_536
MAX_HELD_BYTES: Final = 256 << 20  # 10 Gbit/s for 200 ms; bounds memory
BURST: Final = 64  # packets that are read before due ones are written again


@dataclass(slots=True)
class Cable:
    """What one node's cable does to a packet, in each direction."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0


@dataclass(slots=True)
class Wire:
    """The packets that are under way. Time comes in from outside, so does the randomness."""

    gate: Gate
    cables: dict[bytes, Cable]  # by address
    rng: random.Random
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)  # (node, why) -> packets
    dropped_bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    packets: int = 0
    carried_bytes: int = 0
    late_ms: Counter[int] = field(default_factory=Counter)  # whole milliseconds -> packets
    _held: list[tuple[float, int, bytes]] = field(default_factory=list)
    _held_bytes: int = 0
    _last: dict[bytes, float] = field(default_factory=dict)  # source + destination -> release

    def take(self, packet: bytes, *, now_s: float) -> None:
        """Take a packet in: keep it until it is due, or drop it with the reason counted."""
        why: str | None = self.gate.refusal(packet, now_s=now_s)
        if why is None:
            here, there = self.cables[packet[12:16]], self.cables[packet[16:20]]
            if here.loss or there.loss:
                kept = (1 - here.loss) * (1 - there.loss)
                why = "loss" if self.rng.random() >= kept else None
            if self._held_bytes + len(packet) > MAX_HELD_BYTES:
                why = "full"
        if why is not None:
            self._drop(packet, why)
            return
        due_s = now_s + here.delay_s + there.delay_s
        if here.jitter_s or there.jitter_s:
            due_s += self.rng.uniform(0, here.jitter_s) + self.rng.uniform(0, there.jitter_s)
        pair = packet[12:20]
        due_s = max(due_s, self._last.get(pair, 0.0))
        self._last[pair] = due_s
        self.packets += 1
        self.carried_bytes += len(packet)
        self._held_bytes += len(packet)
        heapq.heappush(self._held, (due_s, self.packets, packet))

    def due(self, *, now_s: float) -> Iterator[bytes]:
        """Give out what is due, in order."""
        while self._held and self._held[0][0] <= now_s:
            due_s, _, packet = heapq.heappop(self._held)
            self._held_bytes -= len(packet)
            self.late_ms[int((now_s - due_s) * 1000)] += 1
            yield packet

    def wait_s(self, *, now_s: float) -> float | None:
        """Return how long nothing is due; None: nothing is under way."""
        return max(0.0, self._held[0][0] - now_s) if self._held else None

    def cut(self, address: bytes, is_cut: bool) -> None:
        """Cut a cable, or mend it. What is under way on it is lost, and so are router memories."""
        self.gate.sides[address].is_cut = is_cut
        if not is_cut:
            return
        self.gate.forget(address)
        lost = [item for item in self._held if address in (item[2][12:16], item[2][16:20])]
        if lost:
            gone = {number for _, number, _ in lost}
            self._held = [item for item in self._held if item[1] not in gone]
            heapq.heapify(self._held)
            for _, _, packet in lost:
                self._held_bytes -= len(packet)
                self._drop(packet, "cut")

    def _drop(self, packet: bytes, why: str) -> None:
        side = None
        for address in (packet[12:16], packet[16:20]):
            found = self.gate.sides.get(address)
            if found is not None and (side is None or found.is_cut):
                side = found
        key = (side.name if side else "", why)
        self.dropped[key] += 1
        self.dropped_bytes[key] += len(packet)

    def counts(self) -> dict[str, Any]:
        """Return what passed, what did not and why, and how late packets left."""
        dropped: dict[str, dict[str, dict[str, int]]] = {}
        for (name, why), packets in sorted(self.dropped.items()):
            entry = {"packets": packets, "bytes": self.dropped_bytes[name, why]}
            dropped.setdefault(name, {})[why] = entry
        return {
            "packets": self.packets,
            "bytes": self.carried_bytes,
            "dropped": dropped,
            "late_ms": {
                "median": _quantile(self.late_ms, 0.5),
                "p99": _quantile(self.late_ms, 0.99),
                "max": max(self.late_ms, default=0),
            },
        }


def _quantile(counts: Counter[int], share: float) -> int:
    wanted, seen = share * counts.total(), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return 0


def open_tun(name: str) -> int:
    """Return a TUN device of this name in this process's network namespace, not blocking."""
    fd = os.open(TUN_FILE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def build_wire(settings: dict[str, Any]) -> tuple[Wire, dict[str, bytes]]:
    """Return the wire that the first line of control asks for, and node -> address."""
    sides: dict[bytes, Side] = {}
    cables: dict[bytes, Cable] = {}
    addresses: dict[str, bytes] = {}
    for name, node in settings["nodes"].items():
        address = ipaddress.IPv4Address(node["address"]).packed
        sides[address] = Side(name, _dial(node["dial_in"]), _dial(node["dial_out"]))
        cables[address] = Cable(node["delay_ms"] / 1e3, node["jitter_ms"] / 1e3, node["loss"])
        addresses[name] = address
    return Wire(Gate(sides), cables, random.Random(settings["seed"])), addresses


def _dial(rule: str | list[int]) -> Any:
    return rule if isinstance(rule, str) else tuple(rule)


def obey(wire: Wire, addresses: dict[str, bytes], order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one line of control; return the answer."""
    if "node" in order:
        address = addresses[order["node"]]
        cable = wire.cables[address]
        if "cut" in order:
            wire.cut(address, order["cut"])
        if "delay_ms" in order:
            cable.delay_s = order["delay_ms"] / 1e3
        if "jitter_ms" in order:
            cable.jitter_s = order["jitter_ms"] / 1e3
    return wire.counts()


def serve(wire: Wire, addresses: dict[str, bytes], tun: int, control: int) -> None:
    """Move packets until the control stream ends."""
    clock = time.monotonic
    rest = b""
    while True:
        wait_s = wire.wait_s(now_s=clock())
        ready, _, _ = select.select([tun, control], [], [], wait_s)
        if tun in ready:
            with contextlib.suppress(BlockingIOError):
                for _ in range(BURST):
                    wire.take(os.read(tun, MAX_PACKET_BYTES), now_s=clock())
        for packet in wire.due(now_s=clock()):
            # A full queue or a cable that was taken away: lost, as in any network.
            with contextlib.suppress(OSError):
                os.write(tun, packet)
        if control in ready:
            data = os.read(control, MAX_PACKET_BYTES)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                print(json.dumps(obey(wire, addresses, json.loads(line))), flush=True)


def main() -> int:
    """Run the wire; return the exit code."""
    control = sys.stdin.fileno()
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(control, 1)):  # not more: what follows is for `serve`
            return 1
        line += byte
    settings = json.loads(line)
    tun = open_tun(settings["device"])
    wire, addresses = build_wire(settings)
    with contextlib.suppress(PermissionError):  # training must not delay what is due
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print(json.dumps({"ready": True}), flush=True)
    serve(wire, addresses, tun, control)
    return 0


if __name__ == "__main__":
    sys.exit(main())
