"""What a volunteer may set, what the data directory remembers, and what the trainer is told.

Precedence: an option of the command, then `ARES_PEER_*` in the environment, then what an
earlier `join` stored in `<data dir>/peer.json`, then the default. Text edges only: nothing past
them carries a dictionary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from ares_p2p.errors import ConfigFault, InviteWrongNetwork, NotInitialised
from ares_p2p.files import write_atomically

SETTINGS_FILE: Final = "peer.json"
NETWORK_FILE: Final = "network"  # the id of the one network this directory belongs to
API_FILE: Final = "api-url"  # as the network's descriptor says
IDENTITY_FILE: Final = "identity.key"
STATUS_FILE: Final = "status.json"
PROCESSES_FILE: Final = "processes.json"
LOG_DIR: Final = "logs"
MAX_SETTINGS_BYTES: Final = 65_536  # an invite is below 2 kB; bounds a file that is not ours

Device = Literal["auto", "cpu", "cuda"]
Role = Literal["trainer", "auditor"]
Port = Annotated[int, Field(ge=0, le=65_535)]
Threads = Annotated[int, Field(ge=0, le=1_024)]  # 0 = torch decides
Name = Annotated[str, Field(min_length=1, max_length=40)]
WayOption = Literal["auto", "p2p", "http"]
ApiUrl = Annotated[str, Field(max_length=256)]
Announce = Annotated[tuple[str, ...], Field(max_length=8)]


def default_data_dir() -> Path:
    """Return the user's data directory for ARES on this system."""
    return Path(platformdirs.user_data_dir("ares"))


class PeerSettings(BaseSettings):
    """One peer's settings, complete."""

    model_config = SettingsConfigDict(env_prefix="ARES_PEER_", frozen=True, extra="ignore")

    data_dir: Path = Field(default_factory=default_data_dir)
    invite: str = Field(default="", max_length=8_192)
    host: str = Field(default="0.0.0.0", max_length=64)
    port: Port = 0  # 0 = any free one
    announce: Announce = ()
    way: WayOption = "auto"
    api_url: ApiUrl = ""  # of the coordinator; "" = as the invite or the network says
    client_mode: bool = False  # listen nowhere, store nothing of the DHT for others
    base: Path | None = None  # a folder with the base model; None = fetched from the network
    device: Device = "auto"
    threads: Threads = 0
    role: Role = "trainer"
    name: Name | None = None  # shown on the leaderboard; None = a pseudonym


