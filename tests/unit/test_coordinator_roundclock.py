"""The round's clock: deadlines from speeds, and nobody's word sets the pace of all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_coordinator.roundclock import (
    ASSUMED_UPLOAD_BYTES_PER_S,
    EASE,
    HANDOVER_S,
    MIN_SERVE_S,
    MIN_TRAIN_S,
    MOST,
    REMEMBERED_ROUNDS,
    SLACK,
    START_S,
    STRETCH,
    TRAIN_PER_EXCHANGE,
    RoundClock,
    Speed,
    Workload,
    sent_bytes,
)
from ares_p2p.ids import PeerId
from ares_p2p.rounds.parts import ExchangeSizes
from ares_p2p.rounds.plan import RoundTimes

CAPS = RoundTimes(train_s=3600.0, serve_s=1800.0)
BLOB = 1_000_000
STEP = 1_000  # tokens
LINE = 1e7  # bytes a second: the exchange is no matter where training is asked about


def workload(*, steps: tuple[int, int] = (2, 10), sent: int = BLOB) -> Workload:
    return Workload(STEP, *steps, sent)


def clock_of(speeds: dict[PeerId, Speed], *, caps: RoundTimes = CAPS) -> RoundClock:
    """A clock that knows these peers by their work."""
    clock = RoundClock(caps)
    clock.note_closed(speeds)
    return clock


def peers(*tokens_per_s: float, upload: float = LINE) -> dict[PeerId, Speed]:
    return {
        PeerId(f"peer-{number}"): Speed(rate, upload) for number, rate in enumerate(tokens_per_s)
    }


def train_s(speeds: dict[PeerId, Speed], *, steps: tuple[int, int] = (2, 10)) -> float:
    return clock_of(speeds).choose(speeds, workload(steps=steps)).times.train_s


def deadline_for(steps: int, tokens_per_s: float, *, slack: float = SLACK) -> float:
    return slack * steps * STEP / tokens_per_s + HANDOVER_S


# --- the deadline -------------------------------------------------------------------------------


def test_equal_peers_get_the_time_of_their_most_steps() -> None:
    for count in (1, 2, 3, 8):
        speeds = peers(*[100.0] * count)
        assert train_s(speeds) == pytest.approx(deadline_for(10, 100, slack=EASE))
        assert train_s(speeds, steps=(10, 10)) == pytest.approx(deadline_for(10, 100))


def test_most_peers_make_the_most_steps_and_nearly_all_the_fewest() -> None:
    rates = [1000.0] * 14 + [400.0] * 2 + [100.0] * 3 + [60.0]
    deadline_s = train_s(peers(*rates))
    made = [min(10, int((deadline_s - HANDOVER_S) / (STEP / rate))) for rate in rates]
    assert sum(steps == 10 for steps in made) >= 15
    assert sum(steps >= 2 for steps in made) >= 18
    assert deadline_s < deadline_for(
        10, 100
    )  # the slow ones make a few steps, nobody waits for ten


def test_deadline_lies_between_its_floor_and_the_cap() -> None:
    quick, slow = peers(*[1e6] * 4), peers(*[0.1] * 4)
    assert train_s(quick) == MIN_TRAIN_S
    assert train_s(slow) == CAPS.train_s
    short = clock_of(quick, caps=RoundTimes(3.0, 2.0))
    assert short.choose(quick, workload()).times == RoundTimes(3.0, 2.0)


def test_round_of_which_nothing_is_known_lasts_as_long_as_it_may() -> None:
    speeds = peers(100.0, 100.0, 100.0)
    assert RoundClock(CAPS).choose(speeds, workload()).times.train_s == CAPS.train_s
    assert RoundClock(CAPS).choose({}, workload()).times == CAPS


def test_round_trains_at_least_four_times_as_long_as_it_exchanges() -> None:
    speeds = peers(*[1e5] * 4, upload=2.5e5)
    choice = clock_of(speeds).choose(speeds, workload(sent=10 * BLOB))
    assert choice.times.train_s == pytest.approx(TRAIN_PER_EXCHANGE * 40)
    assert choice.times.serve_s == pytest.approx(SLACK * 40 + START_S)
    assert "more local steps" in choice.reason


# --- one word ------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", [1.0, 0.01, 1e7, 0.0])
@pytest.mark.parametrize("honest", [2, 3, 7, 30])
def test_one_liar_does_not_move_the_deadline_of_equal_peers_beyond_the_bound(
    claim: float, honest: int
) -> None:
    alone = train_s(peers(*[100.0] * honest))
    lied = train_s(peers(*[100.0] * honest, claim))
    assert lied == pytest.approx(alone)


@given(
    st.lists(st.floats(50, 5000), min_size=2, max_size=20),
    st.floats(0, 1e7),
    st.sampled_from([(10, 10), (2, 10)]),
)
def test_one_liar_is_held_between_the_neighbours_of_the_honest_answer(
    honest: list[float], claim: float, steps: tuple[int, int]
) -> None:
    """Between what two neighbouring honest peers need, or twice what the median one does."""
    with_liar = train_s(peers(*honest, claim), steps=steps)
    times_s = sorted(10 * STEP / rate for rate in honest)
    count = len(honest) + 1
    below = times_s[min(math.ceil(MOST * count) - 1, count - 2) - 1]
    slack = SLACK if steps[0] == steps[1] else EASE
    above = max(times_s[-1], STRETCH * times_s[min(len(honest) - 1, count // 2)])
    assert with_liar <= max(MIN_TRAIN_S, SLACK * above + HANDOVER_S) + 1e-6
    assert with_liar >= slack * below + HANDOVER_S - 1e-6


def test_slow_peer_is_waited_for_only_as_far_as_the_others_would_not_wait_twice_as_long() -> None:
    usual = train_s(peers(*[100.0] * 9), steps=(10, 10))
    in_reach = train_s(peers(*[100.0] * 9, 60.0), steps=(10, 10))
    hopeless = train_s(peers(*[100.0] * 9, 40.0), steps=(10, 10))
    assert in_reach == pytest.approx(deadline_for(10, 60))
    assert hopeless == pytest.approx(usual)
    few_steps = train_s(peers(*[100.0] * 9, 15.0), steps=(2, 10))
    assert few_steps == pytest.approx(deadline_for(2, 15))


# --- who is believed ------------------------------------------------------------------------------


def test_crowd_of_fresh_identities_cannot_hurry_those_who_work() -> None:
    honest = peers(*[100.0] * 4)
    clock = clock_of(honest)
    crowd = {PeerId(f"fresh-{number}"): Speed(1e7, 1e9) for number in range(50)}
    times = clock.choose(honest | crowd, workload()).times
    assert times.train_s >= deadline_for(10, 100, slack=EASE)


def test_few_newcomers_do_not_move_the_deadline() -> None:
    honest = peers(*[100.0] * 9)
    clock = clock_of(honest)
    usual = clock.choose(honest, workload()).times
    fresh = {PeerId("fresh"): Speed()}
    assert clock.choose(honest | fresh, workload()).times.train_s == usual.train_s


def test_newcomer_that_lost_its_first_round_for_being_slow_gets_in() -> None:
    """It says how slow it is, and is waited for as far as anybody is."""
    honest = peers(*[100.0] * 4)
    clock = clock_of(honest)
    slower = {PeerId("slower"): Speed(55.0, LINE)}
    choice = clock.choose(honest | slower, workload(steps=(10, 10)))
    assert choice.times.train_s == pytest.approx(deadline_for(10, 55))


def test_work_of_a_few_rounds_ago_still_counts_and_then_no_more() -> None:
    speeds = peers(*[100.0] * 4)
    clock = clock_of(speeds)
    for _ in range(REMEMBERED_ROUNDS - 1):
        clock.note_closed([])
        assert clock.choose(speeds, workload()).times.train_s < CAPS.train_s
    clock.note_closed([])
    assert clock.choose(speeds, workload()).times.train_s == CAPS.train_s


# --- the exchange --------------------------------------------------------------------------------


def serve_s(*uploads: float, silent: int = 0, sent: int = 10 * BLOB) -> float:
    speeds = {PeerId(f"peer-{n}"): Speed(100.0, rate) for n, rate in enumerate(uploads)}
    clock = clock_of(speeds)
    clock.note_fetched(list(speeds)[:silent])
    return clock.choose(speeds, workload(sent=sent)).times.serve_s


def test_serving_lasts_as_long_as_nearly_all_need_to_send() -> None:
    assert serve_s(*[1e5] * 4) == pytest.approx(SLACK * 100 + START_S)
    assert serve_s(*[1e9] * 4) == MIN_SERVE_S


@pytest.mark.parametrize("claim", [1.0, 1e-9, 1e15])
@pytest.mark.parametrize("honest", [2, 3, 9, 40])
def test_one_liar_about_its_line_changes_nothing_for_equal_peers(claim: float, honest: int) -> None:
    assert serve_s(*[1e5] * honest, claim) == pytest.approx(serve_s(*[1e5] * honest))


def test_line_that_was_never_measured_counts_as_a_slow_one() -> None:
    expected = SLACK * 10 * BLOB / ASSUMED_UPLOAD_BYTES_PER_S + START_S
    assert serve_s(0.0, 0.0, 0.0) == pytest.approx(expected)


def test_contributions_that_could_not_be_had_refute_the_words_about_lines() -> None:
    assert serve_s(*[1e5] * 20, silent=1) == serve_s(*[1e5] * 20)
    assert serve_s(*[1e5] * 20, silent=10) == CAPS.serve_s


def test_what_one_peer_sends_does_not_grow_with_the_peers_when_the_sum_is_made_in_parts() -> None:
    sizes = ExchangeSizes(64 * 65_536, BLOB, 2 * BLOB)
    assert [sent_bytes(sizes, peers=n, parts=0) for n in (1, 4, 64)] == [BLOB, 4 * BLOB, 64 * BLOB]
    large = ExchangeSizes(2_500 * 65_536, 47 * BLOB, 94 * BLOB)
    sent = [sent_bytes(large, peers=n, parts=min(n, 64)) for n in (8, 64)]
    assert max(sent) < 8 * 47 * BLOB
    assert sent[1] < 2 * sent[0]


def test_reason_names_what_decided() -> None:
    speeds = peers(*[100.0] * 3)
    clock = clock_of(speeds)
    reason = clock.choose(speeds, workload()).reason
    assert "3 peers, 3 of them known by their work" in reason
    assert "2..10 steps" in reason
    assert "at the cap" not in reason
    assert "\n" not in reason
