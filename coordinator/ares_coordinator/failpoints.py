"""Places where a test may kill this process, to see that it comes back.

`ARES_FAILPOINT=<name>` in the environment ends the process with SIGKILL the first time the named
place is reached. Names are the phases of a cycle, and `round-N` after round N is finished.
Nothing is installed, and nothing slows down, when the variable is not set.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "ARES_FAILPOINT"


def failpoint(name: str) -> None:
    """Die here if the environment says so."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
