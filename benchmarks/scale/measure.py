"""One run of the simulated swarm, and what it comes to."""

from __future__ import annotations

import asyncio
import logging
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import structlog

from benchmarks.scale.loop import PlayedLoop
from benchmarks.scale.world import SEATS, Mix, ScalePeer, ScaleWorld, toy_of

JOIN_SPREAD_S = 10.0  # so long do the first peers take to come
TICK_S = 0.5
ROUND_LIMIT_S = 3600.0  # of played time; a round that takes longer is a finding, not a wait
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What is played.

    Args:
        rounds: that are measured; the ones before are the swarm's beginning.
        warm: rounds before.
        blob_bytes: of a contribution, as the lines see it; 0: as large as it is. Much more than
            that is no good: the program's own limits (slowest stream, silence, chunks) are not
            scaled, and transfers are given up that would come to their end.
        frames: of the vector that is really made, 65,536 elements each.
        churn: share of the peers that is killed and replaced in every round.
        exchange: how; "auto" lets the coordinator choose when a round opens.
    """

    peers: int
    rounds: int = 6
    warm: int = 2
    blob_bytes: int = 0
    frames: int = 4
    churn: float = 0.1
    exchange: Literal["auto", "gather", "butterfly"] = "auto"
    seed: int = 0
    seats: int = SEATS
    mix: Mix = field(default_factory=Mix)


@dataclass(frozen=True, slots=True)
class _Moment:
    """Counters at one moment."""

    played_s: float
    coordinator_s: float  # of a processor
    up: float
    down: float
    small_up: float  # records and messages
    peers_up: float
    peers_down: float
    reads: Counter[str]
    sent: Counter[str]  # by the coordinator, blobs by kind


def play(run: Run, *, say: Say) -> dict[str, Any]:
    """Play a run and return its facts."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, toy_of(run.frames):
        loop = PlayedLoop()
        asyncio.set_event_loop(loop)
        try:
            facts = loop.run_until_complete(_play(run, Path(folder), loop, say=say))
        finally:
            asyncio.set_event_loop(None)
            loop.close()
    return facts | {"wall_s": time.perf_counter() - began_s}


async def _play(run: Run, folder: Path, loop: PlayedLoop, *, say: Say) -> dict[str, Any]:
    async with ScaleWorld(
        folder,
        loop,
        rounds=run.warm + run.rounds + 1,
        peers=run.peers,
        blob_bytes=run.blob_bytes,
        mix=run.mix,
        seed=run.seed,
        exchange=run.exchange,
        seats=run.seats,
    ) as world:
        world.start()
        first = [world.join() for _ in range(run.peers)]
        for number in range(run.warm):
            await _finished(world, number)
            say(f"{run.peers} peers: round {number + 1} of the beginning")
        before = _moment(world)
        churned: list[ScalePeer] = []
        for number in range(run.warm, run.warm + run.rounds):
            await _opened(world, number)
            await asyncio.sleep(world.rng.uniform(0.0, 5.0))
            there = len(world.swarm)
            count = await world.churn(run.churn)
            churned += world.swarm[there - count :]
            await _finished(world, number)
            say(f"{run.peers} peers: round {number - run.warm + 1} of {run.rounds}")
        return _facts(run, world, before, _moment(world), first, churned)


async def _opened(world: ScaleWorld, number: int) -> None:
    await _until(world, lambda: any(row.round == number for row in world.rows()))


async def _finished(world: ScaleWorld, number: int) -> None:
    await _until(world, lambda: world._is_finished(number))


async def _until(world: ScaleWorld, condition: Callable[[], bool]) -> None:
    limit_s = world.loop.time() + ROUND_LIMIT_S
    while not condition():
        if world.loop.time() > limit_s:
            raise RuntimeError(f"a round took more than {ROUND_LIMIT_S:.0f} s of played time")
        for task in world.tasks:
            if task.done() and not task.cancelled():
                task.result()
        await asyncio.sleep(TICK_S)


