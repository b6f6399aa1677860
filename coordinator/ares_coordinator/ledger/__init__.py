"""The ledger: what work is worth, which postings say so, what they add up to, and what it earns.

    rewards    micro-credits of verified tokens
    postings   the postings of a contribution and of a verdict, with their idempotency keys
    balances   balances as a fold over postings; comparison with the stored projection
    standings  recent credit and streaks as a fold over postings
    tiers      FREE, CONTRIBUTOR, TRAINER, CORE
    verify     the whole check of a ledger, from `log`, `projections` and `facts` (what was signed,
               `signed`, against rows and `payments`); `findings` name table and row
    export     the whole ledger as a file that everybody can check

Pure: no SQL, no clock, no torch. Credit is paid for verified work only, never for claimed time,
and cannot be transferred.
"""
