"""Scenario files of the laboratory: what is shipped loads, what makes no sense is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ares_p2p.errors import ConfigFault
from benchmarks.lab.scenario import load_scenario, shipped_names

GOOD = """
name = "small"
says = "Two peers."
links.home = { up_mbit = 20, down_mbit = 20, delay_ms = 25 }
links.nat = { up_mbit = 20, down_mbit = 20, dial_in = "none", dial_out = [443] }
servers = { coordinator = "home", bootstrap = "home" }
peers = [ { name = "ada", link = "home" }, { name = "ben", link = "nat" } ]
"""


def load(tmp_path: Path, text: str) -> object:
    path = tmp_path / "one.toml"
    path.write_text(text)
    return load_scenario(str(path))


@pytest.mark.parametrize("name", shipped_names())
def test_scenario_that_is_shipped_loads_and_is_called_like_its_file(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.made_fast().nodes.keys() == scenario.nodes.keys()


def test_scenario_names_every_node_with_its_link(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(GOOD)
    scenario = load_scenario(str(tmp_path / "one.toml"))
    assert list(scenario.nodes) == ["coordinator", "bootstrap", "ada", "ben"]
    assert scenario.nodes["ben"].dial_in == "none"
    assert scenario.nodes["ben"].dial_out == (443,)


def test_scenario_peer_that_is_started_by_an_event_is_late(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(
        GOOD + 'events = [ { do = "start", node = "ben", round = 2 } ]\n'
    )
    assert load_scenario(str(tmp_path / "one.toml")).late == {"ben"}


def test_scenario_peer_that_is_started_again_is_not_late(tmp_path: Path) -> None:
    events = (
        '[ { do = "kill", node = "ben", round = 1 }, { do = "start", node = "ben", round = 2 } ]'
    )
    (tmp_path / "one.toml").write_text(f"{GOOD}events = {events}\n")
    assert load_scenario(str(tmp_path / "one.toml")).late == frozenset()


def test_scenario_fast_variant_changes_durations_settings_and_limit(tmp_path: Path) -> None:
    extra = """
events = [ { do = "cut", node = "ada", at_s = 5, for_s = 120 }, { do = "kill", node = "ben", at_s = 1 } ]
settings = { "rounds.rounds" = 30, "rounds.min_peers" = 2 }
fast = { for_s = 20, time_limit_s = 60, settings = { "rounds.rounds" = 8 } }
"""
    (tmp_path / "one.toml").write_text(GOOD + extra)
    fast = load_scenario(str(tmp_path / "one.toml")).made_fast()
    assert [event.for_s for event in fast.events] == [20, None]
    assert fast.settings == {"rounds.rounds": 8, "rounds.min_peers": 2}
    assert fast.time_limit_s == 60


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("speed = 3\n", "speed"),
        ('events = [ { do = "cut", node = "zoe", at_s = 1 } ]\n', "zoe"),
        ('events = [ { do = "cut", node = "ada" } ]\n', "either at_s or round"),
        ('events = [ { do = "cut", node = "ada", at_s = 1, round = 1 } ]\n', "either"),
        ('events = [ { do = "rate", node = "ada", at_s = 1 } ]\n', "up_mbit or down_mbit"),
        ('events = [ { do = "start", node = "bootstrap", at_s = 1 } ]\n', "from the beginning"),
        ("expect.least_accepted = { zoe = 1 }\n", "zoe"),
    ],
)
def test_scenario_that_makes_no_sense_is_refused_with_its_reason(
    tmp_path: Path, wrong: str, said: str
) -> None:
    with pytest.raises(ConfigFault, match=said):
        load(tmp_path, GOOD + wrong)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('link = "nat"', 'link = "moon"', "moon"),
        ('name = "ben"', 'name = "ada"', "two peers"),
        ('name = "ben"', 'name = "hub"', "hub"),
        ('name = "ben"', 'name = "ben the second"', "ben the second"),
        ("up_mbit = 20", "up_mbit = 0", "up_mbit"),
        (', bootstrap = "home"', "", "bootstrap"),
    ],
)
def test_scenario_with_a_wrong_part_is_refused(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    with pytest.raises(ConfigFault, match=said):
        load(tmp_path, GOOD.replace(before, after))


def test_scenario_that_does_not_exist_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigFault, match="home-4"):
        load_scenario("no-such-scenario")
