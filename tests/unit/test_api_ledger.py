"""The ledger's log over the API: what a stranger gets is enough to verify, and bounded."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from api_samples import FakeViews, empty_views, played_views
from ares_coordinator.api.app import create_root_app
from ares_p2p.crypto.merkle import check_consistency, check_inclusion, tree_root
from ares_p2p.domain import Posting, PostingState
from ares_p2p.errors import BadParameter
from ares_p2p.proofs.ledger import leaf_of, open_head, read_leaf
from ares_p2p.wire.codec import decode_envelope
from ledger_samples import COORDINATOR, NETWORK, posting, seal_round
from store_samples import commit, peer

Client = TestClient[Any, Any]


@pytest.fixture
async def views(tmp_path: Path) -> AsyncIterator[FakeViews]:
    """The played coordinator: four postings before the first head, two more, one without a head."""
    made = await played_views(tmp_path)
    store = made.db.store
    settled = posting(peer(4), commit(1, 0, 4).commit_sha256, PostingState.SETTLED)
    voided = posting(peer(4), commit(1, 0, 4).commit_sha256, PostingState.VOID, code="ARES-E072")
    await made.db.call(seal_round, store, 1, 0)
    await made.db.call(seal_round, store, 1, 1, [settled])
    await made.db.call(store.add_postings, [voided])
    yield made
    await made.db.close()


@pytest.fixture
async def client(views: FakeViews) -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_root_app(views=views))) as made:
        yield made


@pytest.fixture
async def postings(views: FakeViews) -> list[Posting]:
    return list(await views.db.call(views.db.store.postings))


async def get(client: Client, path: str) -> Any:
    async with client.get(f"/api/ares/ledger{path}") as response:
        assert response.status == 200, await response.text()
        return await response.json()


def digests(found: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in found]


async def test_newest_head_is_signed_and_fits_what_is_said(
    client: Client, postings: list[Posting]
) -> None:
    reply = await get(client, "")
    envelope = decode_envelope(base64.b64decode(reply["head"]))
    head = open_head(envelope, coordinator=COORDINATOR.peer_id, network_id=NETWORK)
    assert (head.size, head.root.hex()) == (reply["size"], reply["root"])
    assert head.root == tree_root([leaf_of(one) for one in postings[: head.size]])
    assert (reply["postings"], reply["size"]) == (len(postings), len(postings) - 1)
    assert (reply["networkId"], reply["cycle"], reply["round"]) == (NETWORK, 1, 1)


async def test_heads_are_listed_from_a_size_on(client: Client) -> None:
    first, second = await get(client, "/heads")
    assert first["size"] < second["size"]
    assert await get(client, f"/heads?after={first['size']}") == [second]
    assert await get(client, "/heads?limit=1") == [first]


async def test_inclusion_of_every_posting_verifies_under_the_signed_head(
    client: Client, postings: list[Posting]
) -> None:
    for one in postings[:-1]:
        reply = await get(client, f"/inclusion?posting={one.id}")
        envelope = decode_envelope(base64.b64decode(reply["head"]))
        head = open_head(envelope, coordinator=COORDINATOR.peer_id, network_id=NETWORK)
        leaf = base64.b64decode(reply["leaf"])
        proof = digests(reply["proof"])
        check_inclusion(leaf, index=reply["index"], count=head.size, proof=proof, root=head.root)
        assert read_leaf(leaf) == one
        assert reply["posting"]["workerId"] == one.worker


async def test_inclusion_in_another_size_has_its_own_root(
    client: Client, postings: list[Posting]
) -> None:
    reply = await get(client, f"/inclusion?posting=2&size={len(postings)}")
    assert reply["head"] is None, "nobody signed this size"
    leaves = [leaf_of(one) for one in postings]
    assert reply["root"] == tree_root(leaves).hex()
    assert reply["posting"]["id"] == 2
    smaller = await get(client, "/inclusion?posting=2&size=3")
    assert smaller["root"] == tree_root(leaves[:3]).hex()


async def test_consistency_between_heads_verifies(client: Client) -> None:
    first, second = await get(client, "/heads")
    reply = await get(client, f"/consistency?first={first['size']}")
    assert (reply["firstRoot"], reply["secondRoot"]) == (first["root"], second["root"])
    check_consistency(
        first=first["size"],
        second=second["size"],
        first_root=bytes.fromhex(first["root"]),
        second_root=bytes.fromhex(second["root"]),
        proof=digests(reply["proof"]),
    )
    assert (await get(client, "/consistency?first=0"))["proof"] == []


async def test_postings_are_paged_by_id_and_by_worker(
    client: Client, postings: list[Posting]
) -> None:
    everything = await get(client, "/postings")
    assert [row["id"] for row in everything] == [one.id for one in postings]
    mine = [one for one in postings if one.worker == peer(4)]
    assert len(mine) == 3
    found = await get(client, f"/postings?worker={peer(4)}&limit=2")
    found += await get(client, f"/postings?worker={peer(4)}&after={found[-1]['id']}")
    assert [row["id"] for row in found] == [one.id for one in mine]
    assert [row["state"] for row in found] == ["pending", "settled", "void"]
    assert found[-1]["code"] == "ARES-E072"
    assert found[0]["amountUcredits"] == mine[0].amount_ucredits
    assert await get(client, f"/postings?worker={peer(77)}") == []


@pytest.mark.parametrize(
    "path",
    [
        "/heads?after=-1",
        "/heads?after=99999999999999999",
        "/heads?limit=201",
        "/inclusion",
        "/inclusion?posting=0",
        "/inclusion?posting=x",
        "/inclusion?posting=7",
        "/inclusion?posting=1&size=99",
        "/inclusion?posting=3&size=2",
        "/consistency",
        "/consistency?first=5&second=2",
        "/consistency?first=1&second=99",
        "/postings?limit=0",
        "/postings?limit=1000",
        "/postings?worker=",
        "/postings?worker=%3Cscript%3E",
        "/postings?worker=" + "A" * 129,
    ],
)
async def test_parameters_out_of_their_bounds_are_refused(client: Client, path: str) -> None:
    async with client.get(f"/api/ares/ledger{path}") as response:
        assert response.status == 400, await response.text()
        error = (await response.json())["error"]
        assert error["code"] == BadParameter.code
        assert error["hint"]


@pytest.mark.parametrize("query", ["by=x", "page=0", "page=100001", "page=one"])
async def test_leaderboard_parameters_are_bounded(client: Client, query: str) -> None:
    async with client.get(f"/api/ares/leaderboard?{query}") as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == BadParameter.code


async def test_a_new_coordinator_has_an_empty_log(tmp_path: Path) -> None:
    views = await empty_views(tmp_path)
    async with TestClient(TestServer(create_root_app(views=views))) as client:
        reply = await get(client, "")
        assert (reply["size"], reply["postings"], reply["head"]) == (0, 0, None)
        assert reply["root"] == tree_root([]).hex()
        assert await get(client, "/heads") == await get(client, "/postings") == []
        assert (await get(client, "/consistency?first=0"))["proof"] == []
        async with client.get("/api/ares/ledger/inclusion?posting=1") as response:
            assert response.status == 400
    await views.db.close()
