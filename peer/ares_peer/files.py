"""The shared `ares_p2p.files`, under the name that modules of this package began with."""

from __future__ import annotations

from ares_p2p.files import open_log, write_atomically

__all__ = ["open_log", "write_atomically"]
