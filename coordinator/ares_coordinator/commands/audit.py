"""`ares-coordinator audit`: calibrate what an audit calls honest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ares_coordinator.commands.shared import progress_bars
from ares_p2p.errors import BaseUnsupported, ConfigFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from ares_coordinator.audit.calibrate import Calibrated, Progress
    from ares_p2p.domain import TrainingConfig

app = typer.Typer(help="Audits: calibrate what counts as honest work.", no_args_is_help=True)

CODECS = (2, 3, 4, 8)
DTYPES = ("float32", "bfloat16")


@app.callback()
def _group() -> None:
    """Keep `calibrate` a command of its own while it is the only one."""


@app.command()
def calibrate(
    base: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the base; the settings' own, if not given.", show_default=False
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            help="Of a coordinator: its training settings count, and it gets the result.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the result goes; <data dir>/calibration, if not given."),
    ] = None,
    bits: Annotated[str, typer.Option(help="Codecs, separated by commas.")] = "2,3,4,8",
    dtypes: Annotated[
        str,
        typer.Option(help="Compute dtypes, the cycle's own first; the settings', if not given."),
    ] = "",
    device: Annotated[str, typer.Option(help='"cpu" or "cuda".')] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="States of an honest run.")] = 8,
    peers: Annotated[int, typer.Option(min=1, max=20, help="Honest updates per state.")] = 2,
    steps: Annotated[int, typer.Option(min=0, help="Local steps; 0: the settings'.")] = 0,
    rows: Annotated[int, typer.Option(min=0, help="Rows per step; 0: the settings'.")] = 0,
    sequence_length: Annotated[int, typer.Option(min=0, help="0: the settings'.")] = 0,
    builds: Annotated[
        str,
        typer.Option(help="Builds beside the reference, separated by commas; all, if not given."),
    ] = "",
    keep_work: Annotated[
        bool, typer.Option("--keep-work", help="Leave the updates and measures there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Replay honest work and cheats, and choose what passes, is void, fails. Takes a while.

    One core is busy at low priority. Killed, the same command goes on where it was.
    """
    from ares_coordinator.audit.calibrate import calibrate as run_calibration
    from ares_coordinator.audit.calibration.plan import Plan

    training, configured = _settings(data_dir)
    folder = base or configured
    if folder is None or not folder.is_dir():
        raise BaseUnsupported(
            f"no base model folder {folder or ''}".rstrip(),
            hint="ares-coordinator audit calibrate --base FOLDER --out FOLDER",
        )
    changed: dict[str, Any] = {}
    if steps:
        changed |= {"min_steps": steps, "max_steps": steps}
    if rows:
        changed["sequences_per_step"] = rows
    if sequence_length:
        changed["sequence_length"] = sequence_length
    plan = Plan(
        base=folder.resolve(),
        training=replace(training, **changed),
        device=_one_of(device, ("cpu", "cuda"), option="--device"),
        rounds=rounds,
        peers=peers,
        bits=tuple(int(item) for item in _several(bits, tuple(map(str, CODECS)), option="--bits")),
        dtypes=_several(dtypes or training.compute_dtype, DTYPES, option="--dtypes"),
    )
    if builds:
        known = tuple(build.name for build in plan.all_builds(plan.dtypes[0])[1:])
        plan = replace(plan, only=_several(builds, known, option="--builds"))
    target = out or _default_out(data_dir)
    with _progress_bar(quiet=as_json) as on_progress:
        done = run_calibration(plan, target, on_progress=on_progress, keep_work=keep_work)
    _show(done, is_json=as_json, is_installed=out is None)


def _show(done: Calibrated, *, is_json: bool, is_installed: bool) -> None:
    if is_json:
        facts = {
            "file": str(done.file),
            "pictures": [str(path) for path in done.pictures],
            "cpu_seconds": round(done.cpu_s),
            "entries": [
                {name: entry[name] for name in entry if name != "cheats"}
                for entry in done.content["entries"]
            ],
        }
        typer.echo(json.dumps(facts))
        return
    minutes = done.cpu_s / 60
    typer.echo(f"Calibration of {done.content['device']} ({minutes:.0f} min): {done.file}")
    for path in done.pictures:
        typer.echo(f"  {path}")
    typer.echo("Drop of the cosine: largest honest, bounds; skipped steps that are always found.")
    for entry in done.content["entries"]:
        limits, honest = entry["thresholds"], entry["honest"]["cosine_drop"][-1]
        name = f"{entry['compute_dtype']} {entry['relation']} {entry['codec_bits']} bits"
        typer.echo(
            f"  {name:<32} honest {honest:9.2g}  pass {limits['pass_cosine_drop']:.4g}  "
            f"fail {limits['fail_cosine_drop']:.4g}  found from {_always_found(entry)}"
        )
    if is_installed:
        typer.echo("It counts from the next start of the coordinator.")
    else:
        typer.echo(f"Next: copy {done.file} into <data dir>/calibration of the coordinator.")


def _always_found(entry: dict[str, Any]) -> str:
    """Return the smallest share from which on no plain skipping of steps ever passed."""
    found = "nothing"
    plain = [item for item in entry["cheats"] if item["name"].replace("skip-", "").isdecimal()]
    for cheat in sorted(plain, key=lambda item: -item["share"]):
        if cheat["pass"]:
            break
        found = f"{cheat['share']:.0%}"
    return found


def _settings(data_dir: Path | None) -> tuple[TrainingConfig, Path | None]:
    """Return the training settings and the base of a coordinator, or the defaults and none."""
    from ares_coordinator.settings import TrainingSection, load_settings

    if data_dir is None:
        return TrainingSection().to_domain(), None
    settings = load_settings(data_dir)
    path = Path(settings.base.path).expanduser() if settings.base.path else None
    return settings.training.to_domain(), path


def _default_out(data_dir: Path | None) -> Path:
    from ares_p2p.proofs.thresholds import CALIBRATION_FOLDER

    if data_dir is None:
        raise ConfigFault(
            "neither --out nor --data-dir says where the calibration goes",
            hint="ares-coordinator audit calibrate --base FOLDER --out FOLDER",
        )
    return data_dir / CALIBRATION_FOLDER


def _one_of(value: str, known: tuple[str, ...], *, option: str) -> str:
    if value not in known:
        raise ConfigFault(f"{option} {value!r}: one of {', '.join(known)} expected")
    return value


def _several(text: str, known: tuple[str, ...], *, option: str) -> tuple[str, ...]:
    """Return the words of a list with commas, each once, in the order given."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    return tuple(_one_of(word, known, option=option) for word in words)


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Give what draws on a terminal, and nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with progress_bars(*columns, quiet=quiet) as bar:
        task = bar.add_task("starting", total=None)

        def show(progress: Progress) -> None:
            bar.update(
                task, description=progress.what, completed=progress.done, total=progress.total
            )

        yield show
