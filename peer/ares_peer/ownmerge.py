"""A merged base, made from what is here: its parent and the adapters that were merged into it.

The rule gives the same bytes everywhere (ADR 0011), so nobody downloads the new base, and nobody has to
believe who merged it: the digest that the cycle was signed with decides. Where the parent is not here,
or something else comes out, the files are fetched as any base's are.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import structlog

from ares_p2p.domain import BaseRef
from ares_p2p.errors import (
    BaseDigestMismatch,
    BaseUnsupported,
    ConfigFault,
    MergeRefused,
    NonFinite,
)
from ares_p2p.training.merging import OnBytes, merge_in_thread

MAX_MERGED = 256  # adapters in one merge; networks merge about ten

log = structlog.get_logger(__name__)


async def merge_from_parent(
    base: BaseRef,
    target: Path,
    *,
    parents: Sequence[Path],
    adapters: Sequence[Path],
    on_bytes: OnBytes,
) -> bool:
    """Make the cycle's base in `target` from a parent; goes on where an earlier run ended.

    Args:
        parents: folders that may hold the parent; a folder with other files is passed over.
        adapters: folders of `base.merged`, in its order, checked.
        on_bytes: called as the new base grows.
    Returns: whether the base lies in `target` now. If not, the folder is as it was or gone.
    Raises: DiskFull.
    """
    for parent in parents:
        try:
            made = await merge_in_thread(
                parent,
                adapters,
                target,
                expected_base_sha256=base.parent_sha256,
                on_bytes=on_bytes,
            )
        except (BaseDigestMismatch, BaseUnsupported) as fault:
            log.info("no_parent_here", folder=str(parent), why=fault.message)
            continue
        except (MergeRefused, NonFinite, ConfigFault) as fault:
            log.warning("not_merged_here", code=fault.code, why=fault.message)
            return False
        digest = made.files.digest_sha256
        if digest == base.sha256:
            return True
        log.warning("merge_differs", signed=base.sha256.hex()[:16], made=digest.hex()[:16])
        await asyncio.to_thread(shutil.rmtree, target)
        return False
    return False
