"""From measured distances to bounds, by one stated rule; pure.

For each measure (cosine drop, quiet drop, |log norm ratio|), codec and relation, with the distances
of honest pairs x:

    pass  at most  max(floor, 1.5 * max x)
    fail  above    max(floor, 3 * max x, t)

where t is the distance that honest work exceeds with a probability of one in a million, if the
tail beyond the upper quartile q is exponential: q + mean excess * ln(0.25 * 1e6). Without that
assumption a new honest pair exceeds the largest of n with a probability of at most 1 / (n + 1), n
being independent trainings; a void costs one round's credit, and a fail needs two replays.

Where profiles are equal, honest work has equal bits and the floors alone decide what passes. What
fails there is what fails on another build of the same device: a profile is a claim, and nobody
should be punished for a driver that it does not name.

The floors keep float32, whose honest distances are a millionth or so, from punishing a processor
that nobody measured: they allow twenty times what any build showed here, and a fail ten times that.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ares_coordinator.audit.calibration.plan import BEFORE_ROUNDING, OTHER_DTYPE
from ares_p2p.proofs.profile import Relation, RelationKind
from ares_p2p.proofs.sketch import AuditThresholds, ReplayComparison, judge, norm_deviation
from ares_p2p.proofs.thresholds import Key, encode_bounds

PASS_MARGIN: Final = 1.5
FAIL_MARGIN: Final = 3.0
FALSE_FAIL: Final = 1e-6  # under the exponential tail
PASS_FLOORS: Final = {"cosine_drop": 0.001, "quiet_drop": 0.001, "norm_deviation": 0.01}
FAIL_FLOORS: Final = {"cosine_drop": 0.01, "quiet_drop": 0.01, "norm_deviation": 0.05}
QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MEASURES: Final = ("cosine_drop", "quiet_drop", "norm_deviation")


@dataclass(frozen=True, slots=True)
class Row:
    """One claim against one auditor's replay, by one codec."""

    claim: str
    is_honest: bool
    share: float | None
    auditor: str
    relation: str
    devices: str
    compute_dtype: str
    bits: int
    pair: tuple[int, int]
    comparison: ReplayComparison

    def measure(self, name: str) -> float:
        """Return the value that a bound is held against."""
        if name == "norm_deviation":
            return norm_deviation(self.comparison.norm_ratio)
        value = getattr(self.comparison, name)
        return math.inf if value is None else float(value)


def row_of(item: Mapping[str, Any], *, compute_dtype: str, pair: tuple[int, int]) -> Row:
    """Return one row of a file of measures."""
    comparison = ReplayComparison(
        item["rho"], item["norm_ratio"], math.nan, item["cosine_drop"], item["quiet_drop"]
    )
    return Row(
        claim=item["claim"],
        is_honest=item["honest"],
        share=item["share"],
        auditor=item["auditor"],
        relation=item["relation"],
        devices=item["devices"],
        compute_dtype=compute_dtype,
        bits=item["bits"],
        pair=pair,
        comparison=comparison,
    )


def choose_bounds(honest: Iterable[float], *, measure: str) -> tuple[float, float]:
    """Return (pass, fail) of one measure from honest distances; see the module's rule.

    Args:
        honest: at least one, finite.
        measure: whose floors count.
    """
    values = np.asarray(list(honest), dtype=np.float64)
    largest = float(values.max())
    quartile = float(np.quantile(values, 0.75))
    excess = values[values > quartile] - quartile
    mean_excess = float(excess.mean()) if excess.size else 0.0
    tail = quartile + mean_excess * math.log(0.25 / FALSE_FAIL)
    low = max(PASS_FLOORS[measure], PASS_MARGIN * largest)
    return low, max(FAIL_FLOORS[measure], FAIL_MARGIN * largest, tail)


def thresholds_from(honest: Sequence[Row]) -> AuditThresholds:
    """Return the bounds of one relation and codec."""
    found: dict[str, float] = {}
    for measure in MEASURES:
        low, high = choose_bounds((row.measure(measure) for row in honest), measure=measure)
        found[f"pass_{measure}"], found[f"fail_{measure}"] = _short(low), _short(high)
    return AuditThresholds(**found)


