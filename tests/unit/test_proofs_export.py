"""A ledger file against a volunteer's pages: every row that was changed is named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.crypto.merkle import leaf_hash
from ares_p2p.domain import LedgerHead
from ares_p2p.errors import PayloadMalformed
from ares_p2p.ids import sha256
from ares_p2p.proofs.check import Report, check_evidence
from ares_p2p.proofs.check_export import ExportCheck
from ares_p2p.proofs.export import (
    MAX_LINE_BYTES,
    ExportedHead,
    ExportedLeaf,
    ExportStart,
    head_line,
    leaf_line,
    read_line,
    start_line,
)
from ares_p2p.proofs.findings import Finding, Link
from ares_p2p.proofs.ledger import leaf_of, read_leaf
from ares_p2p.wire.codec import decode_payload, seal
from credit_samples import ME, Season, export_of
from payloads import identity
from sim.samples import COORDINATOR

ROUNDS = 6


def season() -> Season:
    played = Season()
    for number in range(ROUNDS):
        played.play(number)
    return played


def report_of(played: Season, *, rounds: range = range(ROUNDS)) -> Report:
    kept = [one for one in played.evidence.values() if one.round in rounds]
    report = check_evidence(played.volunteer, cycles=played.cycles, rounds=kept)
    assert report.is_whole
    return report


def checked(played: Season, lines: list[str], *, rounds: range = range(ROUNDS)) -> ExportCheck:
    report = report_of(played, rounds=rounds)
    check = ExportCheck(
        played.volunteer,
        own={posting.id - 1: leaf_of(posting) for posting in report.postings},
        heads=report.heads,
        file="ledger.jsonl",
    )
    for line in lines:
        check.line(line.encode())
    check.finish()
    return check


def texts(check: ExportCheck) -> list[str]:
    return [finding.message for finding in check.findings]


def changed(lines: list[str], row: int, *, seals: bool = True, **changes: Any) -> list[str]:
    """Return the file with one row changed; `seals`: and the hash beside it made to fit."""
    at = place_of(lines, row)
    stored = read_line(lines[at].encode())
    assert isinstance(stored, ExportedLeaf)
    leaf = leaf_of(dataclasses.replace(read_leaf(stored.leaf), **changes))
    line = leaf_line(leaf, None if seals else stored.sha256)
    return [*lines[:at], line, *lines[at + 1 :]]


def place_of(lines: list[str], row: int) -> int:
    return [at for at, line in enumerate(lines) if line.startswith('{"leaf"')][row - 1]


def row_of(played: Season, worker: Any, *, in_round: int) -> int:
    return next(
        posting.id
        for posting in played.books.postings
        if posting.worker == worker.peer_id and posting.round == in_round
    )


# --- the file ----------------------------------------------------------------------------------


def test_lines_are_read_as_they_were_written() -> None:
    played = season()
    leaf, (_, head) = played.books.leaves()[0], played.books.heads[0]
    assert read_line(start_line("net", ME.peer_id).encode()) == ExportStart("net", ME.peer_id)
    assert read_line(leaf_line(leaf).encode()) == ExportedLeaf(leaf, leaf_hash(leaf))
    assert read_line(leaf_line(leaf, bytes(32)).encode()) == ExportedLeaf(leaf, bytes(32))
    assert read_line(head_line(head).encode()) == ExportedHead(head)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"7",
        b"null",
        b'{"leaf": 5, "sha256": ""}',
        b'{"leaf": "!!", "sha256": "00"}',
        b'{"leaf": "aaaa", "sha256": "zz"}',
        b'{"leaf": "aaaa"}',
        b'{"head": "aaaa"}',
        b'{"head": {}}',
        b'{"format": "ares-ledger/2"}',
        b'{"format": "ares-ledger/1", "network_id": "x", "coordinator": "y"}',
        b"[" * 3000,
        b'{"leaf": "' + b"a" * MAX_LINE_BYTES + b'"}',
    ],
)
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(PayloadMalformed):
        read_line(line)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with pytest.raises(PayloadMalformed):
        read_line(data)


# --- a file that agrees ------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [range(ROUNDS), range(3, ROUNDS), range(2), range(0, ROUNDS, 2)])
def test_honest_ledger_agrees_and_every_head_is_compared(rounds: range) -> None:
    played = season()
    check = checked(played, export_of(played), rounds=rounds)
    assert check.findings == []
    assert check.rows == len(played.books.postings)
    assert check.heads_checked == ROUNDS
    assert check.own_rows == 2 * ROUNDS


def test_ledger_closes_the_gaps_of_the_own_pages() -> None:
    """With rounds missing, the pages show no growth; the file does, from head to head."""
    played = season()
    kept = [one for one in played.evidence.values() if one.round in (0, 1, 4, 5)]
    report = check_evidence(played.volunteer, cycles=played.cycles, rounds=kept)
    assert [one.link for one in report.findings] == [Link.CONSISTENCY]
    assert checked(played, export_of(played), rounds=range(4, 6)).findings == []


def test_heads_of_the_volunteer_are_compared_even_if_the_file_has_none() -> None:
    played = season()
    lines = [line for line in export_of(played) if not line.startswith('{"head"')]
    assert checked(played, lines).heads_checked == ROUNDS
    row = row_of(played, identity(2), in_round=4)
    assert checked(played, changed(lines, row, amount_ucredits=1)).findings


# --- rows that were changed --------------------------------------------------------------------

CHANGES: dict[str, dict[str, Any]] = {
    "amount": {"amount_ucredits": 10**9},
    "worker": {"worker": identity(66).peer_id},
    "code": {"code": "ARES-E071"},
    "time": {"at_ms": 5},
    "round": {"round": 99},
    "commit": {"commit_sha256": sha256(b"other")},
    "key": {"key": "other"},
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("row", [1, 2, 7, 18, 36])
def test_row_that_does_not_hash_to_what_was_sealed_is_named(name: str, row: int) -> None:
    """As when somebody edits the database's table and not the log beside it."""
    played = season()
    lines = changed(export_of(played), row, seals=False, **CHANGES[name])
    found = texts(checked(played, lines))
    assert found[0].startswith(f"row {row} does not hash to what the log has for it")
    own = played.books.postings[row - 1].worker == ME.peer_id
    assert len(found) == (2 if own else 1), "and nothing else is accused"


