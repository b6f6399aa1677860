"""Settings: precedence, memory, the trainer's line, and one network per data directory."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ares_p2p.errors import ConfigFault, InviteWrongNetwork
from ares_peer.settings import (
    SETTINGS_FILE,
    Remembered,
    TrainerSettings,
    build_settings,
    chosen_data_dir,
    claim_network,
    load_remembered,
    merge_remembered,
    save_remembered,
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA_DIR", "INVITE", "PORT", "HOST", "DEVICE", "NAME", "THREADS", "BASE", "ROLE"):
        monkeypatch.delenv(f"ARES_PEER_{name}", raising=False)


def test_option_beats_environment_beats_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered = Remembered(port=1, threads=1, name="stored", device="cpu")
    monkeypatch.setenv("ARES_PEER_PORT", "2")
    monkeypatch.setenv("ARES_PEER_THREADS", "2")
    settings = build_settings({"port": 3, "threads": None}, remembered)
    assert (settings.port, settings.threads, settings.name) == (3, 2, "stored")
    assert settings.device == "cpu"
    assert settings.host == "0.0.0.0"


def test_explicit_zero_beats_memory() -> None:
    assert build_settings({"port": 0}, Remembered(port=4001)).port == 0


@pytest.mark.parametrize(
    "options",
    [
        {"port": 65_536},
        {"port": -1},
        {"device": "tpu"},
        {"name": "x" * 41},
        {"threads": -1},
        {"role": "boss"},
    ],
)
def test_option_out_of_range_is_a_config_fault(options: dict[str, object]) -> None:
    with pytest.raises(ConfigFault, match=next(iter(options))):
        build_settings(options, Remembered())


def test_broken_environment_is_a_config_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARES_PEER_PORT", "many")
    with pytest.raises(ConfigFault, match="ARES_PEER_"):
        chosen_data_dir(None)


def test_data_dir_from_option_environment_or_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_data_dir(None).name == "ares"
    monkeypatch.setenv("ARES_PEER_DATA_DIR", "~/elsewhere")
    assert chosen_data_dir(None) == Path.home() / "elsewhere"
    assert chosen_data_dir(Path("here")) == Path("here")


def test_memory_is_stored_privately_and_read_again(tmp_path: Path) -> None:
    assert load_remembered(tmp_path) == Remembered()
    assert load_remembered(tmp_path / "absent") == Remembered()
    remembered = merge_remembered(Remembered(invite="ares://a"), {"port": 0, "name": None})
    save_remembered(tmp_path, remembered)
    assert load_remembered(tmp_path) == Remembered(invite="ares://a", port=0)
    mode = stat.S_IMODE((tmp_path / SETTINGS_FILE).stat().st_mode)
    assert mode == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [SETTINGS_FILE]


@pytest.mark.parametrize("text", ["{", "[]", '{"port": "many"}', '{"device": "tpu"}'])
def test_damaged_memory_is_a_config_fault_with_the_file_in_it(tmp_path: Path, text: str) -> None:
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(ConfigFault, match=SETTINGS_FILE):
        load_remembered(tmp_path)


def test_trainer_settings_survive_their_line(tmp_path: Path) -> None:
    settings = TrainerSettings(
        data_dir=tmp_path, invite="ares://a", base=tmp_path / "base", announce=("/ip4/1.2.3.4",)
    )
    line = settings.to_json_line()
    assert line.count(b"\n") == 1
    assert TrainerSettings.from_json_line(line) == settings


@pytest.mark.parametrize("line", ["", "{}", '{"data_dir": ".", "invite": "a", "colour": "red"}'])
def test_trainer_refuses_other_settings(line: str) -> None:
    with pytest.raises(ConfigFault):
        TrainerSettings.from_json_line(line)


def test_data_dir_belongs_to_one_network(tmp_path: Path) -> None:
    claim_network(tmp_path, "ab" * 16)
    claim_network(tmp_path, "ab" * 16)
    with pytest.raises(InviteWrongNetwork):
        claim_network(tmp_path, "cd" * 16)


def test_role_is_remembered_and_reaches_the_trainer() -> None:
    remembered = merge_remembered(Remembered(), {"role": "auditor"})
    settings = build_settings({}, remembered)
    assert settings.role == "auditor"
    assert build_settings({"role": "trainer"}, remembered).role == "trainer"
    line = TrainerSettings(data_dir=Path("x"), invite="ares://x", role="auditor").to_json_line()
    assert TrainerSettings.from_json_line(line).role == "auditor"
    assert build_settings({}, Remembered()).role == "trainer"
