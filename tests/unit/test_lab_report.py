"""What a run of the laboratory comes to, from lines and counts that were made up by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.lab.counters import Carried, Counters
from benchmarks.lab.record import Said
from benchmarks.lab.report import Facts, build_report, seconds_by_kind, spans_of, windows_of
from benchmarks.lab.scenario import Scenario
from benchmarks.lab.story import moment_of

T0 = 1_000.0  # the run begins
LINK = {"up_mbit": 20, "down_mbit": 20}
STATE = "ab" * 32


def scenario(**more: Any) -> Scenario:
    content = {
        "name": "small",
        "says": "Two peers.",
        "links": {"home": LINK},
        "servers": {"coordinator": "home", "bootstrap": "home"},
        "peers": [{"name": "ada", "link": "home"}, {"name": "ben", "link": "home"}],
        **more,
    }
    return Scenario.model_validate(content)


def lab(at_s: float, node: str, do: str) -> Said:
    return Said(T0 + at_s, node, {"event": "lab", "do": do})


def phase(at_s: float, node: str, name: str) -> Said:
    return Said(T0 + at_s, node, {"event": "phase", "phase": name, "detail": ""})


def opened(at_s: float, node: str, number: int) -> Said:
    return Said(T0 + at_s, node, {"event": "round_open", "round": number, "rounds": 3})


def done(at_s: float, node: str, number: int, status: str = "accepted", code: str = "") -> Said:
    record = {"event": "round_done", "round": number, "status": status, "code": code, "message": ""}
    return Said(T0 + at_s, node, record)


def identity(at_s: float, node: str) -> Said:
    return Said(T0 + at_s, node, {"event": "identity", "peer_id": f"id-{node}"})


def cycle_done(at_s: float, node: str, state: str = STATE) -> Said:
    return Said(T0 + at_s, node, {"event": "cycle_done", "state": state})


def training(*times: tuple[float, float, float], phase: str = "done") -> dict[str, Any]:
    """Rounds from (opened, closed, finished), in seconds of the run."""
    rounds = [
        {
            "round": number,
            "opened_ms": round((T0 + a) * 1000),
            "closed_ms": round((T0 + b) * 1000),
            "finished_ms": round((T0 + c) * 1000),
            "mean_loss": 2.0,
            "held_out_loss": None,
            "commits": 2,
            "used": 2,
            "refusals": [],
            "blob_bytes": 10,
            "next_state": STATE,
        }
        for number, (a, b, c) in enumerate(times)
    ]
    counts = {"rounds_done": len(rounds), "rounds_total": len(rounds)}
    return {"phase": phase, "rounds": rounds, **counts}


THREE = ((10.0, 16.0, 18.0), (18.0, 26.0, 28.0), (28.0, 36.0, 38.0))


def full_round(node: str, number: int, start_s: float) -> list[Said]:
    """Train 4 s, hand in 1 s, exchange 3 s."""
    return [
        opened(start_s, node, number),
        phase(start_s, node, "training"),
        phase(start_s + 4, node, "uploading"),
        phase(start_s + 5, node, "exchanging"),
        done(start_s + 7.5, node, number),
        phase(start_s + 8, node, "aggregating"),
    ]


def facts(said: list[Said], *, story: Scenario | None = None, **more: Any) -> Facts:
    counters = Counters(0, frozenset({"ada", "ben"}))
    for second in range(50):
        counters.times_s.append(T0 + second)
        counters.samples.append({"ada": Carried(100 * second, 7 * second), "ben": Carried()})
    content: dict[str, Any] = {
        "scenario": story or scenario(),
        "began_s": T0,
        "ended_s": T0 + 49,
        "said": sorted(said, key=lambda item: item.at_s),
        "counters": counters,
        "wire": {},
        "training": training(*THREE),
        "leaderboard": [{"workerId": f"id-{n}", "totalCredits": 2.0} for n in ("ada", "ben")],
        "history": None,
        **more,
    }
    return Facts(**content)


def quiet_run() -> list[Said]:
    said = []
    for node in ("ada", "ben"):
        said += [lab(0, node, "start"), identity(2, node)]
        for number, (start_s, _, _) in enumerate(THREE):
            said += full_round(node, number, start_s)
        said += [phase(46.5, node, "stopped"), cycle_done(46, node)]
    return said


# --- time -----------------------------------------------------------------------------------------


def test_report_time_before_the_commits_close_is_waiting_and_after_it_is_communicating() -> None:
    windows = windows_of(training((10.0, 16.5, 18.0)), ended_s=T0 + 20)
    spans = spans_of(full_round("ada", 0, 10.0), "ada", windows, ended_s=T0 + 18.5)
    kinds = seconds_by_kind(spans, T0 + 10, T0 + 20)
    assert kinds == pytest.approx(
        {
            "training": 4.0,
            "communicating": 1.0 + 1.5,  # handing in, and from the close at 16.5 to 18
            "waiting": 1.5,  # from 15 to the close
            "computing": 0.5,
            "joining": 0.0,
            "off": 0.0,
        }
    )


def test_report_time_of_a_killed_peer_is_off_until_it_is_started_again() -> None:
    said = [
        lab(0, "ada", "start"),
        phase(3, "ada", "training"),
        lab(5, "ada", "kill"),
        lab(9, "ada", "start"),
    ]
    spans = spans_of(said, "ada", [], ended_s=T0 + 10)
    assert [(s.start_s - T0, s.end_s - T0, s.kind) for s in spans] == [
        (0, 3, "joining"),
        (3, 5, "training"),
        (5, 9, "off"),
        (9, 10, "joining"),
    ]


def test_report_kinds_of_a_round_add_up_to_its_window() -> None:
    report = build_report(facts(quiet_run()))
    for row in report["rounds"]:
        assert sum(row["seconds"]["ada"].values()) == pytest.approx(row["end_s"] - row["opened_s"])


# --- bytes ----------------------------------------------------------------------------------------


def test_report_bytes_of_rounds_and_outside_add_up_to_the_whole() -> None:
    report = build_report(facts(quiet_run()))
    parts = [row["bytes"]["ada"]["up"] for row in report["rounds"]]
    assert parts == [800, 1000, 1000]  # 100 bytes a second
    outside = report["outside_rounds"]
    whole = sum(parts) + outside["before"]["ada"]["up"] + outside["after"]["ada"]["up"]
    assert whole == report["nodes"]["ada"]["up_bytes"] == 4900


# --- what must hold -------------------------------------------------------------------------------


def test_report_of_a_quiet_run_passes() -> None:
    report = build_report(facts(quiet_run()))
    assert report["passed"], report["checks"]
    assert report["events"] == []
    assert report["nodes"]["ada"]["accepted"] == 3


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"failure": "too slow"}, "all rounds were done in time"),
        ({"training": training()}, "all rounds were done in time"),
        (
            {"training": training(*THREE) | {"rounds_total": 4}},
            "all rounds were done in time",
        ),
        (
            {
                "story": scenario(until="cycle"),
                "training": training(*THREE, phase="training"),
            },
            "the cycle was done in time",
        ),
        ({"leftovers": [7]}, "nothing was left running"),
        ({"untold": ["kill ada"]}, "every event happened"),
    ],
)
def test_report_of_a_run_with_a_fault_does_not_pass(changed: dict[str, Any], check: str) -> None:
    report = build_report(facts(quiet_run(), **changed))
    assert not report["checks"][check]
    assert not report["passed"]


def test_report_does_not_pass_when_a_peer_ends_with_another_state_or_none() -> None:
    name = "all peers that are there end with the coordinator's state"
    said = [item for item in quiet_run() if (item.event, item.node) != ("cycle_done", "ben")]
    assert not build_report(facts(said))["checks"][name]
    other = [*said, cycle_done(46, "ben", "00" * 32)]
    assert not build_report(facts(other))["checks"][name]


def test_report_compares_credit_with_the_median_of_the_others() -> None:
    story = scenario(expect={"least_credit_share": {"ben": 0.9}})
    board = [
        {"workerId": "id-ada", "totalCredits": 2.0},
        {"workerId": "id-ben", "totalCredits": 1.7},
    ]
    report = build_report(facts(quiet_run(), story=story, leaderboard=board))
    assert not report["checks"]["ben: at least 90% of the others' credit"]
    board[1]["totalCredits"] = 1.9
    report = build_report(facts(quiet_run(), story=story, leaderboard=board))
    assert report["checks"]["ben: at least 90% of the others' credit"]


def test_report_counts_contributions_that_were_expected() -> None:
    story = scenario(expect={"least_accepted": {"ben": 4}})
    report = build_report(facts(quiet_run(), story=story))
    assert not report["checks"]["ben: at least 4 contributions accepted"]


# --- what events cost -----------------------------------------------------------------------------


def cut_run(back_in: int | None) -> list[Said]:
    """Ben is cut in round 0, from 12 s to 20 s, and is in a round again or not."""
    said = [item for item in quiet_run() if item.node == "ada"]
    said += [lab(0, "ben", "start"), identity(2, "ben"), opened(10, "ben", 0)]
    said += [lab(12, "ben", "cut"), lab(20, "ben", "restore")]
    if back_in is not None:
        said += full_round("ben", back_in, THREE[back_in][0] + 0.5)
        said += [cycle_done(46, "ben")]
    return said


def test_report_says_what_a_cut_cost_and_that_the_peer_was_back_at_the_next_plan() -> None:
    report = build_report(facts(cut_run(2)))
    [cut, restore] = report["events"]
    assert (cut["do"], cut["at_s"], cut["round"]) == ("cut", 12.0, 0)
    assert restore["do"] == "restore"
    assert cut["cost"] == {
        "until_s": 20.0,
        "rounds_finished_meanwhile": 1,
        "back": True,
        "ready_after_s": 0.0,
        "back_after_s": 8.5,
        "back_in_round": 2,
        "plans_missed": 0,  # round 1 was open before the cable worked again
        "rounds_lost": [0, 1],
    }
    assert report["checks"]["cut of ben at 12 s: back after at most 0 missed plans"]


def test_report_fails_when_a_peer_misses_more_plans_than_it_may() -> None:
    times = (*THREE, (38.0, 44.0, 45.0))
    said = cut_run(None)
    said += [opened(39, "ben", 3), done(45, "ben", 3), cycle_done(46, "ben")]
    report = build_report(facts(said, training=training(*times)))
    assert report["events"][0]["cost"]["plans_missed"] == 1
    assert not report["checks"]["cut of ben at 12 s: back after at most 0 missed plans"]
    lenient = scenario(expect={"back_within_rounds": 1})
    report = build_report(facts(said, story=lenient, training=training(*times)))
    assert report["checks"]["cut of ben at 12 s: back after at most 1 missed plans"]


def test_report_fails_when_a_peer_never_comes_back_although_rounds_open() -> None:
    report = build_report(facts(cut_run(None)))
    assert not report["events"][0]["cost"]["back"]
    assert not report["passed"]


@pytest.mark.parametrize(("loaded_at_s", "missed"), [(27.0, 0), (17.0, 1)])
def test_report_of_a_killed_peer_counts_plans_from_when_it_has_loaded_its_base(
    loaded_at_s: float, missed: int
) -> None:
    said = [item for item in quiet_run() if item.node == "ada"]
    said += [lab(0, "ben", "start"), identity(2, "ben"), opened(10, "ben", 0)]
    said += [lab(12, "ben", "kill"), lab(13, "ben", "start"), identity(14, "ben")]
    said += [phase(14, "ben", "syncing"), phase(loaded_at_s, "ben", "waiting")]
    said += [*full_round("ben", 2, 28.5), cycle_done(46, "ben")]
    cost = build_report(facts(said))["events"][0]["cost"]
    assert cost["plans_missed"] == missed  # round 1 opened at 18 s
    assert cost["rounds_lost"] == [0, 1]
    assert cost["ready_after_s"] == loaded_at_s - 13
    assert cost["back_after_s"] == 15.5


def test_report_of_a_peer_that_was_killed_for_good_does_not_wait_for_it() -> None:
    said = [item for item in quiet_run() if item.node == "ada"]
    said += [lab(0, "ben", "start"), opened(10, "ben", 0), lab(12, "ben", "kill")]
    report = build_report(facts(said))
    assert report["passed"], report["checks"]
    assert report["checks"]["kill of ben at 12 s: rounds went on"]


# --- moments --------------------------------------------------------------------------------------


def event(**fields: Any) -> Any:
    return scenario(events=[{"do": "kill", "node": "ben", **fields}]).events[0]


def test_story_moment_is_the_phase_of_that_node_in_that_round() -> None:
    fits = moment_of(event(round=1, phase="exchanging"))
    lines = [
        opened(1, "ben", 0),
        phase(2, "ben", "exchanging"),
        opened(3, "ada", 1),
        phase(4, "ada", "exchanging"),
        opened(5, "ben", 1),
        phase(6, "ben", "training"),
        phase(7, "ben", "exchanging"),
    ]
    assert [fits(line) for line in lines] == [False] * 6 + [True]


def test_story_moment_without_a_phase_is_the_round_itself_or_the_first_after_it() -> None:
    fits = moment_of(event(round=1))
    assert [fits(line) for line in (opened(1, "ben", 0), opened(2, "ben", 2))] == [False, True]


def test_story_moment_of_a_server_is_that_of_the_first_peer() -> None:
    told = scenario(events=[{"do": "kill", "node": "bootstrap", "round": 1}]).events[0]
    assert moment_of(told)(opened(3, "ada", 1))