def _moment(world: ScaleWorld) -> _Moment:
    line = world.coordinator_line
    peers = [world.lines.of[peer.peer_id] for peer in (*world.swarm, *world.gone)]
    return _Moment(
        played_s=world.loop.time(),
        coordinator_s=world.loop.spent_s["coordinator"],
        up=line.up,
        down=line.down,
        small_up=line.records_up + line.messages_up,
        peers_up=sum(one.up for one in peers),
        peers_down=sum(one.down for one in peers),
        reads=world.reads.copy(),
        sent=world.sent_by_kind(),
    )


def _facts(
    run: Run,
    world: ScaleWorld,
    before: _Moment,
    after: _Moment,
    first: list[ScalePeer],
    churned: list[ScalePeer],
) -> dict[str, Any]:
    rounds, played_s = run.rounds, after.played_s - before.played_s
    rows = [row for row in world.rows() if run.warm <= row.round < run.warm + rounds]
    manifests = [world.store.record("manifest", row.cycle, row.round) for row in rows]
    reads = after.reads - before.reads
    hottest = reads.most_common(1)[0] if reads else ("", 0)
    everybody = (*world.swarm, *world.gone)
    used = [
        sum(item.coefficient > 0 for item in world.store.contributions(row.cycle, row.round))
        for row in rows
    ]
    commits = [len(world.store.commits(row.cycle, row.round)) for row in rows]
    spent = world.loop.spent_s
    return {
        "peers": run.peers,
        "rounds": rounds,
        "churn": run.churn,
        "blob_bytes": round(world.lines.scale * world.host.config.limits.max_blob_bytes),
        "exchange": "parts" if any(world.plan(row.round).parts for row in rows) else "gather",
        "round_s": played_s / rounds,
        "rounds_per_hour": 3600 * rounds / played_s,
        "train_part_s": _mean([((row.closed_ms or 0) - row.opened_ms) / 1000 for row in rows]),
        "commits": _mean(commits),
        "used": _mean(used),
        "coordinator": {
            "cpu_s_per_round": (after.coordinator_s - before.coordinator_s) / rounds,
            "up_bytes_per_round": (after.up - before.up) / rounds,
            "down_bytes_per_round": (after.down - before.down) / rounds,
            "blobs_up_bytes_per_round": {
                kind: (after.sent[kind] - before.sent[kind]) / rounds for kind in after.sent
            },
            "messages_up_bytes_per_round": (after.small_up - before.small_up) / rounds,
        },
        "peer": {
            "up_bytes_per_round": (after.peers_up - before.peers_up) / rounds / run.peers,
            "down_bytes_per_round": (after.peers_down - before.peers_down) / rounds / run.peers,
        },
        "dht": {
            "reads_per_s": reads.total() / played_s,
            "hottest_key": hottest[0].split("/")[-2:] if hottest[0] else [],
            "hottest_reads_per_s": hottest[1] / played_s,
        },
        "newcomers": _joins(churned),
        "first": _joins(first),
        "refused": dict(sum((peer.refused for peer in everybody), Counter())),
        "lost": dict(sum((peer.lost for peer in everybody), Counter())),
        "manifest_bytes": _mean([len(one.envelope) for one in manifests if one is not None]),
        "spent_s": dict(spent),
    }


def _joins(peers: list[ScalePeer]) -> dict[str, Any]:
    """Return how long it took from the start of a session to its first accepted commit."""
    took_s = [peer.accepted_s - peer.started_s for peer in peers if not math.isnan(peer.accepted_s)]
    facts: dict[str, Any] = {"started": len(peers), "in": len(took_s)}
    if took_s:
        ordered = sorted(took_s)
        facts |= {
            "median_s": statistics.median(ordered),
            "p95_s": ordered[math.ceil(0.95 * len(ordered)) - 1],
        }
    return facts


def _mean(values: list[float] | list[int]) -> float:
    return statistics.fmean(values) if values else 0.0
