"""The small parts: limits, addresses, greetings, codes, the death watch."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from ares_p2p.errors import (
    BootstrapAway,
    ClockSkewed,
    CommitLate,
    ConfigFault,
    InternalFault,
    NodeDied,
    PeerFault,
    PortTaken,
    RateLimited,
    RpcTimeout,
    StoreFault,
)
from ares_p2p.network import blobs_hivemind
from ares_p2p.network.addresses import (
    check_ports_free,
    is_loopback_only,
    listen_addresses,
    parse_listen_address,
)
from ares_p2p.network.death_watch import DeathWatch
from ares_p2p.network.dht_process import Greeting
from ares_p2p.network.joining import check_greetings, reachability
from ares_p2p.network.limits import RemoteLimits, Throttle, TokenBucket
from ares_p2p.network.remote_errors import MAX_MESSAGE_CHARS, error_of_code
from netfixtures import ALICE, BOB


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# --- limits ------------------------------------------------------------------------------------


def test_a_bucket_gives_its_rate() -> None:
    time = Time()
    bucket = TokenBucket(2.0, 4.0, monotonic=time)
    assert [bucket.take() for _ in range(5)] == [0, 0, 0, 0, 0.5]
    time.now = 0.5
    assert bucket.take() == 0.5
    time.now = 100.0
    assert [bucket.take() for _ in range(5)] == [0, 0, 0, 0, 0.5]


def test_each_remote_has_its_own_rate() -> None:
    time = Time()
    limits = RemoteLimits(
        requests_per_s=1, burst=2, streams_per_remote=1, streams=9, monotonic=time
    )
    for remote in (ALICE.peer_id, BOB.peer_id):
        limits.check_rate(remote)
        limits.check_rate(remote)
        with pytest.raises(RateLimited):
            limits.check_rate(remote)
    time.now = 1.0
    limits.check_rate(ALICE.peer_id)  # refusals cost nothing


def test_streams_are_counted_and_given_back() -> None:
    limits = RemoteLimits(requests_per_s=9, burst=9, streams_per_remote=2, streams=3)
    with limits.stream(ALICE.peer_id), limits.stream(ALICE.peer_id):
        with pytest.raises(RateLimited), limits.stream(ALICE.peer_id):
            pass
        with (
            limits.stream(BOB.peer_id),
            pytest.raises(RateLimited),
            limits.stream(BOB.peer_id),
        ):
            pass
    with limits.stream(ALICE.peer_id), limits.stream(ALICE.peer_id):
        pass
    assert not limits._open


def test_silent_remotes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ares_p2p.network.limits.MAX_REMOTES", 1)
    limits = RemoteLimits(requests_per_s=1, burst=1, streams_per_remote=1, streams=1)
    limits.check_rate(ALICE.peer_id)
    limits.check_rate(BOB.peer_id)
    assert list(limits._buckets) == [BOB.peer_id]


async def test_a_throttle_without_a_rate_is_none() -> None:
    await asyncio.wait_for(Throttle(None).wait(2**40), 1)


async def test_a_throttle_slows_down() -> None:
    throttle = Throttle(1e6)
    await throttle.wait(1_000_000)  # the burst
    before = asyncio.get_running_loop().time()
    await throttle.wait(50_000)
    assert asyncio.get_running_loop().time() - before > 0.04


# --- addresses ---------------------------------------------------------------------------------


def test_listen_addresses_are_read() -> None:
    tcp, quic = listen_addresses("0.0.0.0", 7)
    assert (parse_listen_address(tcp).transport, parse_listen_address(quic).transport) == (
        "tcp",
        "udp",
    )
    assert listen_addresses("::1", 7)[0] == "/ip6/::1/tcp/7"
    assert is_loopback_only(["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"])
    assert not is_loopback_only(["/ip4/127.0.0.1/tcp/0", tcp])


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:80",
        "/ip4/x/tcp/1",
        "/ip4/1.2.3.4/tcp/x",
        "/ip4/1.2.3.4/tcp/70000",
        "/dns4/a/tcp/1",
    ],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigFault):
        parse_listen_address(address)


def test_taken_ports_are_found() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        with pytest.raises(PortTaken, match="tcp port"):
            check_ports_free([f"/ip4/127.0.0.1/tcp/{tcp.getsockname()[1]}"])
        with pytest.raises(PortTaken, match="udp port"):
            check_ports_free([f"/ip4/127.0.0.1/udp/{udp.getsockname()[1]}/quic-v1"])
        check_ports_free(["/ip4/127.0.0.1/tcp/0"])


def test_ports_of_fading_connections_are_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()  # we close first: this side keeps the port in TIME_WAIT
    check_ports_free([f"/ip4/127.0.0.1/tcp/{port}"])


def test_foreign_hosts_are_refused() -> None:
    with pytest.raises(ConfigFault, match="cannot listen"):
        check_ports_free(["/ip4/192.0.2.77/tcp/31100"])


# --- greetings ---------------------------------------------------------------------------------


def greet(*skews: float | None) -> None:
    greetings = [Greeting(f"peer{i}", skew) for i, skew in enumerate(skews)]
    check_greetings(greetings, need_peers=True, max_skew_s=3.0)


def test_one_answer_with_our_time_is_enough() -> None:
    greet(0.1)
    greet(None, -2.9)
    greet(100.0, 0.0)  # one wrong clock among the others' does not keep us out


def test_nobody_answers() -> None:
    with pytest.raises(BootstrapAway, match="none of 2"):
        greet(None, None)
    check_greetings([Greeting("peer", None)], need_peers=False, max_skew_s=3.0)
    check_greetings([], need_peers=True, max_skew_s=3.0)  # the only bootstrap node is this one


@pytest.mark.parametrize(("skew", "words"), [(10.0, "10.0 s behind"), (-4.2, "4.2 s ahead of")])
def test_a_wrong_clock_is_told_by_how_much(skew: float, words: str) -> None:
    with pytest.raises(ClockSkewed, match=words):
        greet(skew, None)


def test_loopback_asks_for_no_way_through_a_router() -> None:
    peers = ["/ip4/203.0.113.7/tcp/1/p2p/x"]
    home = reachability(["/ip4/127.0.0.1/tcp/0"], peers, relay_service=False)
    assert not any(home.values())
    peer = reachability(["/ip4/0.0.0.0/tcp/0"], peers, relay_service=False)
    assert peer["trusted_relays"] == peers
    assert peer["use_auto_relay"]
    relay = reachability(["/ip4/0.0.0.0/tcp/0"], peers, relay_service=True)
    assert relay["nat_port_map"]
    assert not relay["use_auto_relay"]
    assert relay["trusted_relays"] is None  # p2pd refuses to start with relays it may not use


def test_who_listens_nowhere_asks_for_a_relay_at_once() -> None:
    peers = ["/ip4/203.0.113.7/tcp/1/p2p/x"]
    for host in ("/ip4/127.0.0.1/tcp/0", "/ip4/0.0.0.0/tcp/0"):
        hidden = reachability([host], peers, relay_service=False, client_mode=True)
        assert hidden["force_reachability"] == "private"
        assert hidden["use_auto_relay"]
        assert hidden["trusted_relays"] == peers
        assert not hidden["nat_port_map"]  # no port is open
    listening = reachability(["/ip4/0.0.0.0/tcp/0"], peers, relay_service=False)
    assert listening["force_reachability"] is None  # p2pd finds out
    assert listening["auto_nat"]  # and punches holes
    alone = reachability(["/ip4/0.0.0.0/tcp/0"], [], relay_service=False, client_mode=True)
    assert alone["force_reachability"] is None  # nobody is there to relay


# --- codes of remotes --------------------------------------------------------------------------


def test_a_refusal_becomes_its_class() -> None:
    error = error_of_code(CommitLate.code, "too late")
    assert type(error) is CommitLate
    assert error.message == "too late"
    assert error_of_code(CommitLate.code, "").message


@pytest.mark.parametrize("code", [StoreFault.code, "ARES-E999", "", NodeDied.code])
def test_a_remote_cannot_blame_us(code: str) -> None:
    assert type(error_of_code(code, "x")) is PeerFault


def test_what_a_remote_says_is_made_harmless() -> None:
    message = error_of_code(CommitLate.code, "a\n\x1b[2Jb" + "x" * 9999).message
    assert message.isprintable()
    assert len(message) <= MAX_MESSAGE_CHARS


# --- serving -----------------------------------------------------------------------------------


async def test_a_remote_that_reads_nothing_loses_its_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blobs_hivemind, "STALL_TIMEOUT_S", 0.05)
    closed = asyncio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"piece"
        finally:
            closed.set()

    async def send() -> None:
        async with aclosing(blobs_hivemind._with_codes(pieces())) as messages:
            async for _ in messages:
                await asyncio.Event().wait()  # as hivemind does when the remote reads nothing

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(send())
    assert closed.is_set()


# --- death watch -------------------------------------------------------------------------------


async def test_who_waits_is_told_of_the_death() -> None:
    read_end, write_end = os.pipe()
    watch = DeathWatch()
    with pytest.raises(InternalFault):
        watch.check_alive()
    watch.begin(read_end)
    assert await watch.call(asyncio.sleep(0, "answer"), timeout_s=5) == "answer"
    with pytest.raises(RpcTimeout):
        await watch.call(asyncio.Event().wait(), timeout_s=0.01)
    waiting = asyncio.create_task(watch.call(asyncio.Event().wait(), timeout_s=60))
    os.close(write_end)  # as the sentinel of a process that ends
    with pytest.raises(NodeDied, match="DHT process ended"):
        await waiting
    assert await watch.wait() == "the DHT process ended"
    with pytest.raises(NodeDied):
        await watch.call(asyncio.Event().wait(), timeout_s=60)
    os.close(read_end)


async def test_a_call_that_is_given_up_is_cancelled() -> None:
    read_end, write_end = os.pipe()
    watch = DeathWatch()
    watch.begin(read_end)
    cancelled = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(RpcTimeout):
        await watch.call(endless(), timeout_s=0.01)
    await asyncio.wait_for(cancelled.wait(), 5)
    watch.end()
    os.close(read_end)
    os.close(write_end)
