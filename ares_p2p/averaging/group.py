"""A group that averages a round on its own: who may be in it, and what a seat in it can do.

    Group       who may be in it, and how it is called; `group_of` the signed records of a round
    Seat        one node's seat, over hivemind (`allreduce`) or in memory
    Averaged    what one average came to

A vector is brought as float16, which is what travels: `encode_half` is what a peer commits to, and
keeps on its disk in case it is killed. No I/O here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ares_p2p.averaging.bounds import reach_of
from ares_p2p.averaging.vectors import FLOAT32, Vector, check_finite
from ares_p2p.domain import CycleConfig, RoundPlan
from ares_p2p.errors import PeerFault, ShapeMismatch
from ares_p2p.ids import Digest, PeerId, sha256

HALF = np.dtype("<f2")
MIN_REDUCE_S = 30.0
_KEY_DOMAIN = b"ares/allreduce-group/1\0"


def half_bytes(size: int) -> int:
    """Return how many bytes a vector of `size` elements has as float16."""
    return HALF.itemsize * size


def encode_half(vector: Vector) -> bytes:
    """Return a vector as float16 bytes.

    Raises: NonFinite: also when a number is too large for float16.
    """
    with np.errstate(over="ignore"):
        half = vector.astype(HALF)
    check_finite(half.astype(FLOAT32), what="pseudo-gradient")
    return half.tobytes()


def decode_half(data: bytes, *, size: int) -> Vector:
    """Return the vector of `encode_half`.

    Raises: ShapeMismatch: of another size.
    """
    if len(data) != half_bytes(size):
        raise ShapeMismatch(f"{len(data)} bytes of float16, {half_bytes(size)} expected")
    return np.frombuffer(data, dtype=HALF).astype(FLOAT32)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a member waits, in seconds.

    Args:
        gather_s: the leader, for members that do not come.
        answer_s: for the leader's answer.
        part_s: a reducer, for the next part of a sender; a sender waits twice as long.
        reduce_s: for the whole average, once the group is there.
    """

    gather_s: float = 15.0
    answer_s: float = 5.0
    part_s: float = 20.0
    reduce_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Group:
    """Who may average, and what; the same for all members.

    Args:
        key: see `group_key`.
        leader: the coordinator.
        peers: who committed; each counts as much as any other.
        size: elements of the vector.
        reach: the largest number that a vector can hold, see `bounds.reach_of`.
    """

    key: str
    leader: PeerId
    peers: frozenset[PeerId]
    size: int
    reach: float


@dataclass(frozen=True, slots=True)
class Averaged:
    """What one all-reduce came to, as one member saw it.

    Attributes:
        total: the average, (size,); the member's own numbers where it is missing.
        peers: whose vectors it is of, this member among them.
        missing: elements that no reducer returned.
        refused: senders that were refused here, and why.
        failed: reducers that did not return everything.
        sent_bytes, received_bytes: of parts and averages.
    """

    total: Vector
    peers: frozenset[PeerId]
    missing: int
    refused: Mapping[PeerId, PeerFault]
    failed: frozenset[PeerId]
    sent_bytes: int = 0
    received_bytes: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether it is the average that the others have too."""
        return self.missing == 0


def group_of(
    plan: RoundPlan,
    *,
    plan_sha256: Digest,
    commits_root: Digest,
    peers: Iterable[PeerId],
    config: CycleConfig,
    leader: PeerId,
) -> Group:
    """Return the group of a round whose commits are closed: the same for whoever has the records.

    Args:
        commits_root: of the signed commit set.
        peers: who committed.
    """
    return Group(
        key=group_key(plan, plan_sha256=plan_sha256, commits_root=commits_root),
        leader=leader,
        peers=frozenset(peers),
        size=config.parameters,
        reach=reach_of(plan.max_steps, lr=plan.inner_lr, beta2=config.training.beta2),
    )


def group_key(plan: RoundPlan, *, plan_sha256: Digest, commits_root: Digest) -> str:
    """Return the name under which one round's group meets; nobody else meets there.

    It is of one network, cycle, round, plan and set of commits.
    """
    header = plan.header
    place = f"{header.network_id}/{header.cycle}/{header.round}".encode()
    return sha256(_KEY_DOMAIN, plan_sha256, commits_root, place).hex()


def timing_of(plan: RoundPlan) -> Timing:
    """Return how long the members of a round's group wait: an average has the time to serve."""
    serve_s = (plan.serve_deadline_ms - plan.commit_deadline_ms) / 1000
    return Timing(reduce_s=max(MIN_REDUCE_S, serve_s))


class Seat(Protocol):
    """One node's seat in a group, open between `async with` and its end."""

    @property
    def is_averaging(self) -> bool:
        """Whether the group met and numbers are under way."""
        ...

    async def __aenter__(self) -> Seat: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def average(
        self,
        vector: Vector,
        *,
        within_s: float,
        wanted: int | None = None,
        barred: Collection[PeerId] = (),
    ) -> Averaged:
        """Meet the group and average; one at a time. The leader's numbers weigh nothing.

        Args:
            vector: this member's pseudo-gradient, (size,); not changed.
            within_s: how long the group may take to meet.
            wanted: the leader's: begin when so many are there, itself included. None: all.
            barred: the leader's: who may not reduce, because it failed to before.
        Raises: GroupMissed: no group came about. AverageFailed: it fell apart.
        """
        ...


SeatIn = Callable[[Group, Timing], Seat]
