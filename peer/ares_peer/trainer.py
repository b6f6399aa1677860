"""The process that trains: it owns the DHT node, the device and the training loop.

The supervisor starts it as `python -m ares_peer.trainer`, writes the settings to its stdin and
reads events from its stdout. SIGINT or SIGTERM finish the running round; before there is a
session they end the start, with exit code 0. The order of the start matters: tie our life to the
supervisor's, start the node (it forks) before torch makes threads, and only then load the model.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from ares_p2p.clock import SystemClock
from ares_p2p.domain import CycleConfig
from ares_p2p.errors import AresError, InternalFault, NodeDied
from ares_p2p.logs import configure_logging
from ares_p2p.processes import die_with_parent
from ares_p2p.rounds.audits import AUDITOR_ROLE
from ares_peer.events import (
    ErrorRaised,
    Event,
    EventWriter,
    FirstAccepted,
    IdentityKnown,
    Phase,
    PhaseChanged,
    RoundDone,
    claim_stdout,
)
from ares_peer.settings import IDENTITY_FILE, TrainerSettings, claim_network

if TYPE_CHECKING:
    from ares_p2p.averaging.group import SeatIn
    from ares_p2p.crypto.keys import Identity
    from ares_p2p.network.invite import Invite
    from ares_p2p.network.node import Node
    from ares_p2p.training.replay import Rig
    from ares_peer.connecting import Connection
    from ares_peer.materials import Materials
    from ares_peer.session import Session

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopAsked(SystemExit):
    """SIGINT or SIGTERM came before there was a session to finish."""


def main() -> int:
    """Run one trainer; return its exit code."""
    die_with_parent()
    end_on_signals()
    started_s = time.monotonic()
    writer = EventWriter(claim_stdout())
    configure_logging()
    try:
        settings = TrainerSettings.from_json_line(sys.stdin.readline())
        return _run(settings, emit=_noting_first(writer.emit, started_s=started_s))
    except StopAsked:
        return 0
    except AresError as fault:
        writer.emit(ErrorRaised(fault.code, fault.message, fault.hint, fatal=True))
        return fault.exit_code
    except Exception as error:  # noqa: BLE001 - the supervisor must hear of every end
        import traceback

        traceback.print_exc()
        writer.emit(
            ErrorRaised(
                InternalFault.code,
                f"{type(error).__name__}: {error}",
                InternalFault.default_hint,
                fatal=True,
            )
        )
        return InternalFault.exit_code


def end_on_signals() -> None:
    """Make SIGINT and SIGTERM raise `StopAsked` here; once, so that nothing disturbs the end."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        raise StopAsked(0)

    for number in STOP_SIGNALS:
        signal.signal(number, stop)


def _ignore_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _noting_first(emit: Callable[[Event], None], *, started_s: float) -> Callable[[Event], None]:
    """Return an emitter that adds the seconds to the first accepted contribution."""
    noted = False

    def emit_and_note(event: Event) -> None:
        nonlocal noted
        emit(event)
        accepted = isinstance(event, RoundDone) and event.status in ("accepted", "clipped")
        if accepted and not noted:
            noted = True
            emit(FirstAccepted(time.monotonic() - started_s))

    return emit_and_note


def _run(settings: TrainerSettings, *, emit: Callable[[Event], None]) -> int:
    emit(PhaseChanged(Phase.STARTING))
    from ares_p2p.crypto.keys import load_or_create_identity
    from ares_p2p.network.invite import resolve_invite
    from ares_peer.connecting import find_api, start_node

    key_file = settings.data_dir / IDENTITY_FILE
    identity = load_or_create_identity(key_file)
    invite: Invite = asyncio.run(resolve_invite(settings.invite))
    claim_network(settings.data_dir, invite.network_id)
    emit(PhaseChanged(Phase.CONNECTING, f"joining {invite.name}"))
    api_url = find_api(settings, invite)
    node = start_node(settings, invite, api_url=api_url, emit=emit)
    try:
        addresses = () if node is None else tuple(node.addresses)
        emit(IdentityKnown(identity.peer_id, invite.name, settings.name or "", addresses))
        return asyncio.run(_live(settings, node, identity, invite, api_url, emit))
    finally:
        emit(PhaseChanged(Phase.STOPPED))
        if node is not None:
            node.shutdown()


async def _live(
    settings: TrainerSettings,
    node: Node | None,
    identity: Identity,
    invite: Invite,
    api_url: str,
    emit: Callable[[Event], None],
) -> int:
    from ares_peer.auditsession import AuditorSession
    from ares_peer.connecting import connect
    from ares_peer.session import Session

    connection = await connect(
        settings,
        node=node,
        identity=identity,
        invite=invite,
        api_url=api_url,
        clock=SystemClock(),
        emit=emit,
    )
    device = _device(settings)

    def load_rig(config: CycleConfig, materials: Materials) -> Rig:
        from ares_p2p.training.rig import TrainingRig

        return TrainingRig.load(
            config,
            base=materials.base,
            stack=materials.stack,
            examples=materials.examples,
            device=device,
        )

    of_role = AuditorSession if settings.role == AUDITOR_ROLE else Session
    session = of_role(
        connection.links,
        data_dir=settings.data_dir,
        base=settings.base,
        device=device,
        profile=_profile(device),
        load_rig=load_rig,
        emit=emit,
        exit_after_cycle=settings.exit_after_cycle,
        seat_in=_seat_in(settings, connection),
    )
    loop = asyncio.get_running_loop()
    asked = False

    def finish() -> None:
        nonlocal asked
        asked = True
        session.finish()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, finish)
    renewing = asyncio.create_task(_renew(settings, connection, session), name="ares-renew")
    try:
        await session.run()
        is_renewed = renewing.done() and not asked
        return NodeDied.exit_code if is_renewed else 0
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
        _ignore_signals()  # it ends already; the node must leave no process behind
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await connection.close()


def _seat_in(settings: TrainerSettings, connection: Connection) -> SeatIn | None:
    """Return what takes a seat in a group that averages on hivemind; None without P2P."""
    node = connection.node
    if node is None:
        return None
    from ares_p2p.averaging.allreduce import GroupMember

    can_reduce = not settings.client_mode
    return lambda group, timing: GroupMember(node.p2p, group, timing, can_reduce=can_reduce)


async def _renew(settings: TrainerSettings, connection: Connection, session: Session) -> None:
    """End the session between two rounds a while after the node was lost: a new start mends it."""
    if settings.way == "http":
        await asyncio.get_running_loop().create_future()
    await connection.wait_for_renewal()
    session.finish()


def _device(settings: TrainerSettings) -> str:
    """Return "cuda" or "cpu", and set torch's threads."""
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _profile(device: str) -> str:
    """Return what the bits of our work depend on, for whoever replays it."""
    from ares_p2p.proofs.profile import profile_here

    return profile_here(device).text


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # torch's and hivemind's helper threads must not hold the process up
