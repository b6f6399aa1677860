"""How long the two parts of a round last, from what peers say of their speed and what they did.

Pure: no clock, no socket. From the speeds of the peers that a round may expect it chooses

    train_s   so that three of four make the most steps that the plan takes, and nine of ten
              surely the fewest; and at least four times the exchange, so that a round trains five times as
              long as it communicates where steps are to be had
    serve_s   so that nine of ten can send what the exchange asks of them

within a floor and a cap, the caps being `rounds.train_s` and `rounds.serve_s`. Rounds close
earlier when everybody is done: a deadline costs time only where somebody is slow or gone.

Nobody's word sets the pace of all. Of three or more peers the slowest never decides by itself, nor
does one that lies: whoever is slower than the rest is waited for only as far as STRETCH times what
the median peer needs, and who claims to be faster moves each of the two places by one peer at most.
Those places are counted among peers whose work was in one of the latest rounds, the others taken to
need the caps; so a crowd of fresh identities cannot hurry anybody. Of two peers neither can be told
from a liar, and there the caps are the bound.

Source: ADR 0008; the swarm protocol, "A round".
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ares_p2p.ids import PeerId
from ares_p2p.rounds.parts import ExchangeSizes, parts_bytes
from ares_p2p.rounds.plan import RoundTimes

MOST = 0.75  # of the peers make the most steps
NEARLY_ALL = 0.9  # of the peers make the fewest steps, and send in time
STRETCH = 2.0  # times what the median peer needs: so far a slower one is waited for
SLACK = 1.5  # of what must be done in time: machines become slower, warm or in use by their owner
EASE = 1.1  # of the most steps: whoever becomes slower makes fewer of them, and loses nothing
HANDOVER_S = 4.0  # beside the steps: see the plan (0.4), encode, sign; peers stop 1.5 s early
START_S = 4.0  # before all send: the commit set is seen, chunk lists are asked for
MIN_TRAIN_S = 10.0  # a shorter deadline is noise: one pause of the machine, and the work is lost
MIN_SERVE_S = 10.0
TRAIN_PER_EXCHANGE = 4.0  # a round lasts five times its communication
ASSUMED_UPLOAD_BYTES_PER_S = 125_000.0  # 1 Mbit/s, until something large enough was sent
REMEMBERED_ROUNDS = 3  # a peer is known by its work if one of them has it


@dataclass(frozen=True, slots=True)
class Speed:
    """What a peer says of itself, as far as it is believed; 0: it has not measured it."""

    tokens_per_s: float = 0.0
    upload_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """What a round asks of one peer.

    Args:
        tokens_per_step: at most; padding is not counted, so that it may be fewer.
        sent_bytes: over the whole exchange; see `sent_bytes`.
    """

    tokens_per_step: int
    min_steps: int
    max_steps: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The times, and one line for people about why."""

    times: RoundTimes
    reason: str


def sent_bytes(sizes: ExchangeSizes, *, peers: int, parts: int) -> int:
    """Return what the busiest peer sends in the exchange of a round.

    Args:
        peers: of the round.
        parts: of the sum; 0: everybody fetches every contribution.
    """
    if not parts:
        return sizes.contribution_bytes * max(1, peers)  # to the others and the coordinator
    return math.ceil(parts_bytes(max(1, peers), sizes, parts=parts))


def needed_s(times_s: Sequence[float], share: float) -> float:
    """Return the time that is enough for a share of the peers; of three or more never all.

    Args:
        times_s: one per peer; at least one.
        share: 0..1.
    """
    ordered = sorted(times_s)
    place = max(0, math.ceil(share * len(ordered)) - 1)
    if len(ordered) > 2:
        place = min(place, len(ordered) - 2)
    return ordered[place]


def within_reach_s(times_s: Sequence[float], limit_s: float) -> float:
    """Return the longest time that is not above the limit, 0 if there is none."""
    return max((time_s for time_s in times_s if time_s <= limit_s), default=0.0)


