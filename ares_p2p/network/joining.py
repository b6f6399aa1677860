"""How a node comes into its network: made reachable, greeted, its clock compared. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ares_p2p.errors import BootstrapAway, ClockSkewed
from ares_p2p.network.addresses import is_loopback_only
from ares_p2p.network.dht_process import Greeting


def reachability(
    host_addresses: Sequence[str],
    initial_peers: Sequence[str],
    *,
    relay_service: bool,
    client_mode: bool = False,
) -> dict[str, Any]:
    """Return how p2pd should become reachable: not at all on loopback, else by all means.

    A peer that cannot be reached asks the bootstrap nodes to relay; those relay themselves. p2pd
    finds out by the addresses at which others see it (AutoNAT, which also punches holes); a node
    that listens nowhere asks for a relay at once.
    """
    public = not is_loopback_only(host_addresses)
    relayed = (public or client_mode) and not relay_service and bool(initial_peers)
    return {
        "nat_port_map": public and not client_mode,
        "auto_nat": public,
        "use_auto_relay": relayed,
        "trusted_relays": list(initial_peers) if relayed else None,
        "force_reachability": "private" if relayed and client_mode else None,
    }


def check_greetings(greetings: Sequence[Greeting], *, need_peers: bool, max_skew_s: float) -> None:
    """Refuse to go on when nobody answered, or when the clocks of all who did disagree with ours.

    Raises: BootstrapAway, ClockSkewed.
    """
    skews = [greeting.skew_s for greeting in greetings if greeting.skew_s is not None]
    if not skews:
        if need_peers and greetings:
            raise BootstrapAway(f"none of {len(greetings)} bootstrap peers answers")
        return
    if all(abs(skew) > max_skew_s for skew in skews):
        skew = statistics.median(skews)
        raise ClockSkewed(
            f"this machine's clock is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} "
            f"the network's; at most {max_skew_s:g} s are tolerated"
        )
