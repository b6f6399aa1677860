"""`ares-peer join` with a fake trainer: `python peer_join.py plain|json|live DIR SCENARIO [ARG...]`.

Everything else is the product's own code: checks, lock, supervisor, signals, views, exit code.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from ares_p2p.clock import SystemClock
from ares_p2p.crypto.keys import Identity
from ares_p2p.network.invite import Invite
from ares_peer.lines import JsonView, PlainView, View
from ares_peer.runner import run_join
from ares_peer.settings import PeerSettings, Remembered
from ares_peer.terminal import LiveView

FAKE_TRAINER = Path(__file__).with_name("peer_fake_trainer.py")


def main() -> int:
    """Join, and return the command's exit code."""
    kind, data_dir, *scenario = sys.argv[1:]
    coordinator = Identity.from_seed(bytes(range(32))).peer_id
    invite = Invite("tiny-net", coordinator, (f"/ip4/127.0.0.1/tcp/9/p2p/{coordinator}",)).encode()
    clock = SystemClock()
    view: View
    if kind == "json":
        view = JsonView(sys.stdout.buffer)
    elif kind == "plain":
        view = PlainView(sys.stdout, clock=clock)
    else:
        view = LiveView(Console(), clock=clock)
    outcome = run_join(
        PeerSettings(data_dir=Path(data_dir), invite=invite),
        remembered=Remembered(invite=invite),
        view=view,
        clock=clock,
        argv=(sys.executable, str(FAKE_TRAINER), *scenario),
    )
    if outcome.error is not None:
        print(f"error [{outcome.error.code}] {outcome.error.message}", file=sys.stderr)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
