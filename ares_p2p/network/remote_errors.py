"""From a code that a remote sent back to the class of the error tree.

Only what a remote can rightly say about us or itself becomes that very class: a peer must not
be able to make this process believe that its own disk is broken.
"""

from __future__ import annotations

from ares_p2p.errors import (
    AresError,
    BlobUnavailable,
    CoordinatorAway,
    PeerFault,
    RecordUnavailable,
    all_errors,
)

MAX_MESSAGE_CHARS = 300
_ALLOWED = (PeerFault, BlobUnavailable, CoordinatorAway, RecordUnavailable)
_CLASSES = {cls.code: cls for cls in all_errors() if issubclass(cls, _ALLOWED)}


def error_of_code(code: str, message: str) -> AresError:
    """Return the error that a remote names, with what it says made printable and short."""
    said = "".join(char if char.isprintable() else " " for char in message[:MAX_MESSAGE_CHARS])
    cls = _CLASSES.get(code)
    if cls is None:
        return PeerFault(f"the remote answers with unknown code {code[:16]!r}: {said}")
    return cls(said or (cls.__doc__ or "").strip().splitlines()[0])
