"""When a trainer is started again: the rules, without a process."""

from __future__ import annotations

import pytest

from ares_peer.restarts import MAX_DELAY_S, WINDOW_MS, Restart, RestartPolicy, Stop


def test_exit_zero_is_the_end() -> None:
    assert RestartPolicy().after_exit(0, now_ms=0) == Stop(0)


def test_configuration_fault_is_not_restarted() -> None:
    decision = RestartPolicy().after_exit(78, now_ms=0)
    assert isinstance(decision, Stop)
    assert decision.exit_code == 78


@pytest.mark.parametrize("exit_code", [1, 70, 76, -9, -11])
def test_failure_brake_stops_after_five_failures(exit_code: int) -> None:
    policy = RestartPolicy()
    decisions = [policy.after_exit(exit_code, now_ms=second * 1000) for second in range(5)]
    assert decisions[:4] == [Restart(1.0), Restart(2.0), Restart(4.0), Restart(8.0)]
    assert isinstance(decisions[4], Stop)
    assert decisions[4].exit_code == 70
    assert decisions[4].reason == "the trainer failed 5 times within 10 minutes"


def test_old_failures_neither_brake_nor_delay() -> None:
    policy = RestartPolicy()
    decisions = [policy.after_exit(1, now_ms=turn * WINDOW_MS) for turn in range(20)]
    assert decisions == [Restart(1.0)] * 20


def test_network_fault_is_tried_again_for_ever() -> None:
    policy = RestartPolicy()
    decisions = [policy.after_exit(75, now_ms=turn * 1000) for turn in range(50)]
    delays = [decision.delay_s for decision in decisions if isinstance(decision, Restart)]
    assert delays[:8] == [1, 2, 4, 8, 16, 32, MAX_DELAY_S, MAX_DELAY_S]
    assert len(delays) == 50


def test_network_faults_do_not_count_for_the_brake() -> None:
    policy = RestartPolicy()
    for turn in range(4):
        assert isinstance(policy.after_exit(1, now_ms=turn), Restart)
        assert isinstance(policy.after_exit(75, now_ms=turn), Restart)
    assert isinstance(policy.after_exit(1, now_ms=5), Stop)
