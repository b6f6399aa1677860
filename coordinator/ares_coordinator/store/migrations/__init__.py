"""Alembic revisions of the schema, run by `ares_coordinator.store.revisions`.

A new revision is a module `versions/rNNNN_what.py` beside the others; `tables` follows it, and a
test compares the two. Revisions are never edited once released, and there is no way back: restore
a backup instead.
"""
