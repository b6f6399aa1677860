"""Which contributions of a round have to go, in about two questions per doubling of the round.

The question is always the same: is the round mended without this set of contributions? Suspects
stand in an order. Leaving out ever longer beginnings of it, there is a shortest one that mends the
round, found by halving; the last of that beginning is a culprit, whatever else is. It stays out
from then on, and the search goes on among those before it, until what was found is enough by
itself. So every culprit is necessary: without the others alone the round would not be mended.

It gives up when the questions are spent, and when more than half of the contributions would have
to go: then it is not a few that are wrong, and nobody here can say who is. Pure.

Source: the search for minimal unsatisfiable subsets, Junker, QuickXplain, AAAI 2004; group testing
by halving, Dorfman 1943.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

T = TypeVar("T")


def most_questions(suspects: int) -> int:
    """Return how many questions a search among so many may ask."""
    return 2 * max(0, suspects - 1).bit_length() + 2


def most_culprits(suspects: int) -> int:
    """Return how many may be taken out: never more than half."""
    return suspects // 2


def find_culprits(suspects: Sequence[T]) -> Generator[frozenset[T], bool, frozenset[T]]:
    """Yield sets to leave out; send whether the round is mended without them.

    Args:
        suspects: the most suspicious first. Leaving all of them out is known to mend the round:
            nothing is left then.
    Returns: the culprits; empty when there is no answer. A set that is not empty was asked about,
        and the answer was yes.
    """
    found: list[T] = []
    rest, left = list(suspects), most_questions(len(suspects))
    while len(found) <= most_culprits(len(suspects)):
        mends = len(rest)  # leaving found and so many of the rest out mends the round
        fails = -1 if found else 0  # with nothing left out there was an alarm
        while mends - fails > 1:
            # first of all whether what was found is enough; then halve
            middle = 0 if fails < 0 else (fails + mends) // 2
            if not left:
                return frozenset()
            left -= 1
            if (yield frozenset([*found, *rest[:middle]])):
                mends = middle
            else:
                fails = middle
        if mends == 0:
            return frozenset(found)
        found.append(rest[mends - 1])
        del rest[mends - 1 :]
    return frozenset()
