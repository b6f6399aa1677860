"""Triggers that let rows be added to a table and neither changed nor removed, by any program.

The migrations use them, so what a function here makes must stay as it is.
"""

from __future__ import annotations


def append_only(dialect: str, table: str) -> tuple[str, ...]:
    """Return the statements that make a table append-only.

    Args:
        dialect: "sqlite" or "postgresql".
    Raises: NotImplementedError: another database.
    """
    complaint = f"{table} are append-only"
    if dialect == "sqlite":
        return tuple(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{complaint}'); END"
            for verb in ("UPDATE", "DELETE")
        )
    if dialect == "postgresql":
        function = f"{table}_append_only"
        return (
            (
                f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ "
                f"BEGIN RAISE EXCEPTION '{complaint}'; END $$"
            ),
            (
                f"CREATE TRIGGER {function} BEFORE UPDATE OR DELETE ON {table} "
                f"FOR EACH ROW EXECUTE FUNCTION {function}()"
            ),
            (
                f"CREATE TRIGGER {function}_truncate BEFORE TRUNCATE ON {table} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
            ),
        )
    raise NotImplementedError(f"no triggers for {dialect}")
