"""The bounds of audit verdicts, as they were measured: per codec and per relation of two profiles.

A calibration is a JSON file that `ares-coordinator audit calibrate` writes. One for CPUs ships with
the package (`calibration/cpu.json`); a network's own files lie in `<data dir>/calibration` and count
instead of the shipped ones, entry by entry.

Where nothing was measured (a GPU before it was calibrated, an unreadable profile), the widest bounds
of the same compute dtype decide what passes, and **the outcome is void at most, never a fail**:
nobody is accused by numbers that were not taken. That costs a cheat its credit and its streak of
settled rounds all the same.

Refuses: other schemas, bounds that are not finite numbers in order, doubled entries. It reads files
of the operator and of this package, never of a peer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from ares_p2p.domain import TrainingConfig
from ares_p2p.errors import ConfigFault
from ares_p2p.proofs.profile import Relation, RelationKind
from ares_p2p.proofs.sketch import AuditThresholds

SCHEMA: Final = 1
CALIBRATION_FOLDER: Final = "calibration"  # under a network's data directory
MAX_FILE_BYTES: Final = 4 * 1024**2  # the shipped one has 224 kB
_HINT: Final = "Make it again: ares-coordinator audit calibrate --base FOLDER --out FOLDER"
# What a calibration depends on; the codec's bits are a key of their own.
CONDITIONS: Final = (
    "rank", "alpha", "quantization", "sequence_length", "sequences_per_step", "max_steps",
    "inner_lr", "beta2", "codec_block",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Key:
    """Where one set of bounds holds."""

    relation: Relation
    codec_bits: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured bounds.

    Args:
        bounds: per relation and codec.
        conditions: the training settings that they were measured with; of the last file.
    """

    bounds: Mapping[Key, AuditThresholds]
    conditions: Mapping[str, Any]

    def thresholds_for(self, codec_bits: int, relation: Relation) -> AuditThresholds:
        """Return the bounds of a codec and a relation.

        For a relation that was not measured: the widest that were measured with the same compute
        dtype (of any, if that dtype was not measured at all), with infinite bounds for a fail, so
        that the outcome is void at most and never a fail.
        """
        found = self.bounds.get(Key(relation, codec_bits))
        if found is not None:
            return found
        near = [
            bounds
            for key, bounds in self.bounds.items()
            if key.relation.compute_dtype == relation.compute_dtype
        ]
        return _widest(near or self.bounds.values())

    def is_measured(self, codec_bits: int, relation: Relation) -> bool:
        """Whether there are bounds for exactly this; only then can an audit fail."""
        return Key(relation, codec_bits) in self.bounds

    def differences(self, training: TrainingConfig) -> tuple[str, ...]:
        """Return in which settings a cycle differs from what was measured: "inner_lr 0.003".

        With more steps or a higher rate honest work differs more, with fewer tokens a step too:
        an operator should calibrate anew before the bounds have consequences.
        """
        return tuple(
            f"{name} {self.conditions[name]}"
            for name in CONDITIONS
            if name in self.conditions and self.conditions[name] != getattr(training, name)
        )

    def over(self, other: Calibration) -> Calibration:
        """Return these bounds, and those of `other` where these have none."""
        return Calibration({**other.bounds, **self.bounds}, self.conditions or other.conditions)


@cache
def shipped_calibration() -> Calibration:
    """Return what ships with the package."""
    folder = resources.files("ares_p2p.proofs") / CALIBRATION_FOLDER
    found = Calibration({}, {})
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        if file.name.endswith(".json"):
            found = decode_calibration(file.read_bytes(), name=file.name).over(found)
    return found


def load_calibration(folder: Path) -> Calibration:
    """Return the shipped calibration, with every `*.json` of a network's own folder over it.

    Args:
        folder: `<data dir>/calibration`; need not exist.
    Raises: ConfigFault: a file that is no calibration.
    """
    found = shipped_calibration()
    for path in sorted(folder.glob("*.json")):
        found = decode_calibration(path.read_bytes(), name=str(path)).over(found)
    return found


def thresholds_for(
    codec_bits: int, relation: Relation, *, calibration: Calibration | None = None
) -> AuditThresholds:
    """Return the bounds of a codec and a relation; see `Calibration.thresholds_for`.

    Args:
        calibration: the network's; without it the shipped one.
    """
    chosen = shipped_calibration() if calibration is None else calibration
    return chosen.thresholds_for(codec_bits, relation)


def decode_calibration(data: bytes, *, name: str) -> Calibration:
    """Return the calibration in a file.

    Args:
        name: for messages.
    Raises: ConfigFault: too large, no JSON, another schema, or an entry that says nothing.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ConfigFault(f"{name}: {len(data)} bytes, at most {MAX_FILE_BYTES} expected")
    try:
        content = json.loads(data)
        if content["schema"] != SCHEMA:
            raise ConfigFault(
                f"{name}: calibration of schema {content['schema']!r}, {SCHEMA} expected",
                hint=_HINT,
            )
        entries = [_entry(item) for item in content["entries"]]
        conditions = {key: content["training"][key] for key in CONDITIONS}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigFault(
            f"{name} is no calibration: {type(error).__name__} {error}", hint=_HINT
        ) from error
    bounds = dict(entries)
    if len(bounds) != len(entries):
        raise ConfigFault(f"{name}: two entries for one relation and codec", hint=_HINT)
    return Calibration(bounds, conditions)


def encode_bounds(key: Key, bounds: AuditThresholds) -> dict[str, Any]:
    """Return one entry of a calibration file, without its distributions."""
    return {
        "devices": key.relation.devices,
        "relation": str(key.relation.kind),
        "compute_dtype": key.relation.compute_dtype,
        "codec_bits": key.codec_bits,
        "thresholds": asdict(bounds),
    }


def _entry(item: Mapping[str, Any]) -> tuple[Key, AuditThresholds]:
    """Return the key and the bounds of one entry. Raises: ValueError and its like."""
    relation = Relation(
        RelationKind(item["relation"]), str(item["devices"]), str(item["compute_dtype"])
    )
    names = [field.name for field in fields(AuditThresholds)]
    values = {name: float(item["thresholds"][name]) for name in names}
    for name in names[::2]:  # pass_x, then fail_x
        low, high = values[name], values[name.replace("pass_", "fail_")]
        if not (math.isfinite(high) and 0 <= low <= high):
            raise ValueError(f"{name} {low:g} with a fail at {high:g}")
    return Key(relation, int(item["codec_bits"])), AuditThresholds(**values)


def _widest(several: Iterable[AuditThresholds]) -> AuditThresholds:
    """Return the widest bound of a pass in each measure, and none for a fail."""
    found: Sequence[AuditThresholds] = tuple(several) or (AuditThresholds(),)
    return AuditThresholds(
        pass_cosine_drop=max(one.pass_cosine_drop for one in found),
        fail_cosine_drop=math.inf,
        pass_norm_deviation=max(one.pass_norm_deviation for one in found),
        fail_norm_deviation=math.inf,
        pass_quiet_drop=max(one.pass_quiet_drop for one in found),
        fail_quiet_drop=math.inf,
    )
