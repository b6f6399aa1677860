"""The process that trains: it owns the DHT node, the device and the training loop.

The supervisor starts it as `python -m ares_peer.trainer`, writes the settings to its stdin and
reads events from its stdout. SIGINT or SIGTERM finish the running round; before there is a
session they end the start, with exit code 0. The order of the start matters: tie our life to the
supervisor's, start the node (it forks) before torch makes threads, and only then load the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from ares_p2p.clock import SystemClock
from ares_p2p.domain import CycleConfig
from ares_p2p.errors import AresError, InternalFault
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
    from ares_p2p.crypto.keys import Identity
    from ares_p2p.network.invite import Invite
    from ares_p2p.network.node import Node
    from ares_p2p.training.replay import Rig
    from ares_peer.materials import Materials

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
    from ares_p2p.network.node import Node

    key_file = settings.data_dir / IDENTITY_FILE
    identity = load_or_create_identity(key_file)
    invite: Invite = asyncio.run(resolve_invite(settings.invite))
    claim_network(settings.data_dir, invite.network_id)
    emit(PhaseChanged(Phase.CONNECTING, f"joining {invite.name}"))
    node = Node.start(
        identity_path=key_file,
        network=invite.network,
        host_addresses=(f"/ip4/{settings.host}/tcp/{settings.port}",),
        announce_addresses=settings.announce,
        initial_peers=invite.addresses,
        role="peer",
    )
    try:
        emit(
            IdentityKnown(identity.peer_id, invite.name, settings.name or "", tuple(node.addresses))
        )
        return asyncio.run(_live(settings, node, identity, invite, emit))
    finally:
        emit(PhaseChanged(Phase.STOPPED))
        node.shutdown()


async def _live(
    settings: TrainerSettings,
    node: Node,
    identity: Identity,
    invite: Invite,
    emit: Callable[[Event], None],
) -> int:
    from ares_peer.auditsession import AuditorSession
    from ares_peer.links import Links
    from ares_peer.session import Session

    await node.open(settings.data_dir / "blobs")
    device = _device(settings)
    links = Links(
        identity=identity,
        network_id=invite.network_id,
        coordinator=invite.coordinator,
        records=node.records,
        blobs=node.blobs,
        control=node.control,
        clock=SystemClock(),
    )

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
        links,
        data_dir=settings.data_dir,
        base=settings.base,
        device=device,
        profile=_profile(device),
        load_rig=load_rig,
        emit=emit,
        exit_after_cycle=settings.exit_after_cycle,
    )
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, session.finish)
    try:
        await session.run()
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
        _ignore_signals()  # it ends already; the node must leave no process behind
        with contextlib.suppress(AresError, OSError):  # of a node that died: the cause counts
            await node.close()
    return 0


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
