"""The shared `ares_p2p.processes`, under the name that modules of this package began with."""

from __future__ import annotations

from ares_p2p.processes import die_with_parent

__all__ = ["die_with_parent"]
