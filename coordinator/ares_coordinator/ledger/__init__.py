"""The ledger: what work is worth, which postings say so, what they add up to, and what it earns.

    rewards    micro-credits of verified tokens
    postings   the postings of a contribution and of a verdict, with their idempotency keys
    balances   balances as a fold over postings; comparison with the stored projection
    tiers      FREE, CONTRIBUTOR, TRAINER, CORE

Pure: no SQL, no clock, no torch. Credit is paid for verified work only, never for claimed time,
and cannot be transferred.
"""
