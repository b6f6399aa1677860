"""Logging: the shape of a line, levels, files, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from ares_p2p.errors import ConfigFault
from ares_p2p.logs import (
    REDACTED,
    configure_logging,
    get_logger,
    is_secret_name,
    parse_levels,
    redact_secrets,
    redact_text,
)
from payloads import identity

SECRET = "hunter2-S3cr3t-Value"
PROVIDER_KEY = "sk-ant-api03-AbCdEf0123456789_-xyz"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    for handler in [one for one in root.handlers if getattr(one, "_of_ares", False)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    structlog.reset_defaults()


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_when_nobody_watches() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, levels="info")
    get_logger("ares.test").info("round_closed", round=3, state=bytes(range(32)), note="a\nb")
    (line,) = lines_of(stream)
    assert line["event"] == "round_closed"
    assert (line["level"], line["logger"], line["round"]) == ("info", "ares.test", 3)
    assert line["state"] == "000102030405..(32 bytes)"
    assert line["timestamp"].endswith("Z")


def test_a_terminal_gets_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    configure_logging(stream=stream, levels="info")
    get_logger("ares.test").info("round_closed", round=3, token=SECRET)
    text = stream.getvalue()
    assert "round_closed" in text
    assert "round=3" in text
    assert SECRET not in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_nothing_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(levels="info")
    get_logger("ares.test").warning("something")
    logging.getLogger("library").warning("else")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2


def test_second_call_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first, levels="info")
    log = get_logger("ares.test")
    log.info("one")
    configure_logging(stream=second, levels="info")
    log.info("two")
    assert [line["event"] for line in lines_of(first)] == ["one"]
    assert [line["event"] for line in lines_of(second)] == ["two"]


# --- levels ------------------------------------------------------------------------------------


def test_level_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setenv("ARES_LOG", "warning,ares.chatty=debug")
    configure_logging(stream=stream)
    get_logger("ares.quiet").info("hidden")
    get_logger("ares.quiet").warning("shown")
    get_logger("ares.chatty").debug("shown too")
    logging.getLogger("ares.chatty").setLevel(logging.NOTSET)
    assert [line["event"] for line in lines_of(stream)] == ["shown", "shown too"]


def test_levels_are_parsed() -> None:
    assert parse_levels("") == (logging.INFO, {})
    assert parse_levels("DEBUG") == (logging.DEBUG, {})
    assert parse_levels("error, a.b=info") == (logging.ERROR, {"a.b": logging.INFO})
    for text in ("loud", "info,x=loud", "x=", "20"):
        with pytest.raises(ConfigFault) as caught:
            parse_levels(text)
        assert "ARES_LOG" in caught.value.hint


# --- files -------------------------------------------------------------------------------------


def test_log_file_is_private_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "peer.log"
    for event in ("one", "two"):
        configure_logging(path=path, levels="info")
        get_logger("ares.test").info(event, api_key=SECRET)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in lines] == ["one", "two"]
    assert [line["api_key"] for line in lines] == [REDACTED, REDACTED]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_log_file_that_cannot_be_opened_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="cannot be opened"):
        configure_logging(path=tmp_path)


# --- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "api_key", "apiKey", "API-Key", "ANTHROPIC_API_KEY", "x-api-key", "X-Aries-Key", "token",
        "auth_token", "operatorToken", "secret", "client_secret", "password", "Authorization",
        "Proxy-Authorization", "cookie", "Set-Cookie", "private_key", "passphrase", "credentials",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert redact_secrets(None, "info", {name: SECRET}) == {name: REDACTED}


@pytest.mark.parametrize(
    "name",
    [
        "tokens",
        "tokens_per_s",
        "public_key",
        "key",
        "record_key",
        "keys",
        "secretary",
        "round_seed",
    ],
)
def test_names_that_are_no_secrets(name: str) -> None:
    assert not is_secret_name(name)
    assert redact_secrets(None, "info", {name: "plain"}) == {name: "plain"}


def test_numbers_are_no_secrets() -> None:
    assert redact_secrets(None, "info", {"token": 5, "secret": None}) == {
        "token": 5,
        "secret": None,
    }


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}', 'X': 1}}",
        f'{{"apiKey": "{SECRET}"}}',
        f"X-Api-Key: {SECRET}",
        f"x-aries-key={SECRET}",
        f"bearer {SECRET}",
        f"GET /api?api_key={SECRET}&limit=3",
        f"password: {SECRET}",
        f"operator_token={SECRET}",
        f"started with --operator-token {SECRET} --port 5",
        f"started with --api-key={SECRET}",
        f"postgresql://ares:{SECRET}@db/ares",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
    ],
)
def test_secrets_inside_text(text: str) -> None:
    shown = redact_text(f"before {text} after")
    assert SECRET not in shown
    assert REDACTED in shown
    assert shown.startswith("before ")


@pytest.mark.parametrize(
    "text",
    [
        "round 3: 512 tokens, 3 peers",
        "peer 12D3KooWQ1 joined from /ip4/10.0.0.1/tcp/4001/p2p/12D3KooWQ1",
        "https://example.org:8080/path?limit=3",
        "token counts differ",
        "the key of record cycle/3 is stale",
        "task-specific sketch",
    ],
)
def test_plain_text_stays(text: str) -> None:
    assert redact_text(text) == text


def test_secrets_deep_inside_fields() -> None:
    class Client:
        def __repr__(self) -> str:
            return f"Client(api_key={SECRET!r})"

    event = {
        "settings": {"providers": [{"apiKey": SECRET, "name": "x"}]},
        "headers": {"Authorization": f"Bearer {SECRET}"},
        "client": Client(),
        "error": ValueError(f"bad key {PROVIDER_KEY}"),
        "pairs": (("password", 1), {"token": SECRET}),
        "identity": identity(1),
        "raw": identity(1).to_libp2p(),
    }
    shown = json.dumps(redact_secrets(None, "info", event))
    assert SECRET not in shown
    assert PROVIDER_KEY not in shown
    assert identity(1).private_key.private_bytes_raw().hex()[:16] not in shown
    assert identity(1).peer_id in shown


def test_fields_that_contain_themselves_end() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    redact_secrets(None, "info", {"field": endless})


def test_secrets_in_tracebacks_and_foreign_records() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, levels="info")
    try:
        raise RuntimeError(f"request failed with key {PROVIDER_KEY}")
    except RuntimeError:
        get_logger("ares.test").exception("teacher_failed", detail=f"token={SECRET}")
        logging.getLogger("library").exception("call with Authorization: Bearer %s", SECRET)
    text = stream.getvalue()
    assert text.count("RuntimeError: request failed with key") == 2
    assert SECRET not in text
    assert PROVIDER_KEY not in text
    assert [line["event"].split()[0] for line in lines_of(stream)] == ["teacher_failed", "call"]
