"""Starts p2pd so that it cannot outlive the process that wanted it. Standard library only.

    python -I -S p2pd_launcher.py PARENT_PID P2PD ARGUMENTS...

It asks the kernel to kill this process when its parent ends (the request survives `exec`), leaves
the terminal's process group, so that Ctrl-C finishes a round instead of cutting the network off,
and becomes p2pd. Elsewhere than on Linux it only becomes p2pd.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Replace this process by the program in `arguments[1:]`, tied to parent `arguments[0]`."""
    parent_pid, program = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent_pid:  # it ended before the request was made
            return
        os.setpgid(0, 0)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
