"""The library that every ARES process shares. A map, from the bottom up:

- `errors`, `ids`, `clock`, `logs`: faults with stable codes; names of things; time; logging.
- `domain`: the frozen values the protocol speaks of.
- `crypto`, `wire`: keys and signed envelopes; bytes <-> domain with bounds.
- `shards`, `rounds`, `averaging`, `proofs`: dataset shards; the rules of a round without I/O;
  compression and the robust, deterministic aggregate; what an audit compares.
- `training`, `network`: the 4-bit base with LoRA and the local steps; the Hivemind DHT node,
  records, invites and content-addressed blobs.
"""

__version__ = "0.1.0"

PROTOCOL_VERSION = 1  # bumped when an older peer could no longer take part in a round
