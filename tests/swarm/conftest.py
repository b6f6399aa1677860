"""What swarm tests share: a tiny base."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinybase import build_tiny_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of a few thousand parameters, in the layout of a real base."""
    folder = tmp_path_factory.mktemp("base")
    build_tiny_base(folder)
    return folder
