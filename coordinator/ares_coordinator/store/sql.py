"""The whole store over SQL, and how to open it."""

from __future__ import annotations

from pathlib import Path

from ares_coordinator.store.connect import connect
from ares_coordinator.store.revisions import check_newest, migrate
from ares_coordinator.store.sql_auditors import SqlAuditors
from ares_coordinator.store.sql_audits import SqlAudits
from ares_coordinator.store.sql_commits import SqlCommits
from ares_coordinator.store.sql_corrections import SqlCorrections
from ares_coordinator.store.sql_credit import SqlCredit
from ares_coordinator.store.sql_cycles import SqlCycles
from ares_coordinator.store.sql_log import SqlLog
from ares_coordinator.store.sql_lottery import SqlLottery
from ares_coordinator.store.sql_refusals import SqlRefusals
from ares_coordinator.store.sql_reports import SqlReports
from ares_coordinator.store.sql_requests import SqlRequests
from ares_coordinator.store.sql_rounds import SqlRounds
from ares_coordinator.store.sql_standings import SqlStandings


class SqlStore(
    SqlCycles,
    SqlRounds,
    SqlCommits,
    SqlRefusals,
    SqlLottery,
    SqlAudits,
    SqlAuditors,
    SqlCorrections,
    SqlCredit,
    SqlLog,
    SqlStandings,
    SqlReports,
    SqlRequests,
):
    """Implements `ares_coordinator.store.base.Store`; to be used by the thread that opened it."""

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()


def open_store(target: str | Path, *, read_only: bool = False) -> SqlStore:
    """Open a database; unless `read_only`, make what is missing and bring its schema up to date.

    Args:
        target: a path, a `sqlite:///` URL, or a `postgresql://` URL.
        read_only: only look, also while a coordinator runs on it; a method that writes fails.
    Raises: ConfigFault: another kind of database, of another version, or not opened as configured
        (DatabaseRefused, DatabaseInUse). DatabaseAway. StoreFault, DiskFull.
    """
    engine = connect(target, read_only=read_only)
    try:
        if read_only:
            check_newest(engine)
        else:
            migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return SqlStore(engine)
