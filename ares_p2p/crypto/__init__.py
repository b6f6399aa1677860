"""Keys, envelopes and trees of hashes. Pure: no socket, no clock, no torch.

- `keys`: one Ed25519 identity per node, in libp2p's own file format.
- `envelope`: DSSE signatures over (payload type, payload).
- `merkle`: RFC 9162 roots, inclusion and consistency proofs, and how a log goes on.
"""
