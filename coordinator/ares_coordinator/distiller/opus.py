"""The one module that speaks to the teacher's API: a call goes out, a `Reply` or a fault comes back.

Real SDK, asynchronous Messages API; `base_url` may be any server with the same `POST /v1/messages`.
What a failed call means for the money decides everything here, so there are three kinds of it:

    TeacherFault, TeacherAway   not billed, and no other request would fare better: the run ends
    NotAnswered                 not billed: it may be sent again, or this one request is at fault
    MaybeBilled                 sent, and nobody knows what became of it: counted as spent

The SDK's own retry (one) only meets the provider's plain failures, which are not billed: it sends no
key by which the provider could tell a repetition from a second request. Overload and a network
that is away are left to our own pacing.

It keeps the text blocks of an answer, joined, and nothing else: no thinking, whatever its form.

Source: anthropic 2.12 as installed; platform.claude.com/docs: errors, rate limits, stop reasons.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import anthropic
import httpx2
import structlog
from anthropic.types import Message, ModelInfo

from ares_coordinator.distiller.replies import (
    PROVIDER_URL,
    MaybeBilled,
    ModelFacts,
    NotAnswered,
    Reply,
    Why,
)
from ares_coordinator.store.request_rows import Usage
from ares_p2p.errors import (
    AresError,
    TeacherAway,
    TeacherKeyRefused,
    TeacherModelUnknown,
    TeacherUnpaid,
)

log = structlog.get_logger(__name__)

NO_KEY: Final = "none"  # what a server of one's own gets that asks for no key
SDK_RETRIES: Final = 1
CONNECT_S: Final = 10.0
MAX_SHOWN_CHARS: Final = 300  # of a message of the provider, in ours

_OVERLOAD: Final = frozenset({429, 529})
_UNSURE: Final = frozenset({408, 499, 502, 504})  # something between us and the model gave up
_NEVER_SENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
)
# A server of one's own may leave a model's thinking in the text; the provider's own never does.
_THINKING_TEXT: Final = re.compile(r"^\s*<think(?:ing)?>.*?</think(?:ing)?>\s*", re.DOTALL)


class OpusClient:
    """A connection to the teacher. Use with `async with`, or call `close`.

    Args:
        api_key: "" only where `base_url` is set: such a server may need none.
        base_url: "" for the provider's own.
        connections: most at a time.
    """

    def __init__(
        self,
        *,
        api_key: str,
        model: str,
        base_url: str = "",
        timeout_s: float = 600.0,
        connections: int = 64,
    ) -> None:
        if not api_key and not base_url:
            raise TeacherKeyRefused("there is no key for the teacher")
        self.model = model
        self._is_own_server = bool(base_url) and base_url.rstrip("/") != PROVIDER_URL
        self._where = base_url or PROVIDER_URL
        self._facts: ModelFacts | None = None
        timeout = httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key or NO_KEY,
            base_url=self._where,
            max_retries=SDK_RETRIES,
            timeout=timeout,
            middleware=[_once_when_billed],
            http_client=anthropic.DefaultAsyncHttpxClient(
                base_url=self._where,
                timeout=timeout,
                limits=httpx2.Limits(
                    max_connections=connections, max_keepalive_connections=connections
                ),
                verify=_trusted(),
                follow_redirects=False,  # a key goes where the operator sent it, and nowhere else
            ),
        )

    async def __aenter__(self) -> OpusClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()

    async def facts(self) -> ModelFacts:
        """Ask once what the model can do.

        Raises: TeacherModelUnknown: there is no such model, or it is retired. Other TeacherFault:
            no key, no credit. TeacherAway.
        """
        if self._facts is None:
            self._facts = await self._ask_facts()
            if self._facts.notice:
                log.warning("teacher_model", model=self.model, notice=self._facts.notice)
        return self._facts

    async def _ask_facts(self) -> ModelFacts:
        try:
            info: object = await self._client.models.retrieve(self.model)
        except anthropic.NotFoundError as error:
            if self._is_own_server:  # many have no such path
                return ModelFacts(self.model)
            raise self._fault_of(error) from error
        except (anthropic.AnthropicError, NotAnswered, MaybeBilled) as error:
            fault = self._read(error)
            if isinstance(fault, AresError):
                raise fault from error
            raise TeacherAway(f"{self._where} does not answer: {fault}") from error
        if not isinstance(info, ModelInfo):
            return ModelFacts(self.model)
        return self._facts_of(info)

    def _facts_of(self, info: ModelInfo) -> ModelFacts:
        lifecycle = getattr(info, "lifecycle", None)
        if lifecycle == "retired":
            raise TeacherModelUnknown(
                f"{self.model} is retired", hint="Set teacher.model to one that answers."
            )
        going = getattr(info, "retires_at", None)
        notice = (
            f"deprecated, retires {going or 'at a date not set'}"
            if lifecycle == "deprecated"
            else ""
        )
        can = getattr(info, "capabilities", None)
        return ModelFacts(
            model=self.model,
            structured_outputs=_supported(can, "structured_outputs"),
            thinks=_supported(can, "thinking"),
            effort=_supported(can, "effort"),
            max_tokens=getattr(info, "max_tokens", None),
            notice=notice,
        )

    async def send(self, parameters: Mapping[str, Any]) -> Reply:
        """Send one request and return its answer.

        Raises: NotAnswered, MaybeBilled, or a TeacherFault: see the module.
        """
        try:
            raw = await self._client.messages.with_raw_response.create(**parameters)
            message = await raw.parse()
        except (anthropic.AnthropicError, NotAnswered, MaybeBilled) as error:
            fault = self._read(error)
            if fault is error:
                raise
            raise fault from error
        except ValueError as error:  # the body is no JSON
            raise MaybeBilled("an answer that is no JSON") from error
        return _reply_of(message, raw.headers)

    def _read(self, error: Exception) -> Exception:
        if isinstance(error, NotAnswered | MaybeBilled):
            return error
        if isinstance(error, anthropic.APIStatusError):
            return self._fault_of(error)
        return MaybeBilled(f"an answer that cannot be read ({type(error).__name__})")

    def _fault_of(self, error: anthropic.APIStatusError) -> Exception:
        said = " ".join((error.api_message or "").split())[:MAX_SHOWN_CHARS]
        detail = f"{error.status_code} {error.type or ''} {said}".strip()
        if error.status_code == 402 or error.type == "billing_error":
            return TeacherUnpaid(f"the teacher's account has no credit: {detail}")
        if error.status_code in (401, 403):
            return TeacherKeyRefused(
                f"the teacher refuses the key: {detail}",
                hint="Check the key and what it may use; see `ARES-E027` in docs/errors.md.",
            )
        if error.status_code == 404:
            return TeacherModelUnknown(
                f"{self._where} knows no model {self.model!r}: {detail}",
                hint="Correct teacher.model in config.toml.",
            )
        if error.status_code >= 500 or error.status_code == 409:
            return NotAnswered(Why.FAILED, detail)
        return NotAnswered(Why.BAD_REQUEST, detail)


@cache
def _trusted() -> ssl.SSLContext:
    """Return the certificates to trust; reading them takes a tenth of a second."""
    return httpx2.create_ssl_context()


def _supported(capabilities: object, name: str) -> bool:
    return bool(getattr(getattr(capabilities, name, None), "supported", False))


async def _once_when_billed(request: Any, call_next: Callable[[Any], Any]) -> Any:
    """Keep the SDK from repeating what may be billed, or what all requests should wait for.

    Runs once for every attempt, inside the SDK's loop of retries.
    """
    try:
        response = await call_next(request)
    except anthropic.APIConnectionError as error:
        if isinstance(error.__cause__, _NEVER_SENT):
            raise NotAnswered(Why.UNREACHABLE, "no connection to the teacher") from None
        name = type(error.__cause__ or error).__name__
        raise MaybeBilled(f"cut off before the answer came ({name})") from None
    status = response.status_code
    if status not in _OVERLOAD | _UNSURE:
        return response
    await response.http_response.aclose()
    if status in _UNSURE:
        raise MaybeBilled(f"cut off before the answer came ({status})")
    detail = f"{status} too many requests" if status == 429 else f"{status} overloaded"
    raise NotAnswered(Why.OVERLOADED, detail, headers=_lower(response.headers))


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _reply_of(message: object, headers: Mapping[str, str]) -> Reply:
    """Return what we keep of an answer.

    Raises: MaybeBilled: it is no message, or does not say what it cost.
    """
    if not isinstance(message, Message):
        raise MaybeBilled("an answer that is no message")
    usage = getattr(message, "usage", None)
    counts = [getattr(usage, name, None) for name in ("input_tokens", "output_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise MaybeBilled("an answer without its usage")
    blocks = getattr(message, "content", None)
    texts = [b.text for b in blocks if b.type == "text"] if isinstance(blocks, list) else []
    stop_reason = str(getattr(message, "stop_reason", None) or "unknown")[:64]
    details = getattr(message, "stop_details", None)
    is_refusal = stop_reason == "refusal"
    return Reply(
        text=_THINKING_TEXT.sub("", _clean("".join(texts))),
        stop_reason=stop_reason,
        refusal=str(getattr(details, "category", None) or "unnamed")[:64] if is_refusal else "",
        explanation=str(getattr(details, "explanation", None) or "")[:MAX_SHOWN_CHARS],
        model=str(getattr(message, "model", None) or "unknown")[:100],
        usage=Usage(
            input_tokens=int(getattr(usage, "input_tokens", 0)),
            output_tokens=int(getattr(usage, "output_tokens", 0)),
            cache_write_tokens=_count(usage, "cache_creation_input_tokens"),
            cache_read_tokens=_count(usage, "cache_read_input_tokens"),
        ),
        request_id=str(headers.get("request-id") or "")[:100],
        headers=_lower(headers),
    )


def _count(usage: object, name: str) -> int:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and value > 0 else 0


def _clean(text: str) -> str:
    """Return text that UTF-8 and a database can hold: no lone surrogates, no NUL."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "")
