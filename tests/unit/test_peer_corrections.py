"""What a volunteer is told when an earlier round is corrected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ares_p2p.domain import EntryStatus, ManifestEntry, RoundCorrection, RoundManifest
from ares_p2p.errors import OpposesOthers, PoisonFound, RoundSetAside
from ares_p2p.ids import PeerId, sha256
from ares_peer.events import Event, RoundCorrected, RoundDone
from ares_peer.progress import Status, advance
from ares_peer.reports import round_corrected
from ares_peer.terminal import ASCII, lasting_line
from ares_peer.wording import sentence
from payloads import identity
from sim.samples import header

WHY = "with it the round took the held-out loss from 2.5000 to 2.9000, without it to 2.4000"
ENTRIES = (
    (0.5, EntryStatus.ACCEPTED, "", ""),
    (0.0, EntryStatus.REFUSED, PoisonFound.code, WHY),
    (0.0, EntryStatus.REFUSED, OpposesOthers.code, "against the others"),
)


def peer(number: int) -> PeerId:
    return identity(number).peer_id


CORRECTION = RoundCorrection(
    round=4,
    manifest_sha256=bytes(32),
    entries=tuple(
        ManifestEntry(sha256(peer(number).encode()), peer(number), *entry)
        for number, entry in enumerate(ENTRIES)
    ),
    held_out_before=2.5,
    held_out_bad=2.9,
    held_out_after=2.4,
)
MANIFEST = RoundManifest(
    header(5), bytes(32), bytes(32), (), bytes(32), 1, False, corrections=(CORRECTION,)
)


def told(number: int) -> RoundCorrected:
    return round_corrected(MANIFEST, CORRECTION, peer=peer(number))


def test_others_read_who_was_taken_out_and_what_becomes_of_their_work() -> None:
    event = told(0)
    assert (event.round, event.in_round, event.taken_out) == (4, 5, (peer(1),))
    assert (event.code, event.message) == ("", "")
    assert sentence(event) == (
        f"round 5 is corrected, without {peer(1)[:16]}: held-out loss 2.500 before it, 2.900 after "
        "it, 2.400 now; the work of round 6 is audited and paid, but not used"
    )
    assert told(2) == event  # refused by the others is not taken out


def test_the_culprit_reads_why_and_what_its_credit_depends_on() -> None:
    event = told(1)
    assert (event.code, event.message) == (PoisonFound.code, WHY)
    assert sentence(event) == (
        f"round 5: this peer's contribution was taken out again: {WHY} [{PoisonFound.code}]; its "
        "credit depends on its audit alone"
    )


def test_a_crowd_is_not_named_one_by_one() -> None:
    crowd = tuple(peer(number) for number in range(9))
    text = sentence(replace(told(0), taken_out=crowd))
    assert text.count("12D3KooW") == 4
    assert "and 5 more" in text


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (RoundSetAside.code, "round 5 was corrected, and this was made from its old state"),
        (PoisonFound.code, WHY),
    ],
)
def test_work_that_is_not_used_counts_as_accepted_with_its_reason(code: str, message: str) -> None:
    done = RoundDone(1, 5, "accepted", 0.0, code, message, "ab")
    assert sentence(done) == f"round 6 accepted as work, but not used: {message} [{code}]"
    status = advance(Status(pid=1, started_s=1.0), done, now_ms=1)
    assert status.totals.rounds_accepted == 1
    assert status.pending == ((1, 5),)


def test_status_keeps_the_reason_of_a_culprit_only() -> None:
    fresh = Status(pid=1, started_s=1.0)
    assert advance(fresh, told(0), now_ms=7).refusals == ()
    (kept,) = advance(fresh, told(1), now_ms=7).refusals
    assert (kept.code, kept.message, kept.round, kept.at_ms) == (PoisonFound.code, WHY, 4, 7)
    assert advance(fresh, told(0), now_ms=7).last_event == sentence(told(0))


@pytest.mark.parametrize(("number", "glyph"), [(0, ASCII.note), (1, ASCII.bad)])
def test_a_correction_leaves_a_line(number: int, glyph: str) -> None:
    event: Event = told(number)
    line = lasting_line(event, glyphs=ASCII)
    assert line is not None
    assert line.plain == f"{glyph} {sentence(event)}"