@pytest.mark.parametrize("name", CHANGES)
def test_own_row_that_was_changed_with_its_hash_is_named_with_both_values(name: str) -> None:
    played = season()
    row = row_of(played, ME, in_round=3)
    found = texts(checked(played, changed(export_of(played), row, **CHANGES[name])))
    assert len(found) == 1
    assert found[0].startswith(f"row {row}: ")
    assert "in the file" in found[0]
    assert "in the own page" in found[0]


def test_row_of_somebody_else_that_was_changed_with_its_hash_is_narrowed_down() -> None:
    played = season()
    row = row_of(played, identity(2), in_round=3)
    page = played.plays[3].page
    assert page is not None
    found = texts(checked(played, changed(export_of(played), row, amount_ucredits=1)))
    named = [text.split(" is not what was sealed")[0] for text in found]
    ranges = [text.removeprefix("one of the rows ").removeprefix("row ") for text in named]
    covered = [
        range(int(text.split(" to ")[0]), int(text.split(" to ")[-1]) + 1) for text in ranges
    ]
    assert any(row in one for one in covered), found
    assert all(page.first < one.start and one.stop - 1 <= page.size for one in covered)


def test_two_changed_rows_far_apart_are_both_found() -> None:
    played = season()
    first = row_of(played, identity(2), in_round=1)
    second = row_of(played, identity(3), in_round=4)
    lines = changed(export_of(played), first, amount_ucredits=1)
    lines = changed(lines, second, amount_ucredits=1)
    found = texts(checked(played, lines))
    assert len(found) == 2
    assert f"{played.plays[1].page.size} rows come to" in found[0]  # type: ignore[union-attr]
    assert f"{played.plays[4].page.size} rows come to" in found[1]  # type: ignore[union-attr]


# --- rows that are missing, or too many --------------------------------------------------------


def cut(lines: list[str], *rows: int) -> list[str]:
    places = {place_of(lines, row) for row in rows}
    return [line for at, line in enumerate(lines) if at not in places]


def test_missing_rows_are_named_and_the_rest_is_checked() -> None:
    played = season()
    lines = cut(export_of(played), 8, 9)
    assert texts(checked(played, lines)) == ["rows 8 to 9 are missing: posting 10 follows"]
    other = row_of(played, identity(3), in_round=5)
    found = texts(checked(played, changed(lines, other - 2, amount_ucredits=1)))
    assert len(found) == 2, "the log is known again from the next own page on"


