"""Opening a round: an honest plan passes, each impossible one is refused with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from ares_p2p.domain import RoundPlan
from ares_p2p.errors import PayloadMalformed, PeerFault, UnknownRound, WrongState
from ares_p2p.ids import sha256
from ares_p2p.rounds.plan import MAX_ROUND_MS, check_plan
from sim.samples import CYCLE, OpenRound, header, open_round

CONFIG_SHA256 = open_round().plan.cycle_config_sha256
Change = Callable[[RoundPlan], RoundPlan]


def changed(**fields: object) -> Change:
    """Return what sets `fields` of a plan."""
    return lambda plan: dataclasses.replace(plan, **fields)  # type: ignore[arg-type]


def check(opened: OpenRound, change: Change) -> None:
    check_plan(change(opened.plan), config=opened.config, config_sha256=CONFIG_SHA256)


@pytest.mark.parametrize("number", [0, 1, 29])
def test_honest_plans_pass(number: int) -> None:
    opened = open_round(number)
    check(opened, changed())
    plan = opened.plan
    assert plan.commit_deadline_ms - plan.opens_ms == 60_000
    assert plan.serve_deadline_ms - plan.commit_deadline_ms == 20_000


def test_later_rounds_start_from_any_state() -> None:
    check(open_round(1), changed(state=sha256(b"S_1")))


OPENS_MS = open_round().plan.opens_ms


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (changed(header=dataclasses.replace(header(), cycle=CYCLE + 1)), UnknownRound),
        (changed(cycle_config_sha256=sha256(b"other")), UnknownRound),
        (changed(header=header(30)), UnknownRound),
        (changed(header=header(2**32 - 1)), UnknownRound),
        (changed(state=sha256(b"other")), WrongState),
        (changed(commit_deadline_ms=OPENS_MS), PayloadMalformed),
        (changed(commit_deadline_ms=0), PayloadMalformed),
        (changed(serve_deadline_ms=OPENS_MS + 59_999), PayloadMalformed),
        (changed(serve_deadline_ms=OPENS_MS + MAX_ROUND_MS + 1), PayloadMalformed),
        (changed(opens_ms=0), PayloadMalformed),
        (changed(min_steps=0), PayloadMalformed),
        (changed(min_steps=11), PayloadMalformed),
        (changed(max_steps=0), PayloadMalformed),
    ],
    ids=range(13),
)
def test_impossible_plans_are_refused(change: Change, fault: type[PeerFault]) -> None:
    with pytest.raises(fault) as caught:
        check(open_round(), change)
    assert type(caught.value) is fault


def test_the_longest_round_and_equal_deadlines_pass() -> None:
    check(open_round(), changed(serve_deadline_ms=OPENS_MS + MAX_ROUND_MS))
    check(open_round(), changed(serve_deadline_ms=OPENS_MS + 60_000))
