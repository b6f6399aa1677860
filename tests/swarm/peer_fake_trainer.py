"""A trainer without a network: plays one scenario of events. `python peer_fake_trainer.py NAME`.

It behaves as the real one towards the supervisor: ties its life to it, reads the settings from
stdin, writes events to stdout. Scenarios that wait do so on signals, never on time.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ares_p2p.processes import die_with_parent
from ares_peer.events import (
    CommitSent,
    CreditSettled,
    CycleDone,
    ErrorRaised,
    EventWriter,
    FirstAccepted,
    IdentityKnown,
    Phase,
    PhaseChanged,
    RoundDone,
    RoundOpened,
    StepDone,
    SyncProgress,
    Traffic,
    claim_stdout,
)
from ares_peer.settings import TrainerSettings

PEER_ID = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
ROUNDS = 3
STEPS = 4


class FakeTrainer:
    """One scenario's worth of trainer."""

    def __init__(self, settings: TrainerSettings, stream: BinaryIO) -> None:
        self.settings = settings
        self.stream = stream
        self.emit = EventWriter(stream).emit

    def cycle(self) -> int:
        """Three rounds: accepted, scaled down, refused; then a void settlement."""
        self._joined()
        for number in range(ROUNDS):
            self._train(number)
            self.emit(CommitSent(1, number, STEPS, 4096, f"{number:064x}", accepted=True))
        self.emit(RoundDone(1, 0, "accepted", 1.0, "", "", "aa"))
        self.emit(FirstAccepted(12.5))
        self.emit(RoundDone(1, 1, "clipped", 0.5, "ARES-E073", "three times the median", "bb"))
        self.emit(RoundDone(1, 2, "refused", 0.0, "ARES-E070", "points against the others", "cc"))
        self.emit(CreditSettled(1, 0, "pass", 1_500_000, 2_500_000))
        self.emit(Traffic(1_000, 2_000))
        self.emit(CycleDone(1, "cc"))
        return 0

    def garbage(self) -> int:
        """Prints of libraries, broken lines, unknown events, and then a proper end."""
        print("a library prints")
        subprocess.run(["echo", "a child prints"], check=True)
        self._joined()
        self.emit(CycleDone(1, "cc"))
        return 0

    def noise(self) -> int:
        """Lines that are no events, of which one is endless, and then a proper end."""
        for line in (b"%|####| 50%", b"x" * 200_000, b'{"event":"step"}', b'{"event":"tea_time"}'):
            self.stream.write(line + b"\n")
        self.emit(CycleDone(1, "cc"))
        return 0

    def polite(self) -> int:
        """Trains until SIGINT, then finishes the round."""
        self._joined()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._train(0)
        self.emit(PhaseChanged(Phase.TRAINING, "ready"))
        signal.sigwait({signal.SIGINT})
        self.emit(PhaseChanged(Phase.FINISHING))
        self.emit(RoundDone(1, 0, "accepted", 1.0, "", "", "aa"))
        return 0

    def stubborn(self) -> int:
        """Neither SIGINT nor SIGTERM moves it, nor its child."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._joined()
        child = subprocess.Popen(["sleep", "600"])
        self.emit(PhaseChanged(Phase.TRAINING, f"ready {child.pid}"))
        while True:
            signal.pause()

    def family(self) -> int:
        """Has a child in its group and one in a session of its own, and waits for SIGINT."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        near = subprocess.Popen(["sleep", "600"])
        far = subprocess.Popen(["sleep", "600"], start_new_session=True)
        self.emit(PhaseChanged(Phase.TRAINING, f"ready {near.pid} {far.pid}"))
        signal.sigwait({signal.SIGINT})
        return 1

    def busy(self) -> int:
        """Floods the supervisor with events until it is killed."""
        child = subprocess.Popen(["sleep", "600"])
        self._joined()
        self.emit(PhaseChanged(Phase.TRAINING, f"ready {child.pid}"))
        number = 0
        while True:
            number += 1
            self.emit(StepDone(number % STEPS, STEPS, 2.5, 100.0))
            self.emit(RoundDone(1, number, "accepted", 1.0, "", "", "aa"))

    def show(self) -> int:
        """A slow cycle, to look at."""
        self.emit(PhaseChanged(Phase.CONNECTING, "joining tiny-net"))
        time.sleep(1.5)
        self.emit(IdentityKnown(PEER_ID, "tiny-net", "", ("/ip4/127.0.0.1/tcp/4001",)))
        self.emit(PhaseChanged(Phase.SYNCING, "cycle 3"))
        for part in range(12):
            self.emit(SyncProgress("base", part * 4_000_000, 44_000_000))
            time.sleep(0.15)
        up = 0
        for number in range(9):
            self.emit(PhaseChanged(Phase.WAITING, "for the next round"))
            time.sleep(0.5)
            deadline_ms = time.time_ns() // 1_000_000 + 8_000
            self.emit(RoundOpened(3, number, 9, deadline_ms, "ab" * 32))
            self.emit(PhaseChanged(Phase.TRAINING))
            for step in range(20):
                loss = 4.2 - 0.1 * number - step / 100
                self.emit(StepDone(step + 1, 20, loss, 1234.5))
                time.sleep(0.25)
            self.emit(PhaseChanged(Phase.UPLOADING))
            self.emit(CommitSent(3, number, 20, 40960, "cd" * 32, accepted=True))
            up += 1_234_567
            self.emit(Traffic(up, 3 * up))
            self.emit(PhaseChanged(Phase.EXCHANGING))
            time.sleep(0.5)
            if number % 4 == 2:
                done = RoundDone(3, number, "refused", 0, "ARES-E070", "points [red]away", "ab")
            else:
                done = RoundDone(3, number, "accepted", 1.0, "", "", "ab" * 32)
            self.emit(done)
            if number:
                balance = 2_500_000 * number
                self.emit(CreditSettled(3, number - 1, "pass", 2_500_000, balance))
        return 0

    def exit(self, code: int) -> int:
        """End at once with `code`, with the reason that belongs to it."""
        if code == 78:
            self.emit(ErrorRaised("ARES-E017", "no such base", "give another --base", fatal=True))
        return code

    def flaky(self, code: int, times: int) -> int:
        """End with `code` so many times, then complete a cycle."""
        count_file = self.settings.data_dir / "starts"
        starts = int(count_file.read_text()) if count_file.exists() else 0
        count_file.write_text(str(starts + 1))
        return code if starts < times else self.cycle()

    def _joined(self) -> None:
        self.emit(PhaseChanged(Phase.CONNECTING, "joining tiny-net"))
        self.emit(IdentityKnown(PEER_ID, "tiny-net", "", ("/ip4/127.0.0.1/tcp/4001",)))

    def _train(self, number: int) -> None:
        self.emit(RoundOpened(1, number, ROUNDS, 4_000_000_000_000, "ab" * 32))
        self.emit(PhaseChanged(Phase.TRAINING))
        for step in range(STEPS):
            self.emit(StepDone(step + 1, STEPS, 3.0 - step / 10, 1000.0))


def main() -> int:
    """Play the scenario that the command line names."""
    die_with_parent()
    stream = claim_stdout()
    settings = TrainerSettings.from_json_line(sys.stdin.readline())
    got = Path(settings.data_dir) / "trainer-got.json"
    got.write_text(json.dumps(settings.model_dump(mode="json")))
    scenario: Callable[..., int] = getattr(FakeTrainer(settings, stream), sys.argv[1])
    return scenario(*(int(argument) for argument in sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
