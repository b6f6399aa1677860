"""What must be right before a trainer starts: each check raises a coded error with a next step.

It looks at this machine only. Whether the network answers is the trainer's finding, because
there waiting may help; here it does not.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
from pathlib import Path
from typing import Final

from ares_p2p.crypto.keys import load_or_create_identity
from ares_p2p.errors import (
    BaseUnsupported,
    ConfigFault,
    DiskFull,
    InviteMalformed,
    NotInitialised,
    PortTaken,
)
from ares_p2p.ids import PeerId
from ares_p2p.network.http_api import check_api_url
from ares_p2p.network.invite import parse_invite
from ares_peer.settings import IDENTITY_FILE, PeerSettings, claim_network, remembered_api

MIN_FREE_BYTES: Final = 1024**3  # a small base, its dataset, and some rounds' states and blobs
_WEB_SCHEMES: Final = ("https://", "http://")


def prepare_data_dir(data_dir: Path) -> None:
    """Make the data directory, for its owner only.

    Raises: ConfigFault: it cannot be made or written. DiskFull: too little space on its disk.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigFault(
            f"{data_dir} cannot be made: {error.strerror}", hint="Choose another --data-dir."
        ) from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise ConfigFault(f"{data_dir} is not writable", hint="Choose another --data-dir.")
    free_bytes = shutil.disk_usage(data_dir).free
    if free_bytes < MIN_FREE_BYTES:
        raise DiskFull(
            f"{free_bytes / 1024**3:.2f} GiB free at {data_dir}, "
            f"at least {MIN_FREE_BYTES / 1024**3:.0f} GiB expected"
        )


def check_ready(settings: PeerSettings) -> PeerId:
    """Check invite, base, address and identity. Returns: this peer's id, made on the first call.

    The data directory must be there and locked by the caller.

    Raises: NotInitialised, InviteMalformed, InviteWrongNetwork, BaseUnsupported, ConfigFault,
        PortTaken, KeyFileTooOpen, KeyFileMalformed.
    """
    check_invite(settings)
    if settings.base is not None and not settings.base.is_dir():
        raise BaseUnsupported(
            f"--base {settings.base} is no folder",
            hint="Give the folder with config.json and *.safetensors, or leave --base out.",
        )
    check_port(settings.host, settings.port)
    return load_or_create_identity(settings.data_dir / IDENTITY_FILE).peer_id


def check_invite(settings: PeerSettings) -> None:
    """Refuse an invite that cannot be meant, as early as possible.

    A web address is resolved by the trainer, which can wait for it.

    Raises: NotInitialised: none given, none remembered. InviteMalformed, InviteWrongNetwork.
        ConfigFault: HTTPS alone is wanted, and nobody says where, or where it may not be used.
    """
    if not settings.invite:
        raise NotInitialised(
            f"{settings.data_dir} knows no network yet", hint="ares-peer join ares://..."
        )
    if not settings.invite.strip().lower().startswith(_WEB_SCHEMES):
        invite = parse_invite(settings.invite)
        if not invite.addresses and not (settings.api_url or invite.api_url):
            raise InviteMalformed("the invite names a network but no address to start from")
        claim_network(settings.data_dir, invite.network_id)
        known = settings.api_url or invite.api_url or remembered_api(settings.data_dir)
        if settings.way == "http" and not known:
            raise ConfigFault(
                "--way http, but the invite does not say where the coordinator's API is",
                hint="ares-peer join --way http --api-url https://...",
            )
    if settings.api_url:
        check_api_url(settings.api_url)


def check_port(host: str, port: int) -> None:
    """Refuse an address that this machine cannot listen on.

    Raises: ConfigFault: no IPv4 address of this machine. PortTaken: in use.
    """
    try:
        ipaddress.IPv4Address(host)
    except ValueError as error:
        raise ConfigFault(
            f"--host {host!r} is no IPv4 address", hint="Use 0.0.0.0 for all interfaces."
        ) from error
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        name = "TCP" if kind == socket.SOCK_STREAM else "UDP"
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:  # a closed connection's leftover does not block p2pd
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except PermissionError as error:
                raise ConfigFault(
                    f"{name} port {port} is reserved for root", hint="Use a --port above 1023."
                ) from error
            except OSError as error:
                if port == 0:
                    raise ConfigFault(
                        f"this machine has no address {host}: {error.strerror}",
                        hint="Use --host 0.0.0.0 for all interfaces.",
                    ) from error
                raise PortTaken(f"{name} port {port} on {host}: {error.strerror}") from error
