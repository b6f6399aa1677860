"""Pictures of a report: bytes per node, and a timeline of the rounds with the events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

COLOURS: Final = {
    "training": "#0b6e99",
    "communicating": "#e0a030",
    "waiting": "#d7dde3",
    "computing": "#7a9a3a",
    "joining": "#b9a6d3",
    "off": "#ffffff",
}
_EVENT_COLOUR: Final = "#c0562a"


def draw_pictures(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw `bytes.png` and `timeline.png`; return what was drawn."""
    import matplotlib as mpl

    mpl.use("Agg")
    paths = [folder / "bytes.png", folder / "timeline.png"]
    _draw_bytes(report, paths[0])
    _draw_timeline(report, paths[1])
    return paths


def _draw_bytes(report: Mapping[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    nodes = report["nodes"]
    names = list(nodes)
    height = 1.2 + 0.42 * len(names)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, max(3.2, height)), dpi=120, layout="constrained"
    )
    places = range(len(names))
    for offset, key, colour, label in (
        (-0.19, "up_bytes", "#c0562a", "sent"),
        (0.19, "down_bytes", "#0b6e99", "received"),
    ):
        values = [nodes[name][key] / 1e6 for name in names]
        bars = left.barh(
            [p + offset for p in places], values, height=0.36, color=colour, label=label
        )
        left.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
    left.set_yticks(list(places), names)
    left.invert_yaxis()
    left.margins(x=0.12)
    left.set_xlabel("MB on the cable, all headers")
    left.set_title(f"{report['lab']}: bytes of the whole run", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    rows = report["rounds"]
    for name in names:
        sent = [row["bytes"].get(name, {"up": 0})["up"] / 1e3 for row in rows]
        right.plot([row["round"] for row in rows], sent, marker=".", linewidth=1, label=name)
    right.set_xlabel("round")
    right.set_ylabel("kB sent")
    right.set_ylim(bottom=0)
    right.set_title("sent, by round", loc="left", fontsize=10)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend(frameon=False, fontsize=7, ncols=2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def _draw_timeline(report: Mapping[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    timeline = report["timeline"]
    figure, (axes, below) = plt.subplots(
        2,
        1,
        figsize=(12, 2.6 + 0.45 * len(timeline)),
        dpi=120,
        sharex=True,
        height_ratios=(0.45 * len(timeline) + 0.4, 1.3),
        layout="constrained",
    )
    names = list(timeline)
    servers = [name for name in report["nodes"] if name not in timeline]
    for place, name in enumerate(names):
        for kind, colour in COLOURS.items():
            bars = [(a, b - a) for a, b, of in timeline[name] if of == kind]
            axes.broken_barh(bars, (place - 0.36, 0.72), color=colour, linewidth=0)
    rows = report["rounds"]
    for row in rows:
        for each in (axes, below):
            each.axvline(row["opened_s"], color="#9aa5b1", linewidth=0.5, zorder=0)
    lane: dict[str, float] = {name: place for place, name in enumerate(names)}
    for event in report["events"]:
        height = lane.get(event["node"], -0.75)
        axes.plot(event["at_s"], height, marker="v", color=_EVENT_COLOUR, markersize=7)
        until_s = event.get("cost", {}).get("until_s")
        if until_s is not None:
            axes.plot([event["at_s"], until_s], [height, height], color=_EVENT_COLOUR, linewidth=2)
        who = f"{event['node']} " if event["node"] in servers else ""
        axes.annotate(
            f"{who}{event['do']}",
            (event["at_s"], height),
            xytext=(4, 5),
            textcoords="offset points",
            fontsize=7,
            color=_EVENT_COLOUR,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -1.1)
    axes.set_title(f"{report['lab']}: {report['says']}", loc="left", fontsize=10)
    handles = [Patch(color=COLOURS[kind], label=kind) for kind in COLOURS if kind != "off"]
    axes.legend(handles=handles, frameon=False, fontsize=7, ncols=5, loc="upper right")
    done = [row for row in rows if row["mean_loss"] is not None]
    middle = [(row["opened_s"] + row["end_s"]) / 2 for row in done]
    below.plot(middle, [row["mean_loss"] for row in done], color="#9aa5b1", label="training loss")
    looked = [row for row in done if row["held_out_loss"] is not None]
    below.plot(
        [row["end_s"] for row in looked],
        [row["held_out_loss"] for row in looked],
        color="#0b6e99",
        marker=".",
        label="held-out loss (sample)",
    )
    below.set_ylabel("nats/token")
    below.set_xlabel("seconds; thin lines: a round's plan")
    below.legend(frameon=False, fontsize=7)
    for each in (axes, below):
        each.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)
