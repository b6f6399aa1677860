"""The whole store over SQL, and how to open it."""

from __future__ import annotations

from pathlib import Path

from ares_coordinator.store.connect import connect, migrate
from ares_coordinator.store.sql_audits import SqlAudits
from ares_coordinator.store.sql_credit import SqlCredit
from ares_coordinator.store.sql_cycles import SqlCycles
from ares_coordinator.store.sql_refusals import SqlRefusals
from ares_coordinator.store.sql_reports import SqlReports
from ares_coordinator.store.sql_rounds import SqlRounds
from ares_coordinator.store.sql_standings import SqlStandings


class SqlStore(SqlCycles, SqlRounds, SqlRefusals, SqlAudits, SqlCredit, SqlStandings, SqlReports):
    """Implements `ares_coordinator.store.base.Store`; to be used by the thread that opened it."""

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()


def open_store(target: str | Path) -> SqlStore:
    """Open or create a database, and bring its schema up to date.

    Args:
        target: a path, or a `sqlite:///` URL.
    Raises: ConfigFault: another kind of database, or one of a newer version. StoreFault, DiskFull.
    """
    engine = connect(target)
    try:
        migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return SqlStore(engine)
