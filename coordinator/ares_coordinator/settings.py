"""The coordinator's settings: `<data dir>/config.toml`, written once by `init`, read at start.

Everything a cycle computes with is copied into its signed CycleConfig when the cycle begins:
changing the file changes the next cycle, never a running one.
"""

from __future__ import annotations

import tomllib
import zoneinfo
from pathlib import Path
from typing import Annotated, Final, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ares_p2p.domain import CATEGORIES, Limits, TrainingConfig
from ares_p2p.errors import ConfigFault, NotInitialised, PayloadMalformed
from ares_p2p.ids import public_key_of

CONFIG_FILE: Final = "config.toml"
IDENTITY_FILE: Final = "identity.key"
DATABASE_FILE: Final = "ares.db"

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]

LINEAR_TARGETS: Final = (
    "down_proj",
    "gate_proj",
    "k_proj",
    "o_proj",
    "q_proj",
    "up_proj",
    "v_proj",
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkSection(_Section):
    """Where the coordinator listens and who helps newcomers find it."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^[a-z0-9][a-z0-9-]*$")
    host: str = "0.0.0.0"
    port: int = Field(default=0, ge=0, le=65_535)
    announce: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8787, ge=0, le=65_535)
    api_limits: bool = True  # requests per minute by address and tier
    # How the outside reaches the API: invites name it. "": http://api_host:api_port, and peers that
    # are not on this machine have no HTTPS way; see docs/network.md.
    api_url: str = Field(default="", max_length=256, pattern=r"^(https?://[!-~]+)?$")
    api_proxies: tuple[str, ...] = ("127.0.0.1", "::1")  # whose X-Forwarded-For is believed
    api_origins: tuple[str, ...] = ()  # of pages elsewhere that may watch /ws; "*": any


class BaseSection(_Section):
    """The frozen base: a folder with safetensors, or a hub id with a revision."""

    path: str = ""
    name: str = "ares-base"
    hub_id: str = ""
    revision: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"


class DataSection(_Section):
    """What the teacher makes for one cycle."""

    examples_per_category: Positive = 250
    categories: tuple[str, ...] = CATEGORIES
    languages: tuple[str, ...] = ()  # ISO 639-1 codes that rows may be in; empty: any
    # Of who trains on what, of the adapter's start and of the rows, which are then the same in each
    # cycle: to compare runs. -1: all of it fresh.
    seed: int = Field(default=-1, ge=-1)
    # Of a cycle's training rows, how many come again from earlier promoted cycles, on top of the new
    # ones, so that less is forgotten; 0: none.
    replay_share: float = Field(default=0.15, ge=0, le=0.5)

    @model_validator(mode="after")
    def _known(self) -> DataSection:
        if unknown := [name for name in self.categories if name not in CATEGORIES]:
            raise ValueError(f"unknown categories: {', '.join(unknown)}")
        return self


class ModelPrices(_Section):
    """US dollars for a million tokens of each kind."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cache_write: float = Field(ge=0)
    cache_read: float = Field(ge=0)


class TeacherSection(_Section):
    """Who writes the examples. What follows `kind` is about a teacher that is asked over the network.

    The provider's terms decide whether its words may train a model; README says what to check.
    """

    kind: Literal["procedural", "opus"] = "procedural"
    model: str = Field(default="claude-opus-5-5", min_length=1, max_length=100)
    # "": the provider's own; any server that speaks POST /v1/messages
    base_url: str = Field(default="", pattern=r"^(https?://\S+)?$")
    permission_ref: str = Field(default="", max_length=500)  # under which agreement it may teach
    licence: str = Field(default="", max_length=200)  # of the answers; goes into every example
    prices_as_of: str = Field(default="2026-09-23", pattern=r"^\d{4}-\d\d-\d\d$")
    prices: dict[str, ModelPrices] = {  # by model; platform.claude.com/docs, models, 5m cache
        "claude-opus-5-5": ModelPrices(input=4, output=20, cache_write=5, cache_read=0.2),
        "claude-opus-5": ModelPrices(input=5, output=25, cache_write=6.25, cache_read=0.5),
    }
    cap_usd_per_run: float = Field(default=20, ge=0)
    cap_usd_per_day: float = Field(default=50, ge=0)
    cap_usd_per_cycle: float = Field(default=50, ge=0)
    cap_usd_per_category: float = Field(default=10, ge=0)  # of one cycle
    max_concurrency: int = Field(default=8, gt=0, le=64)
    max_output_tokens: int = Field(default=3000, ge=256, le=32_000)  # of one answer
    thinking_tokens: int = Field(default=3000, ge=0, le=64_000)  # added where the model thinks
    effort: Literal["", "low", "medium", "high"] = ""  # "": the model's own default
    timeout_s: float = Field(default=600, gt=0)  # of one request
    judge_share: float = Field(default=0.25, ge=0, le=1)  # of the examples; seeded
    judge_min: int = Field(default=3, ge=1, le=5)  # every criterion; below it the row is left out
    second_answer_share: float = Field(default=0.25, ge=0, le=1)  # solved twice, must agree
    fallback: Literal["wait", "procedural"] = "wait"  # when the teacher cannot be asked


class TrainingSection(_Section):
    """The numbers of local and outer steps; see docs/adr/0003 for how they were chosen."""

    rank: Positive = 16
    alpha: Positive = 32
    targets: tuple[str, ...] = LINEAR_TARGETS
    quantization: Literal["nf4", "none"] = "nf4"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    sequence_length: Positive = 256
    sequences_per_step: Positive = 8
    min_steps: Positive = 10
    max_steps: Positive = 10
    inner_lr: Rate = 0.003
    beta2: float = Field(default=0.99, ge=0, lt=1)
    eps: Rate = 1e-8
    max_grad_norm: float = Field(default=0.0, ge=0)  # 0: off, RMSProp bounds the step itself
    outer_lr: Rate = 0.8
    outer_momentum: float = Field(default=0.5, ge=0, lt=1)
    # 1: with error feedback, which no auditor can replay: only with [audit] mode = "off"
    codec_bits: Literal[1, 2, 3, 4, 8] = 2
    codec_block: Literal[32, 64, 128, 256] = 128

    @model_validator(mode="after")
    def _ordered(self) -> TrainingSection:
        if self.min_steps > self.max_steps:
            raise ValueError("min_steps is above max_steps")
        return self

    def to_domain(self) -> TrainingConfig:
        """Return the same numbers as the signed config carries them."""
        return TrainingConfig(**self.model_dump())


class GrowthSection(_Section):
    """When the adapters are merged into a new base; docs/growth.md."""

    merge_threshold: int = Field(default=10, ge=0, le=100)  # adapters on the stack; 0: never


class RoundsSection(_Section):
    """The clock of rounds."""

    rounds: Positive = 60
    min_peers: Positive = 1
    # measured: from the speeds of the peers that are there, train_s and serve_s at most; see
    # docs/adr/0008. fixed: always these two. A round ends earlier when everybody is done.
    clock: Literal["measured", "fixed"] = "measured"
    train_s: float = Field(default=300, gt=0)  # from the plan to the commit deadline
    serve_s: float = Field(default=120, gt=0)  # for fetching everybody's contributions
    max_peers: int = Field(default=64, gt=0, le=100)  # a CommitSet record holds about 110 commits
    # Rounds between two looks at the held-out loss. Above 1 there are no poison alarms: they
    # compare a round's end with its start.
    held_out_every: Positive = 1
    held_out_examples: Positive = 128  # of them, 32 for an alarm; the gate itself uses all

    def limits(self, *, blob_bytes: int) -> Limits:
        """Return the bounds that the signed config carries.

        Args:
            blob_bytes: what a contribution has; the codec's size depends on nothing else.
        """
        return Limits(
            max_peers_per_round=self.max_peers,
            max_blob_bytes=blob_bytes,
            max_dataset_bytes=256 * 1024**2,
        )


class AveragingSection(_Section):
    """How the contributions of a round become one sum; docs/averaging.md, docs/adr/0007."""

    # hivemind: on hivemind's own averager, for peers that trust each other. Nothing is left to
    # audit, so it wants [audit] mode = "off", and nothing is paid.
    strategy: Literal["gather", "hivemind"] = "gather"
    # auto: chosen when a round opens, from the number of peers, sizes and upload speeds.
    # gather: everybody fetches everything. butterfly: always by parts that few peers make.
    exchange: Literal["auto", "gather", "butterfly"] = "auto"
    down_bits: Literal[2, 3, 4, 8] = 3  # of a part of the sum; in a cycle every round has these
    parts: int = Field(default=0, ge=0, le=64)  # of a round by parts; 0: what moves fewest bytes


class AuditSection(_Section):
    """Who replays what."""

    # shadow: verdicts without consequences. off: no audits; nothing is verified, so nothing is paid
    mode: Literal["enforce", "shadow", "off"] = "enforce"
    auditors: tuple[str, ...] = ()  # peer ids that may audit whatever their tier
    decoy_rate: float = Field(default=0.02, ge=0, le=1)  # rounds with a forged contribution of ours
    report_s: float = Field(default=120, gt=0)  # how long an auditor has; then we replay ourselves

    @model_validator(mode="after")
    def _are_peer_ids(self) -> AuditSection:
        for peer in self.auditors:
            try:
                public_key_of(peer)
            except PayloadMalformed as error:
                raise ValueError(f"auditors: {error.message}") from error
        return self


class ScheduleSection(_Section):
    """How the schedule is read that `ares-coordinator schedule` or the API sets."""

    timezone: str = Field(default="UTC", max_length=60)  # IANA: what "daily" at 03:00 means
    # What becomes of a cycle whose time came while the coordinator was not running.
    missed: Literal["once", "skip"] = "once"

    @model_validator(mode="after")
    def _known(self) -> ScheduleSection:
        try:
            zoneinfo.ZoneInfo(self.timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"timezone: {self.timezone!r} is no IANA time zone") from error
        return self


class DatabaseSection(_Section):
    """Where the books are kept; "": ares.db in the data directory."""

    url: str = ""  # postgresql://user@host/name; ARES_DATABASE_URL overrides it


class CreditSection(_Section):
    """Prices and tiers."""

    reference_tokens_per_hour: Positive = 7_200_000  # 2,000 tokens/s: an 8B base on a good GPU
    contributor: Positive = 100
    trainer: Positive = 500
    core: Positive = 1000
    public_release_h: float = Field(default=72, ge=0)  # a new adapter is for everybody after that
    hold_rounds: int = Field(default=0, ge=0)  # so long is credit pending that is paid on trust
    clawback: bool = True  # a failed audit takes back what was paid on trust since the last pass

    @model_validator(mode="after")
    def _rising(self) -> CreditSection:
        if not 0 < self.contributor < self.trainer < self.core:
            raise ValueError("contributor, trainer and core must rise")
        return self


class CoordinatorSettings(_Section):
    """One coordinator, complete."""

    network: NetworkSection
    base: BaseSection = BaseSection()
    data: DataSection = DataSection()
    teacher: TeacherSection = TeacherSection()
    training: TrainingSection = TrainingSection()
    growth: GrowthSection = GrowthSection()
    rounds: RoundsSection = RoundsSection()
    averaging: AveragingSection = AveragingSection()
    credit: CreditSection = CreditSection()
    audit: AuditSection = AuditSection()
    schedule: ScheduleSection = ScheduleSection()
    database: DatabaseSection = DatabaseSection()

    @model_validator(mode="after")
    def _auditable(self) -> CoordinatorSettings:
        if self.training.codec_bits == 1 and self.audit.mode != "off":
            raise ValueError(
                "[training] codec_bits = 1 works with error feedback, which no audit can replay: "
                'set [audit] mode = "off" (then nothing is paid), or codec_bits to 2, 3, 4 or 8'
            )
        if self.averaging.strategy == "hivemind" and self.audit.mode != "off":
            raise ValueError(
                '[averaging] strategy = "hivemind" leaves nothing that could be audited: set '
                '[audit] mode = "off" (then nothing is paid), or strategy to "gather"'
            )
        return self


def default_data_dir() -> Path:
    """Return the user's data directory for a coordinator on this system."""
    return Path(platformdirs.user_data_dir("ares-coordinator"))


def load_settings(data_dir: Path) -> CoordinatorSettings:
    """Return the settings in `<data_dir>/config.toml`.

    Raises: NotInitialised: there are none. ConfigFault: TOML or a value is not right.
    """
    path = data_dir / CONFIG_FILE
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return CoordinatorSettings.model_validate(content)
    except FileNotFoundError as error:
        raise NotInitialised(
            f"{data_dir} holds no coordinator",
            hint=f"ares-coordinator init --data-dir {data_dir} --name my-network --base FOLDER",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigFault(f"{path}: {error}", hint="Mend the line, then start again.") from error
    except ValidationError as error:
        where = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()[:5]
        )
        raise ConfigFault(f"{path}: {where}", hint="Mend the value, then start again.") from error


def write_settings(data_dir: Path, settings: CoordinatorSettings) -> Path:
    """Write `config.toml` with every value, so that nobody has to look for their names.

    Raises: ConfigFault: the file exists.
    """
    path = data_dir / CONFIG_FILE
    lines = ["# The coordinator's settings. A change counts from the next cycle on."]
    for section, values in settings.model_dump(mode="json").items():
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except FileExistsError as error:
        raise ConfigFault(
            f"{path} exists: this coordinator was set up before",
            hint=f"ares-coordinator run --data-dir {data_dir}",
        ) from error
    return path


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    return repr(value)
