"""Where a waiting peer's bytes go: the DHT, the wait at the coordinator, and what is written.

    python -m benchmarks.bench_records --peers 4 --seconds 30 --output benchmarks/results/records.json

A bootstrap node, a coordinator and some peers on loopback: real nodes, each with its DHT process and
p2pd, all in one process. In every phase each peer does one thing that a session does, or nothing;
what its p2pd sent and received in that time are the kernel's counts of its TCP connections (`ss`),
payload of TCP without headers. Nothing is idle in a network: the phase `idle` is to be taken off
the others. `poll` is how peers look for records without the coordinator, `watch` how they do with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ares_coordinator.board import RecordBoard
from ares_p2p import PROTOCOL_VERSION
from ares_p2p.clock import SystemClock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity, load_or_create_identity
from ares_p2p.domain import (
    Commit,
    CommitAck,
    CycleConfig,
    Header,
    LedgerHead,
    PeerStatus,
    RoundManifest,
    RoundPlan,
    RoundSettlement,
)
from ares_p2p.ids import PeerId
from ares_p2p.network.invite import Invite
from ares_p2p.network.node import Node
from ares_p2p.network.records import Records
from ares_p2p.network.records_hivemind import HivemindTransport
from ares_p2p.network.records_watch import WatchedRecords
from ares_p2p.rounds.plan import NO_DIGEST
from ares_p2p.wire.codec import seal
from ares_peer.links import POLL_S

LISTEN = ("/ip4/127.0.0.1/tcp/0",)
SETTLE_S = 5.0  # after the start, and between two phases
SAMPLE_S = 0.5  # connections that lived for less are missed
CALLS = 5  # of each thing that is done once in a while
_SOCKET = re.compile(r"users:\(\(\"[^\"]*\",pid=(\d+)")


@dataclass(slots=True)
class TcpCounts:
    """Bytes by p2pd, from `ss`: connections come and go, each counts with its last sample."""

    _seen: dict[tuple[int, str, str], tuple[int, int]] = field(default_factory=dict)

    def sample(self) -> None:
        """Look at every connection once."""
        said = subprocess.run(["ss", "-tinpOH"], check=True, capture_output=True, text=True).stdout
        for line in said.splitlines():
            owner, words = _SOCKET.search(line), line.split()
            if owner is not None:
                key = (int(owner[1]), words[3], words[4])
                self._seen[key] = (_number(line, "bytes_sent"), _number(line, "bytes_received"))

    def of(self, pid: int) -> tuple[int, int]:
        """Return bytes sent and received by a process so far."""
        mine = [counts for (owner, _, _), counts in self._seen.items() if owner == pid]
        return sum(up for up, _ in mine), sum(down for _, down in mine)


def _number(line: str, name: str) -> int:
    found = re.search(rf"\b{name}:(\d+)", line)
    return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class Swarm:
    """The nodes of one run."""

    coordinator: Node
    peers: tuple[Node, ...]
    board: RecordBoard
    counts: TcpCounts

    async def measure(
        self, act: Callable[[Node], Awaitable[object]] | None, seconds: float
    ) -> dict[str, float]:
        """Return what a peer sent and received a second while each does something for a while."""
        tasks = [] if act is None else [asyncio.ensure_future(act(node)) for node in self.peers]
        before = self._bytes()
        began_s = time.perf_counter()
        while time.perf_counter() - began_s < seconds:
            await asyncio.sleep(SAMPLE_S)
            await asyncio.to_thread(self.counts.sample)
            for task in tasks:
                if task.done():
                    task.result()
        took_s, after = time.perf_counter() - began_s, self._bytes()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {key: round((after[key] - before[key]) / took_s) for key in before}

    def _bytes(self) -> dict[str, float]:
        peers = [self.counts.of(node.process_ids[1]) for node in self.peers]
        own = self.counts.of(self.coordinator.process_ids[1])
        return {
            "peer_up_bytes_per_s": sum(up for up, _ in peers) / len(peers),
            "peer_down_bytes_per_s": sum(down for _, down in peers) / len(peers),
            "coordinator_up_bytes_per_s": own[0],
            "coordinator_down_bytes_per_s": own[1],
        }


async def follow(records: Records, rest: Callable[[float], Awaitable[None]]) -> None:
    """Look for what a peer waits for between two rounds, as the session does."""
    while True:
        await records.fetch(RoundPlan, cycle=1)
        await records.fetch(RoundManifest, cycle=1, round=23)
        await records.fetch(CycleConfig)
        await records.fetch(RoundSettlement, cycle=1, round=3)
        await rest(POLL_S)


async def poll(node: Node) -> None:
    """Look into the DHT."""
    await follow(node.records, asyncio.sleep)


async def watch(node: Node) -> None:
    """Wait at the coordinator."""
    coordinator = node.network.coordinator
    records = WatchedRecords(
        node.records,
        lambda wishes, wait_s: node.control.watch(wishes, to=coordinator, wait_s=wait_s),
        network_id=node.network.network_id,
        clock=SystemClock(),
    )
    keeping = asyncio.create_task(records.keep())
    try:
        await follow(records, records.rest)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def repeated(act: Callable[[Node], Awaitable[object]], seconds: float) -> Any:
    """Return what does something a few times, spread over the phase."""

    async def run(node: Node) -> None:
        for _ in range(CALLS):
            await act(node)
            await asyncio.sleep(0.8 * seconds / CALLS)
        await asyncio.Event().wait()

    return run


def status_of(node: Node) -> Envelope:
    """Return a signed status of a peer."""
    now_ms = SystemClock().now_ms()
    return seal(
        node.identity,
        PeerStatus(
            header=Header(node.network.network_id, 1, 0, now_ms, now_ms),
            software="0.1.0",
            protocol=PROTOCOL_VERSION,
            device="cpu",
            profile="x86_64-avx2",
            tokens_per_s=1000.0,
            state=b"\x01" * 32,
            held_blobs=(b"\x01" * 32, b"\x02" * 32),
        ),
    )


def commit_of(node: Node, number: int) -> Envelope:
    """Return a signed commit of a peer."""
    now_ms = SystemClock().now_ms()
    return seal(
        node.identity,
        Commit(
            header=Header(node.network.network_id, 1, number, now_ms, now_ms),
            plan_sha256=b"\x03" * 32,
            state=b"\x01" * 32,
            blob_id=b"\x04" * 32,
            blob_size_bytes=50_000,
            steps=10,
            tokens=10_000,
            first_example=0,
            previous_commit_sha256=NO_DIGEST,
            mean_loss=2.0,
            device="cpu",
            profile="x86_64-avx2",
        ),
    )


async def run_phases(swarm: Swarm, seconds: float) -> dict[str, dict[str, float]]:
    """Return every phase's rates."""
    numbers = iter(range(10**6))

    async def tell(node: Node) -> None:
        await node.control.submit(status_of(node), to=node.network.coordinator)

    async def announce(node: Node) -> None:
        await node.records.publish(status_of(node), keep=False)

    async def commit(node: Node) -> None:
        await node.records.publish(commit_of(node, next(numbers)), keep=False)

    async def collect(node: Node) -> None:
        if node is swarm.peers[0]:  # once, by the coordinator
            await swarm.coordinator.records.fetch_peers(Commit, cycle=1, round=next(numbers))

    async def head(node: Node) -> None:
        await node.records.fetch(LedgerHead)

    often = {"tell": tell, "announce": announce, "commit": commit, "collect": collect, "head": head}
    found = {"idle": await swarm.measure(None, seconds)}
    phases = {"poll": poll, "watch": watch}
    phases |= {name: repeated(act, seconds) for name, act in often.items()}
    for name, act in phases.items():
        await asyncio.sleep(SETTLE_S)
        found[name] = await swarm.measure(act, seconds)
        if name in often:
            idle = found["idle"]
            found[name] |= {
                f"{way}_bytes_per_call": round(
                    (found[name][f"{way}_bytes_per_s"] - idle[f"{way}_bytes_per_s"])
                    * seconds
                    / CALLS
                )
                for way in ("peer_up", "peer_down", "coordinator_up", "coordinator_down")
            }
        print(name, found[name], file=sys.stderr, flush=True)
    return found


