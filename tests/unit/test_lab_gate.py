"""Who may dial whom in the laboratory, packet by packet."""

from __future__ import annotations

import struct

from benchmarks.lab.gate import ACK, SYN, TCP, UDP, UDP_MEMORY_S, Gate, Side

HOME, SERVER, OTHER = bytes([44, 128, 1, 2]), bytes([44, 128, 2, 2]), bytes([44, 128, 3, 2])
ICMP = 1


def ip(protocol: int, source: bytes, destination: bytes, body: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0)
    return head + source + destination + body


def tcp(source: bytes, destination: bytes, flags: int, ports: tuple[int, int]) -> bytes:
    return ip(
        TCP, source, destination, struct.pack(">HHIIBBHHH", *ports, 0, 0, 0x50, flags, 0, 0, 0)
    )


def udp(source: bytes, destination: bytes, ports: tuple[int, int]) -> bytes:
    return ip(UDP, source, destination, struct.pack(">HHHH", *ports, 8, 0))


def gate(**home: object) -> Gate:
    sides = {HOME: Side("home"), SERVER: Side("server"), OTHER: Side("other")}
    for name, value in home.items():
        setattr(sides[HOME], name, value)
    return Gate(sides)


def test_gate_lets_an_open_node_be_dialled_and_dial() -> None:
    open_ = gate()
    for here, there in ((HOME, SERVER), (SERVER, HOME)):
        assert open_.refusal(tcp(here, there, SYN, (1000, 31_000)), now_s=0) is None
        assert open_.refusal(udp(here, there, (1000, 31_000)), now_s=0) is None


def test_gate_keeps_dials_from_a_node_that_only_dials_out_and_lets_answers_pass() -> None:
    nat = gate(dial_in="none")
    assert nat.refusal(tcp(SERVER, HOME, SYN, (31_000, 1000)), now_s=0) == "dial"
    assert nat.refusal(udp(SERVER, HOME, (31_000, 1000)), now_s=0) == "dial"
    assert nat.refusal(tcp(HOME, SERVER, SYN, (1000, 31_000)), now_s=1) is None
    assert nat.refusal(tcp(SERVER, HOME, SYN | ACK, (31_000, 1000)), now_s=1) is None
    assert nat.refusal(udp(HOME, SERVER, (1000, 31_000)), now_s=1) is None
    assert nat.refusal(udp(SERVER, HOME, (31_000, 1000)), now_s=1) is None
    assert nat.refusal(udp(OTHER, HOME, (31_000, 1000)), now_s=1) == "dial"


def test_gate_lets_a_hole_be_punched_from_both_sides_at_once() -> None:
    nat = gate(dial_in="none")
    assert nat.refusal(tcp(OTHER, HOME, SYN, (5000, 1000)), now_s=0) == "dial"
    assert nat.refusal(tcp(HOME, OTHER, SYN, (1000, 5000)), now_s=0.1) is None
    assert nat.refusal(tcp(OTHER, HOME, SYN, (5000, 1000)), now_s=0.2) is None
    assert nat.refusal(tcp(OTHER, HOME, SYN, (5001, 1000)), now_s=0.2) == "dial"


def test_gate_forgets_a_flow_that_was_silent_for_too_long() -> None:
    nat = gate(dial_in="none")
    assert nat.refusal(udp(HOME, SERVER, (1000, 53)), now_s=0) is None
    assert nat.refusal(udp(SERVER, HOME, (53, 1000)), now_s=UDP_MEMORY_S) is None
    late_s = 2 * UDP_MEMORY_S + 1
    assert nat.refusal(udp(SERVER, HOME, (53, 1000)), now_s=late_s) == "dial"


def test_gate_forgets_the_flows_of_a_router_that_starts_again() -> None:
    nat = gate(dial_in="none")
    nat.refusal(udp(HOME, SERVER, (1000, 53)), now_s=0)
    nat.forget(HOME)
    assert nat.refusal(udp(SERVER, HOME, (53, 1000)), now_s=1) == "dial"


def test_gate_admits_listed_ports_only() -> None:
    web = gate(dial_in=(443,))
    assert web.refusal(tcp(OTHER, HOME, SYN, (1000, 443)), now_s=0) is None
    assert web.refusal(tcp(OTHER, HOME, SYN, (1000, 31_000)), now_s=0) == "dial"
    office = gate(dial_out=(443,))
    assert office.refusal(tcp(HOME, OTHER, SYN, (1000, 443)), now_s=0) is None
    assert office.refusal(tcp(HOME, OTHER, SYN, (1000, 31_000)), now_s=0) == "dial"
    assert office.refusal(udp(HOME, OTHER, (1000, 31_000)), now_s=0) == "dial"


def test_gate_answers_a_ping_only_where_it_may_be_dialled() -> None:
    nat = gate(dial_in="none")
    ping, pong = bytes([8, 0, 0, 0]), bytes([0, 0, 0, 0])
    assert nat.refusal(ip(ICMP, SERVER, HOME, ping), now_s=0) == "dial"
    assert nat.refusal(ip(ICMP, HOME, SERVER, ping), now_s=0) is None
    assert nat.refusal(ip(ICMP, SERVER, HOME, pong), now_s=0) is None


def test_gate_drops_everything_on_a_cut_cable() -> None:
    cut = gate(is_cut=True)
    assert cut.refusal(tcp(SERVER, HOME, ACK, (1, 2)), now_s=0) == "cut"
    assert cut.refusal(tcp(HOME, SERVER, ACK, (1, 2)), now_s=0) == "cut"
    assert cut.refusal(tcp(OTHER, SERVER, ACK, (1, 2)), now_s=0) is None


def test_gate_knows_nobody_outside_and_no_other_protocol() -> None:
    open_, stranger = gate(), bytes([239, 255, 255, 250])
    assert open_.refusal(udp(HOME, stranger, (1900, 1900)), now_s=0) == "nobody"
    assert open_.refusal(b"\x60" + bytes(39), now_s=0) == "nobody"
    assert open_.refusal(b"", now_s=0) == "nobody"
    assert gate(dial_in="none").refusal(ip(47, HOME, SERVER, bytes(8)), now_s=0) == "dial"
