"""A real DHT on this machine: how long records take, and what survives when nodes die.

    python -m benchmarks.bench_dht --nodes 64 --records 100 --output dht.json

Real hivemind nodes with a p2pd each, on loopback, all in one process (see `benchmarks.scale.dht`):
with many nodes on few processors the latencies are the machine's more than the network's, and
the load is given with them. Chunks of 40 kB and announcements (about 400 bytes, stored and read
back) are written by random nodes; every chunk is read once, by another one. `poll` asks all nodes
near a key for the newest record of the coordinator's, as peers do while they wait. Then a share of
the nodes is killed, never the first one, and what was written before is read, at once and after half
a minute, and new records are written. Nothing is stored again meanwhile: in the program its owner does so every third of its
lifetime.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from ares_p2p import PROTOCOL_VERSION
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import Header, NetworkDescriptor, PeerStatus
from ares_p2p.errors import AresError, RecordUnavailable
from ares_p2p.ids import Digest
from ares_p2p.network.invite import Invite
from ares_p2p.rounds.plan import NO_DIGEST
from ares_p2p.wire.codec import seal
from benchmarks.scale.dht import Dht, LiveNode

CHUNK_BYTES = 40 * 1024
AT_ONCE = 4  # calls at a time: so that they wait for the network more than for each other
SHARES = (0.1, 0.25, 0.5)  # of the first nodes, killed by then
LATER_S = 30.0


async def timed(acts: Sequence[Callable[[], Awaitable[object]]]) -> dict[str, Any]:
    """Return latencies and the share that worked."""
    gate, took_ms, failed = asyncio.Semaphore(AT_ONCE), [], 0
    codes: dict[str, int] = {}

    async def one(act: Callable[[], Awaitable[object]]) -> None:
        nonlocal failed
        async with gate:
            began_s = time.perf_counter()
            try:
                await act()
                took_ms.append(1000 * (time.perf_counter() - began_s))
            except AresError as fault:
                failed += 1
                codes[fault.code] = codes.get(fault.code, 0) + 1

    await asyncio.gather(*(one(act) for act in acts))
    facts: dict[str, Any] = {"calls": len(acts), "success": 1 - failed / len(acts)}
    if took_ms:
        ordered = sorted(took_ms)
        facts |= {
            "median_ms": statistics.median(ordered),
            "p95_ms": ordered[math.ceil(0.95 * len(ordered)) - 1],
        }
    return facts | ({"faults": codes} if codes else {})


class Bench:
    """The calls, on nodes that a seed chooses."""

    def __init__(self, dht: Dht, *, network_id: str, owner: Identity, seed: int) -> None:
        self.dht = dht
        self._owner = owner
        self.rng = random.Random(seed)
        self._network_id = network_id
        self._seq = 0

    def _some(self) -> LiveNode:
        return self.rng.choice(self.dht.alive)

    async def write_chunks(self, count: int) -> tuple[dict[str, Any], list[Digest]]:
        """Store chunks; return the facts and what was stored."""
        stored: list[Digest] = []

        async def write(node: LiveNode, data: bytes) -> None:
            stored.append(await node.records.publish_chunk(data, keep=False))

        work = [(self._some(), self.rng.randbytes(CHUNK_BYTES)) for _ in range(count)]
        acts = [lambda node=node, data=data: write(node, data) for node, data in work]
        return await timed(acts), stored

    async def read_chunks(self, digests: Sequence[Digest]) -> dict[str, Any]:
        """Read chunks, each by one random node."""
        work = [(self._some(), digest) for digest in digests]
        acts = [lambda node=node, digest=digest: node.records.fetch_chunk(digest)
                for node, digest in work]  # fmt: skip
        return await timed(acts)

    async def announce(self, count: int) -> dict[str, Any]:
        """Announce peers: stored under the peer's own place, and read back."""

        async def one(node: LiveNode) -> None:
            self._seq += 1
            now_ms = time.time_ns() // 1_000_000
            header = Header(self._network_id, 1, 0, now_ms + self._seq, now_ms)
            status = PeerStatus(header, "bench", PROTOCOL_VERSION, "cpu", "cpu", 1.0, NO_DIGEST, ())
            await node.records.publish(seal(node.identity, status), keep=False)

        nodes = self.rng.sample(self.dht.alive, min(count, len(self.dht.alive)))
        return await timed([lambda node=node: one(node) for node in nodes])

    async def poll(self, count: int) -> dict[str, Any]:
        """Read a record of the coordinator's, as every peer does again and again."""
        now_ms = time.time_ns() // 1_000_000
        descriptor = NetworkDescriptor(
            Header(self._network_id, 0, 0, now_ms, now_ms),
            "bench",
            self._owner.peer_id,
            ("/ip4/127.0.0.1",),
            PROTOCOL_VERSION,
            PROTOCOL_VERSION,
            "",
        )
        first = self.dht.nodes[0]
        await first.records.publish(seal(self._owner, descriptor), keep=False)

        async def one(node: LiveNode) -> None:
            found = await node.records.fetch(NetworkDescriptor)
            if found is None or found.payload != descriptor:
                raise RecordUnavailable("the newest record is not found")

        nodes = [self._some() for _ in range(count)]
        return await timed([lambda node=node: one(node) for node in nodes])

    async def list_peers(self, count: int) -> dict[str, Any]:
        """Read all announcements, as a newcomer does."""
        found: list[int] = []

        async def one(node: LiveNode) -> None:
            found.append(len(await node.records.fetch_peers(PeerStatus)))

        facts = await timed([lambda: one(self._some()) for _ in range(count)])
        return facts | {"found": statistics.fmean(found) if found else 0}