def _median_s(times_s: Sequence[float]) -> float:
    return sorted(times_s)[len(times_s) // 2]


@dataclass(slots=True)
class RoundClock:
    """One per cycle: chooses each round's times, and remembers whose word to believe.

    Args:
        caps: the longest times, and those of a round of which nothing is known.
    """

    caps: RoundTimes
    choice: Choice | None = None  # the latest
    _worked: deque[frozenset[PeerId]] = field(
        default_factory=lambda: deque(maxlen=REMEMBERED_ROUNDS)
    )
    _silent: frozenset[PeerId] = frozenset()  # their contributions could not be had in time

    def note_closed(self, peers: Iterable[PeerId]) -> None:
        """Remember whose commits a round closed with."""
        self._worked.append(frozenset(peers))

    def note_fetched(self, silent: Iterable[PeerId]) -> None:
        """Remember whose contributions nobody could fetch in time, after a round's exchange."""
        self._silent = frozenset(silent)

    def choose(self, speeds: Mapping[PeerId, Speed], work: Workload) -> Choice:
        """Return the times of the next round.

        Args:
            speeds: of the peers that it may expect.
        """
        if not speeds:
            self.choice = Choice(self.caps, "nobody is there yet: the longest times")
            return self.choice
        worked = frozenset[PeerId]().union(*self._worked)
        known = {peer: speed for peer, speed in speeds.items() if peer in worked}
        believed = [known.get(peer, Speed()) for peer in speeds]
        most_s = [self._steps_s(speed, work, work.max_steps) for speed in believed]
        fewest_s = [self._steps_s(speed, work, work.min_steps) for speed in believed]
        claimed_s = [self._steps_s(speed, work, work.min_steps) for speed in speeds.values()]
        send_s = [self._send_s(peer, speed, work) for peer, speed in speeds.items()]
        steps_s = max(
            EASE * needed_s(most_s, MOST),
            SLACK * needed_s(fewest_s, NEARLY_ALL),
            SLACK * within_reach_s(claimed_s, STRETCH * _median_s(most_s)),
        )
        exchange_s = max(
            needed_s(send_s, NEARLY_ALL), within_reach_s(send_s, STRETCH * _median_s(send_s))
        )
        times = RoundTimes(
            _between(
                max(steps_s + HANDOVER_S, TRAIN_PER_EXCHANGE * exchange_s),
                MIN_TRAIN_S,
                self.caps.train_s,
            ),
            _between(SLACK * exchange_s + START_S, MIN_SERVE_S, self.caps.serve_s),
        )
        peers = f"{len(speeds)} peers, {len(known)} of them known by their work"
        self.choice = Choice(times, f"{peers}: {self._reason(times, steps_s, exchange_s, work)}")
        return self.choice

    def _steps_s(self, speed: Speed, work: Workload, steps: int) -> float:
        if speed.tokens_per_s <= 0:
            return self.caps.train_s
        return min(self.caps.train_s, steps * work.tokens_per_step / speed.tokens_per_s)

    def _send_s(self, peer: PeerId, speed: Speed, work: Workload) -> float:
        if peer in self._silent:
            return self.caps.serve_s
        rate = speed.upload_bytes_per_s or ASSUMED_UPLOAD_BYTES_PER_S
        return min(self.caps.serve_s, work.sent_bytes / rate)

    def _reason(self, times: RoundTimes, steps_s: float, exchange_s: float, work: Workload) -> str:
        text = (
            f"{work.min_steps}..{work.max_steps} steps of at most {work.tokens_per_step:,} tokens "
            f"get {steps_s:.1f} s, sending {work.sent_bytes / 1e6:.2f} MB takes "
            f"{exchange_s:.1f} s; {times.train_s:.0f} s to train, {times.serve_s:.0f} s to serve"
        )
        if times.train_s >= self.caps.train_s or times.serve_s >= self.caps.serve_s:
            text += " (at the cap)"
        if steps_s < TRAIN_PER_EXCHANGE * exchange_s:
            text += "; more local steps would make the exchange a smaller share"
        return text


def _between(value_s: float, floor_s: float, cap_s: float) -> float:
    return min(cap_s, max(floor_s, value_s))
