"""`ares-peer credits` and `credits verify`: what they say, and that no changed file gets past."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from rich.console import Console
from typer.testing import CliRunner, Result

from ares_p2p.domain import AuditOutcome, PostingState
from ares_p2p.errors import (
    AuditFailed,
    AuditForfeit,
    AuditVoid,
    EvidenceBroken,
    OpposesOthers,
)
from ares_p2p.proofs.check import check_evidence
from ares_p2p.proofs.evidence import PARTS, Note, with_note
from ares_p2p.proofs.export import leaf_line
from ares_p2p.wire.codec import encode_envelope
from ares_peer.cli import app
from ares_peer.credits_cli import _draw
from ares_peer.creditview import sum_rows, tier_text
from ares_peer.evidence import FOLDER, read_cycles, read_rounds, read_volunteer
from ares_peer.tierask import TierView, _read
from ares_peer.wording import exact_credits_text
from credit_samples import ME, Season, export_of, store_season

runner = CliRunner()


def season() -> Season:
    played = Season()
    played.play(0)
    played.play(1, verdict=AuditOutcome.VOID, code=AuditVoid.code, message="in between")
    played.play(2, refused=OpposesOthers.code)
    evidence = played.play(3, commits=False)
    played.evidence[evidence.key] = with_note(evidence, Note(1, "missed", "", "far too slow"))
    played.play(4, audits=(("", -1),))
    return played


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("season")
    store_season(season(), folder / FOLDER)
    return folder


@pytest.fixture
def folder(tmp_path: Path, stored: Path) -> Path:
    """Return a data folder of its own for each test that may spoil it."""
    return Path(shutil.copytree(stored, tmp_path / "data"))


def run(*words: str, folder: Path) -> Result:
    return runner.invoke(app, ["credits", *words, "--data-dir", str(folder)])


def answer(*words: str, folder: Path) -> Any:
    return json.loads(run(*words, "--json", folder=folder).stdout)


def path_of(folder: Path, number: int) -> Path:
    return folder / FOLDER / "cycle-0003" / f"round-{number:04}.json.zst"


# --- credits -----------------------------------------------------------------------------------


def test_table_has_the_sums_and_every_round_with_its_reason(folder: Path) -> None:
    result = run("--offline", folder=folder)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"peer          {ME.peer_id}"
    assert "settled       0.0192 (CPU training 0.0128, audits 0.0064)" in lines
    assert "void          0.0064 (CPU training 0.0064)" in lines
    assert "streak        1 settled round in a row: 100% of your next rounds are audited" in lines
    rows = [line for line in lines if line[:2] == "3."]
    assert [row.split()[:2] for row in rows] == [
        ["3.5", "settled"],
        ["3.5", "settled"],
        ["3.4", "missed"],
        ["3.3", "refused"],
        ["3.2", "void"],
        ["3.1", "settled"],
    ]
    assert "far too slow" in rows[2]
    assert rows[3].endswith("because [ARES-E070]")
    assert rows[4].endswith("in between [ARES-E072]")
    assert any(line.startswith("ARES-E072  The audit could not tell") for line in lines)
    assert lines[-1] == "next: ares-peer credits verify"


def test_limit_shows_the_newest_and_says_how_many_are_left(folder: Path) -> None:
    stdout = run("--offline", "--limit", "2", folder=folder).stdout
    assert stdout.count("\n3.") == 2
    assert "4 earlier ones: ares-peer credits --limit 6" in stdout
    assert len(answer("--offline", "--limit", "2", folder=folder)["rounds"]) == 2


def test_json_has_all_rounds_in_micro_credits(folder: Path) -> None:
    found = answer("--offline", folder=folder)
    assert found["peer_id"] == ME.peer_id
    assert (found["settled_ucredits"], found["said_ucredits"]) == (19_200, 19_200)
    assert found["by_kind"]["audit"] == {"settled": 6400, "pending": 0, "void": 0, "clawback": 0}
    assert found["tier"] is None
    assert [(one["round"], one["outcome"], one["code"]) for one in found["rounds"]] == [
        (4, "settled", ""),
        (4, "settled", ""),
        (3, "missed", ""),
        (2, "refused", OpposesOthers.code),
        (1, "void", AuditVoid.code),
        (0, "settled", ""),
    ]


def test_nothing_there_yet(tmp_path: Path) -> None:
    for words in ([], ["verify"]):
        result = run(*words, folder=tmp_path)
        assert result.exit_code == 78
        assert "holds no evidence of any round yet" in result.stderr
        assert "next: ares-peer join" in result.stderr


def test_what_the_coordinator_says_beyond_the_evidence_is_told(tmp_path: Path) -> None:
    played = season()
    for number in (0, 1):
        del played.evidence[played.cycle, number]
    store_season(played, tmp_path / FOLDER)
    lines = run("--offline", folder=tmp_path).stdout.splitlines()
    assert "settled       0.0128 (CPU training 0.0064, audits 0.0064)" in lines
    assert any(line.startswith("coordinator   0.0192 settled, says the newest") for line in lines)


def test_unreadable_file_is_named_and_the_rest_is_shown(folder: Path) -> None:
    path_of(folder, 0).write_bytes(b"torn")
    result = run("--offline", folder=folder)
    assert result.exit_code == 0
    assert "cycle-0003/round-0000.json.zst" in result.stdout
    assert "\n3.2" in result.stdout


@pytest.mark.parametrize("ascii_only", [False, True])
def test_picture_for_a_terminal(folder: Path, *, ascii_only: bool) -> None:
    volunteer = read_volunteer(folder / FOLDER)
    assert volunteer is not None
    report = check_evidence(
        volunteer,
        cycles=read_cycles(folder / FOLDER, print),
        rounds=read_rounds(folder / FOLDER, print),
        quick=True,
    )
    stream = io.BytesIO()
    encoding = "ascii" if ascii_only else "utf-8"
    text = io.TextIOWrapper(stream, encoding=encoding)
    console = Console(file=text, force_terminal=True, width=100)
    _draw(console, sum_rows(report, None), report.accounts, ["a note"])
    text.flush()
    drawn = stream.getvalue().decode(encoding)
    assert ("✓ settled" in drawn) != ascii_only
    assert "ARES-E072" in drawn
    assert "a note" in drawn


def test_text_of_others_never_reaches_the_terminal_raw(tmp_path: Path) -> None:
    played = Season()
    evidence = played.play(0, commits=False)
    hostile = Note(1, "missed", "", "\x1b[2J[bold]x")
    played.evidence[evidence.key] = with_note(evidence, hostile)
    store_season(played, tmp_path / FOLDER)
    for words in (["--offline"], ["verify"]):
        stdout = run(*words, folder=tmp_path).stdout
        assert "\x1b" not in stdout
        assert "[2J[bold]x" in stdout


@pytest.mark.parametrize(
    ("ucredits", "text"),
    [(0, "0.00"), (1, "0.000001"), (6400, "0.0064"), (1_500_000, "1.50"), (-6400, "-0.0064"),
     (1_234_567_000_000, "1,234,567.00")],
)  # fmt: skip
def test_small_amounts_are_told_to_the_last_digit(ucredits: int, text: str) -> None:
    assert exact_credits_text(ucredits) == text


def test_tier_as_the_api_says_it() -> None:
    body = {
        "tierInfo": {
            "tier": "CONTRIBUTOR",
            "nextTier": "TRAINER",
            "missingCredits": 12.5,
            "missingGpu": True,
        }
    }
    tier = _read(json.dumps(body).encode())
    assert tier == TierView("CONTRIBUTOR", "TRAINER", 12.5, missing_gpu=True)
    assert tier_text(tier) == (
        "CONTRIBUTOR, to TRAINER: 12.50 more settled credits and GPU work that passed an audit"
    )
    body["tierInfo"]["nextTier"] = None
    assert tier_text(_read(json.dumps(body).encode())) == "CONTRIBUTOR"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"tierInfo": {}}', b'{"tierInfo": 5}'])
def test_tier_of_a_strange_answer_is_not_known(body: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        _read(body)


# --- verify ------------------------------------------------------------------------------------


def test_whole_evidence_is_said_to_be_whole_and_what_was_not_paid_is_explained(
    folder: Path,
) -> None:
    result = run("verify", folder=folder)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines == [
        "unpaid round 3.2 (void): in between [ARES-E072]",
        "unpaid round 3.3 (refused): because [ARES-E070]",
        "unpaid round 3.4 (missed): far too slow",
        "5 rounds, 7 own postings, 5 signed heads: every link that is held holds",
    ]
    found = answer("verify", folder=folder)
    assert found["whole"] is True
    assert (found["broken"], found["gaps"]) == ([], [])
    assert [one["round"] for one in found["unpaid"]] == [1, 2, 3]


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a file's JSON as somebody with an editor would."""
    stored = json.loads(zstandard.decompress(path.read_bytes(), max_output_size=1 << 22))
    change(stored)
    path.write_bytes(zstandard.compress(json.dumps(stored).encode()))


