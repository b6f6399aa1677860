"""Handing in a signed commit: to the coordinator, and to the DHT when it does not answer.

Only a refusal is a refusal. A coordinator that does not answer, or that answers "no such round"
because it has just started again, is asked until the deadline; a copy in the DHT speaks for
the peer meanwhile. With the coordinator's signed receipt no copy is needed: it costs as many bytes
as a small round's contribution. Once the round's commits are closed, the closed set says what counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import CommitAck, CommitSet
from ares_p2p.errors import AresError, NetworkFault, NodeDied, PeerFault, UnknownRound
from ares_p2p.wire.codec import decode_envelope, open_envelope
from ares_peer.links import Links

SUBMIT_TIMEOUT_S = 5.0
SUBMIT_RETRY_S = 1.0
SENT_BY_DHT = "sent by the DHT only"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of handing a commit in; `code` and `message` say why, or by which way.

    Attributes:
        ack: the coordinator's signed receipt, when it answered.
    """

    accepted: bool
    code: str = ""
    message: str = ""
    ack: Envelope | None = None


async def hand_in(
    links: Links,
    envelope: Envelope,
    *,
    deadline_ms: int,
    closed: Callable[[], Awaitable[CommitSet | None]],
) -> Answer:
    """Return what the coordinator said, or that the DHT alone has the commit.

    Args:
        closed: returns the round's closed commits once there are any.
    Raises: NodeDied.
    """
    published = False
    while True:
        try:
            ack = await submit_once(links, envelope)
        except NodeDied:
            raise
        except (UnknownRound, NetworkFault) as fault:
            published = published or await publish(links, envelope)
            answer = await _without_answer(
                links, envelope, fault, published=published, deadline_ms=deadline_ms, closed=closed
            )
            if answer is not None:
                return answer
        except PeerFault as fault:
            return Answer(False, fault.code, fault.message)
        else:
            return Answer(True, ack=ack)
        await links.clock.sleep(SUBMIT_RETRY_S)


async def publish(links: Links, envelope: Envelope) -> bool:
    """Leave the commit in the DHT; False when it did not land.

    Raises: NodeDied.
    """
    try:
        await links.records.publish(envelope, keep=False)
    except NodeDied:
        raise
    except (NetworkFault, PeerFault):
        return False
    return True


async def submit_once(links: Links, envelope: Envelope) -> Envelope:
    """Hand in a signed commit or report; return the coordinator's receipt, checked.

    Raises: what `Control.submit` raises. PeerFault: the receipt is of something else.
    """
    reply = await links.control.submit(envelope, to=links.coordinator, timeout_s=SUBMIT_TIMEOUT_S)
    ack = open_envelope(reply, CommitAck, signer=links.coordinator, network_id=links.network_id)
    if ack.commit_sha256 != envelope.payload_sha256:
        raise PeerFault("the coordinator acknowledged something else")
    return reply


async def _without_answer(
    links: Links,
    envelope: Envelope,
    fault: AresError,
    *,
    published: bool,
    deadline_ms: int,
    closed: Callable[[], Awaitable[CommitSet | None]],
) -> Answer | None:
    """Return how it ends without an answer; None: ask again."""
    try:
        commit_set = await closed()
    except NodeDied:
        raise
    except NetworkFault:
        commit_set = None
    if commit_set is not None:
        if is_listed(envelope, commit_set):
            return Answer(True, "", SENT_BY_DHT)
        return Answer(False, fault.code, "the round was closed without it")
    if links.clock.now_ms() <= deadline_ms:
        return None
    if published:
        return Answer(True, fault.code, SENT_BY_DHT)
    return Answer(False, fault.code, "neither the coordinator nor the DHT could be reached")


def is_listed(envelope: Envelope, commit_set: CommitSet) -> bool:
    """Whether a commit is among the closed ones."""
    digests = (decode_envelope(data).payload_sha256 for data in commit_set.commits)
    return envelope.payload_sha256 in digests
