"""The coordinator's settings: what is refused at start, and whether the message says what to set."""

from __future__ import annotations

from pathlib import Path

import pytest

from ares_coordinator.settings import (
    CONFIG_FILE,
    CoordinatorSettings,
    load_settings,
    write_settings,
)
from ares_p2p.errors import ConfigFault

HEAD = '[network]\nname = "test"\n'


def settings(tmp_path: Path, text: str) -> CoordinatorSettings:
    (tmp_path / CONFIG_FILE).write_text(HEAD + text)
    return load_settings(tmp_path)


@pytest.mark.parametrize("audit", ["", '[audit]\nmode = "shadow"\n', '[audit]\nmode = "enforce"\n'])
def test_one_bit_is_refused_where_work_is_audited(tmp_path: Path, audit: str) -> None:
    with pytest.raises(ConfigFault) as fault:
        settings(tmp_path, f"[training]\ncodec_bits = 1\n{audit}")
    assert 'set [audit] mode = "off" (then nothing is paid), or codec_bits' in fault.value.message


def test_one_bit_is_taken_where_nothing_is_audited(tmp_path: Path) -> None:
    found = settings(tmp_path, '[training]\ncodec_bits = 1\n[audit]\nmode = "off"\n')
    assert (found.training.codec_bits, found.audit.mode) == (1, "off")


def test_what_init_writes_can_be_loaded(tmp_path: Path) -> None:
    written = CoordinatorSettings.model_validate({"network": {"name": "test"}})
    write_settings(tmp_path, written)
    assert load_settings(tmp_path) == written


@pytest.mark.parametrize("audit", ["", '[audit]\nmode = "shadow"\n', '[audit]\nmode = "enforce"\n'])
def test_hivemind_is_refused_where_work_is_audited(tmp_path: Path, audit: str) -> None:
    with pytest.raises(ConfigFault) as fault:
        settings(tmp_path, f'[averaging]\nstrategy = "hivemind"\n{audit}')
    assert '[audit] mode = "off" (then nothing is paid), or strategy' in fault.value.message


def test_hivemind_is_taken_where_nothing_is_audited(tmp_path: Path) -> None:
    found = settings(tmp_path, '[averaging]\nstrategy = "hivemind"\n[audit]\nmode = "off"\n')
    assert found.averaging.strategy == "hivemind"
