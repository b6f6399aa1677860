"""Groups for tests of the all-reduce: real p2pd, every member on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from hivemind.p2p import P2P

from ares_p2p.averaging.allreduce import GroupMember
from ares_p2p.averaging.group import Averaged, Group, Timing
from ares_p2p.averaging.vectors import Vector
from ares_p2p.ids import PeerId
from ares_p2p.network import hivemind_fixes

REACH = 0.05
SIZE = 4_099  # a prime: no number of reducers divides it
QUICK = Timing(gather_s=3.0, answer_s=2.0, part_s=3.0, reduce_s=20.0)


@contextlib.asynccontextmanager
async def p2p_network(nodes: int) -> AsyncIterator[list[Any]]:
    """Start so many p2pd, all of which know the first one; that one leads."""
    hivemind_fixes.apply()
    first = await P2P.create(host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    known = await first.get_visible_maddrs()
    others = await asyncio.gather(
        *(
            P2P.create(host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=known)
            for _ in range(nodes - 1)
        )
    )
    try:
        yield [first, *others]
    finally:
        await asyncio.gather(*(p2p.shutdown() for p2p in (first, *others)))


def id_of(p2p: Any) -> PeerId:
    """Return a node's id as the protocol writes it."""
    return PeerId(p2p.peer_id.to_base58())


def group_of(nodes: list[Any], *, key: str = "a" * 64, size: int = SIZE) -> Group:
    """Return the group of these nodes, led by the first."""
    peers = frozenset(id_of(p2p) for p2p in nodes[1:])
    return Group(key, id_of(nodes[0]), peers, size, REACH)


def vectors_of(nodes: list[Any], *, size: int = SIZE) -> list[Vector]:
    """Return one vector for each node; the leader's is zero."""
    random = np.random.default_rng(5)
    drawn = [random.uniform(-REACH, REACH, size).astype(np.float32) for _ in nodes[1:]]
    return [np.zeros(size, dtype=np.float32), *drawn]


async def average_of(
    members: list[GroupMember], vectors: list[Vector], *, within_s: float = 10.0, **leader: Any
) -> list[Averaged | BaseException]:
    """Let all members average at once."""
    first, *others = members
    return await asyncio.gather(
        first.average(vectors[0], within_s=within_s, **leader),
        *(
            member.average(vector, within_s=within_s)
            for member, vector in zip(others, vectors[1:], strict=True)
        ),
        return_exceptions=True,
    )
