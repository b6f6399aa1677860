"""Processor time of several things side by side: in turns, so that a busy moment touches all of them.

Processor time, not wall time: whoever else wants the core does not count. What others do to caches and
to the memory bus still does, to everything that is compared alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def best_seconds(actions: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Return the shortest of `repeats` runs of each action: the one that others disturbed least."""
    best = dict.fromkeys(actions, float("inf"))
    for _ in range(repeats):
        for name, action in actions.items():
            start = time.process_time()
            action()
            best[name] = min(best[name], time.process_time() - start)
    return best
