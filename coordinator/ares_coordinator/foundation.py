"""What a cycle is trained on: a base, and the adapters of earlier cycles on it.

The signed configs are the record of it: each names its base, what was merged into that, and its
stack. So a coordinator that starts again, or one that was restored from a backup, knows it from
them, and no other book can say something else.

    cycle 1..10   first base, stack 0..9
    cycle 11      the stack has reached the threshold: merged into a new base, stack 0
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from ares_coordinator.herald import payload_of
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.base import Store
from ares_p2p.domain import BaseRef, CycleConfig
from ares_p2p.errors import BaseUnsupported
from ares_p2p.ids import Digest
from ares_p2p.training.merging import OnBytes, merge_in_thread

TERMS = ("LICENSE*", "NOTICE*", "USE_POLICY*", "README*")  # of a base: they go where it goes


@dataclass(frozen=True, slots=True)
class Foundation:
    """Base and stack under a new adapter.

    Attributes:
        base: folder of the base.
        stack: promoted cycles whose adapters lie on it, oldest first.
        base_sha256: what earlier cycles were signed for; None: there was none, any base will do.
        parent_sha256: of a merged base, what it was made from; empty: it was not merged.
        merged: cycles whose adapters were merged into the parent, oldest first.
    """

    base: Path
    stack: tuple[int, ...]
    base_sha256: Digest | None = None
    parent_sha256: bytes = b""
    merged: tuple[int, ...] = ()


def first_base(settings: CoordinatorSettings) -> Path:
    """Return the folder of the base that the network began with.

    Raises: BaseUnsupported: none is configured, or it is not there.
    """
    if not settings.base.path:
        raise BaseUnsupported(
            "no base model is configured",
            hint="Set base.path in config.toml to a folder with config.json and safetensors.",
        )
    folder = Path(settings.base.path).expanduser()
    if not folder.is_dir():
        raise BaseUnsupported(f"there is no base model folder {folder}")
    return folder


def base_of(base: BaseRef, settings: CoordinatorSettings, files: DataLayout) -> Path:
    """Return the folder of the base that a cycle was signed for.

    Raises: BaseUnsupported: it is not there.
    """
    if not base.merged:
        return first_base(settings)
    folder = files.merged_base(base.merged[-1].cycle)
    if not folder.is_dir():
        raise BaseUnsupported(
            f"the merged base {folder} is not there",
            hint="Restore it from a backup, or merge it again: docs/growth.md says how.",
        )
    return folder


def foundation_before(
    store: Store, settings: CoordinatorSettings, files: DataLayout, cycle: int
) -> Foundation:
    """Return what `cycle` builds on, before anything more is merged.

    Raises: BaseUnsupported: the base is not there.
    """
    promoted = tuple(row.cycle for row in store.cycles() if row.promoted and row.cycle < cycle)
    config = newest_config(store, before=cycle)
    if config is None:
        return Foundation(first_base(settings), promoted)
    base = config.base
    return Foundation(
        base_of(base, settings, files),
        tuple(number for number in promoted if number > merged_after(config)),
        base.sha256,
        base.parent_sha256,
        tuple(item.cycle for item in base.merged),
    )


def newest_config(store: Store, *, before: int | None = None) -> CycleConfig | None:
    """Return the newest signed config, of a cycle below `before` if that is given."""
    for row in reversed(store.cycles()):  # the newest cycle may have failed before it was signed
        if before is None or row.cycle < before:
            record = store.record("cycle", row.cycle, 0)
            if record is not None:
                return payload_of(record, CycleConfig)
    return None


def merged_after(config: CycleConfig | None) -> int:
    """Return the newest cycle whose adapter is merged into a config's base; 0: none is."""
    return config.base.merged[-1].cycle if config is not None and config.base.merged else 0


async def merge_if_due(
    found: Foundation,
    *,
    threshold: int,
    files: DataLayout,
    on_bytes: OnBytes,
) -> Foundation:
    """Return the foundation after a merge, or as it is while the stack is below the threshold.

    A merge that was interrupted goes on; one that was done is only hashed again.

    Args:
        threshold: adapters on the stack; 0: never merge.
        on_bytes: called as the new base grows: done, and of all.
    Raises: see `merge_base`.
    """
    if not threshold or len(found.stack) < threshold:
        return found
    target = files.merged_base(found.stack[-1])
    adapters = [files.adapter(cycle) for cycle in found.stack]
    made = await merge_in_thread(
        found.base,
        adapters,
        target,
        expected_base_sha256=found.base_sha256,
        on_bytes=on_bytes,
    )
    await asyncio.to_thread(_copy_terms, found.base, target)
    digests = made.files.digest_sha256, made.source.digest_sha256
    return Foundation(target, (), *digests, found.stack)


def _copy_terms(base: Path, target: Path) -> None:
    for path in sorted(path for pattern in TERMS for path in base.glob(pattern)):
        shutil.copyfile(path, target / path.name)
