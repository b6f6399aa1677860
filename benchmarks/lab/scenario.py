"""A scenario file: links, peers, what happens to them, and what is expected of the network.

TOML; docs/lab.md explains every key. It refuses unknown keys, names of nobody, and events that
could never happen, and says which.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ares_p2p.errors import ConfigFault

SHIPPED: Final = Path(__file__).parent / "scenarios"
SERVERS: Final = ("coordinator", "bootstrap")
NODE_NAME: Final = re.compile(r"^[a-z][a-z0-9]{0,11}$")  # also an interface: at most 15 characters
RESERVED: Final = frozenset({"init", "hub", "wire", "lo", "eth0", "front"})

Rate = Annotated[float, Field(gt=0, le=10_000)]
Milliseconds = Annotated[float, Field(ge=0, le=10_000)]
Dial = Literal["all", "none"] | tuple[Annotated[int, Field(gt=0, le=65_535)], ...]
Action = Literal["kill", "start", "cut", "restore", "rate", "delay"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Link(_Part):
    """The cable of a node, as seen from it. Delay and jitter are added in each direction."""

    up_mbit: Rate
    down_mbit: Rate
    delay_ms: Milliseconds = 0
    jitter_ms: Milliseconds = 0  # added to the delay, evenly from none to all of it
    loss: float = Field(default=0, ge=0, lt=1)  # share of the packets, each direction
    queue_ms: float = Field(default=150, gt=0, le=5_000)  # what the modem's buffer holds
    dial_in: Dial = "all"  # which TCP and UDP ports of this node others may dial
    dial_out: Dial = "all"  # which ports of others this node may dial


class Peer(_Part):
    """A volunteer."""

    name: str
    link: str
    arguments: tuple[str, ...] = ()  # further ones of `ares-peer join`


class Event(_Part):
    """Something that happens to a node.

    It happens `at_s` seconds after the first round began; or in a `round`, as soon as the node (a
    server: the first peer) is in it, once it is in `phase`, and once its cable has carried
    `up_bytes` from there on.
    """

    do: Action
    node: str
    at_s: float | None = Field(default=None, ge=0)
    round: int | None = Field(default=None, ge=0)
    phase: str = ""
    up_bytes: int = Field(default=0, ge=0)
    for_s: float | None = Field(default=None, gt=0)  # then it is as before: cut, kill
    up_mbit: Rate | None = None
    down_mbit: Rate | None = None
    delay_ms: Milliseconds | None = None
    jitter_ms: Milliseconds | None = None

    @model_validator(mode="after")
    def _can_happen(self) -> Event:
        if (self.at_s is None) == (self.round is None):
            raise ValueError(f"{self.do} {self.node}: either at_s or round")
        if self.at_s is not None and (self.phase or self.up_bytes):
            raise ValueError(f"{self.do} {self.node}: phase and up_bytes need a round")
        if self.for_s is not None and self.do not in ("cut", "kill"):
            raise ValueError(f"{self.do} {self.node}: for_s is for cut and kill")
        if self.do == "rate" and self.up_mbit is None and self.down_mbit is None:
            raise ValueError(f"rate {self.node}: up_mbit or down_mbit")
        if self.do == "delay" and self.delay_ms is None and self.jitter_ms is None:
            raise ValueError(f"delay {self.node}: delay_ms or jitter_ms")
        return self


class Expectation(_Part):
    """What must hold beyond the cycle's end, equal states and no process left running."""

    # Plans that a peer may miss after its cable works again or it was started again.
    back_within_rounds: int = Field(default=0, ge=0)
    least_accepted: dict[str, int] = {}  # contributions, by peer
    # Credit of these peers, as a share of the median of all others'.
    least_credit_share: dict[str, float] = {}


class Fast(_Part):
    """What is different with --fast."""

    settings: dict[str, Any] = {}
    for_s: float | None = Field(default=None, gt=0)  # of all events that have one
    time_limit_s: float | None = Field(default=None, gt=0)
    expect: Expectation | None = None  # instead of the other one