async def play(nodes: list[Node], *, seconds: float) -> dict[str, Any]:
    """Open the nodes, publish what a coordinator keeps there, and measure."""
    for node in nodes:
        await node.open()
    own = nodes[1]
    clock, network = SystemClock(), own.network
    transport = HivemindTransport(own)
    board = RecordBoard(identity=own.identity, network=network, transport=transport, clock=clock)

    async def acknowledge(envelope: Envelope, remote: PeerId) -> Envelope:
        now_ms = clock.now_ms()
        header = Header(network.network_id, 1, 0, now_ms, now_ms)
        return seal(own.identity, CommitAck(header, envelope.payload_sha256, remote))

    own.control.on_submit(acknowledge)
    own.control.on_watch(board.watch)
    swarm = Swarm(own, tuple(nodes[2:]), board, TcpCounts())
    try:
        for envelope in _standing_records(own.identity, network.network_id):
            board.post(envelope)
            await own.records.publish(envelope)
        await asyncio.sleep(SETTLE_S)
        await asyncio.to_thread(swarm.counts.sample)
        return await run_phases(swarm, seconds)
    finally:
        for node in reversed(nodes):
            await node.close()


def _standing_records(who: Identity, network_id: str) -> list[Envelope]:
    """Return a plan and a configuration, as large as real ones."""
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]
    import dataclasses

    from payloads import sample

    now_ms = SystemClock().now_ms()
    return [
        seal(who, dataclasses.replace(sample(cls), header=Header(network_id, 1, 0, now_ms, now_ms)))
        for cls in (RoundPlan, CycleConfig)
    ]


def main() -> None:
    """Parse the flags, run, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each phase")
    parser.add_argument("--output", type=Path)
    flags = parser.parse_args()
    if shutil.which("ss") is None:
        parser.error("`ss` is needed: apt-get install iproute2")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.key" for number in range(flags.peers + 2)]
        network = Invite("bench-records", load_or_create_identity(paths[1]).peer_id).network
        nodes: list[Node] = []
        try:
            for number, path in enumerate(paths):
                nodes.append(
                    Node.start(
                        identity_path=path,
                        network=network,
                        host_addresses=LISTEN,
                        initial_peers=nodes[0].addresses if nodes else (),
                        role=("bootstrap", "coordinator")[number] if number < 2 else "peer",
                    )
                )
            phases = asyncio.run(play(nodes, seconds=flags.seconds))
        finally:
            for node in nodes:
                node.shutdown()
    result = {
        "benchmark": "records",
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "peers": flags.peers,
        "seconds": flags.seconds,
        "calls": CALLS,
        "goal": "a waiting peer sends less than 0.2 kB/s more than an idle one",
        "phases": phases,
    }
    text = json.dumps(result, indent=2)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