def entries_from(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the calibration's entries: bounds, and the distributions behind them.

    Entries of `BEFORE_ROUNDING` tell what the codec costs; they are no bounds of a network.
    """
    groups: dict[tuple[str, str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[(row.compute_dtype, row.devices, row.relation, row.bits)].append(row)
    bounds = {
        group: thresholds_from([row for row in members if row.is_honest])
        for group, members in groups.items()
        if group[2] != OTHER_DTYPE
    }
    entries = []
    for group, members in sorted(groups.items()):
        dtype, devices, relation, bits = group
        if relation == OTHER_DTYPE:
            continue
        limits = bounds[group]
        wider = bounds.get((dtype, devices, RelationKind.SAME_DEVICE, bits))
        if relation == RelationKind.SAME_BUILD and wider is not None:
            limits = replace(
                limits,
                **{name: value for name, value in asdict(wider).items() if name[:5] == "fail_"},
            )
        key = Key(Relation(RelationKind(relation), devices, dtype), bits)
        entries.append({**encode_bounds(key, limits), **_distributions(members, limits)})
    return entries


def split_entries(
    entries: Iterable[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the entries of codecs, and those before rounding."""
    all_of_them = list(entries)
    return (
        [item for item in all_of_them if item["codec_bits"] != BEFORE_ROUNDING],
        [item for item in all_of_them if item["codec_bits"] == BEFORE_ROUNDING],
    )


def other_dtype(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return how honest work in another dtype than the signed one would look, per codec."""
    by_bits: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.relation == OTHER_DTYPE:
            by_bits[row.bits].append(row)
    return [
        {"codec_bits": bits, "compute_dtype": members[0].compute_dtype, **_summary(members)}
        for bits, members in sorted(by_bits.items())
    ]


def detection_curve(entry: dict[str, Any]) -> list[tuple[float, float]]:
    """Return (share of the steps left out, share of audits that do not pass) of one entry.

    Only steps that were simply not made count, the last one in parts.
    """
    points = []
    for cheat in entry["cheats"]:
        parts = cheat["name"].split("-")
        plain = parts[0] == "skip" and len(parts) == 2
        if cheat["share"] is not None and (plain or cheat["name"].endswith("-last-step")):
            total = cheat["pass"] + cheat["void"] + cheat["fail"]
            points.append((cheat["share"], 1 - cheat["pass"] / total))
    return sorted(points)


def _distributions(members: Sequence[Row], limits: AuditThresholds) -> dict[str, Any]:
    honest = [row for row in members if row.is_honest]
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in members:
        if not row.is_honest:
            by_name[row.claim].append(row)
    cheats = []
    for name, several in sorted(by_name.items(), key=lambda item: _order(item[1])):
        outcomes = [judge(row.comparison, limits) for row in several]
        counts = {word: outcomes.count(word) for word in ("pass", "void", "fail")}
        item = {"name": name, "share": several[0].share, **counts, **_summary(several)}
        cheats.append(item)
    outcomes = [judge(row.comparison, limits) for row in honest]
    counts = {word: outcomes.count(word) for word in ("pass", "void", "fail")}
    trainings = len({row.pair for row in honest})
    return {"honest": {"trainings": trainings, **counts, **_summary(honest)}, "cheats": cheats}


def _order(rows: Sequence[Row]) -> tuple[float, str]:
    share = rows[0].share
    return (2.0 if share is None else share, rows[0].claim)


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return count and quantiles of every measure."""
    found: dict[str, Any] = {"comparisons": len(rows)}
    for name in (*MEASURES, "rho"):
        values: npt.NDArray[np.float64] = np.array([row.measure(name) for row in rows])
        finite = values[np.isfinite(values)]
        found[name] = (
            [_short(float(np.quantile(finite, at))) for at in QUANTILES] if finite.size else []
        )
    return found


def _short(value: float) -> float:
    """Return `value` with four digits: more would only be noise in a file under version control."""
    return float(f"{value:.4g}")
