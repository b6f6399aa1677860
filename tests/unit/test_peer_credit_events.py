"""Credit as the peer tells it: sentences, the picture on the disk, what is remembered of pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from ares_peer import memory as memory_module
from ares_peer.events import CreditSettled, CreditTaken
from ares_peer.memory import SessionMemory
from ares_peer.progress import Status, advance
from ares_peer.terminal import ASCII, lasting_line
from ares_peer.wording import sentence
from netfixtures import HandClock

SETTLED: dict[str, tuple[CreditSettled, bool, str]] = {
    "pass": (
        CreditSettled(1, 2, "pass", 1_500_000, 7_000_000),
        True,
        "round 3 settled: +1.50, balance 7.00",
    ),
    "on trust": (
        CreditSettled(1, 2, "not_drawn", 1_500_000, 7_000_000, "", "not drawn: paid on trust"),
        True,
        "round 3 settled: +1.50, balance 7.00",
    ),
    "recorded in shadow": (
        CreditSettled(1, 2, "fail", 1_500_000, 7_000_000, "ARES-E071", "recorded only, paid"),
        True,
        "round 3 settled: +1.50, balance 7.00 (recorded only, paid [ARES-E071])",
    ),
    "forfeited": (
        CreditSettled(1, 2, "not_drawn", 0, 7_000_000, "ARES-E076", "lost with round 2"),
        False,
        "round 3 void, no credit: lost with round 2 [ARES-E076]",
    ),
    "void": (
        CreditSettled(1, 2, "void", 0, 7_000_000, "ARES-E072", "in between"),
        False,
        "round 3 void, no credit: in between [ARES-E072]",
    ),
    "fail": (
        CreditSettled(1, 2, "fail", 0, 7_000_000, "ARES-E071", "another update"),
        False,
        "round 3 failed its audit: another update [ARES-E071]",
    ),
}


@pytest.mark.parametrize("name", SETTLED)
def test_settlement_is_told_as_what_it_paid(name: str) -> None:
    event, is_paid, text = SETTLED[name]
    assert event.is_paid == is_paid
    assert sentence(event) == text
    line = lasting_line(event, glyphs=ASCII)
    assert line is not None
    assert (line.plain[0] == ASCII.good) == is_paid
    status = advance(Status(pid=1, started_s=0.0), event, now_ms=1)
    assert status.settled_ucredits == 7_000_000
    assert bool(status.refusals) != is_paid
    lost = (status.totals.rounds_void, status.totals.rounds_failed_audit)
    assert lost == {"fail": (0, 1), "void": (1, 0), "forfeited": (1, 0)}.get(name, (0, 0))


def test_credit_that_is_taken_back_lowers_the_balance_and_stays_visible() -> None:
    before = advance(Status(pid=1, started_s=0.0), SETTLED["pass"][0], now_ms=1)
    event = CreditTaken(1, 1, 1_500_000, "ARES-E076")
    after = advance(before, event, now_ms=2)
    assert after.settled_ucredits == 5_500_000
    assert after.refusals[0].code == "ARES-E076"
    assert after.refusals[0].round == 1
    assert sentence(event) == "round 2: 1.50 of credit are lost again [ARES-E076]"
    line = lasting_line(event, glyphs=ASCII)
    assert line is not None
    assert line.plain[0] == ASCII.bad


def test_pages_to_come_are_remembered_over_a_restart_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "MAX_DUE", 20)

    def load() -> SessionMemory:
        return SessionMemory.load(tmp_path / "session.json", clock=HandClock(), network_id="net")

    memory = load()
    for number in range(23):
        memory.expect_page((number // 10, number))
        memory.expect_page((number // 10, number))
    memory.forget_page((0, 5))
    memory.forget_page((99, 99))
    memory.forget_cycles_before(2)
    assert load().due == memory.due
    assert [number for _, number in memory.due] == [20, 21, 22]
