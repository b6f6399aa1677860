"""What a check of a volunteer's evidence can find: a broken link, or a gap. Pure.

A *broken* link contradicts what was signed, or the rules: somebody changed a file, or the
coordinator signed two things of which one is false. A *gap* is a link that is not held: nothing
is wrong with what is there, and nothing is proven about what is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ares_p2p.ids import PeerId


class Link(StrEnum):
    """The links of the chain, from a commit to the log."""

    FILE = "file"
    CONFIG = "cycle config"
    PLAN = "plan"
    COMMIT = "commit"
    ACK = "acknowledgement"
    COMMIT_SET = "commit set"
    SEED = "revealed seed"
    MANIFEST = "manifest"
    SETTLEMENT = "settlement"
    LOTTERY = "audit lottery"
    STREAK = "streak"
    PRICE = "price"
    AUDIT = "audit"
    POSTING = "posting"
    INCLUSION = "inclusion"
    HEAD = "signed head"
    CONSISTENCY = "append-only log"
    BALANCE = "balance"


class Severity(StrEnum):
    """How bad a finding is."""

    BROKEN = "broken"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Finding:
    """One link that does not hold, or is not held.

    Attributes:
        message: what was expected, and what is there.
        file: where it was read from.
    """

    severity: Severity
    link: Link
    message: str
    cycle: int | None = None
    round: int | None = None
    file: str = ""


@dataclass(frozen=True, slots=True)
class Volunteer:
    """Whose evidence it is, and whose word counts in that network."""

    network_id: str
    coordinator: PeerId
    peer: PeerId
