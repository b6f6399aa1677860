"""What a member of an all-reduce group may send instead of its part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import torch
from hivemind.compression import Float16Compression, NoCompression
from hivemind.compression.base import CompressionInfo
from hivemind.proto import averaging_pb2, runtime_pb2

from allreduce_rig import REACH
from ares_p2p.averaging.allreduce_runner import GroupRunner, encode_part

Message = averaging_pb2.AveragingData


class Hostile(GroupRunner):
    """Sends every honest message through `change`, in a class per attack."""

    def change(self, message: Any) -> None:
        raise NotImplementedError

    async def _generate_input_for_peer(self, peer_index: int) -> AsyncIterator[Any]:
        async for message in super()._generate_input_for_peer(peer_index):
            self.change(message)
            yield message


def sending(change: Callable[[Any], None]) -> type[Hostile]:
    """Return a runner that changes what it sends."""
    return type("Sending", (Hostile,), {"change": lambda _self, message: change(message)})


def with_weight(weight: float) -> type[Hostile]:
    """Declare a weight."""

    def change(message: Any) -> None:
        message.weight = weight

    return sending(change)


def _numbers(message: Any) -> int:
    return len(message.tensor_part.buffer) // 2


def with_number(number: float) -> type[Hostile]:
    """Send one bad number in each part."""

    def change(message: Any) -> None:
        part = torch.zeros(_numbers(message), dtype=torch.float16)
        part[-1] = number
        message.tensor_part.CopyFrom(encode_part(part))

    return sending(change)


def _scalar(message: Any) -> None:
    message.tensor_part.CopyFrom(encode_part(torch.tensor([0.01], dtype=torch.float16)))


def _lying_shape(message: Any) -> None:
    message.tensor_part.size[0] = 1


def _float32(message: Any) -> None:
    part = torch.zeros(_numbers(message))
    info = CompressionInfo.from_tensor(part)
    message.tensor_part.CopyFrom(NoCompression().compress(part, info))


def _gradients(message: Any) -> None:
    """A tensor that wants its history kept, and is beyond reach as well."""
    part = torch.full((_numbers(message),), 2 * REACH, requires_grad=True)
    info = CompressionInfo.from_tensor(part)
    message.tensor_part.CopyFrom(Float16Compression().compress(part, info))


def _nothing(message: Any) -> None:
    message.tensor_part.CopyFrom(runtime_pb2.Tensor())


BAD_PARTS: dict[str, type[Hostile]] = {
    "nan": with_number(float("nan")),
    "infinity": with_number(float("inf")),
    "a million times too much": with_number(60_000.0),
    "a scalar for everything": sending(_scalar),
    "a lying shape": sending(_lying_shape),
    "another codec": sending(_float32),
    "a history of gradients": sending(_gradients),
    "nothing": sending(_nothing),
}


class TooMany(GroupRunner):
    """Sends a part more than there are."""

    async def _generate_input_for_peer(self, peer_index: int) -> AsyncIterator[Any]:
        async for message in super()._generate_input_for_peer(peer_index):
            yield message
            last = Message(tensor_part=message.tensor_part, weight=1.0)
        yield last


class Silent(GroupRunner):
    """Begins to send, and never does."""

    async def _generate_input_for_peer(self, peer_index: int) -> AsyncIterator[Any]:
        await asyncio.sleep(3600)
        async for message in super()._generate_input_for_peer(peer_index):
            yield message


class BadReducer(GroupRunner):
    """Returns NaN as the average of the parts that it reduces."""

    async def _accumulate_parts_streaming(
        self, stream: AsyncIterator[Any], sender_index: int
    ) -> AsyncIterator[Any]:
        async for message in super()._accumulate_parts_streaming(stream, sender_index):
            count = len(message.tensor_part.buffer) // 2
            part = torch.full((count,), float("nan"), dtype=torch.float16)
            yield Message(code=averaging_pb2.AVERAGED_PART, tensor_part=encode_part(part))
