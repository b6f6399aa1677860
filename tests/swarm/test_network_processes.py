"""What a node leaves behind, and what it says when something is wrong: real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import hivemind.dht.protocol
import psutil
import pytest

from ares_p2p.domain import RoundPlan
from ares_p2p.errors import (
    BootstrapAway,
    ClockSkewed,
    InternalFault,
    KeyFileMalformed,
    KeyFileTooOpen,
    NodeDied,
    PortTaken,
)
from ares_p2p.network.processes import SocketFolder, remove_stale_folders
from netfixtures import (
    ALICE,
    BOB,
    COORDINATOR,
    LOOPBACK,
    NETWORK,
    ForkedNode,
    is_running,
    key_file,
    start_node,
    wait_until,
)

pytestmark = pytest.mark.swarm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def bootstrap(folder: Path) -> Iterator[ForkedNode]:
    node = ForkedNode(folder, BOB, relay_service=True)
    yield node
    node.end()


def gone(node: ForkedNode) -> bool:
    return not any(map(is_running, node.all_pids)) and not Path(node.facts.socket_folder).exists()


def test_sigkill_leaves_neither_process_nor_socket(folder: Path) -> None:
    node = ForkedNode(folder, ALICE)
    sockets = list(Path(node.facts.socket_folder).glob("*.sock"))
    assert len(sockets) >= 2  # p2pd's and our own
    assert all(map(is_running, node.all_pids))
    node.kill()
    assert wait_until(lambda: gone(node))


def test_an_orderly_end_leaves_nothing_either(folder: Path) -> None:
    node = ForkedNode(folder, ALICE)
    started = time.monotonic()
    node.end()
    assert wait_until(lambda: gone(node))
    assert node.process.exitcode == 0
    assert time.monotonic() - started < 25  # well under a second on an idle machine


def test_the_next_start_removes_what_a_killed_group_left(folder: Path) -> None:
    node = ForkedNode(folder, ALICE)
    for pid in (node.facts.pids[0], node.pid, node.facts.pids[1]):  # the cleaner first
        os.kill(pid, signal.SIGKILL)
    node.process.join(30)
    assert wait_until(lambda: not any(map(is_running, node.all_pids)))
    assert Path(node.facts.socket_folder).exists()
    assert remove_stale_folders() >= 1
    assert not Path(node.facts.socket_folder).exists()


def test_the_folder_of_a_living_node_is_left_alone(bootstrap: ForkedNode) -> None:
    mine = SocketFolder.create()
    remove_stale_folders()
    assert mine.path.exists()
    assert Path(bootstrap.facts.socket_folder).exists()
    mine.remove()
    mine.remove()


def test_ctrl_c_in_the_terminal_does_not_cut_the_network_off(bootstrap: ForkedNode) -> None:
    dht_process, p2pd = bootstrap.facts.pids
    assert os.getpgid(p2pd) == p2pd  # the terminal's SIGINT goes to another group
    os.kill(dht_process, signal.SIGINT)
    assert is_running(dht_process)


@pytest.mark.parametrize("victim", [0, 1], ids=["dht_process", "p2pd"])
def test_a_dead_node_tells_who_waits(folder: Path, victim: int) -> None:
    node = start_node(folder, ALICE)

    async def scene() -> None:
        await node.open()
        await node.records.fetch(RoundPlan, cycle=1)
        started = time.monotonic()
        waiting = asyncio.create_task(node.call(asyncio.Event().wait(), timeout_s=60))
        os.kill(node.process_ids[victim], signal.SIGKILL)
        with pytest.raises(NodeDied):
            await waiting
        assert time.monotonic() - started < 20
        with pytest.raises(NodeDied):
            await node.records.fetch(RoundPlan, cycle=1)
        assert not node.is_alive()
        assert await node.wait_for_death()
        await node.close()

    try:
        asyncio.run(scene())
    finally:
        node.shutdown()
    assert not any(map(is_running, node.process_ids))


def test_taken_ports_are_named(folder: Path, bootstrap: ForkedNode) -> None:
    port = bootstrap.facts.addresses[0].split("/")[4]
    with pytest.raises(PortTaken):
        start_node(folder, ALICE, host_addresses=(f"/ip4/127.0.0.1/tcp/{port}",))


def test_absent_bootstrap_nodes_are_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # somebody else's program
        port = listener.getsockname()[1]
        silent = f"/ip4/127.0.0.1/tcp/{port}/p2p/{BOB.peer_id}"
        closed = f"/ip4/127.0.0.1/tcp/1/p2p/{COORDINATOR.peer_id}"
        before = set(psutil.Process().children(recursive=True))
        with pytest.raises(BootstrapAway, match="none of 2"):
            start_node(folder, ALICE, initial_peers=(silent, closed))
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [child for child in left if is_running(child.pid) and "shm" not in child.name()]


def set_clock_ahead() -> None:
    hivemind.dht.protocol.get_dht_time = lambda: time.time() + 10


def test_a_wrong_clock_is_named_with_its_seconds(folder: Path) -> None:
    ahead = ForkedNode(folder, COORDINATOR, prepare=set_clock_ahead)
    try:
        with pytest.raises(ClockSkewed, match=r"(9\.\d|10\.\d) s behind"):
            start_node(folder, ALICE, initial_peers=ahead.facts.addresses)
    finally:
        ahead.end()


def test_key_files_are_checked(tmp_path: Path) -> None:
    key_file(tmp_path, ALICE).chmod(0o644)
    with pytest.raises(KeyFileTooOpen):
        start_node(tmp_path, ALICE)
    key_file(tmp_path, ALICE).chmod(0o600)
    key_file(tmp_path, ALICE).write_bytes(b"no key")
    with pytest.raises(KeyFileMalformed):
        start_node(tmp_path, ALICE)


async def test_other_threads_may_not_start_a_node(tmp_path: Path) -> None:
    with pytest.raises(InternalFault, match="main thread"):
        await asyncio.to_thread(start_node, tmp_path, ALICE)


def test_a_node_runs_under_its_own_key(folder: Path) -> None:
    node = start_node(folder, ALICE)
    try:
        assert node.peer_id == ALICE.peer_id
        assert node.addresses[0].endswith(f"/p2p/{ALICE.peer_id}")
        assert node.network == NETWORK
        assert node.is_alive()
        with pytest.raises(InternalFault, match="not open"):
            _ = node.records
    finally:
        node.shutdown()
    assert LOOPBACK[0].split("/")[2] in node.addresses[0]
    assert not node.is_alive()
