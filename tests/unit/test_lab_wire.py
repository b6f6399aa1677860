"""The delay line of the laboratory, with the time from outside."""

from __future__ import annotations

import random

import pytest

from benchmarks.lab.gate import Gate, Side
from benchmarks.lab.wire import Cable, Wire, build_wire, obey

ADA, BEN = bytes([44, 128, 1, 2]), bytes([44, 128, 2, 2])


def packet(source: bytes, destination: bytes, number: int = 0) -> bytes:
    head = bytearray(20)
    head[0], head[9] = 0x45, 47
    head[12:16], head[16:20] = source, destination
    return bytes(head) + number.to_bytes(4, "big")


def number_of(data: bytes) -> int:
    return int.from_bytes(data[20:], "big")


def wire(ada: Cable | None = None, ben: Cable | None = None) -> Wire:
    gate = Gate({ADA: Side("ada"), BEN: Side("ben")})
    return Wire(gate, {ADA: ada or Cable(), BEN: ben or Cable()}, random.Random(3))


def test_wire_delays_by_both_cables() -> None:
    line = wire(Cable(delay_s=0.025), Cable(delay_s=0.010))
    line.take(packet(ADA, BEN), now_s=1.0)
    assert line.wait_s(now_s=1.0) == pytest.approx(0.035)
    assert list(line.due(now_s=1.034)) == []
    assert list(line.due(now_s=1.036)) == [packet(ADA, BEN)]
    assert line.wait_s(now_s=1.036) is None


def test_wire_jitter_is_bounded_and_never_lets_packets_overtake() -> None:
    line = wire(Cable(delay_s=0.01, jitter_s=0.05))
    left: dict[int, float] = {}
    for step in range(2_000):
        now_s = step * 1e-3
        if step < 1_000:
            line.take(packet(ADA, BEN, step), now_s=now_s)
        for data in line.due(now_s=now_s):
            left[number_of(data)] = now_s
    assert list(left) == list(range(1_000))
    delays = [left[number] - number * 1e-3 for number in left]
    assert min(delays) >= 0.01
    assert max(delays) <= 0.0611  # delay + jitter, and the clock's step
    assert max(delays) - min(delays) > 0.02  # there is jitter at all


def test_wire_loses_the_share_of_both_cables() -> None:
    line = wire(Cable(loss=0.1), Cable(loss=0.2))
    for number in range(5_000):
        line.take(packet(ADA, BEN, number), now_s=0.0)
    kept = len(list(line.due(now_s=0.0)))
    assert kept / 5_000 == pytest.approx(0.72, abs=0.02)
    lost = line.counts()["dropped"]["ada"]["loss"]
    assert lost == {"packets": 5_000 - kept, "bytes": 24 * (5_000 - kept)}


def test_wire_cut_loses_what_is_under_way_and_counts_it() -> None:
    line = wire(Cable(delay_s=1.0))
    line.take(packet(ADA, BEN, 1), now_s=0.0)
    line.take(packet(BEN, ADA, 2), now_s=0.0)
    line.cut(ADA, True)
    line.take(packet(BEN, ADA, 3), now_s=0.5)
    assert list(line.due(now_s=9.0)) == []
    assert line.counts()["dropped"] == {"ada": {"cut": {"packets": 3, "bytes": 72}}}
    line.cut(ADA, False)
    line.take(packet(BEN, ADA, 4), now_s=9.0)
    assert [number_of(data) for data in line.due(now_s=10.0)] == [4]


def test_wire_says_how_late_packets_left() -> None:
    line = wire()
    for number in range(99):
        line.take(packet(ADA, BEN, number), now_s=0.0)
    list(line.due(now_s=0.0005))
    line.take(packet(ADA, BEN, 99), now_s=1.0)
    list(line.due(now_s=1.0075))
    assert line.counts()["late_ms"] == {"median": 0, "p99": 0, "max": 7}


def test_wire_obeys_changes_of_one_node() -> None:
    node = {"delay_ms": 5, "jitter_ms": 0, "loss": 0, "dial_in": "all", "dial_out": [443]}
    nodes = {"ada": {**node, "address": "44.128.1.2"}, "ben": {**node, "address": "44.128.2.2"}}
    line, addresses = build_wire({"seed": 0, "nodes": nodes})
    assert line.gate.sides[ADA].dial_out == (443,)
    obey(line, addresses, {"node": "ada", "delay_ms": 80, "cut": True})
    assert line.cables[ADA].delay_s == pytest.approx(0.08)
    assert line.cables[BEN].delay_s == pytest.approx(0.005)
    assert line.gate.sides[ADA].is_cut
    assert not line.gate.sides[BEN].is_cut
