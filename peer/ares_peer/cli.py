"""`ares-peer`: lend this machine to a network, and see what it does.

Nothing heavy is imported before a command needs it: `--help` answers at once, and no command
here ever imports torch or hivemind. Errors end with the next command to try; the exit code says
whose fault it was (`ares_p2p.errors`).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from ares_p2p import PROTOCOL_VERSION, __version__
from ares_p2p.errors import AresError, NotInitialised

if TYPE_CHECKING:
    from ares_p2p.clock import Clock
    from ares_peer.lines import View

NOT_RUNNING_EXIT_CODE: Final = 3  # as `systemctl status` and LSB init scripts

app = typer.Typer(
    name="ares-peer",
    help="Lend this machine to an ARES network: it trains a shared model, and earns credit for it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

credits_app = typer.Typer(no_args_is_help=False)
app.add_typer(credits_app, name="credits")

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Where identity, model and status live. Default: this user's data folder.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]


@app.command()
def join(
    invite: Annotated[
        str | None,
        typer.Argument(
            help="ares://... or the network's https:// address. "
            "May be left out once this data folder knows its network.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port for other peers. Default: any free one.", show_default=False),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on. Default: all of them.", show_default=False),
    ] = None,
    announce: Annotated[
        list[str] | None,
        typer.Option(
            help="Multiaddress to tell others, where it differs (port forwarding). Repeatable.",
            show_default=False,
        ),
    ] = None,
    way: Annotated[
        str | None,
        typer.Option(
            help="auto, p2p, or http: through the coordinator over HTTPS, for networks that let "
            "nothing else out. Default: auto, which changes by itself.",
            show_default=False,
        ),
    ] = None,
    api_url: Annotated[
        str | None,
        typer.Option(
            help="The coordinator's web address for that. Default: as the invite says.",
            show_default=False,
        ),
    ] = None,
    client_mode: Annotated[
        bool | None,
        typer.Option(
            "--client-mode/--no-client-mode",
            help="Listen nowhere and store nothing for others: for machines that nobody can "
            "reach. Default: off.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the base model. Default: fetched from the network.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, or auto: a GPU if there is one. Default: auto.", show_default=False
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads. Default: torch decides.", show_default=False),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            help="trainer, or auditor: replay the work of others instead of training, which the "
            "CORE tier may, and whom the operator names. Default: trainer.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Your name on the leaderboard. Default: a pseudonym.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per event, for scripts.")
    ] = False,
    exit_after_cycle: Annotated[
        bool, typer.Option("--exit-after-cycle", help="End when the running cycle is complete.")
    ] = False,
) -> None:
    """Join a network and train until you press Ctrl-C.

    The first Ctrl-C finishes the running round, the second stops at once.

    Options are remembered: later, `ares-peer join` alone does the same again.
    """
    from ares_p2p.clock import SystemClock
    from ares_peer.runner import run_join
    from ares_peer.settings import (
        build_settings,
        chosen_data_dir,
        load_remembered,
        merge_remembered,
    )

    options: dict[str, object] = {
        "invite": invite,
        "port": port,
        "host": host,
        "announce": tuple(announce) if announce else None,
        "way": way,
        "api_url": api_url,
        "client_mode": client_mode,
        "base": base.absolute() if base else None,
        "device": device,
        "threads": threads,
        "role": role,
        "name": name,
    }
    try:
        folder = chosen_data_dir(data_dir)
        remembered = load_remembered(folder)
        settings = build_settings({**options, "data_dir": folder}, remembered)
        clock = SystemClock()
        outcome = run_join(
            settings,
            remembered=merge_remembered(remembered, options),
            view=_view(clock, as_json=as_json),
            clock=clock,
            exit_after_cycle=exit_after_cycle,
        )
    except AresError as error:
        _fail(error.code, error.message, error.hint, error.exit_code, as_json=as_json)
    if (end := outcome.error) is not None:
        _fail(end.code, end.message, end.hint, outcome.exit_code, as_json=as_json)
    raise typer.Exit(outcome.exit_code)


@app.command()
def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Say what the peer does: exit code 0 while it runs, 3 while it does not."""
    import dataclasses

    from ares_p2p.clock import SystemClock
    from ares_peer.settings import chosen_data_dir
    from ares_peer.statusfile import is_running, load_status
    from ares_peer.summary import status_rows

    try:
        folder = chosen_data_dir(data_dir)
        found = load_status(folder)
    except AresError as error:
        _fail(error.code, error.message, error.hint, error.exit_code, as_json=as_json)
    if found is None:
        message = f"no peer has run in {folder} yet"
        hint = "ares-peer join ares://..."
        _fail(NotInitialised.code, message, hint, NOT_RUNNING_EXIT_CODE, as_json=as_json)
    running = is_running(found)
    if as_json:
        print(json.dumps({"running": running, **dataclasses.asdict(found)}, indent=2))
    else:
        rows = status_rows(found, running=running, now_ms=SystemClock().now_ms())
        for label, value in rows:
            print(f"{label:<14}{value}")
        if not running:
            print("next: ares-peer join")
    raise typer.Exit(0 if running else NOT_RUNNING_EXIT_CODE)


