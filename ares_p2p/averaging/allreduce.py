"""A seat in a round's group (`group`) on hivemind's own averager, and how the group meets.

The group meets by hivemind's matchmaking. The coordinator leads it and nobody else: it is the one
peer that everybody knows and that must have the result, and one leader leaves nothing to agree
on. So no stranger can gather a group of its own, and no unsigned record is needed in the DHT:
who may join stands in the signed commit set, and p2pd proves who asks.

There is no averager process. hivemind runs its averager in a fork so that it goes on while a
training loop blocks; here a round trains first and averages then, on an event loop that never
blocks, through the node's own p2pd. A fork would have to start on the main thread before the
model is there (so before its size is known), would need the vector in shared memory (64 MB in
many containers), would leave its callers waiting for ever when it is killed, and would be one
more process to be orphaned. What hangs on the node's two processes is watched there already.

A member that dies costs at most `Timing.part_s`; all of it ends after `Timing.reduce_s`. The one
who leads sees in `Averaged.is_complete` whether its sum is whole, and calls the group again when it
is not: whoever failed to reduce does not reduce the next time.

Not here: what hivemind's mends do (`network.hivemind_fixes`, applied when the node starts).
Source: hivemind 1.1.12, `averaging.averager` and `averaging.matchmaking`; docs/averaging.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, AsyncIterator  # noqa: UP035 - hivemind reads the annotation's name

import torch
from hivemind.averaging.averager import DecentralizedAverager, compute_schema_hash
from hivemind.averaging.group_info import GroupInfo
from hivemind.averaging.matchmaking import Matchmaking
from hivemind.p2p import P2PContext, PeerID
from hivemind.proto import averaging_pb2
from hivemind.utils.timed_storage import ValueWithExpiration, get_dht_time

from ares_p2p.averaging.allreduce_runner import GroupRunner
from ares_p2p.averaging.group import Averaged, Group, Timing
from ares_p2p.averaging.vectors import Vector, check_vector
from ares_p2p.errors import AverageFailed, GroupMissed
from ares_p2p.ids import PeerId

LEADER_WEIGHT, MEMBER_WEIGHT = 0.0, 1.0
CLIENT = b"client"  # what a member says that nobody can reach: it does not reduce
MAX_GATHER_BYTES = 16 * 1024  # the leader's names at most a hundred peers
ASK_S = 0.3  # between two questions whether the leader takes members


@dataclass(frozen=True, slots=True)
class _Step:
    """What hivemind's matchmaking asks of its `StepControl`."""

    scheduled_time: float
    deadline: float
    data_for_gather: bytes

    def get_timeout(self) -> float:
        return max(0.0, self.deadline - float(get_dht_time()))


@dataclass(frozen=True, slots=True)
class _Meeting:
    """Stands where hivemind expects a DHT: the leader is known, so nothing is declared there."""

    peer_id: PeerID
    client_mode: bool
    leader: PeerID | None  # None: it is us

    async def store(self, **_record: Any) -> bool:
        return True

    async def get(self, _key: str, **_options: Any) -> Any:
        """Return the leader as a group's only member, after a pause: it is asked in a loop."""
        await asyncio.sleep(ASK_S)
        if self.leader is None:
            return None
        expires_s = get_dht_time() + 60  # another one each time: so the leader is asked again
        found = {self.leader.to_bytes(): ValueWithExpiration(True, expires_s)}
        return ValueWithExpiration(found, expires_s)


