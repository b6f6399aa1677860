"""What is asked of a teacher, as a value: an `Ask`, its canonical parameters, and its key.

The key is the hash of exactly what is sent, without the marks of the prompt cache, which change a
bill and no answer. The same question after a restart has the same key, and finds its answer in
the ledger.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ares_coordinator.distiller.replies import ModelFacts
from ares_coordinator.distiller.schemas import Schema
from ares_p2p.shards import Message

LIGHT_PART: Final = 4  # of the room for thinking that a light question gets
CACHE_MARK: Final = {"type": "ephemeral"}  # five minutes, renewed by each use


@dataclass(frozen=True, slots=True)
class Ask:
    """One question.

    Attributes:
        purpose: what it is for: "tasks", "answer", "judge", ...; shown in the ledger.
        category: whose cap it counts against.
        system: what many questions of this purpose share.
        messages: roles "user" and "assistant", alternating, the last one the user's.
        max_tokens: most tokens of the text.
        schema: what JSON the answer must be; None for free text.
        document: a long text at the head of the first message that several questions share.
        is_light: needs little thought: low effort, and little room for thinking.
    """

    purpose: str
    category: str
    system: str
    messages: tuple[Message, ...]
    max_tokens: int
    schema: Schema | None = None
    document: str = ""
    is_light: bool = False

    def thinking_tokens(self, room: int) -> int:
        """Return the room for thinking, of what the operator leaves for it."""
        return room // LIGHT_PART if self.is_light else room


def build_parameters(
    ask: Ask, facts: ModelFacts, *, effort: str, thinking_tokens: int
) -> dict[str, Any]:
    """Return what is sent, as the Messages API takes it.

    Args:
        effort: the operator's choice, "" for the model's own.
        thinking_tokens: room for thinking, which comes out of `max_tokens`.
    """
    system = ask.system
    output_config: dict[str, Any] = {}
    if ask.schema is not None and facts.structured_outputs:
        output_config["format"] = {"type": "json_schema", "schema": ask.schema}
    elif ask.schema is not None:
        schema = json.dumps(ask.schema, sort_keys=True, ensure_ascii=False)
        rule = (
            f"Answer with one JSON value and nothing else. It must fit this JSON schema: {schema}"
        )
        system = f"{system}\n\n{rule}".strip()
    if facts.effort and (effort or ask.is_light):
        output_config["effort"] = "low" if ask.is_light else effort
    most = ask.max_tokens + (ask.thinking_tokens(thinking_tokens) if facts.thinks else 0)
    parameters: dict[str, Any] = {
        "model": facts.model,
        "max_tokens": min(most, facts.max_tokens or most),
        "messages": [{"role": m.role, "content": [_text(m.content)]} for m in ask.messages],
    }
    if ask.document:
        parameters["messages"][0]["content"].insert(0, _text(ask.document))
    if system:
        parameters["system"] = [_text(system)]
    if output_config:
        parameters["output_config"] = output_config
    return parameters


def with_cache_marks(
    parameters: Mapping[str, Any], *, system: bool, document: bool
) -> dict[str, Any]:
    """Return the parameters with marks at the end of the shared parts that should be cached."""
    marked = dict(parameters)
    if system and "system" in marked:
        marked["system"] = [{**marked["system"][0], "cache_control": CACHE_MARK}]
    if document:
        first, *rest = marked["messages"]
        head, *tail = first["content"]
        content = [{**head, "cache_control": CACHE_MARK}, *tail]
        marked["messages"] = [{**first, "content": content}, *rest]
    return marked


def request_key(
    parameters: Mapping[str, Any], *, purpose: str, sample: int, server: str = ""
) -> bytes:
    """Return the key of a request: sha256 over its canonical parameters.

    Args:
        parameters: what is sent, JSON values only, without cache marks.
        sample: number of the sample, when the same question is asked several times.
        server: "" for the provider's own; two servers may call two models by one name.
    """
    content = {"parameters": parameters, "purpose": purpose, "sample": sample, "server": server}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"ares-teacher-request/1\0" + text.encode()).digest()


def prompt_bytes(parameters: Mapping[str, Any]) -> int:
    """Return the size of a request: as many bytes as its prompt can have tokens, and more."""
    return len(json.dumps(parameters, ensure_ascii=False).encode())


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
