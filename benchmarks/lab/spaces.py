"""Namespaces, cables and rates: the hub in the middle, one namespace a node, tc on both ends.

    node                          hub                           node
    eth0 --- up: tbf ---> NAME -> rule -> wire0 (TUN) -> NAME --- down: tbf ---> eth0

The hub routes what comes out of a cable into the TUN device, and what comes out of that to the
right cable. Nothing of it is joined to the machine's own network. The addresses are of
44.128.0.0/16, which belongs to nobody's hosts: p2pd takes only such for public as are not reserved
for private use, and a network of private addresses would not look for relays.

Names carry the owner's pid and the time it was started, so that whatever an owner that died left
behind can be told from what a living one uses.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from ares_p2p.errors import ConfigFault
from benchmarks.lab.scenario import Link
from benchmarks.lab.wire import TUN_FILE

DEVICE: Final = "wire0"
HUB: Final = "hub"
MTU: Final = 1500
TABLE: Final = 100  # of routes, for what comes out of a cable
TUN_QUEUE: Final = 5_000  # packets; the wire reads far faster than the links carry
COMMAND_TIMEOUT_S: Final = 20.0
MIN_BURST_BYTES: Final = 2 * (MTU + 14)
_NAME: Final = re.compile(r"^ares-lab\.(\d+)\.(\d+)\.([a-z0-9]+)$")


class CommandFailed(RuntimeError):
    """`ip` or `tc` refused something; carries what it said."""


def run_command(*words: str) -> str:
    """Return what a command printed. Raises: CommandFailed."""
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise CommandFailed(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def why_not() -> str:
    """Return why this machine cannot run the lab; "": it can. Tries it, so it takes a moment."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found: apt-get install iproute2"
    if not Path(TUN_FILE).exists():
        return f"{TUN_FILE} is missing: modprobe tun"
    probe = f"ares-lab.{os.getpid()}.{_started(os.getpid())}.probe"
    try:
        run_command("ip", "netns", "add", probe)
        try:
            shape(probe, "lo", mbit=10, queue_ms=100)
        finally:
            run_command("ip", "netns", "del", probe)
    except (CommandFailed, subprocess.TimeoutExpired) as error:
        return f"the kernel does not let us: {error}"
    return ""


def check_machine() -> None:
    """Refuse a machine that cannot run the lab. Raises: ConfigFault."""
    if why := why_not():
        hint = "sudo python -m benchmarks.lab ..." if os.geteuid() else "see docs/lab.md"
        raise ConfigFault(f"the lab cannot run here: {why}", hint=hint)


def shape(namespace: str, device: str, *, mbit: float, queue_ms: float) -> None:
    """Bound what leaves a device: a token bucket, and a queue as long as the modem's.

    The bucket holds what 5 ms carry: less would not reach the rate with the kernel's timers.
    """
    burst = max(MIN_BURST_BYTES, round(mbit * 1e6 / 8 * 0.005))
    words = f"qdisc replace dev {device} root tbf rate {round(mbit * 1e6)}bit burst {burst}"
    run_command("tc", "-n", namespace, *words.split(), "latency", f"{queue_ms:g}ms")


def _started(pid: int) -> int:
    """Return when a process was started, in milliseconds; 0: there is none."""
    try:
        return round(psutil.Process(pid).create_time() * 1000)
    except psutil.Error:
        return 0


def is_abandoned(name: str) -> bool:
    """Whether a namespace is one of the lab's, of a run that is dead."""
    found = _NAME.match(name)
    if not found:
        return False
    # a corrected clock moves start times; a pid that was given out again starts much later
    return abs(_started(int(found[1])) - int(found[2])) > 2_000


def namespaces() -> list[str]:
    """Return the names of all network namespaces."""
    return [line.split()[0] for line in run_command("ip", "netns", "list").splitlines() if line]


def remove_abandoned() -> list[str]:
    """Remove the namespaces of runs that are dead, and end what still lives in them.

    Returns: the removed names.
    """
    gone = [name for name in namespaces() if is_abandoned(name)]
    for name in gone:
        remove_namespace(name)
    return gone


