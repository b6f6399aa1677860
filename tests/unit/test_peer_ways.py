"""Which way a peer takes: when it leaves P2P, when it comes back, and that it does not swing."""

from __future__ import annotations

from ares_peer.ways import (
    CALM_PROBE_S,
    FIRST_HOLD_MS,
    LEAVE_AFTER,
    LONGEST_HOLD_MS,
    PROBE_S,
    RETURN_AFTER,
    STEADY_MS,
    SUSPECT_PROBE_S,
    Probe,
    WayChoice,
    is_relayed,
)

P2P_ONLY, HTTP_ONLY = Probe(p2p=True, http=False), Probe(p2p=False, http=True)
BOTH, NOTHING = Probe(p2p=True, http=True), Probe(p2p=False, http=False)


def hear(choice: WayChoice, probe: Probe, times: int = 1, *, at_ms: int = 0) -> list[bool]:
    return [choice.hear(probe, now_ms=at_ms) for _ in range(times)]


def test_p2p_is_left_only_after_several_failures_in_a_row() -> None:
    choice = WayChoice()
    assert not any(hear(choice, HTTP_ONLY, LEAVE_AFTER - 1))
    assert choice.pause_s == SUSPECT_PROBE_S
    assert not any(hear(choice, P2P_ONLY))  # it works after all: from the beginning
    assert choice.pause_s == CALM_PROBE_S
    assert not any(hear(choice, HTTP_ONLY, LEAVE_AFTER - 1))
    assert hear(choice, HTTP_ONLY) == [True]
    assert choice.is_http
    assert choice.pause_s == PROBE_S


def test_a_coordinator_that_is_away_changes_nothing() -> None:
    choice = WayChoice()
    assert not any(hear(choice, NOTHING, 1000))
    assert not choice.is_http
    assert not any(hear(choice, HTTP_ONLY, LEAVE_AFTER - 1))
    choice = WayChoice(is_http=True)
    assert not any(hear(choice, NOTHING, 1000))
    assert choice.is_http


def test_p2p_comes_back_after_several_successes_and_a_while() -> None:
    choice = WayChoice()
    choice.leave(now_ms=0)
    assert not any(hear(choice, BOTH, 10 * RETURN_AFTER, at_ms=FIRST_HOLD_MS - 1))
    assert hear(choice, BOTH, at_ms=FIRST_HOLD_MS) == [True]
    choice.leave(now_ms=0)
    assert not any(hear(choice, BOTH, RETURN_AFTER - 1, at_ms=2 * FIRST_HOLD_MS))
    assert not any(hear(choice, HTTP_ONLY, at_ms=2 * FIRST_HOLD_MS))
    assert not any(hear(choice, BOTH, RETURN_AFTER - 1, at_ms=2 * FIRST_HOLD_MS))
    assert hear(choice, BOTH, at_ms=2 * FIRST_HOLD_MS) == [True]


def test_a_dead_api_sends_a_peer_back_to_p2p_at_once() -> None:
    choice = WayChoice()
    choice.leave(now_ms=0)
    assert hear(choice, P2P_ONLY, at_ms=1) == [True]
    assert not choice.is_http


def test_a_line_on_the_edge_is_left_for_longer_each_time() -> None:
    choice, now_ms, waits = WayChoice(), 0, []
    for _ in range(9):
        choice.leave(now_ms=now_ms)
        left_ms = now_ms
        while choice.is_http:
            now_ms += 10_000
            choice.hear(BOTH, now_ms=now_ms)
        waits.append(now_ms - left_ms)
        now_ms += 5_000
    assert waits[0] == FIRST_HOLD_MS
    assert waits[1:4] == [2 * FIRST_HOLD_MS, 4 * FIRST_HOLD_MS, 8 * FIRST_HOLD_MS]
    assert waits[-1] == LONGEST_HOLD_MS
    now_ms += STEADY_MS  # now it holds: forgiven
    choice.leave(now_ms=now_ms)
    hear(choice, BOTH, RETURN_AFTER, at_ms=now_ms + FIRST_HOLD_MS)
    assert not choice.is_http


def test_a_circuit_among_the_addresses_means_relayed() -> None:
    direct = "/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWa"
    assert not is_relayed((direct,))
    assert not is_relayed(())
    assert is_relayed(("/ip4/10.0.0.2/tcp/1/p2p/12D3KooWb", f"{direct}/p2p-circuit/p2p/12D3KooWb"))
