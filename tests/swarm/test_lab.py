"""The laboratory with real namespaces, and one scenario of real processes.

Skipped where the machine does not allow namespaces; the reason says what is missing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from ares_p2p.processes import descendants, is_alive
from benchmarks.lab.counters import Counters
from benchmarks.lab.front import create_front, make_certificate
from benchmarks.lab.inside import socket_in
from benchmarks.lab.network import WireProcess
from benchmarks.lab.scenario import Link
from benchmarks.lab.spaces import Spaces, namespaces, remove_abandoned, why_not

WHY_NOT = why_not() or ("" if os.environ.get("ARES_TEST_LAB") else "ARES_TEST_LAB is not set")
pytestmark = [
    pytest.mark.swarm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(WHY_NOT), reason=f"the lab cannot run here: {WHY_NOT}"),
]

ROOT = Path(__file__).resolve().parents[2]
HOME = Link(up_mbit=20, down_mbit=40, delay_ms=25)
LINKS = {
    "coordinator": Link(up_mbit=1000, down_mbit=1000),
    "ada": HOME,
    "ben": HOME.model_copy(update={"dial_in": "none"}),
}
PORT = 5_000
PATIENCE_S = 1.0  # a dial that is not let through; a dial that is takes 0.05 to 0.1 s


class Cables:
    """Three nodes without processes: sockets of this process stand for them."""

    def __init__(self, spaces: Spaces, wire: WireProcess) -> None:
        self.spaces = spaces
        self.wire = wire
        self.counters = Counters(wire.pid, frozenset(LINKS))

    def _socket(self, node: str) -> socket.socket:
        made = socket_in(
            self.spaces.name_of(node), family=socket.AF_INET, kind=socket.SOCK_STREAM, protocol=0
        )
        made.setblocking(False)
        return made

    async def dial(
        self, source: str, target: str, send: bytes = b"hello"
    ) -> tuple[float, float, int]:
        """Send bytes over a new connection; return seconds to connect, to arrive, and the bytes.

        Raises: TimeoutError: nobody answered the dial.
        """
        loop = asyncio.get_running_loop()
        with self._socket(target) as listening, self._socket(source) as client:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("0.0.0.0", PORT))
            listening.listen()
            begin = time.perf_counter()
            address = (self.spaces.addresses[target], PORT)
            await asyncio.wait_for(loop.sock_connect(client, address), PATIENCE_S)
            connected_s = time.perf_counter() - begin
            server, _ = await loop.sock_accept(listening)
            with server:
                sending = asyncio.create_task(loop.sock_sendall(client, send))
                got, begin = 0, time.perf_counter()
                while got < len(send):
                    got += len(await loop.sock_recv(server, 1 << 16))
                await sending
                return connected_s, time.perf_counter() - begin, got


@pytest.fixture
async def cables(tmp_path: Path) -> AsyncIterator[Cables]:
    remove_abandoned()
    spaces = Spaces(LINKS)
    try:
        spaces.build()
        wire = await WireProcess.start(spaces, seed=0, log_file=tmp_path / "wire.log")
        try:
            yield Cables(spaces, wire)
        finally:
            await wire.stop()
    finally:
        spaces.remove()
        assert not [name for name in namespaces() if f".{os.getpid()}." in name]


async def test_lab_cable_has_the_delay_and_the_rate_of_the_scenario(cables: Cables) -> None:
    before = cables.counters.now()["ada"]
    connected_s, carried_s, got = await cables.dial("ada", "coordinator", bytes(2_000_000))
    sent = cables.counters.now()["ada"] - before
    assert 0.050 <= connected_s < 0.15  # there and back: 25 ms of ada's cable, each way
    rate_mbit = got * 8e-6 / carried_s
    assert 12 < rate_mbit < 20  # slow start and headers take their part; never above the shaper
    assert 1.02 < sent.up / got < 1.10  # headers
    assert sent.down < 0.06 * got  # acknowledgements


async def test_lab_rate_can_be_changed_while_it_runs(cables: Cables) -> None:
    cables.spaces.set_rate("ada", up_mbit=5)
    _, carried_s, got = await cables.dial("ada", "coordinator", bytes(1_000_000))
    assert 3.5 < got * 8e-6 / carried_s < 5


async def test_lab_node_behind_a_router_dials_out_and_is_not_dialled(cables: Cables) -> None:
    await cables.dial("ben", "ada")
    with pytest.raises(TimeoutError):
        await cables.dial("ada", "ben")
    counts = await cables.wire.ask({})
    assert counts["dropped"]["ada"]["dial"]["packets"] >= 1


async def test_lab_cut_cable_carries_nothing_until_it_works_again(cables: Cables) -> None:
    await cables.dial("ada", "coordinator")
    await cables.wire.ask({"node": "ada", "cut": True})
    with pytest.raises(TimeoutError):
        await cables.dial("ada", "coordinator")
    await cables.dial("ben", "coordinator")
    await cables.wire.ask({"node": "ada", "cut": False})
    await cables.dial("ada", "coordinator")


async def test_lab_namespaces_see_neither_this_machine_nor_the_outside(cables: Cables) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("0.0.0.0", 0)) as here:
        port = here.getsockname()[1]
        for address in ("127.0.0.1", "44.128.1.1"):
            with cables._socket("ada") as client, pytest.raises(OSError):  # noqa: PT011
                await asyncio.wait_for(loop.sock_connect(client, (address, port)), PATIENCE_S)


async def test_lab_that_was_killed_is_cleaned_up_by_the_next_and_a_living_one_is_not(
    tmp_path: Path, cables: Cables
) -> None:
    command = (sys.executable, "-m", "benchmarks.lab", "home-4", "--out", str(tmp_path / "out"))
    lab = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert lab.stdout is not None
    async with asyncio.timeout(90):
        while b"setting up the network" not in await lab.stdout.readline():
            assert not lab.stdout.at_eof()
    children = descendants(lab.pid)
    assert children  # the wire, at least
    lab.kill()
    await lab.wait()
    left = [name for name in namespaces() if f".{lab.pid}." in name]
    assert len(left) == 7  # four peers, two servers, the hub
    assert sorted(remove_abandoned()) == sorted(left)
    async with asyncio.timeout(10):
        while any(is_alive(child) for child in children):
            await asyncio.sleep(0.05)
    assert not [name for name in namespaces() if f".{lab.pid}." in name]
    await cables.dial("ada", "coordinator")  # ours still work


async def test_lab_front_passes_requests_on_over_https_and_names_the_caller(
    tmp_path: Path,
) -> None:
    seen: dict[str, object] = {}

    async def api(request: web.Request) -> web.Response:
        seen.update(
            path=request.raw_path,
            body=await request.read(),
            caller=request.headers["X-Forwarded-For"],
            token=request.headers["Authorization"],
        )
        return web.Response(status=418, body=b"tea", headers={"X-Kind": "green"})

    target = TestServer(web.Application())
    target.app.router.add_route("*", "/{path:.*}", api)
    await target.start_server()
    certificate = make_certificate("127.0.0.1", tmp_path / "certificate.pem")
    trusting = ssl.create_default_context(cafile=str(certificate))
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate)
    async with aiohttp.ClientSession() as client:
        front = TestServer(create_front(str(target.make_url("")).rstrip("/"), client))
        await front.start_server(ssl=serving)
        url = f"https://127.0.0.1:{front.port}/a%2Fb?c=%20d"
        headers = {"Authorization": "Ares x"}
        async with client.put(
            URL(url, encoded=True), data=b"in", ssl=trusting, headers=headers
        ) as reply:
            assert (reply.status, await reply.read()) == (418, b"tea")
            assert reply.headers["X-Kind"] == "green"
        await front.close()
    await target.close()
    assert seen == {
        "path": "/a%2Fb?c=%20d",
        "body": b"in",
        "caller": "127.0.0.1",
        "token": "Ares x",
    }


SCENARIO = """
name = "small-cut"
says = "One of two peers is cut."
time_limit_s = 240
servers = { coordinator = "server", bootstrap = "server" }
peers = [ { name = "ada", link = "home" }, { name = "ben", link = "home" } ]

