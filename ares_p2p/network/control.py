"""Signed messages from peers to the coordinator, with the answer on the same call.

One call, `submit`: an envelope goes there, a signed acknowledgement (an envelope too) or a
coded refusal comes back; the caller gets that very error. Who asks is authenticated by libp2p,
what is said by its signature: the handler sees both. A second call, `watch`, waits there for what
the coordinator signs next (`watching`); a third tells the time.

Anybody may call; a node without a handler answers "no such round". `control_hivemind` is the
same over the P2P of a node, `InMemoryControl` for simulations.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope, check_envelope
from ares_p2p.errors import (
    AresError,
    CoordinatorAway,
    NetworkFault,
    PeerFault,
    RpcTimeout,
    UnknownRound,
)
from ares_p2p.ids import PeerId
from ares_p2p.network.remote_errors import error_of_code
from ares_p2p.network.watching import (
    GRACE_S,
    News,
    WatchHandler,
    Wish,
    answer_watch,
    build_request,
    read_watch_reply,
)
from ares_p2p.wire.codec import decode_envelope, encode_envelope
from ares_p2p.wire.v1 import ares_pb2 as pb

SubmitHandler = Callable[[Envelope, PeerId], Awaitable[Envelope]]
SUBMIT_TIMEOUT_S = 20.0


class Control(Protocol):
    """Messages to a coordinator."""

    def on_submit(self, handler: SubmitHandler | None) -> None:
        """Answer submissions with `handler` from now on; None: refuse them."""
        ...

    async def submit(
        self, envelope: Envelope, *, to: PeerId, timeout_s: float = SUBMIT_TIMEOUT_S
    ) -> Envelope:
        """Return the acknowledgement that `to` signed.

        Raises: the PeerFault that `to` answers with. CoordinatorAway: `to` is the coordinator
            and cannot be reached. RpcTimeout: no answer, or another peer cannot be reached.
            BadSignature, WrongSigner: the acknowledgement is not its. NodeDied.
        """
        ...

    def on_watch(self, handler: WatchHandler | None) -> None:
        """Answer questions for news with `handler` from now on; None: refuse them."""
        ...

    async def watch(self, wishes: Sequence[Wish], *, to: PeerId, wait_s: float) -> list[News]:
        """Return what differs from what we have of some keys, within `wait_s`; else nothing.

        Raises: as `submit`. PayloadMalformed, Oversize: the answer is none.
        """
        ...

    async def time_of(self, peer: PeerId) -> int:
        """Return the wall time of `peer`, in milliseconds since the epoch.

        Raises: as `submit`.
        """
        ...


async def answer_submission(
    handler: SubmitHandler | None, envelope: Envelope, remote: PeerId
) -> pb.SubmitReply:
    """Return the reply to a submission; only coded faults of the sender leave this node."""
    try:
        if handler is None:
            raise UnknownRound("this node takes no submissions")
        return pb.SubmitReply(ack=encode_envelope(await handler(envelope, remote)))
    except (PeerFault, NetworkFault) as error:
        return pb.SubmitReply(code=error.code, message=error.message)


def read_reply(reply: pb.SubmitReply, *, to: PeerId) -> Envelope:
    """Return the acknowledgement in a reply.

    Raises: what the reply names; EnvelopeMalformed, WrongSigner, BadSignature.
    """
    if reply.code:
        raise error_of_code(reply.code, reply.message)
    ack = decode_envelope(reply.ack)
    check_envelope(ack, signer=to)
    return ack


class InMemoryControlNetwork:
    """The handlers of a simulated swarm."""

    def __init__(self, *, clock: Clock) -> None:
        self.clock = clock
        self.handlers: dict[PeerId, SubmitHandler | None] = {}
        self.watch_handlers: dict[PeerId, WatchHandler] = {}


class InMemoryControl:
    """`Control` of one simulated peer: the same replies, no network."""

    def __init__(
        self, network: InMemoryControlNetwork, *, peer_id: PeerId, coordinator: PeerId
    ) -> None:
        self._network = network
        self._peer_id = peer_id
        self._coordinator = coordinator
        network.handlers[peer_id] = None

    def on_submit(self, handler: SubmitHandler | None) -> None:
        """See `Control.on_submit`."""
        self._network.handlers[self._peer_id] = handler

    def on_watch(self, handler: WatchHandler | None) -> None:
        """See `Control.on_watch`."""
        self._network.watch_handlers.pop(self._peer_id, None)
        if handler is not None:
            self._network.watch_handlers[self._peer_id] = handler

    async def watch(self, wishes: Sequence[Wish], *, to: PeerId, wait_s: float) -> list[News]:
        """See `Control.watch`."""
        self._check_there(to)
        handler, request = self._network.watch_handlers.get(to), build_request(wishes, wait_s)
        answering = asyncio.create_task(answer_watch(handler, request, self._peer_id))
        patience = asyncio.create_task(self._network.clock.sleep(wait_s + GRACE_S))
        try:
            await asyncio.wait({answering, patience}, return_when=asyncio.FIRST_COMPLETED)
            self._check_there(to)
            if not answering.done():
                raise RpcTimeout(f"{to} did not answer within {wait_s + GRACE_S:g} s")
            return read_watch_reply(answering.result(), wishes)
        finally:
            answering.cancel()
            patience.cancel()

    def leave(self) -> None:
        """Be unreachable from now on."""
        with contextlib.suppress(KeyError):
            del self._network.handlers[self._peer_id]

    def _check_there(self, peer: PeerId) -> None:
        if peer not in self._network.handlers:
            away: type[AresError] = CoordinatorAway if peer == self._coordinator else RpcTimeout
            raise away(f"{peer} cannot be reached")

    async def submit(
        self, envelope: Envelope, *, to: PeerId, timeout_s: float = SUBMIT_TIMEOUT_S
    ) -> Envelope:
        """See `Control.submit`."""
        self._check_there(to)
        received = decode_envelope(encode_envelope(envelope))
        handler = self._network.handlers[to]
        try:
            async with asyncio.timeout(timeout_s):
                reply = await answer_submission(handler, received, self._peer_id)
        except TimeoutError as error:
            raise RpcTimeout(f"{to} did not answer within {timeout_s:g} s") from error
        return read_reply(reply, to=to)

    async def time_of(self, peer: PeerId) -> int:
        """See `Control.time_of`."""
        self._check_there(peer)
        return self._network.clock.now_ms()
