"""docs/network.md says what the program does: paths, options, settings, limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from ares_coordinator.api.access import ADDRESS_PER_MINUTE, SWARM_PER_MINUTE
from ares_coordinator.api.swarm import SwarmRoutes
from ares_coordinator.gateway import UPLOADS, UPLOADS_PER_PEER
from ares_coordinator.settings import NetworkSection
from ares_p2p.crypto.requests import GOOD_FOR_MS
from ares_p2p.network.http_api import MAX_KEYS, MAX_UPLOAD_BYTES, PREFIX
from ares_p2p.network.node import MAX_SKEW_S
from ares_p2p.network.watching import MAX_WAIT_S, MAX_WISHES
from ares_peer.cli import app
from ares_peer.connecting import RENEW_S
from ares_peer.switched import ALONE_S
from ares_peer.ways import FIRST_HOLD_MS, LEAVE_AFTER, LONGEST_HOLD_MS, RETURN_AFTER, Way
from ares_peer.wording import way_text


@pytest.fixture(scope="module")
def text() -> str:
    path = Path(__file__).resolve().parents[2] / "docs" / "network.md"
    return " ".join(path.read_text(encoding="utf-8").split())


def test_every_path_is_listed_and_no_other(text: str) -> None:
    routes = SwarmRoutes(cast("Any", None)).routes()
    served = {(route.method, route.path) for route in routes}
    listed = set(re.findall(r"\| (GET|PUT|POST) `(/swarm/[^`]*)` \|", text))
    assert listed == served
    assert f"{PREFIX}/" in text


def test_every_way_is_explained_in_the_words_of_the_program(text: str) -> None:
    for way in Way:
        assert f"| {way_text(way.value)} |" in text


def test_every_option_exists(text: str) -> None:
    said = CliRunner().invoke(app, ["join", "--help"], env={"COLUMNS": "200"}).stdout
    for option in ("--way", "--api-url", "--client-mode", "--port", "--announce"):
        assert option in said
        assert option in text


def test_every_setting_exists(text: str) -> None:
    named = set(re.findall(r"`network\.(\w+)`", text)) | {"api_url", "api_proxies"}
    assert named <= set(NetworkSection.model_fields)
    defaults = NetworkSection(name="x")
    assert defaults.api_proxies == ("127.0.0.1", "::1")
    assert f"({defaults.api_host}:{defaults.api_port})" in text


def test_every_number_is_the_programs(text: str) -> None:
    assert LEAVE_AFTER == RETURN_AFTER == 3
    assert (FIRST_HOLD_MS, LONGEST_HOLD_MS, RENEW_S) == (60_000, 1_800_000, 1_800)
    assert ALONE_S == 5
    assert f"up to {MAX_KEYS} keys" in text
    assert f"up to {MAX_WISHES} keys" in text
    assert f"after at most {MAX_WAIT_S:.0f} s" in text
    assert f"larger than {MAX_UPLOAD_BYTES // 1024} KiB" in text
    assert f"{SWARM_PER_MINUTE:,} requests a minute here, an address {ADDRESS_PER_MINUTE:,}" in text
    assert f"{UPLOADS_PER_PEER} at a time for a worker and {UPLOADS} in all" in text
    assert f"by {MAX_SKEW_S:.0f} seconds peer to peer, and by {GOOD_FOR_MS // 1000} over" in text
