"""The coordinator's database: what must survive a kill at any instant.

    rows, credit_rows   frozen dataclasses of what is stored, and the enums of their states
    base, base_work     the protocol: small stores that make one `Store`; its docstrings are rules
    columns, tables     the schema as SQLAlchemy Core metadata
    migrations          Alembic revisions, run by `revisions`; opening a store runs them
    connect             where the database is, and the engine: `connect_sqlite`, `connect_postgres`
    faults              what the database and its driver raise, as faults of ours
    decay, projection   totals and standings, kept up to date posting by posting; pure
    snapshot            one moment of a database, to be read only: for checks and exports
    sql_*, sql          the protocol over SQL, one module per part; `sql.open_store` is the entry
    admin, transfer     what `ares-coordinator db` does: look, bring up to date, move to PostgreSQL
    thread              one thread that owns the connection, awaited from the event loop

Every method is one transaction and may be repeated: after a kill the caller does again what it
was doing, and what is stored already stays as it is. Money is integer micro-credits, time is
milliseconds since the epoch, digests are 32 bytes. SQLAlchemy is imported in this package only,
and not by the rows and `base`.
"""
