"""What a calibration trains, on which builds, and where its files lie. Pure but for reading rows.

A *build* is a way in which an honest machine may compute: another attention kernel, other vector
instructions, another number of threads. Everything else is equal, so what two builds' updates
differ by is rounding and nothing else. The environment variables are those with which the
libraries are told to pass over what the processor could do; they stand for other processors.

Files of a run, under `work/`: every one is written in one step and never changed, so a run that
was killed goes on with what is missing.

    plan.json, train.jsonl                what the run is
    states/<round>.npy                    theta at the start of a round
    updates/<build>/<round>-<peer>.npy    honest uncompressed updates
    measures/<dtype>/<round>-<peer>.json  every claim against every auditor's build
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ares_p2p.domain import TrainingConfig
from ares_p2p.ids import PeerId
from ares_p2p.proofs.profile import CPU, CUDA, RelationKind

BEFORE_ROUNDING: Final = 0  # in the place of a codec's bits: the update itself, for comparison
REFERENCE: Final = "reference"
OTHER_DTYPE: Final = "other-dtype"  # in the place of a relation: measured, and never judged by
SLOW_PEERS: Final = 1  # pairs per round in the dtype that is not the cycle's
TRAINED_CHEATS: Final = 10  # local steps that a full set of cheats costs, in updates; for progress
FEW_TRAINED_CHEATS: Final = 2


@dataclass(frozen=True, slots=True)
class Build:
    """One way to compute.

    Args:
        name: part of file names.
        compute_dtype: of base and activations.
        device: "cpu" or "cuda".
        attention: kernel.
        threads: of torch; 1 unless that is what differs.
        environment: variables of the process, as sorted pairs.
        is_same_build: its profile is the reference's, so honest work should have equal bits.
    """

    name: str
    compute_dtype: str
    device: str = CPU
    attention: str = "sdpa"
    threads: int = 1
    environment: tuple[tuple[str, str], ...] = ()
    is_same_build: bool = False

    @property
    def folder(self) -> str:
        """Name of its folder under `updates`."""
        return f"{self.compute_dtype}-{self.name}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One calibration.

    Args:
        base: folder of the base.
        training: as a cycle signs it; `codec_bits` is ignored.
        device: of the reference build.
        rounds: states of one honest run, from its first.
        peers: honest updates per state.
        bits: codecs.
        dtypes: compute dtypes, the cycle's own first.
        examples_per_category: rows of the procedural teacher.
        seed: of rows, assignment and first state.
        only: names of the builds beside the reference; all, if empty.
    """

    base: Path
    training: TrainingConfig
    device: str
    rounds: int
    peers: int
    bits: tuple[int, ...]
    dtypes: tuple[str, ...]
    examples_per_category: int = 60
    seed: int = 5
    only: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `work/plan.json` holds: everything that decides a number."""
        return {**asdict(self), "base": str(self.base)}

    @staticmethod
    def from_json(content: dict[str, Any]) -> Plan:
        """Return the plan that `to_json` wrote."""
        training = {**content["training"], "targets": tuple(content["training"]["targets"])}
        return Plan(
            **{
                **content,
                "base": Path(content["base"]),
                "training": TrainingConfig(**training),
                "bits": tuple(content["bits"]),
                "dtypes": tuple(content["dtypes"]),
                "only": tuple(content.get("only", ())),
            }
        )

    def builds(self, dtype: str) -> tuple[Build, ...]:
        """Return the builds of one dtype that are wanted, the reference first."""
        reference, *others = self.all_builds(dtype)
        return (reference, *(build for build in others if not self.only or build.name in self.only))

    def all_builds(self, dtype: str) -> tuple[Build, ...]:
        """Return the builds of one dtype that this device has, the reference first."""
        if self.device == CUDA:
            return (
                Build(REFERENCE, dtype, CUDA),
                Build("eager", dtype, CUDA, attention="eager"),
                Build("processor", dtype, CPU),
            )
        no_vectors = ("ATEN_CPU_CAPABILITY", "default")
        builds = [
            Build(REFERENCE, dtype),
            Build("eager", dtype, attention="eager"),
            Build("no-vectors", dtype, environment=(no_vectors,)),
            Build("blas-compatible", dtype, environment=(("MKL_CBWR", "COMPATIBLE"),)),
        ]
        if dtype == self.dtypes[0]:
            builds += [
                Build("threads", dtype, threads=2, is_same_build=True),
                # these two change nothing on a processor that has no more than this anyway
                Build("avx2", dtype, environment=(("ATEN_CPU_CAPABILITY", "avx2"),)),
                Build("onednn-sse41", dtype, environment=(("ONEDNN_MAX_CPU_ISA", "SSE41"),)),
                Build(
                    "all-together",
                    dtype,
                    attention="eager",
                    environment=(no_vectors, ("MKL_CBWR", "COMPATIBLE")),
                ),
            ]
        return tuple(builds)

    def pairs(self, dtype: str) -> Iterator[tuple[int, int]]:
        """Yield the (round, peer) pairs that are trained in a dtype."""
        peers = self.peers if dtype == self.dtypes[0] else min(SLOW_PEERS, self.peers)
        for round_number in range(self.rounds):
            for peer in range(peers):
                yield round_number, peer

    def work_units(self) -> int:
        """Return how many updates the whole run trains, about; what progress counts."""
        units = 0
        for dtype in self.dtypes:
            pairs = len(list(self.pairs(dtype)))
            units += pairs * len(self.builds(dtype)) + pairs * self.measure_units(dtype)
        return units

    def measure_units(self, dtype: str) -> int:
        """Return what one pair's cheats cost, in updates."""
        return 1 + (TRAINED_CHEATS if dtype == self.dtypes[0] else FEW_TRAINED_CHEATS)


def relation_kind(claim: Build, auditor: Build) -> RelationKind:
    """Return the relation that the profiles of two builds of one dtype have."""
    if claim.device != auditor.device:
        return RelationKind.CROSS_DEVICE
    names = {REFERENCE if build.is_same_build else build.name for build in (claim, auditor)}
    return RelationKind.SAME_BUILD if len(names) == 1 else RelationKind.SAME_DEVICE


def peer_name(number: int) -> PeerId:
    """Return the id under which the n-th honest peer gets its examples."""
    return PeerId(f"calibration-{number}")


@dataclass(frozen=True, slots=True)
class WorkFiles:
    """The files of a run."""

    root: Path

    @property
    def plan(self) -> Path:
        """The plan, as JSON."""
        return self.root / "plan.json"

    @property
    def rows(self) -> Path:
        """The training rows."""
        return self.root / "train.jsonl"

    def state(self, round_number: int) -> Path:
        """Theta at the start of a round."""
        return self.root / "states" / f"{round_number}.npy"

    def update(self, build: Build, pair: tuple[int, int]) -> Path:
        """An honest, uncompressed update."""
        return self.root / "updates" / build.folder / f"{pair[0]}-{pair[1]}.npy"

    def profile(self, build: Build) -> Path:
        """The profile of a build's process."""
        return self.root / "updates" / build.folder / "profile.txt"

    def measures(self, dtype: str, pair: tuple[int, int]) -> Path:
        """What was measured of one pair."""
        return self.root / "measures" / dtype / f"{pair[0]}-{pair[1]}.json"
