"""`ares-coordinator data` on a real folder and database: bring rows, make some, look, take them out."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ares_coordinator.commands.data import app
from ares_coordinator.datasets import DatasetMaker
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import (
    CONFIG_FILE,
    DATABASE_FILE,
    CoordinatorSettings,
    write_settings,
)
from ares_coordinator.store.sql import open_store
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import SystemClock
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import ConfigFault, TeacherNotPermitted
from ares_p2p.shards.format import decode_jsonl

BASE = Path(__file__).parents[2] / "data" / "base"
GOOD = [
    {
        "messages": [
            {"role": "user", "content": f"Why does a {thing} keep its shape?"},
            {"role": "assistant", "content": f"Because {why}, and nothing pulls at it all day."},
        ]
    }
    for thing, why in (("vase", "fired clay is hard"), ("tent", "its poles push outwards"))
]
REFUSAL = {
    "instruction": "Explain rain.",
    "output": "I'm sorry, but I can't help with that request.",
}
SAID = ["--category", "instruction", "--licence", "CC0-1.0", "--teacher", "ada"]


def settings(**changes: Any) -> CoordinatorSettings:
    return CoordinatorSettings.model_validate(
        {"network": {"name": "rows"}, "data": {"examples_per_category": 12, "seed": 3}, **changes}
    )


def made_again(folder: Path) -> None:
    """Make the rows of the first cycle, as a coordinator does that starts again."""

    async def make() -> None:
        db = await StoreThread.open(folder / DATABASE_FILE)
        row = await db.call(
            db.store.begin_cycle, 1, now_ms=1, secret_seed=bytes(32), assignment_key=bytes(32)
        )
        maker = DatasetMaker(settings(), DataLayout(folder), db, SystemClock(), lambda _: None)
        found, _ = await maker.make(row)
        await db.call(db.store.save_dataset, found)
        await db.close()

    asyncio.run(make())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator whose first cycle has its rows."""
    folder = tmp_path_factory.mktemp("made")
    write_settings(folder, settings())
    made_again(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ARES_DATABASE_URL", raising=False)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    return Path(shutil.copytree(made, tmp_path / "coordinator"))


def change_settings(folder: Path, **changes: Any) -> None:
    (folder / CONFIG_FILE).unlink()
    write_settings(folder, settings(**changes))


def invoke(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--data-dir", str(folder)], catch_exceptions=False)


def run(folder: Path, *arguments: str) -> str:
    found = invoke(folder, *arguments)
    assert found.exit_code == 0, found.output
    return found.stdout


def written(folder: Path, *values: Any) -> str:
    path = folder.parent / "rows.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return str(path)


def test_stats_show_each_category_and_what_it_cost(folder: Path) -> None:
    text = run(folder, "stats")
    assert all(category in text for category in CATEGORIES)
    facts = json.loads(run(folder, "stats", "--json"))
    assert facts["cost_microusd"] == 0
    sizes = [one["train"] + one["held_out"] for one in facts["categories"].values()]
    assert sizes == [12] * len(CATEGORIES)


def test_stats_of_no_cycle_say_what_begins_one(tmp_path: Path) -> None:
    write_settings(tmp_path, settings())
    open_store(tmp_path / DATABASE_FILE).close()
    with pytest.raises(ConfigFault, match="no cycle has rows yet"):
        invoke(tmp_path, "stats")


def test_packing_is_counted_with_the_base_s_own_tokenizer(folder: Path) -> None:
    change_settings(folder, base={"path": str(BASE)})
    packed = json.loads(run(folder, "stats", "--packed", "--json"))["packed"]
    assert 0 < packed["learnt_tokens"] < packed["tokens"]
    assert 0.3 < packed["fill"] <= 1
    assert packed["examples_per_sequence"] > 1


def test_inspect_shows_rows_of_a_category_that_hold_a_text(folder: Path) -> None:
    text = run(folder, "inspect", "--category", "roleplay", "-n", "3")
    assert text.count("roleplay") >= 3
    assert "assistant" in text
    rows = run(folder, "inspect", "--category", "code", "-n", "2", "--json").encode()
    assert [row.category for row in decode_jsonl(rows)] == ["code", "code"]
    assert run(folder, "inspect", "--find", "no row holds this", "--json") == ""


def test_import_takes_good_rows_and_tells_of_the_others(folder: Path) -> None:
    rows = written(folder, *GOOD, REFUSAL, {"text": "no row at all"}, GOOD[0])
    found = json.loads(run(folder, "import", rows, *SAID, "--json"))
    assert found["cycle"] == 1  # its rows can still be made again
    assert found["accepted"] == {"instruction": 2}
    assert found["rejected"] == {"refusal": 1, "near_duplicate": 1}
    assert found["unreadable"] == 1
    assert [fault["row"] for fault in found["faults"]] == [4]
    stored = decode_jsonl(Path(found["path"]).read_bytes())
    assert {(row.teacher, row.licence) for row in stored} == {("ada", "CC0-1.0")}
    raw = run(folder, "inspect", "--side", "raw", "--json").encode()
    assert decode_jsonl(raw) == stored


def test_import_twice_changes_nothing(folder: Path) -> None:
    rows = written(folder, *GOOD)
    run(folder, "import", rows, *SAID)
    again = invoke(folder, "import", rows, *SAID, "--json")
    assert again.exit_code == 1  # nothing new
    assert json.loads(again.stdout)["accepted"] == {}
    assert len(list(DataLayout(folder).raw_rows(1).glob("import-*.jsonl"))) == 1


def test_import_rehearsal_stores_nothing(folder: Path) -> None:
    found = json.loads(run(folder, "import", written(folder, *GOOD), *SAID, "--dry-run", "--json"))
    assert (found["accepted"], found["path"]) == ({"instruction": 2}, None)
    assert not DataLayout(folder).raw_rows(1).exists()


def test_row_with_a_check_that_does_not_hold_is_unverified(folder: Path) -> None:
    row = json.loads(run(folder, "inspect", "--category", "reasoning", "-n", "1", "--json"))
    row["messages"][-1]["content"] = "banana"
    row["key"] = "reasoning:forged"
    found = invoke(folder, "import", written(folder, row), "--json")
    assert json.loads(found.stdout)["rejected"] == {"unverified": 1}


@pytest.mark.parametrize("form", ["ares", "chatml", "alpaca"])
def test_export_comes_back_by_import(folder: Path, form: str) -> None:
    path = folder.parent / f"{form}.jsonl"
    run(folder, "export", "--format", form, "-o", str(path))
    lines = path.read_text(encoding="utf-8").splitlines()
    train = decode_jsonl((DataLayout(folder).dataset(1) / "train.jsonl").read_bytes())
    assert len(lines) == len(train)
    assert {json.loads(line)["licence"] for line in lines} == {"Apache-2.0"}
    assert json.loads(lines[0])["key"] == train[0].key


def test_export_of_held_out_rows_warns(folder: Path) -> None:
    found = invoke(folder, "export", "--side", "eval")
    assert "cannot be measured" in found.stderr
    assert all("messages" in json.loads(line) for line in found.stdout.splitlines())


def test_index_keeps_an_evaluation_set_out(folder: Path) -> None:
    path = folder.parent / "bench.json"
    path.write_text(json.dumps([{"q": GOOD[0]["messages"][0]["content"], "a": "x"}]))
    answer = GOOD[0]["messages"][1]["content"]
    path.write_text(json.dumps({"items": [{"a": answer}]}), encoding="utf-8")
    found = json.loads(run(folder, "index", "vase-bench", str(path), "--json"))
    assert (found["runs"], found["texts"]) == (1, 1)
    assert json.loads(run(folder, "indices", "--json")) == {"vase-bench": 1}
    rows = written(folder, *GOOD)
    result = json.loads(run(folder, "import", rows, *SAID, "--json"))
    assert result["rejected"] == {"contaminated:vase-bench": 1}
    made_again(folder)
    facts = json.loads(run(folder, "stats", "--json"))
    assert facts["rejected"]["contaminated:vase-bench"] == 1
    assert facts["compared_with"] == {"vase-bench": 1}
    assert "contaminated:vase-bench" in run(folder, "stats")


def test_index_of_nothing_is_refused(folder: Path) -> None:
    path = folder.parent / "short.jsonl"
    path.write_text('{"q": "Why is that?"}\n')
    with pytest.raises(ConfigFault, match="would keep nothing out"):
        invoke(folder, "index", "short", str(path))
    assert "None" in run(folder, "indices")


def test_generate_adds_rows_to_the_next_cycle(folder: Path) -> None:
    found = json.loads(run(folder, "generate", "--category", "code", "--count", "7", "--json"))
    assert found["accepted"] == {"code": 7}
    assert found["cycle"] == 1


def test_generate_estimates_before_money_is_spent(folder: Path) -> None:
    paid = {"kind": "opus", "permission_ref": "letter", "licence": "LicenseRef-Test"}
    change_settings(folder, teacher=paid)
    ask = ["generate", "--category", "code", "--count", "10"]
    found = json.loads(run(folder, *ask, "--dry-run", "--json"))
    assert 0 < found["likely_microusd"] <= found["worst_microusd"]
    declined = CliRunner().invoke(app, [*ask, "--data-dir", str(folder)], input="n\n")
    assert declined.exit_code == 1
    assert "USD" in declined.stderr
    change_settings(folder, teacher={**paid, "permission_ref": ""})
    with pytest.raises(TeacherNotPermitted):
        invoke(folder, *ask, "--yes")


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "--category", "sports"],
        ["inspect", "--side", "left"],
        ["inspect", "--cycle", "7"],
        ["export", "--format", "xml"],
        ["import", "nowhere.jsonl"],
        ["index", "../x", "nowhere.txt"],
    ],
)
def test_what_cannot_be_is_refused(folder: Path, arguments: list[str]) -> None:
    with pytest.raises(ConfigFault):
        invoke(folder, *arguments)