class Scenario(_Part):
    """One scenario, complete."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    says: str  # one sentence
    time_limit_s: float = Field(default=300, gt=0)
    # rounds: the run ends with the last round; cycle: with the last audit and the evaluation.
    until: Literal["rounds", "cycle"] = "rounds"
    seed: int = Field(default=0, ge=0)  # of jitter and loss
    settings: dict[str, Any] = {}  # of the coordinator: "section.key" = value
    links: dict[str, Link]
    servers: dict[Literal["coordinator", "bootstrap"], str]  # -> link
    peers: tuple[Peer, ...] = Field(min_length=1, max_length=64)
    events: tuple[Event, ...] = ()
    expect: Expectation = Expectation()
    fast: Fast = Fast()

    @model_validator(mode="after")
    def _fits(self) -> Scenario:
        names = [peer.name for peer in self.peers]
        for name in names:
            if not NODE_NAME.match(name) or name in RESERVED | set(SERVERS):
                raise ValueError(f"peer {name!r}: 1 to 12 of a-z 0-9 expected, none of ours")
        if len(set(names)) != len(names):
            raise ValueError("two peers have one name")
        if missing := set(SERVERS) - set(self.servers):
            raise ValueError(f"servers: no link for {', '.join(sorted(missing))}")
        wanted = {*self.servers.values(), *(peer.link for peer in self.peers)}
        if unknown := wanted - set(self.links):
            raise ValueError(f"no link is called {', '.join(sorted(unknown))}")
        known = {*names, *SERVERS}
        told = {event.node for event in self.events}
        for expect in (self.expect, self.fast.expect or self.expect):
            told |= {*expect.least_accepted, *expect.least_credit_share}
        if strangers := told - known:
            raise ValueError(f"no node is called {', '.join(sorted(strangers))}")
        for event in self.events:
            if event.do == "start" and event.node in SERVERS:
                raise ValueError(f"start {event.node}: servers are there from the beginning")
        if not [name for name in names if name not in self.late]:
            raise ValueError("no peer is there from the beginning")
        return self

    @property
    def late(self) -> frozenset[str]:
        """Peers that are not there at the beginning: what happens to them first is a start."""
        first: dict[str, str] = {}
        for event in self.events:
            first.setdefault(event.node, event.do)
        return frozenset(name for name, do in first.items() if do == "start")

    @property
    def nodes(self) -> dict[str, Link]:
        """Every node with its cable, servers first."""
        chosen = {name: self.servers[name] for name in SERVERS}
        chosen |= {peer.name: peer.link for peer in self.peers}
        return {name: self.links[link] for name, link in chosen.items()}

    def made_fast(self) -> Scenario:
        """Return the short variant."""
        events = self.events
        if self.fast.for_s is not None:
            short = {"for_s": self.fast.for_s}
            events = tuple(
                event.model_copy(update=short) if event.for_s is not None else event
                for event in events
            )
        return self.model_copy(
            update={
                "settings": {**self.settings, **self.fast.settings},
                "events": events,
                "time_limit_s": self.fast.time_limit_s or self.time_limit_s,
                "expect": self.fast.expect or self.expect,
            }
        )


def shipped_names() -> list[str]:
    """Return the names of the scenarios that come with the lab."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_scenario(name: str) -> Scenario:
    """Return the scenario in a file, or the shipped one of this name.

    Raises: ConfigFault: there is none, no TOML, or something in it is not right.
    """
    path = Path(name)
    if not path.is_file() and name in shipped_names():
        path = SHIPPED / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return Scenario.model_validate(content)
    except OSError as error:
        raise ConfigFault(
            f"{name}: no scenario; shipped are {', '.join(shipped_names())}",
            hint="python -m benchmarks.lab home-4",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigFault(f"{path}: {error}", hint="Mend the line, then start again.") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(step) for step in item['loc']) or 'scenario'}: {item['msg']}"
            for item in error.errors()[:5]
        )
        raise ConfigFault(f"{path}: {wrong}", hint="docs/lab.md explains every key.") from error
