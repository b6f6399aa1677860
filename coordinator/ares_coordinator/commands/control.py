"""Commands for a running coordinator: start, pause, resume, schedule. They ask its API.

Where it listens and the token that opens it lie in `operator.json` of the data directory.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ares_coordinator.commands.shared import AsJson, DataDir, folder_of

SAME = "?"  # no schedule is written like this


def start(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Begin a cycle now, or go on with the one that waits."""
    answer = _ask(data_dir, "POST", "training/start")
    _say(answer, f"Cycle {answer['cycle']} runs, in its phase {answer['phase']!r}.", as_json)


def pause(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Let nothing new begin; the open round comes to its end. Lasts until `resume`."""
    answer = _ask(data_dir, "POST", "training/pause")
    _say(answer, "Paused: no new round, phase or cycle begins.", as_json)
    if not as_json:
        typer.echo("next: ares-coordinator resume")


def resume(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Go on after a pause."""
    _say(_ask(data_dir, "POST", "training/resume"), "Goes on.", as_json)


def schedule(
    when: Annotated[
        str,
        typer.Argument(
            help='"daily", "weekly", hours ("6"), cron ("0 3 * * 1-5"), or "off"; '
            "without it, the schedule that is set is shown.",
            show_default=False,
        ),
    ] = SAME,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Begin cycles by themselves, or show when they do."""
    if when == SAME:
        answer = _ask(data_dir, "GET", "schedule")
    else:
        answer = _ask(data_dir, "POST", "schedule", {"schedule": when})
    _say(answer, _schedule_text(answer), as_json)


def _schedule_text(answer: dict[str, Any]) -> str:
    if answer["schedule"] is None:
        return "No cycle begins by itself."
    moment = datetime.fromtimestamp(answer["next_ms"] / 1000, UTC)
    missed = "begins at the next start" if answer["missed"] == "once" else "is left out"
    return (
        f"Schedule {answer['schedule']!r}, time zone {answer['timezone']}: "
        f"the next cycle begins {moment:%a %Y-%m-%d %H:%M} UTC.\n"
        f"One that is missed while the coordinator is off {missed}."
    )


def _say(answer: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(answer) if as_json else text)


def _ask(data_dir: DataDir, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Return what the running coordinator answers.

    Raises: CoordinatorAway: none runs. RequestRefused: it does not want to, and why.
    """
    import httpx2

    from ares_coordinator.operatorkey import need_operator_key
    from ares_p2p.errors import CoordinatorAway
    from ares_p2p.network.remote_errors import error_of_code

    folder = folder_of(data_dir)
    key = need_operator_key(folder)
    try:
        answer = httpx2.request(
            method,
            f"{key.api}/api/ares/{path}",
            json=body,
            headers={"Authorization": f"Bearer {key.token}"},
            trust_env=False,  # it is on this machine: no proxy
        )
        content = answer.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise CoordinatorAway(
            f"no coordinator answers at {key.api or 'its address'}",
            hint=f"ares-coordinator run --data-dir {folder}",
        ) from error
    if answer.is_error:
        said = content["error"]
        fault = error_of_code(said["code"], said["message"])
        fault.hint = said["hint"] or fault.hint
        raise fault
    return dict(content)
