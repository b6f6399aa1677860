"""One running cycle as the coordinator's parts share it."""

from __future__ import annotations

from dataclasses import dataclass

from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.rows import CycleRow
from ares_p2p.domain import CycleConfig
from ares_p2p.ids import Digest
from ares_p2p.proofs.thresholds import Calibration
from ares_p2p.rounds.strategy import GATHER
from ares_p2p.training.layout import Layout


@dataclass(frozen=True, slots=True)
class RunningCycle:
    """A cycle whose config is signed: everything a round needs to know."""

    row: CycleRow
    config: CycleConfig
    config_sha256: Digest
    layout: Layout
    examples: int
    settings: CoordinatorSettings
    files: DataLayout
    calibration: Calibration | None = None  # of audits; None: toy tasks, which no file measured

    @property
    def is_audited(self) -> bool:
        """Whether work is replayed at all; what is not is not verified, and not paid.

        What a running cycle signed counts, whatever the file says by now: with 1 bit a
        contribution depends on its author's past, and honest work would fail; what a group
        averaged cannot be told apart any more.
        """
        if self.config.averaging != GATHER or self.config.training.codec_bits == 1:
            return False
        return self.settings.audit.mode != "off"

    @property
    def number(self) -> int:
        """The cycle's number, from 1."""
        return self.config.header.cycle
