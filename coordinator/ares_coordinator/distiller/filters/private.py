"""Secrets and personal data, anywhere in a row.

Keys and passwords by detect-secrets' patterns (no guesses by entropy: hashes and ids look the
same). Personal data only where a check digit or a plan of numbers says what it is: e-mail, phone,
payment card, IBAN, US social security number. Names and addresses are not looked for.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import phonenumbers
from stdnum import iban, luhn
from stdnum.us import ssn

from ares_coordinator.distiller.filters.base import Reject
from ares_p2p.shards import Example

_PLUGINS: Final = (
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "JwtTokenDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)
# What those leave out: a value given to a name that says it is a secret, and not a placeholder.
_ASSIGNED: Final = re.compile(
    r"(?i)\b[\w-]*(?:passw(?:or)?d|passwort|secret|api[_-]?key|access[_-]?key|auth[_-]?token|token|"
    r"contraseña|mot de passe)\b[\"']?\s*(?:=|:|\bis\b|\blautet\b)\s*[\"'`]?(?P<value>[^\s\"'`,;]{8,})"
)
_PREFIXED: Final = re.compile(
    r"\b(?:sk-(?:ant-|proj-|live-)?[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{20,}|glpat-[\w-]{18,}|"
    r"AIza[\w-]{30,}|xox[baprs]-[\w-]{10,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|"
    r"dop_v1_[a-f0-9]{40,}|SG\.[\w-]{16,}\.[\w-]{16,})"
)
_PLACEHOLDER: Final = re.compile(
    r"(?i)^[<${%\[(]|your|example|placeholder|change|xxx|\.\.\.|\*\*\*|dummy|redacted|password|secret|"
    r"os\.|env|getenv|get\(|None|null|True|False|str\b|string|input|\("
)
MIN_SECRET_CHARS: Final = 8
_EMAIL: Final = re.compile(r"(?<![\w.+/-])([\w.+-]+)@((?:[\w-]+\.)+[a-z]{2,})\b", re.I)
_NOBODY: Final = frozenset(
    "user users username name you your me someone somebody test tester admin info contact support help "
    "sales hello office mail noreply no-reply webmaster postmaster root team press jobs abuse billing "
    "security service newsletter example alice bob foo bar baz customer client email address git".split()
)
_CARD: Final = re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d.-])")
_IBAN: Final = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_SSN: Final = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_SSN_NAMED: Final = re.compile(r"(?i)social security|\bssn\b")
_CARD_STARTS: Final = ("4", "5", "2", "34", "37", "36", "38", "6")
_PHONE_NAMED: Final = re.compile(
    r"(?i)\b(?:phone|tel(?:ephone|efon|éfono)?|téléphone|mobile|handy|call)\b"
)
_REGIONS: Final = ("US", "GB", "DE", "FR", "ES")  # of numbers without a country, where one is named
_TEXT_LIMIT: Final = 200_000  # of one message; the patterns are linear, so only time is bounded


@cache
def _scanner() -> Any:
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import transient_settings

    settings = {"plugins_used": [{"name": name} for name in _PLUGINS]}

    def scan(line: str) -> str | None:
        with transient_settings(settings):
            for found in scan_line(line):
                return str(found.type)
        return None

    return scan


def secret(example: Example) -> Reject | None:
    """Leave out a row with a key, a token or a password in it."""
    for message in example.messages:
        text = message.content[:_TEXT_LIMIT]
        if _PREFIXED.search(text):
            return Reject("secret", "a key by its prefix")
        for line in text.splitlines():
            assigned = _ASSIGNED.search(line)
            if assigned is not None and _is_secret(assigned["value"]):
                return Reject("secret", "a value of a secret's name")
            kind = _scanner()(line)
            if kind is not None:
                return Reject("secret", kind)
    return None


def _is_secret(value: str) -> bool:
    """Whether a value looks like one that somebody uses: long, with digits among its letters."""
    value = value.rstrip(".!?)")
    if len(value) < MIN_SECRET_CHARS or _PLACEHOLDER.search(value):
        return False
    return any(map(str.isdigit, value)) and not value.isdigit()


def personal_data(example: Example) -> Reject | None:
    """Leave out a row that says who can be reached, or pays, where."""
    for message in example.messages:
        kind = _personal(message.content[:_TEXT_LIMIT])
        if kind is not None:
            return Reject("personal_data", kind)
    return None


def _personal(text: str) -> str | None:
    for match in _EMAIL.finditer(text):
        if match[1].casefold().split("+")[0] not in _NOBODY:
            return "e-mail"
    for match in _IBAN.finditer(text):
        if iban.is_valid(match[0]):
            return "IBAN"
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if digits.startswith(_CARD_STARTS) and len(set(digits)) > 2 and luhn.is_valid(digits):
            return "payment card"
    for match in _SSN.finditer(text):
        if ssn.is_valid(match[0]) or _SSN_NAMED.search(text):
            return "social security number"
    regions = (None, *_REGIONS) if _PHONE_NAMED.search(text) else (None,)
    if any(phonenumbers.PhoneNumberMatcher(text, region).has_next() for region in regions):
        return "phone"
    return None