class AresAveragerV1(DecentralizedAverager):  # type: ignore[misc]
    """hivemind's averager in our own process, for one group; its name is part of the protocol."""

    runner: type[GroupRunner] = GroupRunner

    def __init__(self, p2p: Any, group: Group, timing: Timing) -> None:
        self._group, self._timing = group, timing
        self._leader = PeerID.from_base58(group.leader)
        self._members = {PeerID.from_base58(peer) for peer in group.peers} | {self._leader}
        self._is_leader = p2p.peer_id == self._leader
        self._p2p = p2p
        super().__init__(
            (),  # a tensor given here would move to shared memory
            dht=_Meeting(p2p.peer_id, False, None if self._is_leader else self._leader),
            start=False,
            prefix=group.key,
            client_mode=False,
            allow_state_sharing=False,
            request_timeout=timing.answer_s,
            min_matchmaking_time=timing.gather_s,
        )
        self._inner_pipe.send(("_SHUTDOWN", None))  # ends a thread that would wait for a process
        self._pending_groups_registered = asyncio.Event()
        self._pending_groups_registered.set()

    async def open(self) -> None:
        """Answer members from now on."""
        schema = compute_schema_hash([torch.empty(self._group.size, device="meta")])
        self._matchmaking = Matchmaking(
            self._p2p,
            schema,
            self.dht,
            client_mode=not self._is_leader,  # who does not lead takes no members
            **self.matchmaking_kwargs,
        )
        await self.add_p2p_handlers(self._p2p, namespace=self.prefix)

    async def close(self) -> None:
        """Answer nobody any more."""
        await self.remove_p2p_handlers(self._p2p, namespace=self.prefix)
        for pipe in (self._inner_pipe, self._outer_pipe):
            pipe.close()
        leaders = self._matchmaking.potential_leaders
        for event in (
            leaders.running,
            leaders.update_triggered,
            leaders.update_finished,
            leaders.declared_expiration,
            self._matchmaking.was_accepted_to_group,
        ):
            event.set()  # hivemind leaves tasks behind that wait for these
        await asyncio.sleep(0)

    async def meet(self, *, wanted: int, gather: bytes, within_s: float) -> GroupInfo | None:
        """Return the group once it is there; None when it did not come about in time.

        Args:
            wanted: members with which the leader does not wait for more.
        """
        now_s = get_dht_time()
        self._matchmaking.target_group_size = wanted
        scheduled_s = now_s + (self._timing.gather_s if self._is_leader else within_s)
        step = _Step(scheduled_s, now_s + within_s, gather)
        self._pending_groups_registered.clear()  # members may be quicker than the leader's word
        try:
            found: GroupInfo | None = await self._matchmaking.look_for_group(step)
        except BaseException:
            self._pending_groups_registered.set()
            raise
        if found is None:
            self._pending_groups_registered.set()
        else:
            self._expect(found)
        return found

    async def reduce(
        self, found: GroupInfo, tensor: torch.Tensor
    ) -> tuple[torch.Tensor, GroupRunner]:
        """Average `tensor` with a group that met; return the average, and the runner, which is over.

        Raises: AverageFailed: the group is not one that may be.
        """
        future = self._running_groups[found.group_id]
        try:
            return await self._run(found, tensor, future)
        finally:
            self._running_groups.pop(found.group_id, None)
            future.cancel()  # whoever came too early goes empty-handed

    def _expect(self, found: GroupInfo) -> None:
        """Let calls of members wait for the group's runner, which is about to be made."""
        future = asyncio.get_running_loop().create_future()
        self._running_groups[found.group_id] = future
        self._pending_groups_registered.set()

    async def _run(
        self, found: GroupInfo, tensor: torch.Tensor, future: asyncio.Future[GroupRunner]
    ) -> tuple[torch.Tensor, GroupRunner]:
        fractions = self._fractions(found)
        weights = {
            peer: LEADER_WEIGHT if peer == self._leader else MEMBER_WEIGHT
            for peer in found.peer_ids
        }
        runner = self.runner(
            p2p=self._p2p,
            servicer_type=type(self),
            prefix=self.prefix,
            group_id=found.group_id,
            ordered_peer_ids=found.peer_ids,
            tensor=tensor,
            weights=weights,
            reach=self._group.reach,
            peer_fractions=fractions,
            weight=weights[self._p2p.peer_id],
            sender_timeout=self._timing.part_s,
            reducer_timeout=2 * self._timing.part_s,
        )
        future.set_result(runner)
        try:
            (total,) = [average async for average in runner]
        finally:
            if runner._future.done() and not runner._future.cancelled():
                runner._future.exception()  # it was raised already
            await asyncio.shield(runner.close_streams())
        runner.losses.missing += runner.tensor_part_container.failed_size
        return total, runner

    def _fractions(self, found: GroupInfo) -> tuple[float, ...]:
        """Return how much each member reduces: all the same, or nothing.

        Raises: AverageFailed: strangers, or members twice, or not us and the leader.
        """
        ids = set(found.peer_ids)
        expected = {self._leader, self._p2p.peer_id}
        if len(ids) != len(found.peer_ids) or not expected <= ids <= self._members:
            raise AverageFailed("the group is not of the peers that committed")
        said = dict(zip(found.peer_ids, found.gathered, strict=True))
        barred = set(said.pop(self._leader).decode("ascii", "replace").split())
        spared = {
            peer for peer, word in said.items() if word == CLIENT or peer.to_base58() in barred
        }
        return tuple(0.0 if peer in spared else 1.0 for peer in found.peer_ids)

    async def rpc_join_group(
        self, request: averaging_pb2.JoinRequest, context: P2PContext
    ) -> AsyncIterator[averaging_pb2.MessageFromLeader]:
        """Take a member into the group; strangers are told nothing."""
        if context.remote_id not in self._members or len(request.gather) > MAX_GATHER_BYTES:
            yield averaging_pb2.MessageFromLeader(code=averaging_pb2.PROTOCOL_VIOLATION)
            return
        async for response in super().rpc_join_group(request, context):
            yield response

    async def rpc_aggregate_part(
        self, stream: AsyncIterator[averaging_pb2.AveragingData], context: P2PContext
    ) -> AsyncIterator[averaging_pb2.AveragingData]:
        """Take a member's parts; strangers are told nothing."""
        if context.remote_id not in self._members:
            yield averaging_pb2.AveragingData(code=averaging_pb2.PROTOCOL_VIOLATION)
            return
        async for message in super().rpc_aggregate_part(stream, context):
            yield message


