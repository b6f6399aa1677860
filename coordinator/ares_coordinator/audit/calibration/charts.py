"""The pictures of a calibration: histograms with their bounds, and detection by share of work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np

from ares_coordinator.audit.calibration.plan import OTHER_DTYPE
from ares_coordinator.audit.calibration.rule import Row, detection_curve
from ares_p2p.proofs.profile import RelationKind

LOWEST: Final = 1e-7  # of the logarithmic axis; equal bits and less are drawn here
HONEST, WORK, GROSS = "#2a7f4f", "#c46a1b", "#b3b3b3"
MARKERS: Final = "osD^vP*X"


def draw_calibration(
    rows: Sequence[Row], content: dict[str, Any], out: Path, *, name: str
) -> tuple[Path, ...]:
    """Write `<name>-<dtype>-distances.png` and `<name>-detection.png`; return their paths."""
    plt.switch_backend("Agg")
    paths = []
    for dtype in sorted({row.compute_dtype for row in rows}):
        path = out / f"{name}-{dtype}-distances.png"
        _draw_distances([row for row in rows if row.compute_dtype == dtype], content, path)
        paths.append(path)
    path = out / f"{name}-detection.png"
    _draw_detection(content, path)
    return (*paths, path)


def _draw_distances(rows: Sequence[Row], content: dict[str, Any], path: Path) -> None:
    """One row of histograms per codec: the whole drop and the quiet one, other builds only."""
    dtype = rows[0].compute_dtype
    bits = sorted({row.bits for row in rows})
    edges = np.geomspace(LOWEST, 2.0, 74)
    figure, axes = plt.subplots(
        len(bits), 2, figsize=(11, 2.3 * len(bits) + 0.8), sharex=True, squeeze=False
    )
    for line, width in zip(axes, bits, strict=True):
        found = [
            row
            for row in rows
            if row.bits == width and row.relation not in (OTHER_DTYPE, RelationKind.SAME_BUILD)
        ]
        limits = _limits(content, dtype, width)
        for axis, measure in zip(line, ("cosine_drop", "quiet_drop"), strict=True):
            groups = (
                ("gross cheats", GROSS, [r for r in found if not r.is_honest and not _skips(r)]),
                ("work left out", WORK, [r for r in found if _skips(r)]),
                ("honest, other builds", HONEST, [r for r in found if r.is_honest]),
            )
            for label, colour, members in groups:
                values = np.clip([row.measure(measure) for row in members], LOWEST, 2.0)
                weights = np.full(values.size, 1 / max(1, values.size))
                axis.hist(
                    values, bins=edges, weights=weights, color=colour, alpha=0.75, label=label
                )
            if limits is not None:
                axis.axvline(limits[f"pass_{measure}"], color="black", ls="--", lw=1, label="pass")
                axis.axvline(
                    limits[f"fail_{measure}"], color="crimson", ls="--", lw=1, label="fail"
                )
            axis.set_xscale("log")
            axis.set_ylabel(f"{width} bits, share")
    axes[0][0].legend(fontsize=7, loc="upper left")
    axes[0][0].set_title("drop of the cosine, whole update", fontsize=10)
    axes[0][1].set_title("the same, quietest tenth of the tensors", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel(f"distance from the auditor's replay ({LOWEST:g}: that or less)")
    figure.suptitle(f"Replays of contributions in {dtype}, on another build of the same device")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_detection(content: dict[str, Any], path: Path) -> None:
    """Share of the audits that do not pass, by share of the steps left out."""
    dtypes = sorted({entry["compute_dtype"] for entry in content["entries"]})
    figure, axes = plt.subplots(
        1, len(dtypes), figsize=(5.6 * len(dtypes), 4.2), sharey=True, squeeze=False
    )
    entries = [*content["entries"], *content["before_rounding"]]
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        marker = iter(MARKERS * 8)
        for entry in sorted(entries, key=lambda item: (item["relation"], item["codec_bits"])):
            if entry["compute_dtype"] != dtype:
                continue
            points = detection_curve(entry)
            is_same = entry["relation"] == RelationKind.SAME_BUILD
            codec = f"{entry['codec_bits']} bits" if entry["codec_bits"] else "before rounding"
            axis.plot(
                [100 * share for share, _ in points],
                [100 * caught for _, caught in points],
                marker=next(marker),
                markersize=4,
                lw=1.2,
                ls=":" if is_same else "-",
                alpha=0.8,
                label=f"{entry['relation']}, {codec}",
            )
        axis.set_xscale("log")
        axis.set_title(dtype)
        axis.set_xlabel("share of the local steps left out, %")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6.5, loc="lower right")
    axes[0][0].set_ylabel("audits that do not pass, %")
    figure.suptitle("What one audit finds")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _skips(row: Row) -> bool:
    return not row.is_honest and row.share is not None and 0 < row.share < 1


def _limits(content: dict[str, Any], dtype: str, bits: int) -> dict[str, float] | None:
    for entry in content["entries"]:
        if (entry["compute_dtype"], entry["codec_bits"]) == (dtype, bits) and entry[
            "relation"
        ] == RelationKind.SAME_DEVICE:
            limits: dict[str, float] = entry["thresholds"]
            return limits
    return None
