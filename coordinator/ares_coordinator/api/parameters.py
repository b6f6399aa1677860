"""Parameters of a request, each with its bounds."""

from __future__ import annotations

from aiohttp import web

from ares_p2p.errors import BadParameter
from ares_p2p.ids import PeerId

MAX_NUMBER_CHARS = 16  # any number up to 2^53
MAX_WORKER_ID_CHARS = 128  # an Ed25519 peer id has 52
_MAX_SHOWN = 20


def number(
    request: web.Request, name: str, *, low: int, high: int, default: int | None = None
) -> int:
    """Return a whole number from the query.

    Raises: BadParameter: another text or range; or it is not there, and there is no default.
    """
    text = request.query.get(name)
    if text is None and default is not None:
        return default
    if text is not None and len(text) <= MAX_NUMBER_CHARS and text.isascii() and text.isdigit():
        value = int(text)
        if low <= value <= high:
            return value
    hint = "It cannot be left out." if default is None else f"Leave it out for {default}."
    raise BadParameter(
        f"{name}={(text or '')[:_MAX_SHOWN]!r}: a whole number from {low} to {high} expected",
        hint=hint,
    )


def word(request: web.Request, name: str, words: tuple[str, ...]) -> str:
    """Return one of some words from the query; the first one when it is not there.

    Raises: BadParameter: another one.
    """
    text = request.query.get(name, words[0])
    if text not in words:
        raise BadParameter(
            f"{name}={text[:_MAX_SHOWN]!r}: {' or '.join(words)} expected",
            hint=f"Leave it out for {words[0]}.",
        )
    return text


def peer_id(request: web.Request, name: str) -> PeerId:
    """Return a peer id from the query.

    Raises: BadParameter: a text that none can be.
    """
    text = request.query[name]
    if not 1 <= len(text) <= MAX_WORKER_ID_CHARS or not (text.isascii() and text.isalnum()):
        raise BadParameter(
            f"{name} of {len(text)} characters is no peer id",
            hint="`ares-peer status` prints it; it begins with 12D3KooW.",
        )
    return PeerId(text)
