"""The language of an answer: one that the network trains on, and the one that was asked in.

Short texts, code and numbers have none and pass. Where a task asks for a translation or names a
language, any known language may come back.

Source: py3langid, after Lui and Baldwin, "langid.py" (2012).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from ares_coordinator.distiller.filters.base import Reject, prose
from ares_p2p.shards import Example

MIN_LETTERS: Final = 50
SURE: Final = 0.9
MIN_ASKED_LETTERS: Final = (
    20  # a question is short; that it is in *another* language must be likely
)
LIKELY: Final = 0.85
_NOT_WORDS: Final = re.compile(r"`[^`\n]*`|https?://\S+|[^\W\d_]*[\d_=<>{}()\[\]\\/#@|]+\S*")
_LETTER: Final = re.compile(r"[^\W\d_]")
_TRANSLATION: Final = re.compile(
    r"translat|übersetz|tradu[iczs]|\bin (?:english|german|french|spanish|italian|portuguese|dutch|latin)\b|"
    r"\b(?:auf|ins?) (?:englisch|deutsch|französisch|spanisch|italienisch)|\ben (?:anglais|allemand|"
    r"français|espagnol|inglés|alemán|francés|español)|language|sprache|langue|idioma|lesson|phrase",
    re.I,
)
_MOJIBAKE: Final = re.compile(r"Ã[\x80-\xbf©¤¶¼Ÿ§¨ª«¬®±³´µ¹º»]|â€[™œ\x9d“”¦]|�|Â[ \xa0°§©]")
_SALAD_WORDS: Final = 12


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(
    text: str, *, min_letters: int = MIN_LETTERS, probability: float = SURE
) -> str | None:
    """Return the language of a text as ISO 639-1; None when nothing sure can be said."""
    words = _NOT_WORDS.sub(" ", prose(text))
    if len(_LETTER.findall(words)) < min_letters:
        return None
    code, found = _identifier().classify(words)
    return str(code) if found >= probability else None


class LanguageFilter:
    """Leaves out what is in another language than asked, or than the network's.

    Args:
        allowed: ISO 639-1 codes; empty: all.
    """

    def __init__(self, allowed: frozenset[str] = frozenset()) -> None:
        self._allowed = allowed

    def __call__(self, example: Example) -> Reject | None:
        """Return why a row is left out."""
        broken = _MOJIBAKE.findall(example.answer)
        if len(broken) >= 2:
            return Reject("language", f"broken characters: {''.join(broken[:4])}")
        found = language_of(example.answer)
        if found is None:
            return None
        if self._allowed and found not in self._allowed:
            return Reject(
                "language", f"{found}, one of {', '.join(sorted(self._allowed))} expected"
            )
        asked = " ".join(m.content for m in example.messages if m.role in ("system", "user"))
        if _TRANSLATION.search(asked):
            return None
        expected = language_of(asked, min_letters=MIN_ASKED_LETTERS, probability=LIKELY)
        if expected is not None and expected != found:
            return Reject("language", f"asked in {expected}, answered in {found}")
        return None
