"""Write `docs/errors.md` from the classes of `ares_p2p.errors`; a test compares the two.

Usage: make_errors_doc.py
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ares_p2p.errors import (  # noqa: E402
    AresError,
    ConfigFault,
    InternalFault,
    NetworkFault,
    PeerFault,
    all_errors,
)

PATH = ROOT / "docs" / "errors.md"

HEAD = """\
# Error codes

Every fault that ARES reports carries one of these codes, in its message (`[ARES-E052] ...`), in
the log, in the API's `error.code`, and as the reason of a refused contribution. A code never
changes its meaning and is never used again for another.

The exit code of a command tells the kind of fault; the service files rely on it, and a script may:

| exit code | kind | what a service manager should do |
|---|---|---|
| 70 | internal fault | restart |
| 75 | network fault | restart after a while |
| 76 | somebody else's message was refused | restart |
| 78 | configuration fault | do not restart: nothing changes until a person acts |

This file is written by `make errors` from `ares_p2p/errors.py`.
"""

SECTIONS: list[tuple[type[AresError], str]] = [
    (ConfigFault, "Configuration: your own machine or settings"),
    (NetworkFault, "Network: nobody's fault, try again later"),
    (PeerFault, "Peers: something that another node sent was refused"),
    (InternalFault, "Internal: a bug or a broken disk of ours"),
]


def build_page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for branch, title in SECTIONS:
        parts += [
            f"## {title}\n",
            "| code | class | exit | meaning | what to do |",
            "|---|---|---|---|---|",
            *(
                _row(cls)
                for cls in all_errors()
                if issubclass(cls, branch) and cls.__module__ == AresError.__module__
            ),
            "",
        ]
    return "\n".join(parts)


def _row(cls: type[AresError]) -> str:
    meaning = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
    hint = cls.default_hint or "The message says it."
    cells = [f"`{cls.code}`", f"`{cls.__name__}`", str(cls.exit_code), meaning, hint]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(build_page(), encoding="utf-8")