@dataclass(slots=True)
class GroupMember:
    """One node's seat in a group. On the node's event loop; `average` one at a time.

    Args:
        p2p: the node's P2P client, `Node.p2p`.
        can_reduce: whether others can reach this node.
    """

    p2p: Any
    group: Group
    timing: Timing = field(default_factory=Timing)
    can_reduce: bool = True
    is_averaging: bool = False  # the group met, numbers are under way
    _averager: AresAveragerV1 | None = None

    async def __aenter__(self) -> GroupMember:
        averager = AresAveragerV1(self.p2p, self.group, self.timing)
        await averager.open()
        self._averager = averager
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._averager is not None
        with contextlib.suppress(Exception):  # of a node that died: nobody can ask it any more
            await asyncio.wait_for(self._averager.close(), self.timing.answer_s)

    async def average(
        self,
        vector: Vector,
        *,
        within_s: float,
        wanted: int | None = None,
        barred: Collection[PeerId] = (),
    ) -> Averaged:
        """See `group.Seat`."""
        assert self._averager is not None
        check_vector(vector, size=self.group.size, what="pseudo-gradient")
        tensor = torch.from_numpy(vector)
        found = await self._meet(within_s=within_s, wanted=wanted, barred=barred)
        self.is_averaging = True
        try:
            total, runner = await asyncio.wait_for(
                self._averager.reduce(found, tensor), self.timing.reduce_s
            )
        except (AverageFailed, asyncio.CancelledError):
            raise
        except TimeoutError as error:
            raise AverageFailed(f"no average within {self.timing.reduce_s:g} s") from error
        except Exception as error:
            raise AverageFailed(f"{type(error).__name__}: {error}") from error
        finally:
            self.is_averaging = False
        losses, leader = runner.losses, self.group.leader
        peers = {PeerId(peer.to_base58()) for peer in found.peer_ids} - {leader}
        return Averaged(
            total=total.numpy(),
            peers=frozenset(peers),
            missing=losses.missing,
            refused={PeerId(peer.to_base58()): why for peer, why in losses.refused.items()},
            failed=frozenset(PeerId(peer.to_base58()) for peer in losses.failed_reducers),
            sent_bytes=runner.sent_bytes,
            received_bytes=runner.received_bytes,
        )

    async def _meet(
        self, *, within_s: float, wanted: int | None, barred: Collection[PeerId]
    ) -> GroupInfo:
        assert self._averager is not None
        meeting = self._averager.meet(
            wanted=wanted or len(self.group.peers) + 1,
            gather=self._word(barred),
            within_s=within_s,
        )
        try:
            found = await asyncio.wait_for(meeting, within_s + 2 * self.timing.answer_s)
        except Exception as error:  # p2pd ended, or what hivemind makes of that
            raise GroupMissed(f"{type(error).__name__}: {error}") from error
        if found is None:
            raise GroupMissed(f"the group did not meet within {within_s:g} s")
        return found

    def _word(self, barred: Collection[PeerId]) -> bytes:
        if barred:
            return " ".join(sorted(barred)).encode()
        return b"" if self.can_reduce else CLIENT
