"""Where the coordinator keeps its files under the data directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DataLayout:
    """The folders and files of one coordinator."""

    root: Path

    @property
    def blobs(self) -> Path:
        """Content-addressed: snapshots, contributions, base files."""
        return self.root / "blobs"

    @property
    def staging(self) -> Path:
        """Contributions that come over HTTPS, until their round's commits are closed."""
        return self.root / "staging"

    @property
    def logs(self) -> Path:
        """Logs of this process and its children."""
        return self.root / "logs"

    @property
    def scratch(self) -> Path:
        """Files on their way from the worker into the blobs; nothing in it is missed."""
        return self.root / "scratch"

    def raw_rows(self, cycle: int) -> Path:
        """Folder of what was imported and taught for a cycle, before it is split."""
        return self.root / "ares-training-data" / f"cycle-{cycle}"

    @property
    def evaluation_sets(self) -> Path:
        """Folder of `*.ngrams`: evaluation sets of which no row may hold a run of words."""
        return self.root / "ares-training-data" / "evaluation-sets"

    def dataset(self, cycle: int) -> Path:
        """Folder of a cycle's `train.jsonl` and `eval.jsonl`."""
        return self.root / "ares-datasets" / f"cycle-{cycle}"

    def merged_base(self, cycle: int) -> Path:
        """The base that has all adapters up to a cycle's merged in."""
        return self.root / "ares-bases" / f"after-cycle-{cycle}"

    def adapter(self, cycle: int) -> Path:
        """A cycle's PEFT folder."""
        return self.root / "ares-adapters" / f"cycle-{cycle}"

    def export(self, version: int) -> Path:
        """Folder of what is exported of the model `ares-vN`."""
        return self.root / "ares-exports" / f"v{version}"

    @property
    def scripts(self) -> Path:
        """Stand-alone training scripts, and what the worker process reads."""
        return self.root / "ares-scripts"

    def config_file(self, cycle: int) -> Path:
        """The signed CycleConfig, for the worker process."""
        return self.scripts / f"cycle-{cycle}.config"
