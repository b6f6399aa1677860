"""Runs every benchmark of this folder, one after another, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run them all; return 1 if one failed."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    RESULTS.mkdir(exist_ok=True)
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        output = ("--output", str(RESULTS / f"{name.removeprefix('bench_')}.json"))
        command = [sys.executable, "-m", f"benchmarks.{name}", *output]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
