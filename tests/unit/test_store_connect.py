"""Where a database is, and what messages may say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ares_coordinator.store.connect import database_target, shown, url_of
from ares_p2p.errors import AresError, ConfigFault

FOLDER = Path("/data")
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "environ", "wanted"),
    [
        ("", {}, FOLDER / "ares.db"),
        (" ", {"ARES_DATABASE_URL": ""}, FOLDER / "ares.db"),
        ("postgresql://a@b/c", {}, "postgresql://a@b/c"),
        ("postgresql://a@b/c", {"ARES_DATABASE_URL": "postgresql://x@y/z"}, "postgresql://x@y/z"),
        ("sqlite:///other.db", {}, "sqlite:///other.db"),
    ],
)
def test_database_target_is_of_the_environment_then_the_settings_then_the_folder(
    url: str, environ: dict[str, str], wanted: str | Path
) -> None:
    assert database_target(FOLDER, url, environ=environ) == wanted


@pytest.mark.parametrize("name", ["postgresql", "postgres", "postgresql+psycopg", "postgres+other"])
def test_every_postgresql_url_is_opened_with_the_one_driver(name: str) -> None:
    url = url_of(f"{name}://user:{SECRET}@host:5433/books?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.host, url.port, url.database, url.password) == ("host", 5433, "books", SECRET)
    assert url.query == {"sslmode": "require"}


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{SECRET}@host/name",
        f"postgresql://user:{SECRET}@host",
        f"postgresql://user:{SECRET}@host:port/name",
        f"postgresql:///user:{SECRET}@host/name",
        f"://user:{SECRET}@host",
    ],
)
def test_urls_that_are_refused_are_not_repeated(url: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        database_target(FOLDER, url, environ={})
    assert caught.value.hint
    assert SECRET not in _everything(caught.value)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (f"postgresql://user:{SECRET}@host:5433/books", "postgresql://user@host:5433/books"),
        (f"postgres://user@host/books?password={SECRET}", "postgresql://user@host/books"),
        ("postgresql://user@/books?host=/run/pg", "postgresql://user@/books?host=/run/pg"),
        ("postgresql:///?service=ares&x=1", "postgresql:///?service=ares"),
        ("sqlite:///some/ares.db", "some/ares.db"),
    ],
)
def test_shown_database_has_no_password(url: str, wanted: str) -> None:
    assert shown(url) == wanted


def _everything(fault: AresError) -> str:
    """Return all that a traceback of it would show of the causes."""
    texts = []
    error: BaseException | None = fault
    while error is not None:
        texts += [str(error), repr(error), getattr(error, "hint", "")]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return " ".join(texts)