def flip(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return base64.b64encode(data).decode()


def flipping(part: str) -> Callable[[dict[str, Any]], None]:
    return lambda stored: stored.update({part: flip(stored[part])})


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{part: flipping(part) for part in PARTS[:6]},
    "head": lambda stored: stored["link"].update(head=flip(stored["link"]["head"])),
    "first": lambda stored: stored["link"].update(first=stored["link"]["first"] + 1),
    "frontier": lambda stored: stored["link"].update(frontier=["00" * 32] * 2),
    "consistency proof": lambda stored: stored["link"].update(proof=[]),
    "leaf": lambda stored: stored["leaves"][1].update(
        leaf=stored["leaves"][1]["leaf"].replace("\n6400\n", "\n9999\n")
    ),
    "leaf's proof": lambda stored: stored["leaves"][1]["proof"].pop(),
    "leaf's place": lambda stored: stored["leaves"][1].update(index=1),
    "round": lambda stored: stored.update(round=3),
    "form": lambda stored: stored.update(format="other"),
    "kind of a value": lambda stored: stored.update(leaves=5),
    "no base64": lambda stored: stored.update(commit="!!"),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_file_is_found_and_named(folder: Path, name: str) -> None:
    edited(path_of(folder, 4), EDITS[name])
    result = run("verify", folder=folder)
    assert result.exit_code == EvidenceBroken.exit_code == 76
    broken = [line for line in result.stdout.splitlines() if line.startswith("broken ")]
    assert broken
    assert "cycle-0003/round-0004.json.zst" in broken[0]
    found = answer("verify", folder=folder)
    assert found["whole"] is False
    assert found["broken"][0]["file"] == "cycle-0003/round-0004.json.zst"
    assert found["broken"][0]["message"]


@pytest.mark.parametrize("part", ["config", "dataset"])
def test_edited_cycle_file_is_found(folder: Path, part: str) -> None:
    path = folder / FOLDER / "cycle-0003" / "cycle.json.zst"
    edited(path, lambda stored: stored.update({part: flip(stored[part])}))
    result = run("verify", folder=folder)
    assert result.exit_code == 76
    assert "cycle-0003/cycle.json.zst" in result.stdout


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", zstandard.compress(b"\0" * (1 << 25)), zstandard.compress(b"[]")],
    ids=["empty", "garbage", "bomb", "no object"],
)
def test_foreign_file_is_named_and_harmless(folder: Path, content: bytes) -> None:
    path_of(folder, 2).write_bytes(content)
    result = run("verify", folder=folder)
    assert result.exit_code == 76
    assert "cycle-0003/round-0002.json.zst" in result.stdout


