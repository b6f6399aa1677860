"""Logging: event names and fields through structlog, secrets taken out, one line an event.

A terminal gets aligned text, everything else JSON lines; both go to stderr or to a file, never to
stdout, which belongs to a command's answer. Records of the standard library's logging (hivemind,
aiohttp, SQLAlchemy) take the same way. The environment variable `ARES_LOG` sets the level:
`debug`, or `info,hivemind=error,aiohttp=debug`.

It refuses to show what opens a door: fields named like a key, token or password, and, inside any
text (tracebacks too), provider keys, Authorization values, passwords in addresses and private keys
in PEM. Redaction is a net, not a licence: do not log secrets.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from ares_p2p.errors import ConfigFault

REDACTED: Final = "[redacted]"
MAX_FILE_BYTES: Final = 10 * 1024**2  # times (1 + KEPT_FILES): a volunteer's disk is not ours
KEPT_FILES: Final = 3
SHOWN_DIGEST_BYTES: Final = 6  # as many as the messages of ares_p2p.errors show
MAX_DEPTH: Final = 8  # of nested fields; deeper ones are shown by their type only

_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

# The last words of a field's name that make it secret; `tokens`, `public_key` and `key` are not.
_SECRET_NAME: Final = re.compile(
    r"(?:^|_)(?:api_?key|private_?key|secret_?key|signing_?key|operator_?key|aries_?key|token"
    r"|secret|password|passwd|passphrase|authorization|cookie|credentials?)$"
)

_SECRET_TEXT: Final = (
    # a provider's key, wherever it stands
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"), REDACTED),
    # HTTP: "Authorization: Bearer xyz", "X-Api-Key: xyz", in headers, dicts and JSON
    (
        re.compile(
            r"""(?ix) \b ( authorization | x-api-key | x-aries-key | cookie | set-cookie )
            ( ["']? \s* [:=,] \s* ["']? ) ( (?:bearer|basic|token) \s+ )? [^\s"',;}\])]+"""
        ),
        rf"\1\2{REDACTED}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REDACTED}"),
    # api_key=xyz, "apiKey": "xyz", --token xyz, password: xyz
    (
        re.compile(
            r"""(?ix) ( \b (?:[a-z]+[_-])* (?:api_?key | private_?key | token | secret | password
            | passphrase) ) ( ["']? \s* [:=] \s* b?["']? ) [^\s"',;}&\])]+"""
        ),
        rf"\1\2{REDACTED}",
    ),
    (re.compile(r"(--(?:[a-z]+-)*(?:token|key|secret|password))([ =])\S+"), rf"\1\2{REDACTED}"),
    # https://user:password@host
    (re.compile(r"(://[^/\s:@]+:)[^/\s@]+@"), rf"\1{REDACTED}@"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL),
        REDACTED,
    ),
)


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds something that opens a door."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    return _SECRET_NAME.search(snake) is not None


def redact_text(text: str) -> str:
    """Return `text` with everything that looks like a secret replaced."""
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def redact_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Processor: return the event without secrets, and with bytes as short hex."""
    return {name: _redacted(name, value, 0) for name, value in event.items()}


def _redacted(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value  # no secret of ours is a number
    if is_secret_name(name):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        shown = bytes(value[:SHOWN_DIGEST_BYTES]).hex()
        return shown if len(value) <= SHOWN_DIGEST_BYTES else f"{shown}..({len(value)} bytes)"
    if depth >= MAX_DEPTH:
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {
            redact_text(str(key)): _redacted(str(key), item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item, depth + 1) for item in value]
    return redact_text(str(value) if isinstance(value, BaseException) else repr(value))


def parse_levels(text: str) -> tuple[int, dict[str, int]]:
    """Return the level of everything, and those of single loggers, of an `ARES_LOG` value.

    Raises: ConfigFault: a level that does not exist.
    """
    level, single = logging.INFO, {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, wanted = part.rpartition("=")
        if wanted.lower() not in _LEVELS:
            raise ConfigFault(
                f"ARES_LOG names the level {wanted[:40]!r}, one of {', '.join(_LEVELS)} expected",
                hint="export ARES_LOG=info",
            )
        number = logging.getLevelNamesMapping()[wanted.upper()]
        if name:
            single[name.strip()] = number
        else:
            level = number
    return level, single


def configure_logging(
    *,
    path: Path | None = None,
    stream: TextIO | None = None,
    levels: str | None = None,
    as_json: bool | None = None,
) -> None:
    """Set up logging for this process; a second call replaces the first.

    Args:
        path: a file to append to (mode 0600, rotated); without it the log goes to `stream`.
        stream: where to write without a file; the process's stderr by default.
        levels: in the form of `ARES_LOG`, which is read when this is None.
        as_json: JSON lines or aligned text; by default text on a terminal, else JSON.
    Raises: ConfigFault: an unknown level, or a file that cannot be opened.
    """
    text = levels if levels is not None else os.environ.get("ARES_LOG", "")
    level, single = parse_levels(text)
    handler = _file_handler(path) if path else logging.StreamHandler(stream or sys.stderr)
    terminal = path is None and (stream or sys.stderr).isatty()
    render_json = not terminal if as_json is None else as_json
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,  # to text first: secrets in tracebacks are redacted
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), *before],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact_secrets,
                _json_renderer() if render_json else _text_renderer(terminal),
            ],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if getattr(old, "_of_ares", False)]:
        root.removeHandler(old)
        old.close()
    handler._of_ares = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(level)
    for name, number in single.items():
        logging.getLogger(name).setLevel(number)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a second call must reach loggers made before it
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger; a module calls this once with its own `__name__`."""
    return structlog.stdlib.get_logger(name)


def _file_handler(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        return logging.handlers.RotatingFileHandler(
            path, maxBytes=MAX_FILE_BYTES, backupCount=KEPT_FILES, encoding="utf-8"
        )
    except OSError as error:
        raise ConfigFault(
            f"the log file {path} cannot be opened: {error.strerror}",
            hint="Name another one, or mend its folder's permissions.",
        ) from error


def _json_renderer() -> Processor:
    return structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False)


def _text_renderer(colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=colors and "NO_COLOR" not in os.environ,
        exception_formatter=structlog.dev.plain_traceback,
    )
