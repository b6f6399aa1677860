"""One butterfly all-reduce on hivemind's own runner, mended where it believes whom it should not.

Every member of a group cuts its vector into the same parts, sends each part to the member that
reduces it, and gets the part's average back (float16 both ways). hivemind believes the sender's
weight and numbers, and the reducer's; here

- weights come from the group, whatever the sender declares;
- a part of another shape or codec, with a NaN, or beyond the reach of the round's steps, is
  refused, and drops its sender from there on, nobody else;
- the same is asked of what a reducer returns; what it does not return counts as missing;
- everybody gets the *average* in float16, the reducer too, not hivemind's differences to what
  each one sent. So all who miss nothing hold the same bits, and can compare a digest. Differences
  leave every member its own rounding (measured: docs/averaging.md).

Nothing here can tell whether a vector was trained, and a reducer can return any average within
reach. That is for groups that trust each other.

Source: hivemind 1.1.12, `averaging.allreduce` and `averaging.partition`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hivemind.averaging.allreduce import AllreduceException, AllReduceRunner
from hivemind.averaging.partition import BannedException, TensorPartContainer, TensorPartReducer
from hivemind.compression import Float16Compression
from hivemind.p2p import P2PContext, PeerID
from hivemind.proto import averaging_pb2, runtime_pb2

from ares_p2p.averaging.bounds import ROUNDING
from ares_p2p.errors import BeyondReach, NonFinite, PayloadMalformed, PeerFault, ShapeMismatch

MAX_PART_ELEMENTS = 262_144  # 512 kB in float16, hivemind's own measure
MAX_WAVE_ELEMENTS = 2_097_152  # 4 MB: a part to each reducer at once, 3.4 s at 10 Mbit/s
FLOAT16_BYTES = 2
_CLOSE_TRIES, _CLOSE_PAUSE_S = 20, 0.01


def part_elements(size: int, *, reducers: int) -> int:
    """Return how long parts are: as hivemind's, or less, so that every reducer has one.

    And so that a part to each of them takes no longer than a sender's silence may.
    """
    return max(1, min(MAX_PART_ELEMENTS, MAX_WAVE_ELEMENTS // reducers, -(-size // reducers)))


def encode_part(part: torch.Tensor) -> runtime_pb2.Tensor:
    """Return a part of float16 numbers as it travels."""
    return runtime_pb2.Tensor(
        compression=runtime_pb2.CompressionType.FLOAT16,
        buffer=part.numpy().tobytes(),
        size=part.shape,
        dtype="float32",
    )


def open_part(message: runtime_pb2.Tensor, *, shape: torch.Size, reach: float) -> torch.Tensor:
    """Return what a sender or a reducer sent, checked; float32.

    Not hivemind's `deserialize_torch_tensor`: that one takes any codec, shape and dtype that the
    sender names, and tensors that drag a history of gradients along.

    Raises: PayloadMalformed: not float16. ShapeMismatch. NonFinite. BeyondReach.
    """
    if message.compression != runtime_pb2.CompressionType.FLOAT16:
        raise PayloadMalformed(f"a part in codec {message.compression}, float16 expected")
    expected = shape.numel() * FLOAT16_BYTES
    if len(message.buffer) != expected or tuple(message.size) != tuple(shape):
        raise ShapeMismatch(
            f"a part of {len(message.buffer)} bytes and shape {list(message.size)[:4]}, "
            f"{expected} and {list(shape)} expected"
        )
    numbers = np.frombuffer(message.buffer, dtype="<f2").astype(np.float32)
    part = torch.from_numpy(numbers).reshape(shape)
    check_part(part, reach=reach)
    return part


def check_part(part: torch.Tensor, *, reach: float) -> None:
    """Refuse what no honest steps can make, nor an average of them.

    Raises: NonFinite. BeyondReach.
    """
    largest = float(part.abs().max()) if part.numel() else 0.0
    if not np.isfinite(largest):  # torch's maximum passes a NaN on
        raise NonFinite("a part with numbers that are not finite")
    if largest > reach * ROUNDING:
        raise BeyondReach(f"an element of {largest:.3g}; the round's steps reach {reach:.3g}")


@dataclass(slots=True)
class Losses:
    """What went wrong in one all-reduce, as one member saw it.

    Attributes:
        refused: senders whose parts were refused here, and why.
        missing: elements for which there is no average.
        failed_reducers: who did not return all its parts.
    """

    refused: dict[PeerID, PeerFault] = field(default_factory=dict)
    missing: int = 0
    failed_reducers: set[PeerID] = field(default_factory=set)


class CheckedContainer(TensorPartContainer):  # type: ignore[misc]
    """Own parts, and the averages as they come back, each of which is checked."""

    def __init__(self, tensor: torch.Tensor, *, reach: float, **kwargs: Any) -> None:
        super().__init__([tensor], return_deltas=False, **kwargs)
        self._reach = reach

    def register_processed_part(self, peer_index: int, part_index: int, part: torch.Tensor) -> None:
        """Take the average of a part; whoever returned it is given up when it cannot be one."""
        part = part.detach()
        own = self._input_parts_by_peer[peer_index][part_index][0]
        if part.shape != own.shape or part.dtype != own.dtype:
            raise AllreduceException(f"an average of shape {tuple(part.shape)}")
        try:
            check_part(part, reach=self._reach)
        except PeerFault as fault:
            raise AllreduceException(fault.message) from fault
        super().register_processed_part(peer_index, part_index, part)


class CheckedReducer(TensorPartReducer):  # type: ignore[misc]
    """Averages the parts of one reducer, with the weights of the group.

    The result is float16: what all members hold, the reducer too.
    """

    def __init__(
        self, part_shapes: Sequence[torch.Size], weights: Sequence[float], losses: Losses
    ) -> None:
        self._weights = tuple(weights)
        self._losses = losses
        super().__init__(part_shapes, len(weights))

    async def accumulate_part(
        self, sender_index: int, part_index: int, tensor_part: torch.Tensor, weight: float = 1.0
    ) -> torch.Tensor:
        """Add a part with its sender's weight in the group, whatever `weight` says."""
        del weight
        total: torch.Tensor = await super().accumulate_part(
            sender_index, part_index, tensor_part, self._weights[sender_index]
        )
        return total

    def check_current_part_finished(self) -> None:
        """End a part once all its senders have been counted or dropped."""
        assert self.current_part_accumulated_from <= self.num_current_senders
        if self.current_part_accumulated_from != self.num_current_senders:
            return
        if self.denominator > 0:
            self.accumulator.div_(self.denominator)
        else:  # nobody with a weight is left: the average of nothing is no change
            self._losses.missing += self.accumulator.numel()
        self.current_part_future.set_result(self.accumulator.to(torch.float16))
        self.reset_accumulators()


