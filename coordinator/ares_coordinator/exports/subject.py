"""Which model an export is of, with everything its card says; from the books and the data directory.

A model is a promoted cycle: the base its config was signed for, the adapters of the earlier promoted
cycles that it was trained on, and its own. A cycle that was rolled back is no model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ares_coordinator.foundation import base_of
from ares_coordinator.herald import payload_of
from ares_coordinator.layout import DataLayout
from ares_coordinator.preparation import ADAPTER_DOMAIN, ADAPTER_FILES, load_rows
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import CycleRow, EvaluationRow, Stage
from ares_p2p.domain import BaseRef, CycleConfig
from ares_p2p.errors import BaseDigestMismatch, ConfigFault, HashMismatch, InternalFault
from ares_p2p.ids import sha256
from ares_p2p.training.base_files import base_files_digest
from ares_p2p.training.parameters import ParameterCount, count_parameters


@dataclass(frozen=True, slots=True)
class RowSource:
    """Training rows of one teacher under one licence."""

    teacher: str
    licence: str
    permission_ref: str
    rows: int


@dataclass(frozen=True, slots=True)
class ExportSubject:
    """One model of one network.

    Args:
        network: its name.
        row: the promoted cycle.
        config: as it was signed.
        base_folder: where the base lies; its weights are hashed when they are used, not before.
        cycles: the cycles whose adapters lie on the base, oldest first, `row.cycle` the last.
        adapters: their PEFT folders.
        evaluation: held-out losses after the cycle; None where they were not kept.
        sources: what was trained on, merged adapters included, largest first.
        contributors: peers of whose work some became part of an adapter, merged or not.
        parameters: counted from the files.
    """

    network: str
    row: CycleRow
    config: CycleConfig
    base_folder: Path
    cycles: tuple[int, ...]
    adapters: tuple[Path, ...]
    evaluation: EvaluationRow | None
    sources: tuple[RowSource, ...]
    contributors: int
    parameters: ParameterCount

    @property
    def base(self) -> BaseRef:
        """The base as the config names it."""
        return self.config.base

    @property
    def base_name(self) -> str:
        """How people may know the base: its hub id, else the network's own name for it."""
        return self.base.hub_id or self.base.name

    @property
    def version(self) -> str:
        """Name of the model, "ares-v3"."""
        return f"ares-v{self.row.version}"

    def check_base(self) -> None:
        """Hash the base before its weights are used.

        Raises: BaseDigestMismatch: other files than the cycle was signed for.
        """
        found = base_files_digest(self.base_folder)
        if found.digest_sha256 != self.base.sha256:
            raise BaseDigestMismatch(
                f"{self.base_folder} is not the base that cycle {self.row.cycle} was signed for",
                hint="Point base.path to that base again, or export another cycle.",
            )


def find_subject(
    store: Store, settings: CoordinatorSettings, files: DataLayout, *, cycle: int | None = None
) -> ExportSubject:
    """Return the model of `cycle`, or of the newest promoted one.

    Raises: ConfigFault: there is none, or the cycle was not promoted. HashMismatch: an adapter's
        files are not those that later cycles were trained on. BaseUnsupported: no base folder.
    """
    promoted = [row for row in store.cycles() if row.promoted and row.version is not None]
    if cycle is None:
        if not promoted:
            raise ConfigFault("no cycle was promoted yet", hint="ares-coordinator run")
        cycle = max(row.cycle for row in promoted)
    row = next((row for row in promoted if row.cycle == cycle), None)
    if row is None:
        there = ", ".join(str(one.cycle) for one in promoted) or "none"
        raise ConfigFault(f"cycle {cycle} was not promoted; these were: {there}")
    record = store.record("cycle", cycle, 0)
    if record is None:
        raise InternalFault(f"cycle {cycle} was promoted without a signed config")
    config = payload_of(record, CycleConfig)
    cycles = (*(item.cycle for item in config.stack), cycle)
    folders = tuple(files.adapter(number) for number in cycles)
    for item, folder in zip(config.stack, folders, strict=False):
        _check_adapter(folder, item.sha256)
    if not (folders[-1] / ADAPTER_FILES[1]).is_file():
        raise ConfigFault(f"{folders[-1]} holds no adapter", hint="Restore it from a backup.")
    base = base_of(config.base, settings, files)
    everything = tuple(one.cycle for one in promoted if one.cycle <= cycle)  # merged ones too
    return ExportSubject(
        network=settings.network.name,
        row=row,
        config=config,
        base_folder=base,
        cycles=cycles,
        adapters=folders,
        evaluation=store.evaluation(cycle, Stage.AFTER),
        sources=_sources(files, everything),
        contributors=_contributors(store, everything),
        parameters=count_parameters(base, folders),
    )


def _check_adapter(folder: Path, digest: bytes) -> None:
    try:
        found = sha256(ADAPTER_DOMAIN, *(sha256((folder / n).read_bytes()) for n in ADAPTER_FILES))
    except OSError as error:
        raise ConfigFault(
            f"{folder} holds no adapter: {error}", hint="Restore it from a backup."
        ) from error
    if found != digest:
        raise HashMismatch(f"{folder} is not the adapter that later cycles were trained on")


def _contributors(store: Store, cycles: tuple[int, ...]) -> int:
    peers = {
        contribution.peer
        for cycle in cycles
        for one in store.rounds(cycle)
        for contribution in store.contributions(cycle, one.round)
        if contribution.coefficient
    }
    return len(peers)


def _sources(files: DataLayout, cycles: tuple[int, ...]) -> tuple[RowSource, ...]:
    counted: Counter[tuple[str, str, str]] = Counter()
    for cycle in cycles:
        if (files.dataset(cycle) / "train.jsonl").is_file():
            counted.update(
                (f"{one.teacher} {one.teacher_version}".strip(), one.licence, one.permission_ref)
                for one in load_rows(files, cycle, "train")
            )
    return tuple(RowSource(*key, rows) for key, rows in counted.most_common())
