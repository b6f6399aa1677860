"""`ares-coordinator`: set up a network and run its cycles.

Errors end with their code and the next command to try; `--json` is for scripts. Nothing heavy is
imported before a command needs it.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ares_coordinator.commands import audit, auditors, control, data, db, ledger
from ares_coordinator.commands.export import export
from ares_coordinator.commands.shared import AsJson, DataDir, folder_of
from ares_p2p.errors import AresError, ConfigFault

app = typer.Typer(
    help="Coordinate an ARES network: rounds, audits, credit, one adapter a cycle.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(audit.app, name="audit")
app.add_typer(auditors.app, name="auditors")
app.add_typer(data.app, name="data")
app.add_typer(db.app, name="db")
app.add_typer(ledger.app, name="ledger")
app.command()(export)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable."),
]


@app.command()
def init(
    name: Annotated[str, typer.Option(help="Name of the network, in lower case.")],
    base: Annotated[Path, typer.Option(help="Folder of the frozen base model.")],
    data_dir: DataDir = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make a network: identity, database, config.toml. Prints what a bootstrap node needs."""
    from pydantic import ValidationError

    from ares_coordinator.settings import (
        IDENTITY_FILE,
        CoordinatorSettings,
        write_settings,
    )
    from ares_coordinator.store.connect import database_target
    from ares_coordinator.store.sql import open_store
    from ares_p2p.crypto.keys import load_or_create_identity
    from ares_p2p.network.invite import Invite
    from ares_p2p.training.base_files import base_files_digest

    folder = folder_of(data_dir)
    base_files_digest(base)
    values: dict[str, Any] = {"network": {"name": name}, "base": {"path": str(base.resolve())}}
    try:
        settings = CoordinatorSettings.model_validate(_overridden(values, overrides))
    except ValidationError as error:
        raise ConfigFault(_first_error(error)) from error
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    identity = load_or_create_identity(folder / IDENTITY_FILE)
    open_store(database_target(folder, settings.database.url)).close()
    path = write_settings(folder, settings)  # last: with it, the network is set up
    reference = Invite(name, identity.peer_id, api_url=settings.network.api_url).encode()
    if as_json:
        print(json.dumps({"network": reference, "peer_id": identity.peer_id, "config": str(path)}))
        return
    print(f"Network {name!r} is set up in {folder}.")
    print(f"  coordinator  {identity.peer_id}")
    print(f"  settings     {path}")
    print(f"  reference    {reference}")
    print("Next, on a machine that is always on:")
    print(f"  ares-bootstrap run --network {reference}")
    print("then put its address into network.bootstrap, and here:")
    print(f"  ares-coordinator run --data-dir {folder}")


@app.command()
def run(
    data_dir: DataDir = None,
    bootstrap: Annotated[
        list[str] | None, typer.Option(help="Address of a bootstrap node; repeatable.")
    ] = None,
    cycles: Annotated[
        int,
        typer.Option(
            min=0,
            help="How many cycles to run at once; 0: none, until one is started or scheduled. "
            "An unfinished one is finished in any case.",
        ),
    ] = 1,
    exit_when_done: Annotated[
        bool, typer.Option("--exit-when-done", help="Stop after the last cycle.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run cycles and serve the API, until stopped; goes on where it was when it was killed."""
    from pydantic import ValidationError

    from ares_coordinator.settings import CoordinatorSettings, load_settings
    from ares_p2p.logs import configure_logging

    folder = folder_of(data_dir)
    values = load_settings(folder).model_dump()
    if bootstrap:
        values["network"]["bootstrap"] = tuple(bootstrap)
    try:
        settings = CoordinatorSettings.model_validate(_overridden(values, overrides))
    except ValidationError as error:
        raise ConfigFault(_first_error(error)) from error
    configure_logging()
    from ares_coordinator.run import Started, run_coordinator

    def show(started: Started) -> None:
        if as_json:
            facts = {"invite": started.invite, "api": started.api_url, "peer_id": started.peer_id}
            print(json.dumps(facts), flush=True)
            return
        print(f"Coordinator {started.peer_id} is running.")
        print(f"  API     {started.api_url}/api/ares/status")
        print(f"  invite  {started.invite}")
        if settings.averaging.strategy == "hivemind":
            print("Rounds are averaged on hivemind: for peers that trust each other, with P2P.")
        if settings.audit.mode == "off":
            print("Nothing is audited, so nothing is verified, and nothing is paid.")
        print("Volunteers join with:  ares-peer join <invite>", flush=True)

    run_coordinator(folder, settings, cycles=cycles, exit_when_done=exit_when_done, on_started=show)


for command in (control.start, control.pause, control.resume, control.schedule):
    app.command()(command)


def _overridden(values: dict[str, Any], overrides: list[str] | None) -> dict[str, Any]:
    """Return `values` with `section.key=value` settings put in; values are TOML.

    Raises: ConfigFault: not of that form.
    """
    for text in overrides or ():
        place, equals, raw = text.partition("=")
        section, dot, key = place.partition(".")
        if not (equals and dot and section and key):
            raise ConfigFault(f"--set {text!r}: section.key=value expected")
        try:
            value = tomllib.loads(f"value = {raw}")["value"]
        except tomllib.TOMLDecodeError:
            value = raw  # a bare word is a string
        values.setdefault(section, {})[key] = value
    return values


def _first_error(error: Any) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def main() -> NoReturn:
    """Run the command line; exit with the code of the fault, if there is one."""
    try:
        app(standalone_mode=False)
    except AresError as fault:
        if "--json" in sys.argv:
            record = {"code": fault.code, "message": fault.message, "hint": fault.hint}
            print(json.dumps({"error": record}))
        print(f"error [{fault.code}] {fault.message}", file=sys.stderr)
        if fault.hint:
            print(f"next: {fault.hint}", file=sys.stderr)
        sys.exit(fault.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:  # click's own usage errors know how to show themselves
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(0)


if __name__ == "__main__":
    main()