class _RecordedStub:
    """A stub whose streams can be closed at the end: hivemind leaves that to the collector.

    Args:
        count: told the bytes of every average that comes back.
    """

    def __init__(self, stub: Any, streams: list[Any], count: Callable[[Any], None]) -> None:
        self._stub, self._streams, self._count = stub, streams, count

    async def rpc_aggregate_part(self, parts: AsyncIterator[Any]) -> AsyncIterator[Any]:
        stream = await self._stub.rpc_aggregate_part(parts)
        self._streams.append(stream)
        return self._counted(stream)

    async def _counted(self, stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for message in stream:
            self._count(message)
            yield message


class GroupRunner(AllReduceRunner):  # type: ignore[misc]
    """One all-reduce of one flat vector in a group.

    Args:
        weights: of every member; 0 takes part and changes nothing.
        reach: the largest number that a member's vector can hold.
    """

    def __init__(
        self,
        *,
        tensor: torch.Tensor,
        weights: Mapping[PeerID, float],
        reach: float,
        peer_fractions: tuple[float, ...],
        **kwargs: Any,
    ) -> None:
        reducers = sum(fraction > 0 for fraction in peer_fractions)
        elements = part_elements(tensor.numel(), reducers=reducers)
        parts: dict[str, Any] = {
            "compression": Float16Compression(),
            "part_size_bytes": elements * FLOAT16_BYTES,
        }
        super().__init__(tensors=[tensor], peer_fractions=peer_fractions, **parts, **kwargs)
        self.losses = Losses()
        self._reach = reach
        self._streams: list[Any] = []
        self.sent_bytes = self.received_bytes = 0  # of parts and averages
        self._discard()
        self.tensor_part_container: CheckedContainer = CheckedContainer(
            tensor, reach=reach, peer_fractions=peer_fractions, **parts
        )
        own_index = self.ordered_peer_ids.index(self.peer_id)
        self.parts_for_local_averaging = self.tensor_part_container.get_raw_input_parts(own_index)
        self.tensor_part_reducer: CheckedReducer = CheckedReducer(
            tuple(part.shape for part in self.parts_for_local_averaging),
            [weights[peer] for peer in self.sender_peer_ids],
            self.losses,
        )

    def _discard(self) -> None:
        """End what the parent class made: it would complain of parts that never came."""
        self.tensor_part_container.finalize()
        self.tensor_part_reducer.current_part_future.cancel()
        self.tensor_part_reducer.finished.set()

    def should_delay_results(self, peer_id: PeerID) -> bool:
        """Return that nobody's results wait for the end of what it sends.

        hivemind keeps them back from members that do not reduce; a refusal then is never told.
        """
        del peer_id
        return False

    async def close_streams(self) -> None:
        """Close the streams to the reducers; one that is being read closes a moment later."""
        for stream in self._streams:
            for _ in range(_CLOSE_TRIES):
                try:
                    await stream.aclose()
                    break
                except RuntimeError:
                    await asyncio.sleep(_CLOSE_PAUSE_S)
        self._streams.clear()

    def _get_peer_stub(self, peer: PeerID) -> Any:
        return _RecordedStub(super()._get_peer_stub(peer), self._streams, self._note_received)

    def _note_received(self, message: averaging_pb2.AveragingData) -> None:
        self.received_bytes += len(message.tensor_part.buffer)

    def _note_sent(self, message: averaging_pb2.AveragingData) -> averaging_pb2.AveragingData:
        self.sent_bytes += len(message.tensor_part.buffer)
        return message

    async def _generate_input_for_peer(
        self, peer_index: int
    ) -> AsyncIterator[averaging_pb2.AveragingData]:
        async for message in super()._generate_input_for_peer(peer_index):
            yield self._note_sent(message)

    async def _communicate_with_peer(self, peer_id: PeerID) -> None:
        index = self.ordered_peer_ids.index(peer_id)
        if peer_id == self.peer_id:
            sender = self.sender_peer_ids.index(peer_id)
            for number, part in enumerate(self.parts_for_local_averaging):
                total = await self.tensor_part_reducer.accumulate_part(sender, number, part)
                self.tensor_part_container.register_processed_part(
                    index, number, total.to(torch.float32)
                )
            return
        try:
            await super()._communicate_with_peer(peer_id)
        except Exception:
            self.losses.failed_reducers.add(peer_id)
            raise

    async def rpc_aggregate_part(
        self, stream: AsyncIterator[averaging_pb2.AveragingData], context: P2PContext
    ) -> AsyncIterator[averaging_pb2.AveragingData]:
        """Take a member's parts and return their averages; strangers get nothing."""
        if context.remote_id not in self.sender_peer_ids:
            yield averaging_pb2.AveragingData(code=averaging_pb2.PROTOCOL_VIOLATION)
            return
        async for message in super().rpc_aggregate_part(stream, context):
            yield message

    async def _accumulate_parts_streaming(
        self, stream: AsyncIterator[averaging_pb2.AveragingData], sender_index: int
    ) -> AsyncIterator[averaging_pb2.AveragingData]:
        reducer, sender, number = self.tensor_part_reducer, self.sender_peer_ids[sender_index], 0
        try:
            async for message in stream:
                self._note_received(message)
                if number == reducer.num_parts:
                    raise PayloadMalformed(f"more than {number} parts")
                shape = reducer.part_shapes[number]
                part = open_part(message.tensor_part, shape=shape, reach=self._reach)
                total = await reducer.accumulate_part(sender_index, number, part)
                number += 1
                average = averaging_pb2.AveragingData(
                    code=averaging_pb2.AVERAGED_PART, tensor_part=encode_part(total)
                )
                yield self._note_sent(average)
        except PeerFault as fault:
            self.losses.refused.setdefault(sender, fault)
            raise
        except BannedException:
            pass  # dropped in another way already
        finally:
            if number != reducer.num_parts:
                await self._ban_sender(sender)
