"""The audit lottery: which commits of a closed round are trained again by an auditor.

A commit is drawn when PRF(the round's revealed seed, the commit's digest) falls below the rate of
its author. The seed is the link of a hash chain that was fixed before the cycle began, and it is
revealed only after the commits are closed: nobody knows in advance, nobody can choose, and anyone
can check afterwards. The rate falls with the author's streak, the contributions settled since the
last one that was voided or clawed back. So newcomers are always audited, old hands rarely.

Pure. Source: docs/adr/0001, "Contribution proofs, audits, credit".
"""

from __future__ import annotations

from ares_p2p.ids import Digest, PeerId, sha256

LOWEST_RATE = 0.05  # nobody is ever trusted more than this: one of twenty is audited
NEWCOMER_ROUNDS = 10  # contributions that are audited for certain, before the rate falls
_DOMAIN = b"ares/audit-lottery/v1\0"
_AUDITOR_DOMAIN = b"ares/auditor-choice/v1\0"


def audit_rate(streak: int) -> float:
    """Return the probability with which a commit is audited.

    Args:
        streak: contributions of its author that were settled since the last one that was not,
            when the commits closed; not negative.
    Raises: ValueError: a negative streak.
    """
    if streak < 0:
        raise ValueError(f"a streak of {streak}")
    return max(LOWEST_RATE, min(1.0, NEWCOMER_ROUNDS / (1 + streak)))


def draw(seed: Digest, commit_sha256: Digest) -> float:
    """Return the number in [0, 1) that a commit drew: the first 53 bits of its hash."""
    number = int.from_bytes(sha256(_DOMAIN, seed, commit_sha256)[:8], "big")
    return (number >> 11) / (1 << 53)


def is_drawn(seed: Digest, commit_sha256: Digest, rate: float) -> bool:
    """Return whether a commit is audited at this rate."""
    return draw(seed, commit_sha256) < rate


def ranked_auditors(
    seed: Digest, commit_sha256: Digest, auditors: tuple[PeerId, ...]
) -> tuple[PeerId, ...]:
    """Return the auditors in the order in which the seed names them for one commit."""

    def rank(auditor: PeerId) -> bytes:
        return sha256(_AUDITOR_DOMAIN, seed, commit_sha256, auditor.encode())

    return tuple(sorted(auditors, key=rank))