@app.command()
def identity(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show who this peer is. The key file is the claim to its credit: keep a copy of it."""
    from ares_p2p.crypto.keys import load_identity
    from ares_peer.settings import IDENTITY_FILE, chosen_data_dir

    try:
        path = chosen_data_dir(data_dir) / IDENTITY_FILE
        if not path.exists():
            raise NotInitialised(
                f"{path} does not exist: no peer has run here yet",
                hint="ares-peer join ares://... makes it.",
            )
        peer_id = load_identity(path).peer_id
    except AresError as error:
        _fail(error.code, error.message, error.hint, error.exit_code, as_json=as_json)
    if as_json:
        print(json.dumps({"peer_id": peer_id, "file": str(path)}, indent=2))
    else:
        print(f"{peer_id}\n{path}")


@app.command()
def adapters(
    get: Annotated[
        int | None, typer.Option("--get", min=1, help="Fetch the adapter of this cycle.")
    ] = None,
    to: Annotated[Path, typer.Option(help="Where the adapter's folder is put.")] = Path(),
    api: Annotated[
        str,
        typer.Option(
            help="The network's address. Default: as the network says.", show_default=False
        ),
    ] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the adapters that the network has trained, or fetch one as a PEFT folder.

    A new adapter is for everybody after a while; credit that was earned here opens it earlier.
    """
    from ares_peer.adapters_cli import show_or_fetch
    from ares_peer.settings import chosen_data_dir

    try:
        folder = chosen_data_dir(data_dir)
        show_or_fetch(folder, api=api, get=get, to=to, as_json=as_json)
    except AresError as error:
        _fail(error.code, error.message, error.hint, error.exit_code, as_json=as_json)


@credits_app.callback(invoke_without_command=True)
def credits_(
    context: typer.Context,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="How many rounds. Default: 20; in JSON all.", show_default=False),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the network for the tier.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what each round paid, and why one paid nothing. Works while no peer runs, too."""
    from ares_peer.credits_cli import show_credits
    from ares_peer.settings import chosen_data_dir

    if context.invoked_subcommand is not None:
        context.obj = (data_dir, as_json)
        return
    try:
        folder = chosen_data_dir(data_dir)
        show_credits(folder, limit=limit, offline=offline, as_json=as_json)
    except AresError as error:
        _fail(error.code, error.message, error.hint, error.exit_code, as_json=as_json)


@credits_app.command()
def verify(
    context: typer.Context,
    ledger: Annotated[
        Path | None,
        typer.Option(
            help="Compare with the whole ledger: a file from `ares-coordinator ledger export`.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check every link from your commits to the ledger's log, offline. Exit code 76: one broke."""
    from ares_peer.credits_cli import verify_credits
    from ares_peer.settings import chosen_data_dir

    before = context.obj  # options that stand before the word "verify" count as well
    as_json = as_json or before[1]
    try:
        folder = chosen_data_dir(data_dir or before[0])
        code = verify_credits(folder, ledger=ledger, as_json=as_json)
    except AresError as error:
        _fail(error.code, error.message, error.hint, error.exit_code, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Show the version of this program and of the protocol it speaks."""
    if as_json:
        print(json.dumps({"version": __version__, "protocol": PROTOCOL_VERSION}))
    else:
        print(f"ares-peer {__version__}, protocol {PROTOCOL_VERSION}")


def main() -> None:
    """Run the command line."""
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # `ares-peer ... | head`: the interpreter would complain at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _view(clock: Clock, *, as_json: bool) -> View:
    from ares_peer.lines import JsonView, PlainView

    if as_json:
        return JsonView(sys.stdout.buffer)
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from rich.console import Console

        from ares_peer.terminal import LiveView

        return LiveView(Console(), clock=clock)
    return PlainView(sys.stdout, clock=clock)


def _fail(code: str, message: str, hint: str, exit_code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        print(json.dumps({"error": {"code": code, "message": message, "hint": hint}}))
    else:
        print(f"error [{code}] {message}", file=sys.stderr)
        if hint:
            print(f"next: {hint}", file=sys.stderr)
    raise typer.Exit(exit_code)


if __name__ == "__main__":
    main()
