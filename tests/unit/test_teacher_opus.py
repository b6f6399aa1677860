"""The client for the teacher's API: the real SDK against a server that speaks its wire format."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ares_coordinator.distiller.asks import Ask, build_parameters, with_cache_marks
from ares_coordinator.distiller.opus import OpusClient
from ares_coordinator.distiller.replies import MaybeBilled, ModelFacts, NotAnswered, Why
from ares_coordinator.distiller.schemas import TEXT, record
from ares_coordinator.store.request_rows import Usage
from ares_p2p.errors import (
    AresError,
    TeacherAway,
    TeacherKeyRefused,
    TeacherModelUnknown,
    TeacherUnpaid,
)
from ares_p2p.shards import Message
from teacher_server import (
    BAD_KEY,
    BROKEN,
    FORBIDDEN,
    KEY,
    MODEL,
    OVERLOADED,
    RATE_LIMITED,
    UNPAID,
    Fault,
    TeacherServer,
    model_info,
)

HELLO = Ask("answer", "code", "", (Message("user", "Hello!"),), 100)
FACTS = ModelFacts(MODEL, structured_outputs=True, thinks=True, effort=True, max_tokens=128_000)


@pytest.fixture
async def server() -> AsyncIterator[TeacherServer]:
    async with TeacherServer() as running:
        yield running


@pytest.fixture
async def client(server: TeacherServer) -> AsyncIterator[OpusClient]:
    async with OpusClient(api_key=KEY, model=MODEL, base_url=server.url, timeout_s=5) as made:
        yield made


def parameters(ask: Ask = HELLO, facts: ModelFacts = FACTS) -> dict[str, Any]:
    return build_parameters(ask, facts, effort="", thinking_tokens=50)


async def test_an_answer_is_its_text_blocks_joined_and_no_thinking(
    server: TeacherServer, client: OpusClient
) -> None:
    server.answer = lambda _: "One half, and the other half."
    reply = await client.send(parameters())
    assert reply.text == "One half, and the other half."
    assert reply.stop_reason == "end_turn"
    assert (reply.model, reply.refusal) == (MODEL, "")
    assert reply.usage == Usage(input_tokens=2, output_tokens=18)
    assert reply.request_id.startswith("req_")
    assert "SECRET" not in repr(reply)


async def test_thinking_that_a_server_leaves_in_the_text_goes(
    server: TeacherServer, client: OpusClient
) -> None:
    server.answer = lambda _: "<think>\nhm, hm\n</think>\n\nForty-two."
    assert (await client.send(parameters())).text == "Forty-two."


async def test_text_that_no_database_takes_is_mended(
    server: TeacherServer, client: OpusClient
) -> None:
    server.answer = lambda _: "a\ud800b\x00c"
    assert (await client.send(parameters())).text == "a?bc"


async def test_the_model_is_asked_once_what_it_can(
    server: TeacherServer, client: OpusClient
) -> None:
    assert await client.facts() == FACTS
    server.models.clear()
    assert await client.facts() == FACTS


async def test_a_retired_model_is_refused_and_a_deprecated_one_said(
    server: TeacherServer, client: OpusClient
) -> None:
    server.models[MODEL] = model_info(lifecycle="retired")
    with pytest.raises(TeacherModelUnknown, match="retired"):
        await client.facts()
    server.models[MODEL] = model_info(lifecycle="deprecated", retires_at="2027-07-24T00:00:00Z")
    assert (await client.facts()).notice.startswith("deprecated, retires 2027-07-24")


@pytest.mark.parametrize("way", ["no path", "bare", "not a model"])
async def test_a_server_of_ones_own_that_says_little_is_taken_carefully(
    server: TeacherServer, client: OpusClient, way: str
) -> None:
    server.has_models = way != "no path"
    bare: dict[str, Any] = {"id": MODEL, "object": "model", "owned_by": "llamacpp"}
    server.models[MODEL] = bare if way == "bare" else {"error": "?"}
    facts = await client.facts()
    assert facts == ModelFacts(MODEL)
    ask = Ask("x", "code", "Be brief.", (Message("user", "?"),), 100, record(result=TEXT))
    sent = parameters(ask, facts)
    assert "output_config" not in sent
    assert sent["max_tokens"] == 100
    assert '"result"' in sent["system"][0]["text"]


async def test_what_a_model_can_is_used(server: TeacherServer, client: OpusClient) -> None:
    ask = Ask("x", "code", "S", (Message("user", "?"),), 100, record(result=TEXT), document="D")
    sent = build_parameters(ask, await client.facts(), effort="low", thinking_tokens=50)
    assert sent["output_config"]["format"]["type"] == "json_schema"
    assert sent["output_config"]["effort"] == "low"
    assert sent["max_tokens"] == 150
    await client.send(with_cache_marks(sent, system=True, document=True))
    (body,) = server.bodies
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert body["messages"][0]["content"][0] == {
        "type": "text", "text": "D", "cache_control": {"type": "ephemeral"},
    }  # fmt: skip
    assert server.asked.total() == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (BAD_KEY, TeacherKeyRefused),
        (FORBIDDEN, TeacherKeyRefused),
        (UNPAID, TeacherUnpaid),
        (Fault(400, "billing_error", "no credit"), TeacherUnpaid),
        (Fault(404, "not_found_error", "model: x"), TeacherModelUnknown),
    ],
)
async def test_what_no_other_request_would_change_ends_the_run(
    server: TeacherServer, client: OpusClient, fault: Fault, kind: type[AresError]
) -> None:
    server.faults.append(fault)
    with pytest.raises(kind, match=str(fault.status)) as caught:
        await client.send(parameters())
    assert caught.value.hint
    assert KEY not in str(caught.value)
    assert len(server.bodies) == 1


async def test_the_models_page_says_the_same_of_a_bad_key(server: TeacherServer) -> None:
    async with OpusClient(api_key="sk-ant-wrong", model=MODEL, base_url=server.url) as client:
        with pytest.raises(TeacherKeyRefused, match="invalid x-api-key"):
            await client.facts()


@pytest.mark.parametrize("fault", [RATE_LIMITED, OVERLOADED])
async def test_overload_comes_back_at_once_with_its_headers(
    server: TeacherServer, client: OpusClient, fault: Fault
) -> None:
    server.faults.append(Fault(fault.status, fault.error, headers={"retry-after": "7"}))
    with pytest.raises(NotAnswered) as caught:
        await client.send(parameters())
    assert caught.value.why is Why.OVERLOADED
    assert caught.value.headers["retry-after"] == "7"
    assert len(server.bodies) == 1


async def test_a_failure_of_the_providers_own_is_tried_once_more(
    server: TeacherServer, client: OpusClient
) -> None:
    server.faults.append(BROKEN)
    assert (await client.send(parameters())).text == "An answer."
    server.faults.extend([BROKEN, BROKEN])
    with pytest.raises(NotAnswered) as caught:
        await client.send(parameters())
    assert caught.value.why is Why.FAILED


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_wrong_request_is_said_to_be_wrong(
    server: TeacherServer, client: OpusClient, status: int
) -> None:
    server.faults.append(Fault(status, "invalid_request_error", "messages.0: too long"))
    with pytest.raises(NotAnswered, match="too long") as caught:
        await client.send(parameters())
    assert caught.value.why is Why.BAD_REQUEST


@pytest.mark.parametrize(
    "fault",
    [
        Fault(drop="unread"),
        Fault(drop="cut"),
        Fault(504, "timeout_error"),
        Fault(502),
        Fault(408),
        Fault(raw=b"<html>oops</html>"),
        Fault(raw=b'{"type": "message"'),
        Fault(raw=b"[]"),
        Fault(raw=b'{"type":"message","content":[{"type":"text","text":"x"}]}'),
        Fault(raw=b'{"type":"message","content":7,"usage":{"input_tokens":"many"}}'),
    ],
    ids=str,
)
async def test_what_may_have_been_billed_is_never_repeated(
    server: TeacherServer, client: OpusClient, fault: Fault
) -> None:
    server.faults.append(fault)
    with pytest.raises(MaybeBilled):
        await client.send(parameters())
    assert len(server.bodies) == 1


async def test_a_slow_answer_may_have_been_billed(server: TeacherServer) -> None:
    server.delay_s = 30
    async with OpusClient(api_key=KEY, model=MODEL, base_url=server.url, timeout_s=0.2) as client:
        with pytest.raises(MaybeBilled, match="ReadTimeout"):
            await client.send(parameters())
    assert len(server.bodies) == 1


async def test_no_connection_is_no_bill() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        async with OpusClient(api_key=KEY, model=MODEL, base_url=url) as client:
            with pytest.raises(NotAnswered, match="no connection") as caught:
                await client.send(parameters())
            assert caught.value.why is Why.UNREACHABLE
            with pytest.raises(TeacherAway, match="does not answer"):
                await client.facts()


async def test_a_redirect_takes_the_key_nowhere(server: TeacherServer, client: OpusClient) -> None:
    async with TeacherServer() as elsewhere:
        server.faults.append(Fault(307, headers={"Location": f"{elsewhere.url}/v1/messages"}))
        with pytest.raises((NotAnswered, MaybeBilled)):
            await client.send(parameters())
        assert elsewhere.bodies == []


@pytest.mark.parametrize("category", ["cyber", "frontier_llm", "reasoning_extraction", None])
async def test_a_refusal_has_its_category(
    server: TeacherServer, client: OpusClient, category: str | None
) -> None:
    server.faults.append(Fault(refusal=category))
    reply = await client.send(parameters())
    assert (reply.stop_reason, reply.refusal) == ("refusal", category or "unnamed")
    assert (reply.text, reply.explanation) == ("", "as programmed")


def test_without_a_key_only_a_server_of_ones_own_is_asked() -> None:
    with pytest.raises(TeacherKeyRefused):
        OpusClient(api_key="", model=MODEL)
    asyncio.run(OpusClient(api_key="", model=MODEL, base_url="http://127.0.0.1:9").close())


def test_parameters_are_plain_json() -> None:
    text = json.dumps(parameters())
    assert json.loads(text) == parameters()
