"""Base and stack of a model as one folder that plain transformers loads."""

from __future__ import annotations

import shutil
from pathlib import Path

from ares_coordinator.exports.card import merged_card
from ares_coordinator.exports.subject import ExportSubject
from ares_p2p.files import write_atomically
from ares_p2p.training.merge import MergedBase, OnProgress, merge_base

TERMS = ("LICENSE*", "NOTICE*", "USE_POLICY*")  # of the base: they go where its weights go


def write_merged(
    folder: Path, subject: ExportSubject, *, on_progress: OnProgress | None = None
) -> MergedBase:
    """Merge the model into `folder`; a merge that was interrupted goes on.

    Raises: see `merge_base`.
    """
    merged = merge_base(
        subject.base_folder,
        subject.adapters,
        folder,
        expected_base_sha256=subject.base.sha256,
        on_progress=on_progress,
    )
    for pattern in TERMS:
        for path in sorted(subject.base_folder.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    write_atomically(folder / "README.md", merged_card(subject).encode())
    return merged
