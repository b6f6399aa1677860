"""`ares-bootstrap`: run the node that newcomers of a network meet first.

Nothing heavy is imported before `run` needs it: `--help` answers at once. Errors end with the
next command to try; the exit code says whose fault it was (`ares_p2p.errors`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import platformdirs
import typer

from ares_p2p.errors import AresError, NotInitialised

if TYPE_CHECKING:
    from ares_bootstrap.node import Started

DEFAULT_PORT: Final = 31_100
INVITE_FILE: Final = "invite"

app = typer.Typer(
    name="ares-bootstrap",
    help="Run the node that newcomers of an ARES network meet first.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Where its identity lives. Default: this user's data folder.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, one line.")]


def _folder(data_dir: Path | None) -> Path:
    return data_dir or Path(platformdirs.user_data_dir("ares-bootstrap", appauthor=False))


@app.command()
def run(
    network: Annotated[
        str,
        typer.Option(help="ares://... of the network; a reference without addresses is enough."),
    ],
    data_dir: DataDir = None,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="TCP and UDP port; 0: any free one.")
    ] = DEFAULT_PORT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    announce: Annotated[
        list[str] | None,
        typer.Option(
            help="Address that others see, e.g. /ip4/203.0.113.7/tcp/31100; repeatable.",
            show_default=False,
        ),
    ] = None,
    health_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, help="Serve /healthz on this loopback port.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run until SIGTERM or Ctrl-C. Prints the invite to give to others."""
    from ares_bootstrap.node import BootstrapOptions, run_bootstrap
    from ares_p2p.logs import configure_logging

    configure_logging()
    folder = _folder(data_dir)

    def show(started: Started) -> None:
        (folder / INVITE_FILE).write_text(started.invite + "\n", encoding="ascii")
        print(json.dumps(started.as_json()) if as_json else _words(started), flush=True)

    run_bootstrap(
        BootstrapOptions(
            network=network,
            data_dir=folder,
            host=host,
            port=port,
            announce=tuple(announce or ()),
            health_port=health_port,
        ),
        on_started=show,
    )


def _words(started: Started) -> str:
    lines = [f"bootstrap node of {started.name!r} runs as {started.peer_id}"]
    lines += [f"  listens on {address}" for address in started.addresses]
    if started.health_port is not None:
        lines.append(f"  health at http://127.0.0.1:{started.health_port}/healthz")
    return "\n".join([*lines, "", "invite:", started.invite])


@app.command()
def invite(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print the invite of the node that runs, or ran last, on this data directory."""
    path = _folder(data_dir) / INVITE_FILE
    if not path.is_file():
        raise NotInitialised(
            f"no bootstrap node ran on {path.parent} yet",
            hint="ares-bootstrap run --network ares://...",
        )
    text = path.read_text(encoding="ascii").strip()
    print(json.dumps({"invite": text}) if as_json else text)


def main() -> None:
    """Run the command line; exit with the code of the fault, if there is one."""
    try:
        app()
    except AresError as fault:
        if "--json" in sys.argv:
            record = {"code": fault.code, "message": fault.message, "hint": fault.hint}
            print(json.dumps({"error": record}))
        print(f"error [{fault.code}] {fault.message}", file=sys.stderr)
        if fault.hint:
            print(f"next: {fault.hint}", file=sys.stderr)
        sys.exit(fault.exit_code)


if __name__ == "__main__":
    main()
