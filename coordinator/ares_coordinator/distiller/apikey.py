"""Where the key for the teacher comes from. It is never written, logged or put into a message.

First the environment's `ANTHROPIC_API_KEY`, then `config.json` in the data directory:
`ariesGateway.providers.anthropic.apiKey`, then `keys.anthropic`. An empty value or a placeholder
("your-api-key-here", "sk-ant-...", "<key>", "${KEY}") counts as unset, so that a template that
nobody filled in says that the key is missing instead of failing at the provider.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ares_p2p.errors import ConfigFault, TeacherKeyRefused

VARIABLE: Final = "ANTHROPIC_API_KEY"
FILE: Final = "config.json"
PLACES: Final = (("ariesGateway", "providers", "anthropic", "apiKey"), ("keys", "anthropic"))

_PLACEHOLDER: Final = re.compile(
    r"""(?ix) ^ (?: x+ | \*+ | \.+ | - | none | null | unset | todo | tbd | changeme | change[-_ ]me
    | replace[-_ ]?me.* | your[-_ ].* | my[-_ ](?:api[-_ ])?key | (?:api[-_ ]?)?key | secret
    | placeholder.* | example.* | insert[-_ ].* | enter[-_ ].* | put[-_ ].* | paste[-_ ].*
    | <.*> | \{.*\} | \$.* | %.*% | sk-ant-(?: \.+ | x+ | \*+ | your.* | \.\.\..* | )
    | .*(?:\.\.\.|…)$ | .*your[-_ ]?(?:api[-_ ]?)?key.* ) $"""
)


def find_api_key(data_dir: Path, environment: Mapping[str, str] | None = None) -> str:
    """Return the first key that is set, "" when none is.

    Args:
        environment: the process's own, if not given.
    Raises: ConfigFault: `config.json` is there and cannot be read.
    """
    given = (os.environ if environment is None else environment).get(VARIABLE, "")
    if is_set(given):
        return given.strip()
    content = _read(data_dir / FILE)
    for place in PLACES:
        value: object = content
        for name in place:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str) and is_set(value):
            return value.strip()
    return ""


def need_api_key(data_dir: Path, environment: Mapping[str, str] | None = None) -> str:
    """Return the key.

    Raises: TeacherKeyRefused: there is none, and where it may be put. ConfigFault.
    """
    key = find_api_key(data_dir, environment)
    if not key:
        places = " or ".join(".".join(place) for place in PLACES)
        raise TeacherKeyRefused(
            f"there is no key for the teacher: {VARIABLE} is not set, and {FILE} in the data "
            f"directory has none under {places}",  # everybody reads this: no path of the machine
            hint=f"export {VARIABLE}=..., or set teacher.kind to procedural.",
        )
    return key


def is_set(value: str) -> bool:
    """Whether a value is more than a template's filling."""
    return bool(value.strip()) and _PLACEHOLDER.match(value.strip()) is None


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        kind = "no JSON" if isinstance(error, ValueError) else str(error.strerror)
        raise ConfigFault(f"{path} cannot be read: {kind}", hint="Mend or remove it.") from None
