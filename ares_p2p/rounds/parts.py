"""A round that is exchanged by parts: who makes which part of its sum, who serves it, what it costs.

The sum of a large round is not made by everybody. It is split into parts, each a run of whole
frames of the vector; the round's revealed seed names for every part a *reducer* and a *spare*, who
both fetch that part of every contribution, add it up with the manifest's coefficients, and serve
what comes out. Nobody needs to trust them: the manifest names the digest of every part, so
a wrong reducer can only serve bytes that do not hash; and because both make the part themselves,
they find out when the coordinator signed another one than the contributions lead to.

One shuffle of the committed peers is dealt out in turn, so that the work differs by one job at
most: drawn part by part, the unluckiest of sixty peers would do four parts while twenty do none.

Pure. Source: docs/adr/0007; butterfly all-reduce, Patarasuk and Yuan, 2009; the swarm protocol,
"A round", step 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ares_p2p.domain import CycleConfig, RoundManifest, RoundPlan
from ares_p2p.errors import PayloadMalformed
from ares_p2p.ids import CHUNK_BYTES, Digest, PeerId, sha256

ExchangeKind = Literal["auto", "gather", "butterfly"]

FRAME_ELEMENTS = 65_536  # the codec's, which brings numpy; a test compares the two
DOWN_BITS = (2, 3, 4, 8)
MAX_PARTS = 64  # 42 bytes each in a manifest, which must stay a record beside a hundred entries
DEFAULT_UPLOAD_BYTES_PER_S = 20e6 / 8  # of a peer that has not measured its own: 20 Mbit/s
STEP_S = 1.5  # until one step of an exchange has begun: records are polled, streams are opened
GRACE_SHARE = 0.5  # of the serve time: so long the peers have the parts to themselves
MIN_GRACE_MS, MAX_GRACE_MS = 5_000, 60_000
_ORDER_DOMAIN = b"ares/reducers/v1\0"


# --- the split ---------------------------------------------------------------------------------


def split_frames(frames: int, parts: int) -> tuple[range, ...]:
    """Return the frames of every part: runs in order, as equal as can be.

    Raises: ValueError: no part, or more parts than frames.
    """
    if not 1 <= parts <= frames:
        raise ValueError(f"{frames} frames cannot be split into {parts} parts")
    borders = [number * frames // parts for number in range(parts + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(borders))


def most_parts(elements: int) -> int:
    """Return into how many parts a vector can be split."""
    return max(1, min(-(-elements // FRAME_ELEMENTS), MAX_PARTS))


def check_plan_parts(plan: RoundPlan, *, config: CycleConfig) -> None:
    """Verify that the round can be exchanged by as many parts as its plan says.

    Raises: PayloadMalformed: more parts than the vector has frames, or the cycle has no codec
        for them.
    """
    if not plan.parts:
        return
    if plan.parts > most_parts(config.parameters):
        raise PayloadMalformed(
            f"{plan.parts} parts, at most {most_parts(config.parameters)} expected"
        )
    if config.training.down_bits not in DOWN_BITS:
        raise PayloadMalformed(
            f"a round by parts, in a cycle with {config.training.down_bits} bits for them; "
            "2, 3, 4 or 8 expected"
        )


# --- who does what -----------------------------------------------------------------------------


def ranked_reducers(
    seed: Digest, peers: Sequence[PeerId], *, parts: int
) -> tuple[tuple[PeerId, ...], ...]:
    """Return, for every part, the committed peers in the order in which they answer for it.

    The first one reduces, the second one is the spare and does so too, the others serve what they
    have fetched. With one peer there is no spare.

    Args:
        seed: what the round revealed after its commits were closed.
        peers: who committed, in any order.
    """
    order = sorted(peers, key=lambda peer: sha256(_ORDER_DOMAIN, seed, peer.encode()))
    count = len(order)
    to_spare = parts if parts < count else 1  # the deal goes on where the reducers end

    def ranked(part: int) -> tuple[PeerId, ...]:
        first, spare = part % count, (part + to_spare) % count
        rest = (order[(first + step) % count] for step in range(1, count))
        if first == spare:
            return (order[first],)
        return (order[first], order[spare], *(peer for peer in rest if peer != order[spare]))

    return tuple(ranked(part) for part in range(parts)) if order else ((),) * parts


def jobs_of(peer: PeerId, ranking: Sequence[Sequence[PeerId]]) -> tuple[int, ...]:
    """Return the parts that a peer reduces, as the reducer or as the spare."""
    return tuple(part for part, ranked in enumerate(ranking) if peer in ranked[:2])


def sources_of_part(ranked: Sequence[PeerId], me: PeerId) -> tuple[list[PeerId], list[PeerId]]:
    """Return whom to ask for a part: its reducer and spare, and then whoever fetched it by now.

    Everybody asks the others in another order, beginning behind itself.
    """
    makers = [peer for peer in ranked[:2] if peer != me]
    place = ranked.index(me) if me in ranked else 0
    others = [*ranked[place + 1 :], *ranked[:place]]
    return makers, [peer for peer in others if peer != me and peer not in ranked[:2]]


# --- when the coordinator serves parts ---------------------------------------------------------


def grace_ms(plan: RoundPlan) -> int:
    """Return how long after its manifest the coordinator leaves the parts to the peers."""
    share = GRACE_SHARE * (plan.serve_deadline_ms - plan.commit_deadline_ms)
    return int(min(max(share, MIN_GRACE_MS), MAX_GRACE_MS))


# --- what a manifest must say ------------------------------------------------------------------


def has_sum(manifest: RoundManifest) -> bool:
    """Return whether anything is added up for the state that a manifest leads to.

    A manifest that corrects the round before leads there by that round's contributions.
    """
    entries = manifest.corrections[0].entries if manifest.corrections else manifest.entries
    return any(entry.coefficient for entry in entries)


def check_parts(manifest: RoundManifest, *, sizes: Sequence[int]) -> None:
    """Verify that a manifest names all parts of its sum, each of the only possible size.

    Args:
        sizes: bytes of every part, by the plan of the round whose sum it is: the corrected one,
            in a manifest that corrects. None where everybody fetched everything.
    Raises: PayloadMalformed.
    """
    expected = tuple(sizes) if has_sum(manifest) else ()
    if len(manifest.parts) != len(expected):
        raise PayloadMalformed(
            f"a manifest with {len(manifest.parts)} parts, {len(expected)} expected"
        )
    for number, (part, size) in enumerate(zip(manifest.parts, expected, strict=True)):
        if part.size_bytes != size:
            raise PayloadMalformed(
                f"part {number} has {part.size_bytes:,} bytes, {size:,} expected"
            )


# --- the choice --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExchangeSizes:
    """What a round has to move.

    Args:
        elements: of the vector.
        contribution_bytes: of one contribution.
        sum_bytes: of all parts of the sum together.
    """

    elements: int
    contribution_bytes: int
    sum_bytes: int


@dataclass(frozen=True, slots=True)
class ExchangeChoice:
    """How a round is exchanged, and how long either way was estimated to take.

    Args:
        parts: 0: everybody fetches everything.
        gather_s: of everybody fetching everything.
        parts_s: of the best number of parts.
    """

    parts: int
    gather_s: float
    parts_s: float


def choose_exchange(
    kind: ExchangeKind,
    *,
    peers: int,
    sizes: ExchangeSizes,
    upload_bytes_per_s: Sequence[float] = (),
    parts: int = 0,
) -> ExchangeChoice:
    """Return how a round of so many peers is exchanged.

    Links are counted as fast downwards as upwards, which home links are at least.

    Args:
        upload_bytes_per_s: of the peers, 0 for one that has not measured; the lower quartile
            counts, so that neither one slow peer nor one that boasts decides.
        parts: how many they are, as far as the vector can be split; 0: the number that moves the
            fewest bytes, which is few where a contribution is not many chunks.
    """
    speed = typical_upload(upload_bytes_per_s)
    most = most_parts(sizes.elements)
    tried = [min(parts, most)] if parts else range(1, min(peers, most) + 1)
    best = min(tried, key=lambda number: parts_bytes(peers, sizes, parts=number))
    gather_s = STEP_S + peers * sizes.contribution_bytes / speed
    parts_s = 3 * STEP_S + parts_bytes(peers, sizes, parts=best) / speed
    by_parts = kind == "butterfly" or (kind == "auto" and parts_s < gather_s)
    return ExchangeChoice(best if by_parts else 0, gather_s, parts_s)


def typical_upload(speeds: Sequence[float]) -> float:
    """Return the lower quartile of the measured speeds, in bytes a second."""
    measured = sorted(speed for speed in speeds if speed > 0)
    return measured[(len(measured) - 1) // 4] if measured else DEFAULT_UPLOAD_BYTES_PER_S


def parts_bytes(peers: int, sizes: ExchangeSizes, *, parts: int) -> float:
    """Return the bytes that the busiest peer moves one way, one step after the other.

    Before the manifest: its own contribution goes to the coordinator once, and in pieces to the
    reducers and spares, who fetch everybody's piece. After it the parts go to everybody. Ranges
    are fetched in whole chunks, so that small parts are no good.
    """
    whole = sizes.contribution_bytes
    piece = min(whole, whole / parts + CHUNK_BYTES)
    jobs = -(-2 * parts // peers)
    before = max(whole + 2 * parts * piece, peers * min(whole, jobs * piece))
    servers = min(peers, 2 * parts)
    return before + max(sizes.sum_bytes, peers * sizes.sum_bytes / servers)