[links]
home = { up_mbit = 20, down_mbit = 20, delay_ms = 25 }
server = { up_mbit = 1000, down_mbit = 1000 }

[[events]]
do = "cut"
node = "ben"
round = 1
phase = "training"
for_s = 6

[settings]
"""


async def test_lab_scenario_with_a_cut_is_told_in_json_and_pictures(
    tmp_path: Path, tiny_base: Path
) -> None:
    from swarm_settings import QUICK

    settings = {**QUICK, "rounds.rounds": 8}
    lines = (f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in settings.items())
    (tmp_path / "small.toml").write_text(SCENARIO + "".join(lines))
    command = (sys.executable, "-m", "benchmarks.lab", str(tmp_path / "small.toml"), "--json")
    out = tmp_path / "out"
    lab = await asyncio.create_subprocess_exec(
        *command,
        "--out",
        str(out),
        "--base",
        str(tiny_base),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(330):
            stdout, stderr = await lab.communicate()
    except TimeoutError:
        lab.send_signal(signal.SIGTERM)
        await lab.wait()
        raise
    report = json.loads(stdout)
    said = json.dumps({key: report[key] for key in ("checks", "failure", "events")}, indent=1)
    assert lab.returncode == 0, f"{stderr.decode()[-3000:]}\n{said}"
    [cut, restore] = report["events"]
    assert (cut["do"], cut["node"], restore["do"]) == ("cut", "ben", "restore")
    assert 6 <= restore["at_s"] - cut["at_s"] < 8
    assert cut["cost"]["plans_missed"] == 0
    assert len(report["rounds"]) == 8
    assert report["wire"]["dropped"]["ben"]["cut"]["packets"] > 0
    ada = report["nodes"]["ada"]
    blob_bytes = report["rounds"][0]["blob_bytes"] / report["rounds"][0]["used"]
    assert ada["up_bytes"] > ada["accepted"] * blob_bytes
    assert ada["seconds"]["training"] > 0
    assert {path.name for path in out.glob("*.png")} == {"bytes.png", "timeline.png"}
    assert json.loads((out / "report.json").read_text()) == report
    assert not [name for name in namespaces() if f".{lab.pid}." in name]