class Remembered(BaseModel):
    """What a later `join` without options uses again: `<data dir>/peer.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    invite: str = ""
    host: str | None = None
    port: Port | None = None
    announce: Announce | None = None
    way: WayOption | None = None
    api_url: ApiUrl | None = None
    client_mode: bool | None = None
    base: Path | None = None
    device: Device | None = None
    threads: Threads | None = None
    role: Role | None = None
    name: Name | None = None


class TrainerSettings(BaseModel):
    """The one line of JSON on the trainer's stdin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path
    invite: str
    host: str = "0.0.0.0"
    port: Port = 0
    announce: tuple[str, ...] = ()
    way: WayOption = "auto"
    api_url: str = ""
    client_mode: bool = False
    base: Path | None = None
    device: Device = "auto"
    threads: Threads = 0
    role: Role = "trainer"
    name: str | None = None
    exit_after_cycle: bool = False

    def to_json_line(self) -> bytes:
        """Return these settings as one line."""
        return self.model_dump_json().encode() + b"\n"

    @staticmethod
    def from_json_line(line: bytes | str) -> TrainerSettings:
        """Return the settings that `line` holds. Raises: ConfigFault."""
        try:
            return TrainerSettings.model_validate_json(line)
        except ValidationError as error:
            raise ConfigFault(f"trainer settings: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """Return what pydantic refused as one sentence: field, reason; field, reason."""
    parts = (
        f"{'.'.join(str(step) for step in part['loc']) or 'text'}: {part['msg']}"
        for part in error.errors(include_url=False, include_input=False)
    )
    return "; ".join(parts)


def load_remembered(data_dir: Path) -> Remembered:
    """Return what an earlier `join` stored; nothing stored is no error.

    Raises: ConfigFault: the file is not ours or damaged.
    """
    path = data_dir / SETTINGS_FILE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES)
    except FileNotFoundError:
        return Remembered()
    except OSError as error:
        raise ConfigFault(f"{path}: {error.strerror}") from error
    try:
        return Remembered.model_validate_json(data)
    except ValidationError as error:
        raise ConfigFault(
            f"{path}: {describe(error)}", hint=f"Mend or remove {path}, then join again."
        ) from error


def save_remembered(data_dir: Path, remembered: Remembered) -> None:
    """Store what a later `join` uses again."""
    text = remembered.model_dump_json(indent=2, exclude_none=True)
    write_atomically(data_dir / SETTINGS_FILE, text.encode() + b"\n", mode=0o600)


def merge_remembered(earlier: Remembered, options: dict[str, object]) -> Remembered:
    """Return what to remember after a `join` with `options` (None = not given).

    The environment is not remembered: it is there again the next time, or gone on purpose.
    """
    given = {name: value for name, value in options.items() if value is not None}
    return Remembered.model_validate({**earlier.model_dump(), **given})


def chosen_data_dir(option: Path | None) -> Path:
    """Return the data directory that the option, the environment or the system names."""
    return (option if option is not None else _from_environment().data_dir).expanduser()


def build_settings(options: dict[str, object], remembered: Remembered) -> PeerSettings:
    """Return the settings from options (None = not given), environment and memory.

    Raises: ConfigFault: a value out of its range.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        environment = _from_environment().model_dump(exclude_unset=True)
        stored = remembered.model_dump(exclude_none=True)
        stored = {name: value for name, value in stored.items() if value != ""}
        return PeerSettings.model_validate({**stored, **environment, **given})
    except ValidationError as error:
        raise ConfigFault(
            f"settings: {describe(error)}", hint="`ares-peer join --help` lists the options."
        ) from error


def claim_network(data_dir: Path, network_id: str) -> None:
    """Bind the data directory to a network, once and for good.

    Raises: InviteWrongNetwork: it belongs to another one; keys, states and credit would mix.
    """
    path = data_dir / NETWORK_FILE
    if not path.exists():
        write_atomically(path, f"{network_id}\n".encode())
    known = path.read_text(encoding="utf-8", errors="replace").strip()
    if known != network_id:
        raise InviteWrongNetwork(
            f"{data_dir} belongs to network {known[:64]}, the invite is for {network_id}"
        )


def remember_api(data_dir: Path, api_url: str) -> None:
    """Note where the network's API is, for commands that ask it while no session runs."""
    path, content = data_dir / API_FILE, f"{api_url}\n".encode()
    if api_url and not (path.exists() and path.read_bytes() == content):
        write_atomically(path, content)


def remembered_network(data_dir: Path) -> tuple[str, str]:
    """Return the network's id and the address of its API; "" for what is not known.

    Raises: NotInitialised: no peer has run here yet.
    """
    try:
        network_id = (data_dir / NETWORK_FILE).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise NotInitialised(
            f"{data_dir} knows no network yet", hint="ares-peer join ares://..."
        ) from error
    return network_id, remembered_api(data_dir)


def remembered_api(data_dir: Path) -> str:
    """Return where the network's API is, as far as this directory knows; "" if it does not."""
    path = data_dir / API_FILE
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _from_environment() -> PeerSettings:
    try:
        return PeerSettings()
    except (ValidationError, SettingsError) as error:
        detail = describe(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigFault(
            f"ARES_PEER_* in the environment: {detail}", hint="env | grep ARES_PEER_"
        ) from error