async def measure(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start the nodes, ask them, kill some, ask again."""
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # of the killed
    owner = Identity.from_seed(bytes(32))
    invite = Invite("bench", owner.peer_id)
    began_s = time.perf_counter()
    async with Dht(folder, size=flags.nodes, network=invite.network, owner=owner) as dht:
        started_s = time.perf_counter() - began_s
        _say(f"{flags.nodes} nodes after {started_s:.0f} s")
        bench = Bench(dht, network_id=invite.network.network_id, owner=owner, seed=flags.seed)
        groups = 1 + 2 * len(SHARES)  # each chunk is read once: nodes keep what they have found
        writing, digests = await bench.write_chunks(groups * flags.records)
        facts: dict[str, Any] = {
            "nodes": flags.nodes,
            "start_s": started_s,
            "store": writing,
            "get": await bench.read_chunks(digests[::groups]),
            "announce": await bench.announce(flags.records),
            "list_peers": await bench.list_peers(5),
            "poll": await bench.poll(flags.records),
            "churn": [],
        }
        for place, share in enumerate(SHARES):
            fresh = (digests[1 + 2 * place :: groups], digests[2 + 2 * place :: groups])
            facts["churn"].append(await _after_death(dht, bench, share, fresh, flags))
        return facts


async def _after_death(
    dht: Dht,
    bench: Bench,
    share: float,
    unread: tuple[Sequence[Digest], Sequence[Digest]],
    flags: argparse.Namespace,
) -> dict[str, Any]:
    wanted = round(share * len(dht.nodes)) - (len(dht.nodes) - len(dht.alive))
    for node in bench.rng.sample(dht.alive[1:], max(0, wanted)):
        node.kill()
    killed = 1 - len(dht.alive) / len(dht.nodes)
    at_once = await bench.read_chunks(unread[0])
    writing, fresh = await bench.write_chunks(max(1, flags.records // 2))
    polling = await bench.poll(max(1, flags.records // 2))
    await asyncio.sleep(flags.later_s)
    facts = {
        "killed": killed,
        "get_at_once": at_once,
        "store": writing,
        "poll": polling,
        "get_later": await bench.read_chunks(unread[1]),
        "get_of_new": await bench.read_chunks(fresh) if fresh else None,
    }
    _say(f"{100 * killed:.0f} % killed: {100 * at_once['success']:.1f} % still read")
    return facts


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw latency and success over the share of killed nodes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    dht, shares = result["dht"], [0.0]
    stages: dict[str, list[dict[str, Any]]] = {"get": [dht["get"]], "store": [dht["store"]]}
    stages["get, later"] = [dht["get"]]
    for stage in dht["churn"]:
        shares.append(100 * stage["killed"])
        stages["get"].append(stage["get_at_once"])
        stages["get, later"].append(stage["get_later"])
        stages["store"].append(stage["store"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for name, facts in stages.items():
        (line,) = left.plot(shares, [f.get("median_ms") for f in facts], marker="o", label=name)
        p95 = [fact.get("p95_ms") for fact in facts]
        left.plot(shares, p95, linestyle="--", marker=".", color=line.get_color())
        right.plot(shares, [100 * f["success"] for f in facts], marker="o", label=name)
    left.set_title("ms: median, and 95 of 100 (dashed)")
    left.set_yscale("log")
    right.set_title("success, %")
    right.set_ylim(0, 105)
    for axis in (left, right):
        axis.set_xlabel("% of the nodes killed")
        axis.grid(visible=True, alpha=0.3)
    right.legend()
    figure.suptitle(f"{dht['nodes']} real nodes on {result['processors']} processors")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Parse the flags, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--records", type=int, default=40)
    parser.add_argument("--later-s", type=float, default=LATER_S)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the JSON here, and a picture")
    flags = parser.parse_args()
    load = os.getloadavg()[0]  # of others, before the nodes make their own
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(flags, Path(folder)))
    result = {
        "benchmark": "dht",
        "machine": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "load": load,
        "dht": found,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")
        draw(result, flags.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
