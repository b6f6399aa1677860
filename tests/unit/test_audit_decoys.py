"""In which rounds there is a decoy: a secret draw at the configured rate."""

from __future__ import annotations

import pytest

from ares_coordinator.audit.decoys import is_decoy_round

SECRET = b"secret of the cycle, 32 bytes..."


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5, 1.0])
def test_decoys_come_at_their_rate(rate: float) -> None:
    found = [is_decoy_round(SECRET, number, rate) for number in range(4_000)]
    assert sum(found) / len(found) == pytest.approx(rate, abs=0.02)


def test_rounds_cannot_be_known_without_the_secret() -> None:
    def rounds(secret: bytes) -> list[int]:
        return [number for number in range(400) if is_decoy_round(secret, number, 0.1)]

    assert rounds(SECRET) == rounds(SECRET)
    assert rounds(SECRET) != rounds(b"guess" + SECRET[5:])
