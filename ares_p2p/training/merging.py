"""A merge in a thread of its own, for programs that go on meanwhile and may be ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ares_p2p.ids import Digest
from ares_p2p.training.merge import MergedBase, merge_base

OnBytes = Callable[[int, int], None]  # (bytes of the new base, of all)


class _Stopped(Exception):
    """Ends the thread of a merge that nobody waits for any more."""


async def merge_in_thread(
    base: Path,
    adapters: Sequence[Path],
    out: Path,
    *,
    expected_base_sha256: Digest | None,
    on_bytes: OnBytes,
) -> MergedBase:
    """Do what `merge_base` does; cancelled, the thread ends at the next block, and may go on later.

    Args:
        on_bytes: called on the event loop.
    Raises: see `merge_base`.
    """
    stopped, loop = threading.Event(), asyncio.get_running_loop()

    def tell(_file: str, done: int, total: int) -> None:
        if stopped.is_set():
            raise _Stopped
        loop.call_soon_threadsafe(on_bytes, done, total)

    try:
        return await asyncio.to_thread(
            merge_base,
            base,
            adapters,
            out,
            expected_base_sha256=expected_base_sha256,
            on_progress=tell,
        )
    finally:
        stopped.set()
