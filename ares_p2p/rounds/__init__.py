"""The protocol of a round, as pure rules: no socket, no clock, no torch.

A cycle is a public chain of states S0 -> S1 -> ... and each arrow is one round:

1. `plan`: the coordinator opens the round from S_r; everybody checks the plan.
2. `assignment`: which examples a peer trains on; anyone can recompute it.
3. `commits`: peers commit to their work before anyone can see it; the book closes and
   `seedchain` reveals the round's seed.
4. `parts`: in a large round, who makes which part of the sum, and who serves it.
5. `manifest`: what the aggregate did with each contribution, and S_(r+1).

The coordinator sequences and signs; the bytes travel between peers; whoever holds S_r and the
contributions recomputes S_(r+1) bit by bit. Source: docs/adr/0001.
"""