def remove_namespace(name: str) -> None:
    """End every process of a namespace, then remove it."""
    with contextlib.suppress(CommandFailed):
        for pid in run_command("ip", "netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(CommandFailed):
        run_command("ip", "netns", "del", name)


@dataclass(slots=True)
class Spaces:
    """The namespaces of one run. `build`, then `connect` once the wire is there; `remove`."""

    links: dict[str, Link]  # node -> its cable
    owner: str = field(default_factory=lambda: f"{os.getpid()}.{_started(os.getpid())}")
    addresses: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.addresses = {
            name: f"44.128.{number}.2" for number, name in enumerate(self.links, start=1)
        }

    def name_of(self, node: str) -> str:
        """Return the name of a node's namespace."""
        return f"ares-lab.{self.owner}.{node}"

    def prefix_of(self, node: str) -> Sequence[str]:
        """Return what runs a command in a node's namespace."""
        return ("ip", "netns", "exec", self.name_of(node))

    def build(self) -> None:
        """Make all namespaces and cables. Raises: CommandFailed."""
        hub = self.name_of(HUB)
        run_command("ip", "netns", "add", hub)
        switches = ["ip_forward=1"]
        for key in ("all", "default"):
            switches += [f"conf/{key}/rp_filter=0", f"conf/{key}/send_redirects=0"]
        writes = (f"echo {s[-1]} > /proc/sys/net/ipv4/{s[:-2]}" for s in switches)
        run_command(*self.prefix_of(HUB), "sh", "-c", " && ".join(writes))
        run_command("ip", "-n", hub, "link", "set", "lo", "up")
        for node, link in self.links.items():
            self._lay_cable(node, link)

    def _lay_cable(self, node: str, link: Link) -> None:
        hub, space, address = self.name_of(HUB), self.name_of(node), self.addresses[node]
        gateway = address.rsplit(".", 1)[0] + ".1"
        run_command("ip", "netns", "add", space)
        ends = f"link add {node} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {space}"
        run_command("ip", "-n", hub, *ends.split())
        # whole packets as the other side sees them: offloads would hide headers from the counts
        for namespace, device, own in ((hub, node, gateway), (space, "eth0", address)):
            run_command("ip", "-n", namespace, "link", "set", device, "gso_max_segs", "1")
            run_command("ip", "-n", namespace, "addr", "add", f"{own}/24", "dev", device)
            run_command("ip", "-n", namespace, "link", "set", device, "up")
        run_command("ip", "-n", space, "link", "set", "lo", "up")
        run_command("ip", "-n", space, "route", "add", "default", "via", gateway)
        self.set_rate(node, up_mbit=link.up_mbit, down_mbit=link.down_mbit)

    def connect(self) -> None:
        """Lead everything through the wire's device, which is there by now."""
        hub = self.name_of(HUB)
        device = f"link set {DEVICE} up mtu {MTU} txqueuelen {TUN_QUEUE}"
        run_command("ip", "-n", hub, *device.split())
        run_command("ip", "-n", hub, *f"route add default dev {DEVICE} table {TABLE}".split())
        for priority, what in enumerate((f"iif {DEVICE} lookup main", "iif lo lookup main"), 10):
            run_command("ip", "-n", hub, "rule", "add", "pref", str(priority), *what.split())
        run_command("ip", "-n", hub, "rule", "add", "pref", "20", "lookup", str(TABLE))

    def set_rate(
        self, node: str, *, up_mbit: float | None = None, down_mbit: float | None = None
    ) -> None:
        """Change what a node's cable carries; None leaves that direction alone."""
        queue_ms = self.links[node].queue_ms
        if up_mbit is not None:
            shape(self.name_of(node), "eth0", mbit=up_mbit, queue_ms=queue_ms)
        if down_mbit is not None:
            shape(self.name_of(HUB), node, mbit=down_mbit, queue_ms=queue_ms)

    def remove(self) -> None:
        """Remove everything of this run; idempotent."""
        mine = f"ares-lab.{self.owner}."
        for name in namespaces():
            if name.startswith(mine):
                remove_namespace(name)


def processes_in(names: Iterable[str]) -> list[int]:
    """Return the processes that live in these namespaces."""
    found: list[int] = []
    for name in names:
        with contextlib.suppress(CommandFailed):
            found += [int(pid) for pid in run_command("ip", "netns", "pids", name).split()]
    return found
