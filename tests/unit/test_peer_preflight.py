"""What must be right before anything starts: each check, its code, and a next step."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import NamedTuple

import pytest

from ares_p2p.crypto.keys import Identity
from ares_p2p.errors import (
    BaseUnsupported,
    ConfigFault,
    DiskFull,
    InviteMalformed,
    InviteWrongNetwork,
    KeyFileTooOpen,
    NotInitialised,
    PortTaken,
)
from ares_p2p.network.http_api import check_api_url
from ares_p2p.network.invite import Invite
from ares_peer.preflight import check_port, check_ready, prepare_data_dir
from ares_peer.settings import IDENTITY_FILE, PeerSettings


def invite(name: str = "tiny-net") -> str:
    coordinator = Identity.from_seed(bytes(32)).peer_id
    return Invite(name, coordinator, (f"/ip4/127.0.0.1/tcp/1/p2p/{coordinator}",)).encode()


def settings(tmp_path: Path, **changes: object) -> PeerSettings:
    return PeerSettings.model_validate({"data_dir": tmp_path, "invite": invite(), **changes})


def test_all_well_makes_an_identity_once(tmp_path: Path) -> None:
    first = check_ready(settings(tmp_path))
    assert first == check_ready(settings(tmp_path))
    assert first.startswith("12D3KooW")


def test_no_invite_anywhere(tmp_path: Path) -> None:
    with pytest.raises(NotInitialised) as caught:
        check_ready(settings(tmp_path, invite=""))
    assert "ares-peer join" in caught.value.hint


def test_broken_invite(tmp_path: Path) -> None:
    with pytest.raises(InviteMalformed):
        check_ready(settings(tmp_path, invite=invite()[:-3]))


def test_invite_without_addresses(tmp_path: Path) -> None:
    reference = Invite("tiny-net", Identity.from_seed(bytes(32)).peer_id).encode()
    with pytest.raises(InviteMalformed, match="no address"):
        check_ready(settings(tmp_path, invite=reference))


def test_the_way_over_https_needs_an_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="does not say where") as caught:
        check_ready(settings(tmp_path, way="http"))
    assert "--api-url" in caught.value.hint
    check_ready(settings(tmp_path, way="http", api_url="https://ares.example"))
    with pytest.raises(ConfigFault, match="plain http"):
        check_ready(settings(tmp_path, api_url="http://ares.example"))


def test_an_invite_with_a_web_address_alone_will_do(tmp_path: Path) -> None:
    coordinator = Identity.from_seed(bytes(32)).peer_id
    text = Invite("tiny-net", coordinator, api_url="https://ares.example").encode()
    check_ready(settings(tmp_path, invite=text, way="http"))


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("https://ares.example", True),
        ("https://ares.example:8443/under/here/", True),
        ("http://127.0.0.1:8787", True),
        ("http://localhost:8787", True),
        ("http://192.168.1.5:8787", True),  # nothing leaves the house
        ("http://[::1]:8787", True),
        ("http://203.0.113.7:8787", False),
        ("http://ares.example", False),
        ("ftp://ares.example", False),
        ("https://", False),
        ("https://user:word@ares.example", False),
        ("https://ares.example/?x=1", False),
        ("https://ares.example/%2e%2e", False),
        ("https://ares.example:99999", False),
        ("ares.example", False),
    ],
)
def test_addresses_of_an_api(url: str, fits: bool) -> None:
    if fits:
        assert check_api_url(url) == url.rstrip("/")
    else:
        with pytest.raises(ConfigFault):
            check_api_url(url)


def test_invite_of_another_network(tmp_path: Path) -> None:
    check_ready(settings(tmp_path))
    with pytest.raises(InviteWrongNetwork) as caught:
        check_ready(settings(tmp_path, invite=invite("other-net")))
    assert "--data-dir" in caught.value.hint


def test_web_address_is_left_to_the_trainer(tmp_path: Path) -> None:
    assert check_ready(settings(tmp_path, invite="https://ares.example"))


def test_key_file_that_others_may_read(tmp_path: Path) -> None:
    check_ready(settings(tmp_path))
    (tmp_path / IDENTITY_FILE).chmod(0o644)
    with pytest.raises(KeyFileTooOpen) as caught:
        check_ready(settings(tmp_path))
    assert "chmod 600" in caught.value.hint


def test_base_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BaseUnsupported):
        check_ready(settings(tmp_path, base=tmp_path / "absent"))


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_port_in_use(kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        with pytest.raises(PortTaken, match=str(taken.getsockname()[1])):
            check_port("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("host", ["localhost", "::1", "1.2.3", "203.0.113.7"])
def test_host_that_this_machine_has_not(host: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        check_port(host, 0)
    assert "0.0.0.0" in caught.value.hint


def test_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        total: int = 10**12
        used: int = 10**12 - 10**8
        free: int = 10**8

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage())
    with pytest.raises(DiskFull, match=r"0\.09 GiB free"):
        prepare_data_dir(tmp_path / "new")


def test_data_dir_is_made_for_its_owner_only(tmp_path: Path) -> None:
    prepare_data_dir(tmp_path / "deep" / "new")
    assert (tmp_path / "deep" / "new").stat().st_mode & 0o077 == 0


def test_data_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigFault):
        prepare_data_dir(tmp_path / "file")