def test_file_under_another_rounds_name_is_found(folder: Path) -> None:
    path_of(folder, 2).write_bytes(path_of(folder, 1).read_bytes())
    result = run("verify", folder=folder)
    assert result.exit_code == 76
    assert "it holds round 1 of cycle 3" in result.stdout


def test_deleted_file_is_a_gap_and_no_break(folder: Path) -> None:
    path_of(folder, 1).unlink()
    result = run("verify", folder=folder)
    assert result.exit_code == 0
    assert "gap    append-only log: postings 7 to 12" in result.stdout
    assert "1 gap, where nothing is wrong and nothing is proven" in result.stdout
    assert "next: ares-peer credits verify --ledger FILE" in result.stdout


def test_damaged_about_file_says_what_to_do(folder: Path) -> None:
    (folder / FOLDER / "about.json").write_text("{}")
    result = run("verify", folder=folder)
    assert result.exit_code == 78
    assert "does not say whose evidence this is" in result.stderr


def test_options_may_stand_on_either_side_of_the_word(folder: Path) -> None:
    result = runner.invoke(app, ["credits", "--json", "--data-dir", str(folder), "verify"])
    assert json.loads(result.stdout)["whole"] is True


def test_kept_contradiction_is_a_break_until_the_end_of_days(folder: Path) -> None:
    true, false = season(), Season()
    for number in range(3):
        false.play(number, lies={"posting": {"at_ms": 7}} if number == 0 else None)
    stored = {
        "earlier": base64.b64encode(encode_envelope(true.books.heads[0][1])).decode(),
        "later": base64.b64encode(encode_envelope(false.books.heads[0][1])).decode(),
    }
    path = folder / FOLDER / "contradiction-6-6.json"
    path.write_text(json.dumps(stored))
    result = run("verify", folder=folder)
    assert result.exit_code == 76
    assert "with different roots" in result.stdout
    assert path.name in result.stdout
    path.write_text(json.dumps({**stored, "later": stored["earlier"]}))
    assert run("verify", folder=folder).exit_code == 0, "it contradicts nothing"
    path.write_text("garbage")
    assert run("verify", folder=folder).exit_code == 76


