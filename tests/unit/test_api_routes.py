"""Every route of the API, against a real store with a played cycle, and with nothing in it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from api_samples import ADDRESS, DESCRIPTOR, FakeViews, empty_views, played_views
from ares_coordinator.api.app import create_root_app
from ares_coordinator.store.rows import CyclePhase
from ares_coordinator.teacherstate import Condition, TeacherState, note_teacher
from ares_p2p import PROTOCOL_VERSION, __version__
from ares_p2p.domain import CATEGORIES, NetworkDescriptor, PostingState
from ares_p2p.wire.codec import decode_envelope, open_envelope
from ledger_samples import posting
from payloads import identity
from store_samples import NOW, commit, digest, peer, state

SETTLED = PostingState.SETTLED
PATHS = ("status", "model", "training", "data", "credits", "leaderboard")


@pytest.fixture
async def views(tmp_path: Path) -> AsyncIterator[FakeViews]:
    made = await played_views(tmp_path)
    yield made
    await made.db.close()


@pytest.fixture
async def client(views: FakeViews) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(create_root_app(views=views))) as made:
        yield made


async def get(client: TestClient[Any, Any], path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/json"
        return await response.json()


async def test_health_and_version(client: TestClient[Any, Any]) -> None:
    assert await get(client, "/healthz") == {"status": "ok"}
    wanted = {"software": __version__, "protocol": PROTOCOL_VERSION}
    assert await get(client, "/version") == wanted


async def test_model_says_what_the_stack_is(client: TestClient[Any, Any], views: FakeViews) -> None:
    before = await get(client, "/api/ares/model")
    assert before["effective_params"] == before["base_params"] == 1_000_000
    assert (before["version"], before["adapter_count"]) == ("ares-v0", 0)
    store = views.db.store
    await views.db.call(
        store.update_cycle, 1, now_ms=NOW, promoted=True, version=1, loss_before=3.0, loss_after=2.5
    )
    after = await get(client, "/api/ares/model")
    assert after["effective_params"] == 1_004_000
    assert after["effective_params_human"] == "1.0M"
    assert after["adapter_count"] == 1
    assert after["lora_rank"] == 8
    assert after["version"] == "ares-v1"
    assert after["current_cycle"] == 1
    assert after["held_out_loss"] == 2.5
    assert after["adapters"] == [{"cycle": 1, "rank": 8, "parameters": 4000}]
    assert after["history"][0]["version"] == "ares-v1"
    views.live = replace(views.live, base_parameters=None)
    unknown = await get(client, "/api/ares/model")
    assert (unknown["effective_params"], unknown["effective_params_human"]) == (None, "unknown")


async def test_training_shows_progress_rounds_and_swarm(client: TestClient[Any, Any]) -> None:
    reply = await get(client, "/api/ares/training")
    assert reply["round_clock"] == "3 peers: 10 s to train"
    assert (reply["cycle"], reply["phase"], reply["state"]) == (1, "train", "running")
    assert reply["progress"] == pytest.approx(1 / 3)
    assert (reply["round"], reply["rounds_done"], reply["rounds_total"]) == (1, 1, 3)
    first, second = reply["rounds"]
    assert (first["state"], first["mean_loss"], first["held_out_loss"]) == ("aggregated", 2.5, 2.25)
    assert (first["commits"], first["used"], first["refused"]) == (4, 3, 1)
    assert (second["state"], second["commits"], second["used"]) == ("open", 1, 0)
    assert (reply["audits_open"], reply["audits_lag_ms"]) == (1, 90_500)
    swarm = reply["swarm"]
    assert (swarm["totalWorkers"], swarm["gpuWorkers"], swarm["onlineWorkers"]) == (4, 1, 1)
    assert (swarm["totalGradients"], swarm["throughput"]) == (3, 1234.5)
    assert swarm["refusedRecords"] == {"ARES-E052": 2}
    assert first["next_state"] == state(1).hex()
    assert [item["code"] for item in first["refusals"]] == ["ARES-E070"]
    assert [item["code"] for item in second["refusals"]] == ["ARES-E062"]
    workers = {worker["id"]: worker for worker in swarm["workers"]}
    assert workers[peer(1)] == {
        "id": peer(1),
        "gpu": True,
        "status": "online",
        "way": "http",
        "tasksCompleted": 1,
        "lastSeen": NOW + 1,
    }
    assert (workers[peer(3)]["status"], workers[peer(3)]["tasksCompleted"]) == ("offline", 0)


async def test_data_counts_every_category(client: TestClient[Any, Any]) -> None:
    reply = await get(client, "/api/ares/data")
    assert (reply["totalExamples"], reply["totalTokens"]) == (110, 5070)
    assert reply["costEstimate"] == 1.25
    assert list(reply["byCategory"]) == list(CATEGORIES)
    assert (reply["byCategory"]["code"], reply["byCategory"]["roleplay"]) == (100, 0)
    assert (reply["diskFiles"], reply["diskBytes"]) == (2, 4096)
    assert reply["rejectedByReason"] == {"duplicate": 3}
    assert reply["cycles"][0]["heldOutExamples"] == 11
    assert reply["teacher"] is None


async def test_data_says_how_the_teacher_is(client: TestClient[Any, Any], views: FakeViews) -> None:
    waiting = TeacherState(
        Condition.WAITING, "opus", 2, NOW, "ARES-E028", "no credit", "pay", next_try_ms=NOW + 5000
    )
    await views.db.call(note_teacher, views.db.store, waiting)
    status = await get(client, "/api/ares/status")
    assert status["data"]["teacher"] == {
        "state": "waiting",
        "teacher": "opus",
        "cycle": 2,
        "sinceMs": NOW,
        "code": "ARES-E028",
        "message": "no credit",
        "hint": "pay",
        "tries": 1,
        "nextTryMs": NOW + 5000,
    }
    assert status["data"] == await get(client, "/api/ares/data")


async def test_credits_break_down_by_tier(client: TestClient[Any, Any]) -> None:
    reply = await get(client, "/api/ares/credits")
    assert reply["breakdown"] == {"FREE": 3, "CONTRIBUTOR": 0, "TRAINER": 1, "CORE": 0}
    assert [tier["minimumCredits"] for tier in reply["tiers"]] == [0, 100, 500, 1000]
    assert [tier["needsGpu"] for tier in reply["tiers"]] == [False, False, True, True]
    assert (reply["totalCredits"], reply["totalUcredits"]) == (600.0, 600_000_000)
    assert reply["creditsByType"] == {"gpu_training": 600.0}
    assert reply["totalWorkers"] == 4


async def worker(client: TestClient[Any, Any], number: int) -> Any:
    return await get(client, f"/api/ares/credits?workerId={peer(number)}")


async def test_worker_sees_settled_credit_and_tier(client: TestClient[Any, Any]) -> None:
    reply = await worker(client, 1)
    assert (reply["workerId"], reply["totalCredits"], reply["tier"]) == (peer(1), 600.0, "TRAINER")
    assert reply["tierInfo"] == {
        "tier": "TRAINER",
        "nextTier": "CORE",
        "missingCredits": 400.0,
        "missingGpu": False,
    }
    assert reply["creditsByType"] == {"gpu_training": 600.0}
    assert reply["hasGpuContribution"] is True
    assert (reply["firstSeen"], reply["lastActivity"]) == (NOW, NOW + 1)
    waiting, settled = reply["recent"]
    assert (waiting["round"], waiting["outcome"], waiting["credits"]) == (1, "waiting", 0.0)
    assert (settled["outcome"], settled["credits"], settled["tokens"]) == (
        "settled",
        600.0,
        600_000,
    )


async def test_worker_sees_why_a_round_paid_nothing(client: TestClient[Any, Any]) -> None:
    failed = await worker(client, 2)
    assert (failed["totalCredits"], failed["voidCredits"]) == (0.0, 0.7)
    (row,) = failed["recent"]
    assert (row["outcome"], row["code"], row["message"]) == (
        "void",
        "ARES-E071",
        "the replay differs",
    )
    late, refused = (await worker(client, 3))["recent"]
    assert (late["outcome"], late["code"], late["round"]) == ("refused", "ARES-E062", 1)
    assert (refused["outcome"], refused["code"], refused["message"]) == (
        "refused",
        "ARES-E070",
        "points against",
    )
    pending = await worker(client, 4)
    assert (pending["pendingCredits"], pending["pendingUcredits"]) == (0.25, 250_000)
    assert pending["recent"][0]["outcome"] == "pending"


async def test_leaderboard_is_a_bare_array_of_settled_credit(client: TestClient[Any, Any]) -> None:
    assert await get(client, "/api/ares/leaderboard") == [
        {
            "rank": 1,
            "workerId": peer(1),
            "displayName": None,
            "totalCredits": 600.0,
            "pendingCredits": 0.0,
            "recentCredits": 600.0,
            "tier": "TRAINER",
            "hasGpu": True,
            "lastActivity": NOW + 1,
        }
    ]
    assert len(await get(client, "/api/ares/leaderboard?limit=1")) == 1
    assert len(await get(client, "/api/ares/leaderboard?limit=100")) == 1


async def test_leaderboard_pages_go_on_and_name_the_next(
    client: TestClient[Any, Any], views: FakeViews
) -> None:
    store = views.db.store
    paid = [posting(peer(n), commit(1, 0, n).commit_sha256, SETTLED) for n in (3, 4)]
    await views.db.call(store.add_postings, paid)
    seen, path = [], "/api/ares/leaderboard?limit=2"
    for _ in range(5):
        async with client.get(path) as response:
            seen += [(row["rank"], row["workerId"]) for row in await response.json()]
            following = response.links.get("next")
        if following is None:
            break
        path = str(following["url"].relative())
    assert seen[0] == (1, peer(1))
    assert [rank for rank, _ in seen] == [1, 2, 3]
    assert {worker for _, worker in seen} == {peer(1), peer(3), peer(4)}
    assert await get(client, "/api/ares/leaderboard?limit=2&page=9") == []


async def test_recent_credit_fades_and_orders_the_leaderboard(
    client: TestClient[Any, Any], views: FakeViews
) -> None:
    """Peer 1 earned 600 long ago, peer 4 a little less lately: 60 days halve twice."""
    later = NOW + 60 * 24 * 3600 * 1000
    views.live = replace(views.live, at_ms=later)
    paid = posting(
        peer(4), commit(1, 0, 4).commit_sha256, SETTLED, ucredits=500_000_000, at_ms=later
    )
    await views.db.call(views.db.store.add_postings, [paid])
    total = await get(client, "/api/ares/leaderboard")
    recent = await get(client, "/api/ares/leaderboard?by=recent")
    assert [row["workerId"] for row in total] == [peer(1), peer(4)]
    assert [row["workerId"] for row in recent] == [peer(4), peer(1)]
    assert [row["recentCredits"] for row in recent] == [500.0, pytest.approx(150.0, rel=1e-6)]
    mine = await worker(client, 1)
    assert (mine["totalCredits"], mine["streak"]) == (600.0, 1)
    assert mine["recentCredits"] == pytest.approx(150.0, rel=1e-6)
    new = await worker(client, 3)
    assert (new["recentCredits"], new["streak"], new["clawbackCredits"]) == (0.0, 0, 0.0)


async def test_network_gives_the_invite_and_a_descriptor_to_verify(
    client: TestClient[Any, Any],
) -> None:
    reply = await get(client, "/api/ares/network")
    envelope = decode_envelope(base64.b64decode(reply.pop("descriptor")))
    signer = identity(9).peer_id
    opened = open_envelope(envelope, NetworkDescriptor, signer=signer, network_id="net-1")
    assert opened == DESCRIPTOR
    assert reply == {
        "invite": "ares://invite",
        "network_id": "net-1",
        "name": "test network",
        "coordinator": signer,
        "protocol_min": 1,
        "protocol_max": 2,
        "bootstrap_addresses": [ADDRESS],
        "api_url": "https://ares.example",
    }


async def test_status_holds_the_other_replies(client: TestClient[Any, Any]) -> None:
    reply = await get(client, "/api/ares/status")
    assert (reply["name"], reply["network_id"], reply["uptime_s"]) == ("test network", "net-1", 90)
    for part in ("model", "training", "data", "credits"):
        assert reply[part] == await get(client, f"/api/ares/{part}")


async def test_secrets_are_in_no_reply(client: TestClient[Any, Any], views: FakeViews) -> None:
    row = await views.db.call(views.db.store.cycle, 1)
    assert row is not None
    assert row.secret_seed == digest("seed 1")
    for path in PATHS:
        async with client.get(f"/api/ares/{path}") as response:
            content = await response.read()
        for secret in (row.secret_seed, row.assignment_key):
            assert secret.hex().encode() not in content
            assert base64.b64encode(secret) not in content


async def test_a_new_coordinator_answers_everything(tmp_path: Path) -> None:
    views = await empty_views(tmp_path)
    async with TestClient(TestServer(create_root_app(views=views))) as client:
        replies = {path: await get(client, f"/api/ares/{path}") for path in PATHS}
        assert replies["leaderboard"] == []
        assert replies["training"]["progress"] is None
        assert replies["training"]["cycle"] is None
        assert replies["training"]["audits_lag_ms"] is None
        assert replies["model"]["history"] == []
        assert replies["credits"]["totalWorkers"] == 0
        async with client.get("/api/ares/network") as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "ARES-E032"
    await views.db.close()


async def test_a_failed_cycle_says_why(client: TestClient[Any, Any], views: FakeViews) -> None:
    move = (1, CyclePhase.TRAIN, CyclePhase.FAILED)
    await views.db.call(views.db.store.advance_phase, *move, now_ms=NOW, failure="no peers")
    history = (await get(client, "/api/ares/model"))["history"]
    assert (history[0]["phase"], history[0]["failure"]) == ("failed", "no peers")
