"""docs/attacks.md names tests that exist and codes that exist, and all attacks of the protocol."""

from __future__ import annotations

import re
from pathlib import Path

from ares_p2p.errors import all_errors

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if "`tests/" in line]


def test_every_test_named_there_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", TEXT)
    assert len(named) == TEXT.count("`tests/") >= 40  # each names a function
    for path, function in named:
        content = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {function}(" in content, f"{path}::{function}"


def test_every_code_named_there_exists() -> None:
    known = {cls.code for cls in all_errors()}
    for row in ROWS:
        codes = re.findall(r"\bE\d{3}\b", row)
        assert codes, row
        assert {f"ARES-{code}" for code in codes} <= known, row


def test_every_attack_of_the_protocol_is_there() -> None:
    attacks = (
        "zeros", "noise", "copied blob", "stale state", "other shard", "half the steps",
        "sign flip x 10", "scaled x 1e6", "NaN", "negative or huge declared weight",
        "malformed and oversized blobs", "commit without blob", "two commits", "replayed commit",
        "forged envelope", "small-order key", "DHT rollback", "squatting", "wrong reducer",
        "lying coordinator manifest", "colluding label flippers", "crowd of fresh identities",
    )  # fmt: skip
    assert [attack for attack in attacks if attack not in TEXT] == []
