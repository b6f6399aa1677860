"""Answers that are none: refusals, cut ends, loops, far too little and far too much.

Phrases only where nothing better is known. A teacher that is asked over its API says by
`stop_reason` that it refused or was cut, and that was looked at before; these filters are for rows
that come from elsewhere, and for what slips through. In role-play a character may well say "I
can't": there only a refusal of the request itself counts.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from typing import Final

from ares_coordinator.distiller.filters.base import Reject, answers, fences, prose
from ares_p2p.shards import Example

_HEAD_CHARS: Final = 320  # a refusal says so early
_HELP: Final = (
    r"(?:help|assist|do (?:that|this)|provide|comply|fulfil+|support|answer|write|create|generate|"
    r"give|offer|share|discuss|continue|engage|participate|complete|proceed|advise|tell|comment|"
    r"explain|recommend|produce|take part|spoil|execute|run|browse|access|look (?:that |this |it )?up|"
    r"control|say (?:what|whether|who)|write poems?)"
)
_REFUSAL: Final = re.compile(
    "|".join(
        (
            (
                rf"\b(?:i|we) (?:really |simply |just |unfortunately |sadly |regrettably )?"
                rf"(?:can(?:no|['’])?t|can not|could(?:n['’]t| not)|won['’]t|will not|"
                rf"(?:am|are|['’]m) (?:not able|unable|not allowed|not permitted|not comfortable|"
                rf"not in a position|not going|not qualified)(?: to)?)"
                rf"(?: \w+){{0,3}}? {_HELP}"
            ),
            (
                r"\b(?:i|we) (?:must|have to|would have to|['’]d have to|need to|will have to|['’]ll have to)"
                r"(?: respectfully| politely)? (?:decline|refuse|pass on)"
            ),
            r"\bi(?:['’]d| would)(?: rather| prefer)(?: to)? not\b",
            (
                r"\bi(?:['’]m| am) (?:an? |just an? |only an? )?(?:ai|artificial intelligence|language"
                r" model)\b.{0,80}\b(?:can(?:no|['’])?t|not able|unable|don['’]t|do not)\b"
            ),
            (
                r"\bas an? (?:ai|artificial intelligence|large language model|language model)\b.{0,100}"
                r"\b(?:can(?:no|['’])?t|not able|unable|don['’]t|do not|must not)\b"
            ),
            (
                r"\bi(?:['’]ll| will| would|['’]d) (?:leave (?:it|that|the rest) (?:to|for) you|let you (?:fill|work|figure))"
            ),
            (
                r"\bplease (?:contact|consult|see|ask|call|visit|speak (?:to|with)|reach out to) an? (?:licen[sc]ed|qualified|"
                r"certified|professional|trained|doctor|lawyer|specialist|expert|physician|plumber|electrician)"
            ),
            (r"\b(?:it is|it['’]s|it isn['’]t|it is not) (?:not )?possible for me to\b"),
            (r"\bi (?:would|['’]d) (?:not want to|rather not|prefer not to)\b"),
            (r"\bi (?:need|have) to stop (?:here|there|now)?"),
            (
                r"\bje ne peux donc pas\b|\ben tant qu['’]intelligence artificielle\b|\bals (?:ki|künstliche intelligenz|sprachmodell)\b"
                r".{0,80}\b(?:kann|darf) ich\b|\bcomo (?:ia|inteligencia artificial|modelo de lenguaje)\b.{0,80}\bno (?:puedo|tengo)\b"
            ),
            (
                r"\b(?:goes|is|would be) (?:against|beyond|outside) (?:my|the|our) "
                r"(?:guidelines|policy|policies|principles|programming|capabilities|scope|rules)"
            ),
            (
                r"\bich kann (?:ihnen |dir |euch )?(?:dabei|damit|das|hierbei|diese\w*|dazu|darauf)?\b.{0,60}"
                r"\bnicht (?:helfen|beantworten|weiterhelfen|erfüllen|schreiben|geben|erstellen|nachkommen)"
            ),
            (
                r"\bje (?:ne )?(?:peux|puis|suis) (?:malheureusement )?pas (?:en mesure )?(?:de |d['’])?"
                r"(?:vous |t['’]|te )?(?:aider|répondre|fournir|faire|écrire|donner)"
            ),
            r"\bno puedo (?:ayudar|responder|proporcionar|hacer|escribir|dar|ofrecer|cumplir)",
        )
    ),
    re.S,
)
_OF_THE_REQUEST: Final = re.compile(
    r"\b(?:request|prompt|language model|guidelines|policy|as an ai)\b"
)
_QUOTED: Final = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|„[^“”]*[“”]|\*[^*]*\*|^>.*$", re.M)

MIN_CHECKED_CHARS: Final = 160  # a shorter answer may end as it likes
MIN_ITEMS: Final = 1  # before the last, all ended as items of a list do that have ends
_LIST_LINE: Final = re.compile(r"^\s*(?:[-*+•|>#]|\d+[.)]|[A-Za-z][.)]\s)")
_FENCE_LINE: Final = re.compile(r"^ {0,3}(?:```|~~~)", re.M)
_CUT_WORD: Final = re.compile(
    r"(?:,|\b(?:and|or|but|the|a|an|of|to|in|with|for|that|which|because|is|are|therefore|thus|hence|und|oder|der|die|das|"
    r"et|ou|le|la|les|de|y|o|el|los))\s*$",
    re.I,
)

MIN_ASKED: Final = re.compile(
    r"\b(?:explain|describe|write|compose|essay|story|poem|summari[sz]e|paragraph|discuss|"
    r"step by step|in detail|compare|function|program|plan|letter|e-?mail|how (?:do|does|can|should|would)|tell|why|erkläre|beschreibe|schreibe|"
    r"explique|décri\w+|écri\w+|explica|describe|escribe)\b",
    re.I,
)
MIN_CHARS: Final = 12  # of an answer to a task of that kind
MAX_CHARS: Final = 60_000
MAX_SHORT_CHARS: Final = 4_000  # of an answer to "yes or no", "in one word"
_SHORT_ASKED: Final = re.compile(
    r"\b(?:yes or no|true or false|in one word|one word|a single (?:word|number|letter)|"
    r"in (?:a|one) sentence|one sentence|only the (?:number|name|answer|letter|word)|"
    r"just the (?:number|name|answer|letter|word)|ja oder nein|oui ou non|s[ií] o no)\b",
    re.I,
)
_SHORT_QUESTION_WORDS: Final = re.compile(
    r"^(?:is|are|was|were|do|does|did|can|could|has|have|will|should)\b[^?\n]{0,120}\?$", re.I
)

_LOOP_WORDS: Final = 4
_MIN_LOOP_WORDS: Final = 40
_MAX_LOOPED: Final = 0.45  # share of runs of four words that were there before
_MIN_POOR_WORDS: Final = 60
_MAX_POOR_WORDS: Final = 400
_POOR: Final = 0.25  # of different words to words; prose of 60 words is near 0.7, of 500 near 0.45
_MIN_RATIO_CHARS: Final = 600
_MIN_RATIO: Final = 0.16  # of compressed to plain: English prose is near 0.45, tables near 0.25
_WORD: Final = re.compile(r"[^\W\d_]+|\d+")


def refusal(example: Example) -> Reject | None:
    """Leave out an answer that refuses the task."""
    for answer in answers(example):
        head = " ".join(_QUOTED.sub(" ", prose(answer))[:_HEAD_CHARS].casefold().split())
        found = _REFUSAL.search(head)
        if found is None:
            continue
        if example.category in ("roleplay", "creative") and not _OF_THE_REQUEST.search(head):
            continue
        return Reject("refusal", found[0][:80])
    return None


def truncated(example: Example) -> Reject | None:
    """Leave out a last answer that stops in the middle."""
    text = example.answer.rstrip()
    if len(_FENCE_LINE.findall(text)) % 2:
        return Reject("truncated", "a block of code is not closed")
    if len(text) < MIN_CHECKED_CHARS and not _CUT_WORD.search(text[-20:]):
        return None
    last_line = text.rsplit("\n", 1)[-1]
    if _CUT_WORD.search(last_line) and not fences(text[-len(last_line) :]):
        return Reject("truncated", f"ends with {last_line[-40:]!r}")
    if not text or _is_end(text[-1]):
        return None
    if _LIST_LINE.match(last_line):
        items = [line.rstrip() for line in text.splitlines() if _LIST_LINE.match(line)][:-1]
        if len(items) >= MIN_ITEMS and all(_is_end(item[-1]) for item in items):
            return Reject("truncated", f"the last item ends with {last_line[-40:]!r}")
        return None
    if len(last_line) < 60 and text.count("\n") >= 3:
        return None  # a poem, a table without bars, a signature
    return Reject("truncated", f"ends with {last_line[-40:]!r}")


def _is_end(char: str) -> bool:
    """Whether a text may end with a character: punctuation but a comma, or a symbol."""
    return unicodedata.category(char)[0] in "PS" and char not in ",-–—("


def length(example: Example) -> Reject | None:
    """Leave out an answer that is far too short or far too long for what was asked."""
    asked = next((m.content for m in reversed(example.messages) if m.role == "user"), "")
    text = example.answer.strip()
    if not text:
        return Reject("too_short", "empty")
    if len(text) > MAX_CHARS:
        return Reject("too_long", f"{len(text)} characters")
    is_short = _SHORT_ASKED.search(asked) or _SHORT_QUESTION_WORDS.match(asked.strip())
    if is_short and len(text) > MAX_SHORT_CHARS:
        return Reject("too_long", f"{len(text)} characters for a question of one word")
    if len(text) < MIN_CHARS and MIN_ASKED.search(asked) and not is_short and not example.check:
        return Reject("too_short", f"{len(text)} characters")
    return None


def repetitive(example: Example) -> Reject | None:
    """Leave out an answer that goes round in circles."""
    for answer in answers(example):
        words = ["0" if word.isdigit() else word for word in _WORD.findall(answer.casefold())]
        runs = [tuple(words[i : i + _LOOP_WORDS]) for i in range(len(words) - _LOOP_WORDS + 1)]
        if len(words) >= _MIN_LOOP_WORDS:
            looped = 1 - len(set(runs)) / len(runs)
            if looped > _MAX_LOOPED:
                return Reject("repetitive", f"{looped:.0%} of its runs of words come again")
        if _MIN_POOR_WORDS <= len(words) <= _MAX_POOR_WORDS and len(set(words)) < _POOR * len(
            words
        ):
            return Reject("repetitive", f"{len(set(words))} different words of {len(words)}")
        if len(answer) >= _MIN_RATIO_CHARS:
            ratio = len(zlib.compress(answer.encode(), 9)) / len(answer.encode())
            if ratio < _MIN_RATIO:
                return Reject("repetitive", f"it compresses to {ratio:.0%}")
    return None