def test_row_at_the_end_that_is_missing_is_named() -> None:
    played = season()
    lines = export_of(played)
    last = len(played.books.postings)
    found = texts(checked(played, [*lines[: place_of(lines, last)]]))
    wanted = f"the file ends with row {last - 1}, a signed head has {last}: row {last} is missing"
    assert found == [wanted]


def test_row_twice_is_named() -> None:
    played = season()
    lines = export_of(played)
    at = place_of(lines, 5)
    found = texts(checked(played, [*lines[: at + 1], lines[at], *lines[at + 1 :]]))
    assert found == ["row 6 is posting 5 once more"]


def test_rows_after_the_last_head_are_no_fault() -> None:
    played = season()
    played.post(ME.peer_id, sha256(b"new"), played.books.postings[0].state, 9)
    lines = [*export_of(played)]
    check = checked(played, lines)
    assert check.findings == []
    assert check.rows == len(played.books.postings)


# --- heads and lines ---------------------------------------------------------------------------


def forged_head(lines: list[str], played: Season) -> list[str]:
    _, envelope = played.books.heads[2]
    forged = seal(identity(66), played_head(envelope))
    return [head_line(forged) if line == head_line(envelope) else line for line in lines]


def played_head(envelope: Any) -> Any:
    return decode_payload(envelope.payload_type, envelope.payload, LedgerHead)


def other_root(lines: list[str], played: Season) -> list[str]:
    _, envelope = played.books.heads[2]
    head = dataclasses.replace(played_head(envelope), root=sha256(b"other"))
    line = head_line(seal(COORDINATOR, head))
    return [line if one == head_line(envelope) else one for one in lines]


def head_too_early(lines: list[str], played: Season) -> list[str]:
    _, envelope = played.books.heads[2]
    return [lines[0], head_line(envelope), *lines[1:]]


BROKEN_FILES: dict[str, tuple[Callable[[list[str], Season], list[str]], Link, str]] = {
    "forged head": (forged_head, Link.HEAD, "signed by"),
    "head of another root": (other_root, Link.HEAD, "with different roots"),
    "head before its rows": (head_too_early, Link.HEAD, "after row 0"),
    "no format": (lambda lines, _: lines[1:], Link.FILE, "must begin with its format"),
    "format twice": (
        lambda lines, _: [lines[0], *lines],
        Link.FILE,
        "line 2: the file must begin",
    ),
    "garbage": (
        lambda lines, _: [*lines[:4], "garbage", *lines[4:]],
        Link.FILE,
        "line 5: no line of a ledger file",
    ),
    "another network": (
        lambda lines, _: [start_line("other", COORDINATOR.peer_id), *lines[1:]],
        Link.FILE,
        "the ledger of network other",
    ),
    "a leaf that is none": (
        lambda lines, _: [
            *lines[:1],
            json.dumps({"leaf": "AAAA", "sha256": "00" * 32}),
            *lines[2:],
        ],
        Link.POSTING,
        "row 1: no leaf of the ledger",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_file_is_named_by_line_or_row(name: str) -> None:
    change, link, text = BROKEN_FILES[name]
    played = season()
    lines = export_of(played)
    check = checked(played, change(lines, played))
    named = [one for one in check.findings if one.link is link and text in one.message]
    assert named, check.findings
    assert named[0].file == "ledger.jsonl"


def test_ledger_that_was_rewritten_as_a_whole_contradicts_the_own_heads() -> None:
    """All hashes and heads of the file fit each other, and the coordinator signed them."""
    played, other = season(), Season()
    for number in range(ROUNDS):
        other.play(number, lies={"posting": {"at_ms": 7}} if number == 1 else None)
    check = checked(played, export_of(other))
    links = {finding.link for finding in check.findings}
    assert {Link.HEAD, Link.POSTING} <= links
    settled = [posting.id for posting in other.books.postings if posting.at_ms == 7]
    (named,) = [text for text in texts(check) if text.startswith(f"row {settled[0]}: at_ms '7' ")]
    assert "in the own page" in named


def test_garbage_does_not_fill_the_memory() -> None:
    played = season()
    check = checked(played, ["x"] * 5000)
    assert len(check.findings) <= 1000
    assert all(isinstance(one, Finding) for one in check.findings)
