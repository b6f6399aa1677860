"""`ares-peer join` from settings to exit code: the one place that wires the pieces together."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

from ares_p2p.clock import Clock
from ares_p2p.datadir import DataDirLock
from ares_p2p.errors import ConfigFault, InternalFault
from ares_p2p.processes import reference
from ares_peer.hardware import device_label, probe_hardware
from ares_peer.lines import View
from ares_peer.preflight import check_ready, prepare_data_dir
from ares_peer.progress import Status, carried_over
from ares_peer.settings import PeerSettings, Remembered, TrainerSettings, save_remembered
from ares_peer.statusfile import load_status
from ares_peer.summary import summary_rows
from ares_peer.supervisor import TRAINER_ARGV, Outcome, Supervisor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_join(
    settings: PeerSettings,
    *,
    remembered: Remembered,
    view: View,
    clock: Clock,
    exit_after_cycle: bool = False,
    argv: Sequence[str] = TRAINER_ARGV,
) -> Outcome:
    """Check this machine, then train until the end. Blocks.

    Args:
        remembered: what to store for the next `join` once all checks passed.
        argv: the trainer's command line.
    Raises: ConfigFault and its kinds: something has to change first. InternalFault.
    """
    prepare_data_dir(settings.data_dir)
    with DataDirLock(settings.data_dir):
        peer_id = check_ready(settings)
        save_remembered(settings.data_dir, remembered)
        status = _first_status(settings, peer_id)
        trainer = TrainerSettings(
            **settings.model_dump(exclude={"data_dir"}),
            data_dir=settings.data_dir.absolute(),
            exit_after_cycle=exit_after_cycle,
        )
        return asyncio.run(_supervise(trainer, status, view=view, clock=clock, argv=argv))


def _first_status(settings: PeerSettings, peer_id: str) -> Status:
    try:
        earlier = load_status(settings.data_dir)
    except ConfigFault:  # of another version: its totals are a convenience, the ledger has them
        earlier = None
    own = reference(os.getpid())
    if own is None:
        raise InternalFault("this process cannot see itself in the process table")
    label = device_label(probe_hardware(), device=settings.device)
    fresh = Status(
        pid=own.pid,
        started_s=own.started_s,
        device=label,
        role=settings.role,
        peer_id=peer_id,
    )
    if earlier is None:
        return fresh
    return carried_over(earlier, fresh)


async def _supervise(
    settings: TrainerSettings, status: Status, *, view: View, clock: Clock, argv: Sequence[str]
) -> Outcome:
    supervisor = Supervisor(settings, status=status, clock=clock, listener=view.show, argv=argv)
    loop = asyncio.get_running_loop()
    asked = 0

    def on_signal() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            supervisor.request_stop()
        else:
            supervisor.abort()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    view.open()
    try:
        return await supervisor.run()
    finally:
        view.close(summary_rows(status, supervisor.status))
