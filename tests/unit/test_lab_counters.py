"""Bytes per cable: what the kernel's table says, and what belongs into a window of time."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.lab.counters import Carried, Counters, parse_net_dev

TABLE = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
   ada: 5229062    3469    0    0    0     0          0         0   119808    1814    0    0    0     0       0          0
  ben:7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0
"""


def test_counters_take_what_the_hub_received_for_what_the_node_sent() -> None:
    found = parse_net_dev(TABLE)
    assert found["ada"] == Carried(up=5_229_062, down=119_808)
    assert found["ben"] == Carried(up=7, down=9)


def counters() -> Counters:
    samples = [{"ada": Carried(0, 0)}, {"ada": Carried(1000, 100)}, {"ada": Carried(1500, 300)}]
    return Counters(0, frozenset({"ada"}), times_s=[10.0, 11.0, 12.0], samples=samples)


def test_counters_split_a_sample_in_proportion() -> None:
    assert counters().until(10.25)["ada"] == Carried(250, 25)
    assert counters().between(10.5, 11.5)["ada"] == Carried(750, 150)


def test_counters_windows_add_up_to_the_whole() -> None:
    borders = [10.0, 10.3, 10.9, 11.7, 12.0]
    parts = [counters().between(a, b)["ada"] for a, b in pairwise(borders)]
    assert sum(part.up for part in parts) == 1500
    assert sum(part.down for part in parts) == 300


def test_counters_do_not_guess_outside_the_samples() -> None:
    assert counters().until(99.0)["ada"] == Carried(1500, 300)
    assert counters().until(1.0)["ada"] == Carried(0, 0)
    assert Counters(0, frozenset()).until(1.0) == {}
