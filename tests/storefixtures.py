"""Databases for tests: a file, or a database of its own on a real PostgreSQL server.

The server is started by the first test of a process that asks for it, in a temporary folder and
on a socket there (no port), and stopped at the end of the process; should the process be killed,
the kernel stops the server (`setpriv --pdeathsig`). Where PostgreSQL or psycopg is not installed,
such tests skip and say so. `tests/contract` runs everything in `OPENERS`.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

from ares_coordinator.store.sql import SqlStore, open_store

USER = "ares"
GUARDED_USER = "guarded"  # needs its password; the others are let in
PASSWORD = "open-sesame"
INITDB = (f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
TEMPLATE = "ares_template"
READY_TIMEOUT_S = 60.0  # a busy machine; under a second on an idle one
POLL_S = 0.05
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # the machine stays up; only processes are killed
    "full_page_writes": "off",
    "max_connections": "20",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "log_min_messages": "warning",
}


class PostgresServer:
    """A server of its own in a temporary folder."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="ares-pg-"))
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._made: dict[Path, list[str]] = {}
        self._count = 0
        atexit.register(self.remove)
        self._initialise()
        self.start()
        self.run(f"CREATE ROLE {GUARDED_USER} LOGIN PASSWORD '{PASSWORD}'")
        open_store(self.create_database(TEMPLATE)).close()

    def _initialise(self) -> None:
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(self.folder, "postgres", "postgres")
        made = subprocess.run(
            [*self._as_user(), str(self._programs / "initdb"), f"--pgdata={self._data}", *INITDB],
            cwd=self.folder,
            capture_output=True,
            timeout=READY_TIMEOUT_S,
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed: {made.stderr.decode(errors='replace')}")
        who_may = self._data / "pg_hba.conf"
        rule = f"local all {GUARDED_USER} scram-sha-256\n"
        who_may.write_text(rule + who_may.read_text())

    def _as_user(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        ids = pwd.getpwnam("postgres")
        return ["setpriv", f"--reuid={ids.pw_uid}", f"--regid={ids.pw_gid}", "--clear-groups"]

    def start(self) -> None:
        """Start the server unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        dies_with_us = [] if shutil.which("setpriv") is None else ["setpriv", "--pdeathsig", "QUIT"]
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        options += [f"--unix_socket_directories={self.folder}", f"-D{self._data}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user(), *dies_with_us, str(self._programs / "postgres"), *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C stops the tests first, and they stop the server
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no PostgreSQL: {self._log.read_text(errors='replace')}")
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop the server at once: what is committed stays, what is connected is cut off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=READY_TIMEOUT_S)
            self._process = None

    def remove(self) -> None:
        """Stop the server and remove all of it."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.remove)

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement as the server's administrator."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Make a database and return its URL."""
        self.run(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def fresh(self, folder: Path, *, migrated: bool = True) -> str:
        """Return the URL of a new database for the test of a folder; those of others go."""
        for other in [one for one in self._made if one != folder]:
            for name in self._made.pop(other):
                self.run(f'DROP DATABASE "{name}" WITH (FORCE)')
        self._count += 1
        name = f"test_{self._count}"
        self._made.setdefault(folder, []).append(name)
        return self.create_database(name, template=TEMPLATE if migrated else "template0")


@cache
def _programs() -> Path | str:
    """Return the folder of the server's programs, or why there is none."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    found = shutil.which("initdb")
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    candidates = ([Path(found).resolve()] if found else []) + sorted(versions, key=_version)[::-1]
    for program in candidates:
        if (program.parent / "postgres").is_file():
            break
    else:
        return "PostgreSQL is not installed (Debian: apt install postgresql)"
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or not _has_user("postgres")):
        return "PostgreSQL does not run as root, and there is no setpriv or no user postgres"
    return program.parent


def _version(program: Path) -> int:
    return int(re.sub(r"\D", "", program.parent.parent.name) or 0)


def _has_user(name: str) -> bool:
    return name in {entry.pw_name for entry in pwd.getpwall()}


@cache
def _server(programs: Path) -> PostgresServer:
    return PostgresServer(programs)


def postgres_server() -> PostgresServer:
    """Return this process's server; skip the test where there is none."""
    programs = _programs()
    if isinstance(programs, str):
        pytest.skip(programs)
    return _server(programs)


def sqlite_target(folder: Path) -> Path:
    """Return where a new file may be."""
    return folder / "ares.db"


def postgres_target(folder: Path) -> str:
    """Return the URL of a new database with the newest schema."""
    return postgres_server().fresh(folder)


TARGETS: dict[str, Callable[[Path], str | Path]] = {
    "sqlite": sqlite_target,
    "postgresql": postgres_target,
}


def open_new(kind: str, folder: Path) -> SqlStore:
    """Open a new store in one of the databases of `TARGETS`."""
    return open_store(TARGETS[kind](folder))


OPENERS: dict[str, Callable[[Path], SqlStore]] = {kind: partial(open_new, kind) for kind in TARGETS}
