"""The checked-in modules are what the compiler makes of proto/."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


def test_generated_files_are_up_to_date(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="the compiler comes with the dev extra")
    runpy.run_path(str(repository / "scripts" / "make_proto.py"))["generate"](tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2.py*")}
    here = {
        path.relative_to(repository): path.read_bytes()
        for path in (repository / "ares_p2p").rglob("*_pb2.py*")
        if path.suffix in {".py", ".pyi"}
    }
    assert sorted(made) == sorted(here)
    assert [str(path) for path in made if made[path] != here[path]] == [], "run `make proto`"


def test_file_names_are_namespaced(repository: Path) -> None:
    # protobuf has one name space per process, and hivemind registers `crypto.proto` in it
    for path in (repository / "proto").rglob("*.proto"):
        assert path.relative_to(repository / "proto").parts[:3] == ("ares_p2p", "wire", "v1")
