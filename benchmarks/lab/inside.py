"""Sockets of another network namespace, for this process: the coordinator's API from outside.

A thread of its own enters the namespace, makes the socket and ends: a socket stays where it was
made, and no other thread of this process moves. No packet of it touches a cable.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
NAMESPACES: Final = Path("/run/netns")  # where iproute2 keeps them
TIMEOUT_S: Final = 20.0


def socket_in(namespace: str, *, family: int, kind: int, protocol: int) -> socket.socket:
    """Return a new socket of a namespace. Raises: OSError: there is none, or no right to enter."""
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            descriptor = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(descriptor, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns({namespace})")
            finally:
                os.close(descriptor)
            made.append(socket.socket(family, kind, protocol))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make, name="ares-lab-setns")
    thread.start()
    thread.join()
    [result] = made
    if isinstance(result, OSError):
        raise result
    return result


def client_in(namespace: str) -> aiohttp.ClientSession:
    """Return an HTTP client whose connections begin in a namespace."""

    def make(address: Any) -> socket.socket:
        family, kind, protocol = address[:3]
        return socket_in(namespace, family=family, kind=kind, protocol=protocol)

    factory: Callable[[Any], socket.socket] = make
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=factory),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
    )
