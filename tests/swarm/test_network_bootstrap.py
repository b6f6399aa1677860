"""`ares-bootstrap`, as a user runs it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from ares_p2p.network.invite import Invite, parse_invite
from netfixtures import ALICE, COORDINATOR, MALLORY, NAME, is_running, start_node, wait_until

pytestmark = pytest.mark.swarm
ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Invite(NAME, COORDINATOR.peer_id).encode()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ares_bootstrap.cli", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'dht_bootstrap'}"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=90
    )


class Running:
    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            command(
                "run",
                *("--network", REFERENCE, "--data-dir", str(data_dir)),
                *("--host", "127.0.0.1", "--port", "0", "--json", *arguments),
            ),
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.started: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def leaves_nothing(self) -> bool:
        return wait_until(lambda: not any(is_running(child.pid) for child in self.children))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bootstrap")


@pytest.fixture(scope="module")
def running(data_dir: Path) -> Iterator[Running]:
    node = Running(data_dir, "--health-port", "0")
    yield node
    if node.process.poll() is None:
        node.process.kill()
        node.process.wait(30)
    assert node.process.stdout is not None
    node.process.stdout.close()


def test_help_needs_neither_torch_nor_hivemind() -> None:
    script = (
        "import sys, ares_bootstrap.cli\n"
        "print([name for name in ('torch', 'hivemind', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
    assert "run" in run("--help").stdout


def test_its_invite_leads_to_it(running: Running, tmp_path: Path) -> None:
    invite = parse_invite(running.started["invite"])
    assert (invite.name, invite.coordinator) == (NAME, COORDINATOR.peer_id)
    assert invite.addresses == tuple(running.started["addresses"])
    node = start_node(tmp_path, ALICE, network=invite.network, initial_peers=invite.addresses)
    node.shutdown()


def test_the_invite_can_be_had_again(running: Running, data_dir: Path, tmp_path: Path) -> None:
    again = run("invite", "--data-dir", str(data_dir))
    assert again.stdout.strip() == running.started["invite"]
    asked = run("invite", "--data-dir", str(data_dir), "--json")
    assert json.loads(asked.stdout) == {"invite": running.started["invite"]}
    empty = run("invite", "--data-dir", str(tmp_path))
    assert empty.returncode == 78
    assert "ARES-E020" in empty.stderr


def test_its_health_can_be_asked(running: Running) -> None:
    async def ask() -> tuple[int, Any]:
        url = f"http://127.0.0.1:{running.started['health_port']}/healthz"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.json()

    status, health = asyncio.run(ask())
    assert status == 200
    assert health["status"] == "ok"
    assert health["peer_id"] == running.started["peer_id"]
    assert health["network_id"] == parse_invite(REFERENCE).network_id


def test_a_data_directory_has_one_process(running: Running, data_dir: Path) -> None:
    second = run("run", "--network", REFERENCE, "--data-dir", str(data_dir), "--port", "0")
    assert second.returncode == 78
    assert "ARES-E019" in second.stderr
    assert "next:" in second.stderr


def test_sigterm_ends_it_and_its_identity_stays(running: Running, data_dir: Path) -> None:
    assert running.stop() == 0
    assert running.leaves_nothing()
    again = Running(data_dir)
    assert again.started["peer_id"] == running.started["peer_id"]
    assert again.stop(signal.SIGINT) == 0
    assert again.leaves_nothing()


def test_faults_have_codes_and_exit_codes(data_dir: Path, tmp_path: Path) -> None:
    other = Invite("other", MALLORY.peer_id).encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        cases = [
            (("--network", "ares://xyz", "--data-dir", str(tmp_path)), "ARES-E011"),
            (("--network", other, "--data-dir", str(data_dir)), "ARES-E012"),
            (
                ("--network", REFERENCE, "--data-dir", str(tmp_path), "--port", port),
                "ARES-E013",
            ),
        ]
        for arguments, code in cases:
            done = run("run", *arguments, "--host", "127.0.0.1", "--json")
            assert done.returncode == 78
            error = json.loads(done.stdout)["error"]
            assert error["code"] == code
            assert error["hint"]
