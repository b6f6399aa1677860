"""A stand-in for the teacher's API that speaks its wire format; driven through the real SDK.

`POST /v1/messages` and `GET /v1/models/{id}` with the headers, fields and errors of the provider,
as anthropic 2.12 sends and reads them. It refuses what the real one refuses:
a wrong key, an unknown model, fields that are gone, forced tools, roles that do not alternate.

What goes wrong is programmed: `faults` are taken by the next requests, one each, or `fault_of`
decides by the request. Everything that came in is counted, by the key of what was asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

KEY = "sk-ant-test-0123456789"
MODEL = "claude-opus-5-5"
FIELDS = {"model", "max_tokens", "messages", "system", "output_config", "thinking", "metadata"}
CHARS_PER_TOKEN = 4


def supported(yes: bool = True) -> dict[str, Any]:
    return {"supported": yes}


def capabilities() -> dict[str, Any]:
    """What the provider says of its newest model."""
    levels = {name: supported() for name in ("low", "medium", "high", "xhigh", "max")}
    types = {
        "adaptive": supported(),
        "between_tools": supported(False),
        "disabled": supported(False),
        "enabled": supported(False),
    }
    plain = ("batch", "citations", "code_execution", "image_input", "pdf_input")
    return {
        **{name: supported() for name in plain},
        "structured_outputs": supported(),
        "context_management": supported(),
        "server_tools": supported(),
        "effort": {"supported": True, **levels},
        "thinking": {"supported": True, "types": types},
    }


def model_info(name: str = MODEL, **changes: Any) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": "Claude Opus 5.5",
        "created_at": "2026-09-22T00:00:00Z",
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": "opus",
        "max_input_tokens": 1_000_000,
        "max_tokens": 128_000,
        "capabilities": capabilities(),
        **changes,
    }


@dataclass(frozen=True)
class Fault:
    """What happens to one request instead of an answer, or beside it."""

    status: int = 0  # an error of this status
    error: str = "api_error"
    message: str = "as programmed"
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None  # this body, with status 200
    drop: str = ""  # "unread": hang up before anything; "cut": in the middle of the answer
    stop_reason: str = "end_turn"
    refusal: str | None = ""  # a category; None: a refusal without one
    text: str | None = None
    delay_s: float = 0.0


RATE_LIMITED = Fault(429, "rate_limit_error", "This request would exceed your rate limit.")
OVERLOADED = Fault(529, "overloaded_error", "Overloaded")
BAD_KEY = Fault(401, "authentication_error", "invalid x-api-key")
UNPAID = Fault(402, "billing_error", "Your credit balance is too low.")
FORBIDDEN = Fault(403, "permission_error", "Your API key does not have permission.")
BROKEN = Fault(500, "api_error", "Internal server error")


def question_of(body: dict[str, Any]) -> str:
    """Return the key of what is asked: all that decides the answer, without marks of the cache."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: bare(item) for name, item in value.items() if name != "cache_control"}
        return [bare(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(bare(body), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def texts_of(value: Any) -> list[str]:
    """Return the texts of a `system` or a `content`."""
    return [value] if isinstance(value, str) else [block["text"] for block in value or []]


def _has_key(request: web.Request) -> bool:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return KEY in (bearer, request.headers.get("x-api-key"))


class TeacherServer:
    """Use with `async with`; `url` is where it listens.

    Args:
        answer: the text for a request's body.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], str] = lambda _: "An answer.") -> None:
        self.answer = answer
        self.models = {MODEL: model_info()}
        self.has_models = True  # False: no such path, as with many servers of one's own
        self.faults: deque[Fault] = deque()
        self.fault_of: Callable[[dict[str, Any]], Fault | None] = lambda _: None
        self.delay_s = 0.0
        self.thinking_tokens = 10
        self.headers: dict[str, str] = {}
        self.retry_after = "1"  # of 429 and 529 that say nothing else
        self.bodies: list[dict[str, Any]] = []  # of all requests for messages
        self.asked: Counter[str] = Counter()  # by question: it began to work on an answer
        self.answered: dict[str, dict[str, int]] = {}  # by question: the usage
        self.models_asked = 0
        self.busy = 0
        self.most_busy = 0
        self.url = ""
        self._cached: set[str] = set()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> TeacherServer:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_get("/v1/models/{id}", self._model)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Be away from now on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def usage(self) -> Counter[str]:
        """Everything that was billed."""
        total: Counter[str] = Counter()
        for usage in self.answered.values():
            total.update(usage)
        return total

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self.models_asked += 1
        if not _has_key(request):
            return self._error(BAD_KEY)
        info = self.models.get(request.match_info["id"])
        if info is None or not self.has_models:
            return self._error(Fault(404, "not_found_error", "model not found"))
        return web.json_response(info, headers={"request-id": "req_model"})

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            return await self._answer(request, body)
        finally:
            self.busy -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        fault = self.faults.popleft() if self.faults else self.fault_of(body) or Fault()
        wrong = self._wrong(request, body)
        if wrong is not None:
            return self._error(wrong)
        if fault.drop == "unread":
            self.asked[question_of(body)] += 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault.status:
            return self._error(fault)
        question = question_of(body)
        self.asked[question] += 1
        await asyncio.sleep(fault.delay_s or self.delay_s)
        if fault.raw is not None:
            return web.Response(body=fault.raw, content_type="application/json")
        text = self.answer(body) if fault.text is None else fault.text
        usage = self._usage(body, text)
        self.answered[question] = usage
        message = self._message(body, text, usage, fault)
        headers = {"request-id": f"req_{question[:16]}", **self.headers, **fault.headers}
        if fault.drop == "cut":
            data = json.dumps(message).encode()
            response = web.StreamResponse(headers={**headers, "Content-Length": str(len(data))})
            response.content_type = "application/json"
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.json_response(message, headers=headers)

    def _wrong(self, request: web.Request, body: dict[str, Any]) -> Fault | None:
        def invalid(message: str) -> Fault:
            return Fault(400, "invalid_request_error", message)

        if not _has_key(request):
            return BAD_KEY
        if "anthropic-version" not in request.headers:
            return invalid("anthropic-version: header is required")
        if body.get("model") not in self.models:
            return Fault(404, "not_found_error", f"model: {body.get('model')}")
        if unknown := set(body) - FIELDS:
            return invalid(f"{sorted(unknown)[0]}: Extra inputs are not permitted")
        roles = [message["role"] for message in body["messages"]]
        expected = ["user", "assistant"] * len(roles)
        if not roles or roles != expected[: len(roles)] or len(roles) % 2 == 0:
            return invalid("messages: roles must alternate and end with the user's")
        texts = [text for message in body["messages"] for text in texts_of(message["content"])]
        if not all(text.strip() for text in texts):
            return invalid("messages: text content blocks must be non-empty")
        if not isinstance(body.get("max_tokens"), int) or body["max_tokens"] < 1:
            return invalid("max_tokens: Field required")
        can = (self.models[body["model"]].get("capabilities") or {}).get("structured_outputs", {})
        if "format" in body.get("output_config", {}) and not can.get("supported"):
            return invalid("output_config.format: not supported by this model")
        return None

    def _usage(self, body: dict[str, Any], text: str) -> dict[str, int]:
        """Count four characters as a token, and remember marked prefixes for ever."""
        read = written = 0
        prefix, plain = "", 0
        parts = [*(body.get("system") or [])]
        for message in body["messages"]:
            parts += message["content"]
        for part in parts:
            prefix += part["text"]
            plain += len(part["text"]) // CHARS_PER_TOKEN + 1
            if "cache_control" in part:
                size = plain
                plain = 0
                name = hashlib.sha256(prefix.encode()).hexdigest()
                if name in self._cached:
                    read += size
                else:
                    self._cached.add(name)
                    written += size
        thinks = self.models[body["model"]].get("capabilities") is not None
        return {
            "input_tokens": plain,
            "output_tokens": min(
                body["max_tokens"],
                len(text) // CHARS_PER_TOKEN + 1 + (self.thinking_tokens if thinks else 0),
            ),
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
        }

    def _message(
        self, body: dict[str, Any], text: str, usage: dict[str, int], fault: Fault
    ) -> dict[str, Any]:
        half = len(text) // 2
        thinking = {"type": "thinking", "thinking": "SECRET THOUGHT", "signature": "c2ln"}
        content = [thinking, {"type": "text", "text": text[:half]}]
        content.append({"type": "text", "text": text[half:]})
        stop_reason, details = fault.stop_reason, None
        if fault.refusal != "":
            stop_reason = "refusal"
            details = {"type": "refusal", "category": fault.refusal, "explanation": "as programmed"}
            content = []
        return {
            "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "stop_details": details,
            "container": None,
            "usage": {
                **usage,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": usage["cache_creation_input_tokens"],
                    "ephemeral_1h_input_tokens": 0,
                },
                "server_tool_use": None,
                "service_tier": "standard",
            },
        }

    def _error(self, fault: Fault) -> web.StreamResponse:
        error = {"type": fault.error, "message": fault.message}
        wait = {"retry-after": self.retry_after} if fault.status in (429, 529) else {}
        return web.json_response(
            {"type": "error", "error": error, "request_id": "req_error"},
            status=fault.status,
            headers={"request-id": "req_error", **wait, **fault.headers},
        )
