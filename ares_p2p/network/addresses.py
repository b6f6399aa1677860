"""Multiaddresses to listen on: which ports they take, and whether those are free.

p2pd shares ports (SO_REUSEPORT), so two nodes on one port would both start and then lose each
other's connections: the ports are tried before. Pure except for `check_ports_free`.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from ares_p2p.errors import ConfigFault, PortTaken


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """The part of a multiaddress that the kernel sees."""

    host: str
    transport: str  # "tcp" or "udp"
    port: int


def parse_listen_address(address: str) -> ListenAddress:
    """Return host, transport and port of `/ip4/HOST/tcp/PORT` or `/ip4/HOST/udp/PORT/quic-v1`.

    Raises: ConfigFault: anything else.
    """
    parts = address.split("/")
    if (
        len(parts) < 5
        or parts[0]
        or parts[1] not in ("ip4", "ip6")
        or parts[3] not in ("tcp", "udp")
    ):
        raise ConfigFault(f"{address!r}: '/ip4/HOST/tcp/PORT' expected")
    try:
        host, port = str(ipaddress.ip_address(parts[2])), int(parts[4])
    except ValueError as error:
        raise ConfigFault(f"{address!r} holds no IP address and port") from error
    if not 0 <= port <= 65_535:
        raise ConfigFault(f"{address!r}: port {port} is outside 0..65535")
    return ListenAddress(host, parts[3], port)


def listen_addresses(host: str, port: int) -> tuple[str, ...]:
    """Return what to listen on at `host` and `port`: TCP, and QUIC where it can help."""
    family = "ip6" if ":" in host else "ip4"
    return (f"/{family}/{host}/tcp/{port}", f"/{family}/{host}/udp/{port}/quic-v1")


def is_loopback_only(addresses: Iterable[str]) -> bool:
    """Whether nobody outside this machine can reach any of the addresses."""
    return all(ipaddress.ip_address(parse_listen_address(a).host).is_loopback for a in addresses)


def check_ports_free(addresses: Iterable[str]) -> None:
    """Bind every fixed port once, and let go.

    Raises: PortTaken. ConfigFault: a host that this machine does not have, or a forbidden port.
    """
    for address in addresses:
        listen = parse_listen_address(address)
        if listen.port == 0:
            continue
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        is_tcp = listen.transport == "tcp"
        with socket.socket(family, socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM) as probe:
            if is_tcp:  # connections of an earlier run that still fade out do not count
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listen.host, listen.port))
                if is_tcp:
                    probe.listen()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortTaken(f"{listen.transport} port {listen.port} is in use") from error
                raise ConfigFault(f"cannot listen on {address}: {error.strerror}") from error
