"""No round carries a code that nobody explains, and the outputs in docs/credits.md are real."""

from __future__ import annotations

import json
import re
from pathlib import Path

import zstandard
from typer.testing import CliRunner

from ares_p2p import errors
from ares_peer.cli import app
from ares_peer.evidence import FOLDER
from ares_peer.reasons import REASONS, advice_on, meaning_of
from credit_samples import export_of, season_of_the_docs, store_season

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "credits.md").read_text(encoding="utf-8")
# Faults that only a coordinator or a visitor of its API ever meets.
ELSEWHERE = (errors.RequestRefused, errors.DatabaseAway, errors.TeacherAway, errors.StoreFault,
             errors.LedgerTampered)  # fmt: skip
CARRIED = (errors.PeerFault, errors.NetworkFault, errors.InternalFault, errors.DiskFull)


def carried_codes() -> set[str]:
    """Return every code that a commit, a manifest, a settlement or a peer's note can name."""
    return {
        cls.code
        for cls in errors.all_errors()
        if issubclass(cls, CARRIED) and not issubclass(cls, ELSEWHERE)
    }


def test_every_code_that_a_round_can_carry_is_explained_and_no_other() -> None:
    assert set(REASONS) == carried_codes()


def test_codes_in_the_document_exist() -> None:
    known = {cls.code for cls in errors.all_errors()}
    named = set(re.findall(r"ARES-E\d{3}", TEXT))
    assert named <= known
    assert set(REASONS) <= named


def test_reasons_are_sentences() -> None:
    for code, reason in REASONS.items():
        assert reason.meaning.endswith("."), code
        assert reason.advice.endswith("."), code
        assert meaning_of(code) == reason.meaning
        assert advice_on(code) == reason.advice


def test_code_of_a_later_version_is_not_silent() -> None:
    assert meaning_of("ARES-E999") == ""
    assert "Update the program" in advice_on("ARES-E999")


def shown(command: str) -> list[str]:
    """Return what the document shows under a command."""
    block = TEXT.split(f"    $ {command}\n")[1]
    lines = []
    for line in block.splitlines():
        if not line.startswith("    "):
            break
        lines.append(line.removeprefix("    "))
    return lines


def test_outputs_in_the_document_are_what_the_commands_say(tmp_path: Path) -> None:
    played = season_of_the_docs()
    store_season(played, tmp_path / FOLDER)
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("\n".join(export_of(played)) + "\n")

    def said(*words: str) -> tuple[list[str], int]:
        result = CliRunner().invoke(app, ["credits", *words, "--data-dir", str(tmp_path)])
        return [line.rstrip() for line in result.stdout.splitlines()], result.exit_code

    assert said("--offline") == (shown("ares-peer credits --offline"), 0)
    verified = said("verify", "--ledger", str(ledger))
    assert verified == (shown("ares-peer credits verify --ledger ledger.jsonl"), 0)
    path = tmp_path / FOLDER / "cycle-0003" / "round-0004.json.zst"
    stored = json.loads(zstandard.decompress(path.read_bytes(), max_output_size=1 << 22))
    leaf = stored["leaves"][1]
    leaf["leaf"] = leaf["leaf"].replace("\n6400\n", "\n9999\n")
    path.write_bytes(zstandard.compress(json.dumps(stored).encode()))
    assert said("verify") == (shown("ares-peer credits verify"), 76)
