"""Messages to the coordinator over the node's P2P. See `control`.

Requests are bounded in size, and in number per remote and second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError
from hivemind.p2p import P2PContext, PeerID, ServicerBase
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError

from ares_p2p.clock import Clock, SystemClock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.errors import CoordinatorAway, Oversize, PeerFault, RpcTimeout
from ares_p2p.ids import PeerId
from ares_p2p.network.control import (
    SUBMIT_TIMEOUT_S,
    SubmitHandler,
    answer_submission,
    read_reply,
)
from ares_p2p.network.limits import RemoteLimits
from ares_p2p.network.node_base import NodeBase
from ares_p2p.network.watching import (
    GRACE_S,
    News,
    WatchHandler,
    Wish,
    answer_watch,
    build_request,
    read_watch_reply,
)
from ares_p2p.wire.codec import MAX_ENVELOPE_BYTES, decode_envelope, encode_envelope
from ares_p2p.wire.v1 import ares_pb2 as pb

TIME_TIMEOUT_S = 5.0
REQUESTS_PER_S = 5.0  # a peer sends one commit a round
BURST = 20.0


class AresControlV1(ServicerBase):  # type: ignore[misc]
    """Answers submissions and questions for news, and tells the time."""

    def __init__(self, clock: Clock) -> None:
        self.handler: SubmitHandler | None = None
        self.watch_handler: WatchHandler | None = None
        self._clock = clock
        self._limits = RemoteLimits(
            requests_per_s=REQUESTS_PER_S, burst=BURST, streams_per_remote=8, streams=256
        )

    async def rpc_submit(self, request: pb.Envelope, context: P2PContext) -> pb.SubmitReply:
        """Hand an envelope to the handler."""
        remote = PeerId(context.remote_id.to_base58())
        try:
            self._limits.check_rate(remote)
            with self._limits.stream(remote):
                envelope = _envelope_of(request)
                return await answer_submission(self.handler, envelope, remote)
        except PeerFault as error:
            return pb.SubmitReply(code=error.code, message=error.message)

    async def rpc_watch(self, request: pb.WatchRequest, context: P2PContext) -> pb.WatchReply:
        """Let the asker wait for news; the handler bounds how many do."""
        remote = PeerId(context.remote_id.to_base58())
        return await answer_watch(self.watch_handler, request, remote)

    async def rpc_time(self, _request: pb.TimeRequest, _context: P2PContext) -> pb.TimeReply:
        """Tell the wall time."""
        return pb.TimeReply(now_ms=self._clock.now_ms())


def _envelope_of(message: pb.Envelope) -> Envelope:
    if message.ByteSize() > MAX_ENVELOPE_BYTES:
        raise Oversize(f"envelope of {message.ByteSize()} bytes, at most {MAX_ENVELOPE_BYTES}")
    return decode_envelope(message.SerializeToString())  # frames it only: the payload is bytes


class HivemindControl:
    """`Control` over the node's P2P."""

    def __init__(self, node: NodeBase, *, clock: Clock | None = None) -> None:
        self._node = node
        self._servicer = AresControlV1(clock or SystemClock())

    async def open(self) -> None:
        """Register with p2pd."""
        await self._servicer.add_p2p_handlers(self._node.p2p)

    def on_submit(self, handler: SubmitHandler | None) -> None:
        """See `Control.on_submit`."""
        self._servicer.handler = handler

    def on_watch(self, handler: WatchHandler | None) -> None:
        """See `Control.on_watch`."""
        self._servicer.watch_handler = handler

    async def watch(self, wishes: Sequence[Wish], *, to: PeerId, wait_s: float) -> list[News]:
        """See `Control.watch`."""
        request = build_request(wishes, wait_s)
        reply = await self._call(to, "rpc_watch", request, wait_s + GRACE_S)
        return read_watch_reply(reply, wishes)

    async def submit(
        self, envelope: Envelope, *, to: PeerId, timeout_s: float = SUBMIT_TIMEOUT_S
    ) -> Envelope:
        """See `Control.submit`."""
        request = pb.Envelope()
        request.ParseFromString(encode_envelope(envelope))
        return read_reply(await self._call(to, "rpc_submit", request, timeout_s), to=to)

    async def time_of(self, peer: PeerId) -> int:
        """See `Control.time_of`."""
        reply = await self._call(peer, "rpc_time", pb.TimeRequest(), TIME_TIMEOUT_S)
        return int(reply.now_ms)

    async def _call(self, to: PeerId, method: str, request: Any, timeout_s: float) -> Any:
        stub = AresControlV1.get_stub(self._node.p2p, PeerID.from_base58(to))
        away = CoordinatorAway if to == self._node.network.coordinator else RpcTimeout
        try:
            return await self._node.call(getattr(stub, method)(request), timeout_s=timeout_s)
        except (P2PDaemonError, P2PHandlerError, OSError) as error:
            raise away(f"{to} cannot be reached") from error
        except RpcTimeout as error:
            raise away(f"{to} did not answer within {timeout_s:g} s") from error
        except DecodeError as error:
            raise PeerFault(f"{to} does not answer in this protocol") from error