def test_head_of_the_dht_is_checked_too(folder: Path) -> None:
    path = folder / FOLDER / "head.json"
    head = season().books.heads[-1][1]
    path.write_text(json.dumps({"head": base64.b64encode(encode_envelope(head)).decode()}))
    assert run("verify", folder=folder).exit_code == 0
    path.write_text("garbage")
    result = run("verify", folder=folder)
    assert result.exit_code == 76
    assert "head.json" in result.stdout


# --- verify --ledger ---------------------------------------------------------------------------


def test_ledger_that_agrees(folder: Path) -> None:
    path = folder / "ledger.jsonl"
    path.write_text("\n".join(export_of(season())) + "\n")
    result = run("verify", "--ledger", str(path), folder=folder)
    assert result.exit_code == 0
    rows = len(season().books.postings)
    text = f"ledger.jsonl: {rows} rows, 7 of them this peer's, 5 signed heads compared"
    assert text in result.stdout
    assert answer("verify", "--ledger", str(path), folder=folder)["ledger"] == {
        "file": "ledger.jsonl",
        "rows": rows,
        "own_rows": 7,
        "heads_checked": 5,
    }


def test_ledger_with_a_changed_row_names_the_row(folder: Path) -> None:
    played = season()
    lines = export_of(played)
    row = next(one.id for one in played.books.postings if one.worker == ME.peer_id)
    leaf = played.books.leaves()[row - 1].replace(b"\n6400\n", b"\n9999\n")
    at = [index for index, line in enumerate(lines) if line.startswith('{"leaf"')][row - 1]
    path = folder / "ledger.jsonl"
    path.write_text("\n".join([*lines[:at], leaf_line(leaf), *lines[at + 1 :]]) + "\n")
    result = run("verify", "--ledger", str(path), folder=folder)
    assert result.exit_code == 76
    assert f"row {row}: amount_ucredits '9999' in the file, '6400' in the own page" in result.stdout


def test_ledger_file_that_is_not_there(folder: Path) -> None:
    result = run("verify", "--ledger", str(folder / "absent"), folder=folder)
    assert result.exit_code == 78
    assert "next: The operator writes it: ares-coordinator ledger export" in result.stderr


def test_ledger_file_of_one_endless_line_is_harmless(folder: Path) -> None:
    path = folder / "ledger.jsonl"
    path.write_bytes(b"x" * (1 << 22))
    assert run("verify", "--ledger", str(path), folder=folder).exit_code == 76


# --- what a clawback looks like ----------------------------------------------------------------


def test_taken_back_credit_is_shown_with_its_cause(tmp_path: Path) -> None:
    played = Season()
    played.play(0)
    commit = played.plays[0].commits[ME.peer_id]
    played.post(ME.peer_id, commit, PostingState.CLAWBACK, 0, code=AuditForfeit.code)
    played.play(1, verdict=AuditOutcome.FAIL, code=AuditFailed.code, message="another update")
    store_season(played, tmp_path / FOLDER)
    assert run("verify", folder=tmp_path).exit_code == 0
    lines = run("--offline", folder=tmp_path).stdout.splitlines()
    assert "taken back    0.0064 (CPU training 0.0064)" in lines
    row = next(line for line in lines if line.startswith("3.1 "))
    assert "clawback" in row
    assert row.endswith("since your last audit that passed. [ARES-E076]")
