"""How a trainer finds the ways: which address counts, and what a lost node means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ares_p2p.errors import BootstrapAway, ClockSkewed, ConfigFault, PortTaken
from ares_p2p.network.invite import Invite
from ares_peer.connecting import find_api, start_node
from ares_peer.events import IdentityKnown, WayChanged
from ares_peer.links import UNREACHABLE_WAY
from ares_peer.progress import Status, advance
from ares_peer.settings import TrainerSettings, remember_api
from ares_peer.summary import status_rows
from ares_peer.ways import Way
from ares_peer.wording import sentence
from netfixtures import COORDINATOR

ADDRESS = f"/ip4/127.0.0.1/tcp/9/p2p/{COORDINATOR.peer_id}"
INVITE = Invite("net", COORDINATOR.peer_id, (ADDRESS,), "https://invited.example")


def settings(folder: Path, **changes: Any) -> TrainerSettings:
    return TrainerSettings(data_dir=folder, invite="", **changes)


def test_the_persons_word_counts_then_the_networks_then_the_invites(tmp_path: Path) -> None:
    assert find_api(settings(tmp_path), INVITE) == "https://invited.example"
    remember_api(tmp_path, "https://said.example/")
    assert find_api(settings(tmp_path), INVITE) == "https://said.example"
    named = settings(tmp_path, api_url="https://named.example")
    assert find_api(named, INVITE) == "https://named.example"


def test_an_operators_mistake_leaves_p2p_as_it_is(tmp_path: Path) -> None:
    remember_api(tmp_path, "http://public.example")
    bare = Invite("net", COORDINATOR.peer_id, (ADDRESS,))
    assert find_api(settings(tmp_path), bare) == ""
    assert find_api(settings(tmp_path), INVITE) == "https://invited.example"
    with pytest.raises(ConfigFault, match="where the coordinator's API is"):
        find_api(settings(tmp_path, way="http"), bare)
    with pytest.raises(ConfigFault, match="plain http"):
        find_api(settings(tmp_path, api_url="http://public.example"), INVITE)


def test_no_node_is_started_where_it_would_be_of_no_use(tmp_path: Path) -> None:
    api = "https://ares.example"
    said: list[Any] = []
    only_http = settings(tmp_path, way="http")
    assert start_node(only_http, INVITE, api_url=api, emit=said.append) is None
    no_addresses = Invite("net", COORDINATOR.peer_id)
    assert start_node(settings(tmp_path), no_addresses, api_url=api, emit=said.append) is None
    assert said == []


@pytest.mark.parametrize(
    ("fault", "way", "api_url", "is_raised"),
    [
        (ClockSkewed("x"), "auto", "https://ares.example", False),
        (ClockSkewed("x"), "auto", "", True),
        (BootstrapAway("x"), "p2p", "https://ares.example", True),
        (PortTaken("x"), "auto", "https://ares.example", True),  # a mistake that can be mended
    ],
)
def test_https_stands_in_for_a_node_that_cannot_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    way: str,
    api_url: str,
    is_raised: bool,
) -> None:
    from ares_p2p.network.node import Node

    asked: list[Any] = []

    def start(**arguments: Any) -> None:
        asked.append(arguments["need_peers"])
        raise fault

    monkeypatch.setattr(Node, "start", start)
    said: list[Any] = []
    chosen = settings(tmp_path, way=way)
    if is_raised:
        with pytest.raises(type(fault)):
            start_node(chosen, INVITE, api_url=api_url, emit=said.append)
        assert said == []
    else:
        assert start_node(chosen, INVITE, api_url=api_url, emit=said.append) is None
        (told,) = said
        assert (told.code, told.fatal) == (ClockSkewed.code, False)
    # where there is another way, bootstrap peers that do not answer are no reason to stop
    assert asked == [not (way == "auto" and api_url)]


# --- what a person sees -------------------------------------------------------------------------


def test_the_way_is_shown_while_the_peer_runs() -> None:
    status = advance(Status(1, 1.0), IdentityKnown("12D3KooW", "net"), now_ms=1)
    status = advance(status, WayChanged("http", "p2pd ended"), now_ms=2)
    assert status.way == "http"
    rows = dict(status_rows(status, running=True, now_ms=3))
    assert rows["way"] == "over HTTPS, through the coordinator"
    assert "way" not in dict(status_rows(status, running=False, now_ms=3))
    assert status.last_event == "connected over HTTPS, through the coordinator: p2pd ended"


def test_every_way_has_words_and_one_cannot_be_reached() -> None:
    texts = {sentence(WayChanged(way.value)) for way in Way}
    assert len(texts) == len(Way)
    assert UNREACHABLE_WAY == Way.HTTP
