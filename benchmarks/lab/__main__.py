"""Runs a scenario in the laboratory and writes what came of it: JSON and pictures.

    python -m benchmarks.lab home-4            a shipped scenario, or the path of a TOML file
    python -m benchmarks.lab cut --fast        its short variant
    python -m benchmarks.lab kills --json      the report on stdout, for scripts
    python -m benchmarks.lab --list            what is shipped
    python -m benchmarks.lab --clean           remove what a killed run left behind

Needs root, `ip` and `tc`. Exit code 0: everything that the scenario expects held; 1: not; 130:
stopped; another one: the code of the fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from ares_p2p.errors import AresError
from benchmarks.lab.network import ROOT, ChildEnded
from benchmarks.lab.pictures import draw_pictures
from benchmarks.lab.runner import fresh_folder, run_scenario
from benchmarks.lab.scenario import Scenario, load_scenario, shipped_names
from benchmarks.lab.screen import Screen, build_console, print_report
from benchmarks.lab.spaces import CommandFailed, Spaces, check_machine, remove_abandoned


def main(arguments: list[str] | None = None) -> int:
    """Parse the flags and run; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", nargs="?", help="a shipped name, or a TOML file")
    parser.add_argument("--fast", action="store_true", help="the scenario's short variant")
    parser.add_argument("--json", action="store_true", help="the report on stdout")
    parser.add_argument("--out", type=Path, help="folder to fill (default: lab-out/NAME)")
    parser.add_argument("--base", type=Path, default=ROOT / "data" / "base", help="base model")
    parser.add_argument("--list", action="store_true", help="list the shipped scenarios")
    parser.add_argument("--clean", action="store_true", help="remove what killed runs left")
    flags = parser.parse_args(arguments)
    try:
        if flags.list:
            return _list(as_json=flags.json)
        if flags.clean:
            return _clean(as_json=flags.json)
        if flags.scenario is None:
            parser.error(f"which scenario? shipped are {', '.join(shipped_names())}")
        return _run(flags)
    except AresError as fault:
        return _fail(fault.code, fault.message, fault.hint, fault.exit_code, as_json=flags.json)


def _fail(code: str, message: str, hint: str, exit_code: int, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": {"code": code, "message": message, "hint": hint}}))
    print(f"error [{code}] {message}", file=sys.stderr)
    if hint:
        print(f"next: {hint}", file=sys.stderr)
    return exit_code


def _list(*, as_json: bool) -> int:
    scenarios = [load_scenario(name) for name in shipped_names()]
    if as_json:
        print(json.dumps({one.name: one.says for one in scenarios}))
    else:
        for one in scenarios:
            print(f"{one.name:<10} {one.says}")
    return 0


def _clean(*, as_json: bool) -> int:
    check_machine()
    removed = remove_abandoned()
    print(json.dumps({"removed": removed}) if as_json else f"removed: {', '.join(removed) or '-'}")
    return 0


def _run(flags: argparse.Namespace) -> int:
    scenario = load_scenario(flags.scenario)
    if flags.fast:
        scenario = scenario.made_fast()
    check_machine()
    remove_abandoned()
    out = flags.out or ROOT / "lab-out" / scenario.name
    fresh_folder(out)
    console = build_console(stderr=flags.json)
    spaces = Spaces(scenario.nodes)
    screen = Screen(console, scenario.name, tuple(scenario.nodes))
    try:
        with screen, asyncio.Runner() as runner:
            report = runner.run(_with_signals(scenario, flags.base, out, spaces, screen))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("stopped; everything it started has been ended")
        return 130
    except (ChildEnded, CommandFailed, TimeoutError) as error:
        message = str(error) or "it took too long"
        hint = f"Look into {out / 'logs'}."
        return _fail("ARES-LAB", message, hint, 1, as_json=flags.json)
    finally:
        spaces.remove()
    text = json.dumps(report, indent=1)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    pictures = draw_pictures(report, out)
    if flags.json:
        print(text)
    else:
        written = [str(out / "report.json"), *map(str, pictures)]
        print_report(report, console, paths=lambda: written)
    return 0 if report["passed"] else 1


async def _with_signals(
    scenario: Scenario, base: Path, out: Path, spaces: Spaces, screen: Screen
) -> dict[str, Any]:
    """Run the scenario so that SIGTERM ends it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run_scenario(scenario, base=base, out=out, spaces=spaces, screen=screen)


if __name__ == "__main__":
    sys.exit(main())
