"""Where the teacher's key comes from: the environment, then two places in config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ares_coordinator.distiller.apikey import find_api_key, is_set, need_api_key
from ares_p2p.errors import ConfigFault, TeacherKeyRefused

REAL = "sk-ant-api03-Zb1-0123456789abcdef"


def write(folder: Path, content: object) -> None:
    (folder / "config.json").write_text(json.dumps(content))


def gateway(key: object) -> dict[str, object]:
    return {"ariesGateway": {"providers": {"anthropic": {"apiKey": key}}}}


def test_the_environment_goes_first_then_the_gateway_then_the_keys(tmp_path: Path) -> None:
    write(tmp_path, {**gateway("sk-gateway"), "keys": {"anthropic": "sk-keys"}})
    assert find_api_key(tmp_path, {"ANTHROPIC_API_KEY": REAL}) == REAL
    assert find_api_key(tmp_path, {"ANTHROPIC_API_KEY": " "}) == "sk-gateway"
    assert find_api_key(tmp_path, {}) == "sk-gateway"
    write(tmp_path, {**gateway(""), "keys": {"anthropic": f" {REAL}\n"}})
    assert find_api_key(tmp_path, {}) == REAL


@pytest.mark.parametrize(
    "value",
    [
        "", "  ", "your-api-key-here", "YOUR_API_KEY", "YOUR_ANTHROPIC_API_KEY", "sk-ant-...",
        "sk-ant-", "sk-ant-xxxxxxxx", "sk-ant-your-key", "<your key>", "<ANTHROPIC_API_KEY>",
        "${ANTHROPIC_API_KEY}", "$KEY", "{{ key }}", "%KEY%", "changeme", "change-me", "xxxx", "***",
        "...", "none", "null", "TODO", "placeholder", "REPLACE_ME", "insert-key-here", "api-key",
        "enter your key", "sk-ant-api03-…",
    ],
)  # fmt: skip
def test_a_placeholder_counts_as_unset(tmp_path: Path, value: str) -> None:
    assert not is_set(value)
    write(tmp_path, {**gateway(value), "keys": {"anthropic": value}})
    assert find_api_key(tmp_path, {"ANTHROPIC_API_KEY": value}) == ""


@pytest.mark.parametrize("value", [REAL, "sk-ant-xylophone42", "local-server-key-7", "k3y"])
def test_a_key_counts(value: str) -> None:
    assert is_set(value)


@pytest.mark.parametrize("content", [{}, [], None, 7, gateway(None), gateway({"a": 1}),
                                     {"ariesGateway": []}, {"keys": "sk-x"}])  # fmt: skip
def test_a_file_of_another_shape_holds_no_key(tmp_path: Path, content: object) -> None:
    write(tmp_path, content)
    assert find_api_key(tmp_path, {}) == ""


def test_no_key_says_where_it_may_be_put(tmp_path: Path) -> None:
    with pytest.raises(TeacherKeyRefused, match="ANTHROPIC_API_KEY is not set") as caught:
        need_api_key(tmp_path, {})
    assert "ariesGateway.providers.anthropic.apiKey" in caught.value.message
    assert "keys.anthropic" in caught.value.message
    assert "export ANTHROPIC_API_KEY" in caught.value.hint
    write(tmp_path, gateway(REAL))
    assert need_api_key(tmp_path, {}) == REAL


def test_a_broken_file_is_said_without_its_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"keys": {"anthropic": "' + REAL)
    with pytest.raises(ConfigFault, match="no JSON") as caught:
        find_api_key(tmp_path, {})
    assert REAL not in str(caught.value)
    assert caught.value.__cause__ is None
