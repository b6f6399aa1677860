"""Generate `ares_p2p/wire/v1/*_pb2.py` and their type stubs from `proto/`.

What comes out is checked in, so that an install needs no compiler; a test runs this into a
temporary folder and compares byte for byte. Usage: make_proto.py [folder]
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"


def generate(output: Path) -> None:
    """Write the Python modules of every .proto file under `output`.

    Raises: RuntimeError: the compiler refused a file.
    """
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    status = protoc.main(
        ["protoc", f"-I{PROTO}", f"--python_out={output}", f"--pyi_out={output}", *sources]
    )
    if status != 0:
        raise RuntimeError(f"protoc ended with {status}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
