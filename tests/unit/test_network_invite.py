"""Invites: what they hold, how they break, how they are asked for."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.errors import BootstrapAway, InviteMalformed
from ares_p2p.network.invite import (
    MAX_ADDRESSES,
    MAX_REPLY_BYTES,
    SCHEME,
    Invite,
    network_id_of,
    parse_invite,
    resolve_invite,
)
from payloads import identity

COORDINATOR = identity(1).peer_id
ADDRESS = f"/ip4/203.0.113.7/tcp/31100/p2p/{identity(2).peer_id}"
INVITE = Invite("home", COORDINATOR, (ADDRESS,))
TEXT = INVITE.encode()


def test_invite_survives_encoding() -> None:
    assert parse_invite(TEXT) == INVITE
    assert TEXT.startswith("ares://")
    assert TEXT.isascii()


def test_network_id_names_coordinator_and_name() -> None:
    assert INVITE.network_id == network_id_of(COORDINATOR, "home")
    assert len(INVITE.network_id) == 32
    assert INVITE.network_id != network_id_of(COORDINATOR, "home2")
    assert INVITE.network_id != network_id_of(identity(3).peer_id, "home")
    assert INVITE.network.coordinator == COORDINATOR


def test_network_id_golden() -> None:
    # whoever changes this cuts every existing network in two
    assert network_id_of(COORDINATOR, "home") == "58b41a501a61751628b4ed38b374c51b"


def test_reference_needs_no_addresses() -> None:
    assert parse_invite(Invite("home", COORDINATOR).encode()).addresses == ()


@given(st.integers(1, 40))
def test_wrapped_text_is_read(width: int) -> None:
    lines = [TEXT[i : i + width] for i in range(0, len(TEXT), width)]
    assert parse_invite("  \n" + " \n".join(lines) + "\t") == INVITE


@pytest.mark.parametrize("frame", ['"{}"', "'{}'", "<{}>", "`{}`"])
def test_quoted_text_is_read(frame: str) -> None:
    assert parse_invite(frame.format(TEXT)) == INVITE


@given(st.integers(0, len(TEXT) - 1))
def test_cut_text_is_refused(length: int) -> None:
    with pytest.raises(InviteMalformed):
        parse_invite(TEXT[:length])


def test_cut_text_is_called_cut() -> None:
    with pytest.raises(InviteMalformed, match="cut off: 60 of"):
        parse_invite(SCHEME + TEXT[len(SCHEME) :][:80])


@given(st.data())
def test_changed_character_is_refused(data: st.DataObject) -> None:
    place = data.draw(st.integers(len(SCHEME), len(TEXT) - 1))
    other = data.draw(st.sampled_from("ABCabc019-_").filter(lambda c: c != TEXT[place]))
    changed = TEXT[:place] + other + TEXT[place + 1 :]
    try:
        assert parse_invite(changed) == INVITE  # only unused bits of the last character
        assert place == len(TEXT) - 1
    except InviteMalformed:
        pass


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("hello", "does not begin with ares://"),
        ("magnet:?xt=1", "does not begin with ares://"),
        ("https://example.org", "web address"),
        ("ares://%%%", "characters no invite has"),
        ("ares://" + "A" * 9000, "at most"),
    ],
)
def test_other_text_says_what_it_is(text: str, words: str) -> None:
    with pytest.raises(InviteMalformed, match=words):
        parse_invite(text)


def test_other_version_asks_for_an_upgrade() -> None:
    from ares_p2p.ids import sha256

    raw = b"\x02\x00\x03abc"
    raw += sha256(raw)[:4]
    with pytest.raises(InviteMalformed, match="version 2") as caught:
        parse_invite(SCHEME + base64.urlsafe_b64encode(raw).decode().rstrip("="))
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\nb", " padded"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InviteMalformed):
        Invite(name, COORDINATOR)


@pytest.mark.parametrize(
    "address", ["", "tcp://1.2.3.4", "/ip4/1.2.3.4/tcp/1", ADDRESS + ",x", "/p2p/ x"]
)
def test_bad_addresses_are_refused(address: str) -> None:
    with pytest.raises(InviteMalformed):
        Invite("home", COORDINATOR, (address,))


def test_too_many_addresses_are_refused() -> None:
    with pytest.raises(InviteMalformed, match="at most"):
        Invite("home", COORDINATOR, (ADDRESS,) * (MAX_ADDRESSES + 1))


# --- asking a coordinator ----------------------------------------------------------------------

Server = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[str]]


@pytest.fixture
async def serve(aiohttp_server: Any) -> Server:
    """Return a function that serves one handler and returns the coordinator's URL."""

    async def start(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> str:
        app = web.Application()
        app.router.add_get("/api/ares/network", handler)
        server = await aiohttp_server(app)
        return f"http://127.0.0.1:{server.port}/"

    return start


async def test_coordinator_hands_out_its_invite(serve: Server) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"invite": TEXT})

    url = await serve(handler)
    found = await resolve_invite(url)
    assert found == replace(INVITE, api_url=url.rstrip("/"))  # it answered: it is the API's address
    assert await resolve_invite(TEXT) == INVITE


async def test_the_address_that_an_invite_names_counts(serve: Server) -> None:
    named = replace(INVITE, api_url="https://ares.example/somewhere")

    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"invite": named.encode()})

    assert await resolve_invite(await serve(handler)) == named
    assert parse_invite(named.encode()) == named


@pytest.mark.parametrize(
    "url",
    ["ares.example", "ftp://ares.example", "https://a b", "https://" + "a" * 300, "https://ä"],
)
def test_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(InviteMalformed, match="no web address"):
        replace(INVITE, api_url=url)


@pytest.mark.parametrize(
    "answer", ["[]", "{", '{"invite": 1}', '{"invite": "https://elsewhere"}', "[" * 9000]
)
async def test_nonsense_is_refused(serve: Server, answer: str) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(text=answer)

    with pytest.raises(InviteMalformed):
        await resolve_invite(await serve(handler))


async def test_long_answers_are_cut_off(serve: Server) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(64):
            await response.write(b" " * MAX_REPLY_BYTES)
        return response

    with pytest.raises(InviteMalformed, match="more than"):
        await resolve_invite(await serve(handler))


async def test_redirects_and_faults_are_not_followed(serve: Server) -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.1:9/")

    with pytest.raises(BootstrapAway, match="302"):
        await resolve_invite(await serve(handler))


async def test_nobody_there_is_said() -> None:
    with pytest.raises(BootstrapAway):
        await resolve_invite("http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["http://example.org", "http://", "https://user:pw@example.org"])
async def test_unsafe_urls_are_refused(url: str) -> None:
    with pytest.raises(InviteMalformed):
        await resolve_invite(url)
