"""Places where a test may kill this process, to see that it comes back.

`ARES_FAILPOINT=<name>` in the environment ends the process with SIGKILL the first time the named
place is reached. Names are `<phase>` (it begins), `<phase>-end` (its work is done, nothing of it is
recorded yet), `round-N` (round N is stored), `audit` (a verdict is known and not stored), `verdict`
(it is stored), `settle-N` (round N is settled in the database alone) and `settle-N-page` (its page of
the ledger is on the disk, nothing is published). Without the variable it is one dictionary look-up.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "ARES_FAILPOINT"


def failpoint(name: str) -> None:
    """Die here if the environment says so."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
