"""The operator's token: `operator.json` in the data directory, readable by its owner alone.

Made at the first start, kept at every later one. Beside the token lies where the API listens, so
that the commands on this machine find it.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ares_p2p.errors import CoordinatorAway
from ares_p2p.files import write_atomically

FILE: Final = "operator.json"


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """The token, and the API it opens."""

    token: str
    api: str = ""


def find_operator_key(data_dir: Path) -> OperatorKey | None:
    """Return what an earlier start wrote, None where nothing readable lies."""
    try:
        content = json.loads((data_dir / FILE).read_text(encoding="utf-8"))
        found = OperatorKey(str(content["token"]), str(content["api"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if len(found.token) >= 32 else None


def need_operator_key(data_dir: Path) -> OperatorKey:
    """Return the token and the API's address.

    Raises: CoordinatorAway: no coordinator was ever started here.
    """
    found = find_operator_key(data_dir)
    if found is None:
        raise CoordinatorAway(
            f"no coordinator has run in {data_dir}",
            hint=f"ares-coordinator run --data-dir {data_dir}",
        )
    return found


def keep_operator_key(data_dir: Path, *, api: str = "") -> OperatorKey:
    """Return the token, made if there is none, and write where the API listens now."""
    known = find_operator_key(data_dir)
    key = OperatorKey(secrets.token_urlsafe(32) if known is None else known.token, api)
    content = json.dumps(asdict(key)).encode()
    write_atomically(data_dir / FILE, content, mode=0o600, durable=True)
    return key
