"""A peer that listens nowhere: what it can do, and how others get at what it has.

p2pd gets no circuit through a relay on loopback (two peers that both listen nowhere do not find
each other there), so that is for a network with addresses of its own. What is tried here is what
remains without one: lines that the hidden peer opened itself carry streams both ways.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psutil
import pytest
import pytest_asyncio

from ares_p2p.domain import Commit, PeerStatus
from netfixtures import ALICE, COORDINATOR, identity, signed, start_node

pytestmark = [pytest.mark.swarm, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder, nodes = tmp_path_factory.mktemp("reach"), {}
    try:
        nodes["relay"] = start_node(folder, identity(110), relay_service=True)
        peers = nodes["relay"].addresses
        nodes["coordinator"] = start_node(folder, COORDINATOR, initial_peers=peers)
        nodes["hidden"] = start_node(folder, ALICE, initial_peers=peers, client_mode=True)
        yield nodes
    finally:
        for node in nodes.values():
            node.shutdown()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def nodes(
    started: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, Any]]:
    for name, node in started.items():
        await node.open(tmp_path_factory.mktemp(name))
    yield started
    for node in started.values():
        await node.close()


async def test_it_has_no_open_port(nodes: dict[str, Any]) -> None:
    for name, is_open in (("hidden", False), ("coordinator", True)):
        p2pd = psutil.Process(nodes[name].process_ids[1])
        listening = [
            line for line in p2pd.net_connections("tcp") if line.status == psutil.CONN_LISTEN
        ]
        assert bool(listening) is is_open, name
        assert bool(nodes[name].addresses) is is_open


async def test_it_reads_and_writes_records(nodes: dict[str, Any]) -> None:
    commit = signed(ALICE, Commit, cycle=1, round=1)
    await nodes["hidden"].records.publish(commit)
    (found,) = await nodes["coordinator"].records.fetch_peers(Commit, cycle=1, round=1)
    assert found.envelope == commit
    await nodes["coordinator"].records.publish(signed(COORDINATOR, PeerStatus))
    found = await nodes["hidden"].records.fetch_peers(PeerStatus)
    assert [record.signer for record in found] == [COORDINATOR.peer_id]


async def test_whom_it_has_called_can_fetch_from_it(nodes: dict[str, Any]) -> None:
    hidden, coordinator = nodes["hidden"], nodes["coordinator"]
    await hidden.control.time_of(COORDINATOR.peer_id)  # as it does with every commit
    data = os.urandom(1_000_000)
    blob_id = hidden.blobs.store.put(data)
    path = await coordinator.blobs.fetch(
        blob_id, sources=[ALICE.peer_id], max_bytes=2_000_000, timeout_s=30
    )
    assert path.read_bytes() == data
