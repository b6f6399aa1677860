"""Writes the formats of a model into one folder and signs what lies there.

    ares-exports/v3/  peft/  gguf/  merged/  manifest.json  manifest.sig

Formats may be added one by one: the manifest is made again over all of them. Killed and started
again, an export makes what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

from ares_coordinator.exports.adapter import read_model_adapter, write_peft
from ares_coordinator.exports.gguf_adapter import write_gguf
from ares_coordinator.exports.manifest import MANIFEST_FILE, ExportManifest, write_manifest
from ares_coordinator.exports.merged import write_merged
from ares_coordinator.exports.subject import ExportSubject
from ares_p2p.crypto.keys import Identity

Format = Literal["peft", "gguf", "merged"]
FORMATS: Final[tuple[Format, ...]] = ("peft", "gguf", "merged")
OnProgress = Callable[[str, int, int], None]  # (what, done, in all)


def build_export(
    subject: ExportSubject,
    out: Path,
    *,
    formats: Sequence[Format],
    identity: Identity,
    now_ms: int,
    on_progress: OnProgress | None = None,
) -> ExportManifest:
    """Write the model into `out` in each of `formats`, and the signed manifest last.

    Args:
        out: created if missing; what lies there of the same model stays and is signed too.
        identity: the coordinator's.
        now_ms: for the manifest.
        on_progress: called with the format, and how much of it is done.
    Raises: BaseUnsupported: a family without GGUF. BaseDigestMismatch. MergeRefused. ConfigFault:
        an adapter is unreadable. DiskFull.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_FILE).unlink(missing_ok=True)  # no manifest speaks of half an export
    say = on_progress or (lambda _what, _done, _total: None)
    adapter = read_model_adapter(subject)
    for kind in formats:
        say(kind, 0, 1)
        if kind == "peft":
            write_peft(out / kind, subject, adapter)
        elif kind == "gguf":
            write_gguf(out / kind, subject, adapter)
        else:
            write_merged(
                out / kind, subject, on_progress=lambda _, done, total: say("merged", done, total)
            )
        if kind != "merged":
            say(kind, 1, 1)
    say("manifest", 0, 1)
    manifest = write_manifest(out, subject, adapter, identity=identity, now_ms=now_ms)
    say("manifest", 1, 1)
    return manifest
