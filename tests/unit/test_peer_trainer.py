"""How the trainer's process ends: by a signal before there is a session, or by a dead node."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ares_p2p.errors import NodeDied
from ares_peer import trainer
from ares_peer.settings import TrainerSettings


@pytest.fixture(autouse=True)
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[io.BytesIO]:
    """A trainer without its own process: settings on stdin, events in memory."""
    stream = io.BytesIO()
    line = TrainerSettings(data_dir=tmp_path, invite="ares://x").to_json_line().decode()
    monkeypatch.setattr(trainer, "die_with_parent", lambda: None)
    monkeypatch.setattr(trainer, "claim_stdout", lambda: stream)
    monkeypatch.setattr(trainer, "configure_logging", lambda: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    before = {number: signal.getsignal(number) for number in trainer.STOP_SIGNALS}
    yield stream
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", trainer.STOP_SIGNALS)
def test_signal_before_the_session_ends_with_success(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, events: io.BytesIO
) -> None:
    cleaned_up = []

    def start(*_: object, **__: object) -> int:
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("the signal was not heard")
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # of an impatient person: disturbs nothing
            cleaned_up.append(True)

    monkeypatch.setattr(trainer, "_run", start)
    assert trainer.main() == 0
    assert cleaned_up
    assert events.getvalue() == b""


def test_dead_node_is_a_network_fault(monkeypatch: pytest.MonkeyPatch, events: io.BytesIO) -> None:
    def die(*_: object, **__: object) -> int:
        raise NodeDied("p2pd ended")

    monkeypatch.setattr(trainer, "_run", die)
    assert trainer.main() == 75
    assert b"ARES-E036" in events.getvalue()
