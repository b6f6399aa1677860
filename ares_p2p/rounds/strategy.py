"""How the contributions of a cycle's rounds become one sum, by the names that its config signs.

gather     contributions are blobs that everybody can fetch, audit and add up again; the
           exchange by parts (`rounds.parts`) is the same thing with fewer bytes
hivemind   the peers average in a group, on hivemind's own averager: nothing is left that
           anybody could audit, so nothing is verified, and nothing is paid
"""

from __future__ import annotations

from typing import Final

from ares_p2p.domain import CycleConfig
from ares_p2p.errors import PayloadMalformed

GATHER: Final = "gather"
HIVEMIND: Final = "hivemind"


def averages_in_group(config: CycleConfig) -> bool:
    """Return whether the rounds of a cycle are averaged in a group.

    Raises: PayloadMalformed: in a way that this version does not know.
    """
    if config.averaging not in (GATHER, HIVEMIND):
        raise PayloadMalformed(
            f'the cycle is averaged by "{config.averaging}", this version knows {GATHER} and '
            f"{HIVEMIND}",
            hint="Update the program.",
        )
    return config.averaging == HIVEMIND
