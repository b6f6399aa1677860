"""`manifest.json`: every file of an export with size and SHA-256, signed in `manifest.sig`.

The signature is over the bytes of `manifest.json` as they lie there (DSSE's encoding with a payload
type of its own), so nothing is written again to be verified. Whoever verifies must know whose
signature to expect: the coordinator's peer id, which the network's invite names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ares_coordinator.exports.subject import ExportSubject
from ares_p2p.crypto.envelope import Envelope, check_envelope, sign_payload
from ares_p2p.crypto.keys import Identity
from ares_p2p.datadir import LOCK_FILE
from ares_p2p.errors import HashMismatch, Oversize, PayloadMalformed
from ares_p2p.files import write_atomically
from ares_p2p.ids import PeerId
from ares_p2p.training.stack import Adapter

MANIFEST_FILE: Final = "manifest.json"
SIGNATURE_FILE: Final = "manifest.sig"
PAYLOAD_TYPE: Final = "application/vnd.ares.export.v1+json"
MAX_MANIFEST_BYTES: Final = 1_048_576  # a thousand files are about 150 kB
MAX_SIGNATURE_BYTES: Final = 4_096
_NOT_LISTED = frozenset({MANIFEST_FILE, SIGNATURE_FILE, LOCK_FILE})


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file: its path below the export's folder, with slashes."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ExportManifest:
    """A manifest that was verified, or just written."""

    folder: Path
    signer: PeerId
    content: dict[str, Any]  # as in the file
    files: tuple[ExportedFile, ...]


def write_manifest(
    folder: Path, subject: ExportSubject, adapter: Adapter, *, identity: Identity, now_ms: int
) -> ExportManifest:
    """List and sign what lies in `folder`.

    Raises: DiskFull.
    """
    files = tuple(_described(folder, path) for path in _listed(folder))
    row = subject.row
    content = {
        "schema": "ares-export/1",
        "network": subject.network,
        "coordinator": identity.peer_id,
        "version": subject.version,
        "cycle": row.cycle,
        "cycles": list(subject.cycles),
        "created_ms": now_ms,
        "base": {
            "name": subject.base.name,
            "hub_id": subject.base.hub_id,
            "revision": subject.base.revision,
            "sha256": subject.base.sha256.hex(),
        },
        "adapter": {
            "rank": adapter.spec.rank,
            "alpha": adapter.spec.alpha,
            "target_modules": list(adapter.spec.targets),
        },
        "parameters": {
            **asdict(subject.parameters),
            "effective": subject.parameters.effective,
        },
        "evaluation": {
            "unit": "nats per token",
            "loss_before": row.loss_before,
            "loss_after": row.loss_after,
            "change_low": row.loss_change_low,
            "change_high": row.loss_change_high,
            "categories": dict(subject.evaluation.category_means) if subject.evaluation else {},
        },
        "contributors": subject.contributors,
        "files": [asdict(file) for file in files],
    }
    payload = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
    envelope = sign_payload(identity, PAYLOAD_TYPE, payload)
    signature = {
        "payload_type": envelope.payload_type,
        "signer": envelope.signer,
        "public_key": envelope.public_key.hex(),
        "signature": envelope.signature.hex(),
    }
    write_atomically(folder / MANIFEST_FILE, payload)
    text = json.dumps(signature, indent=2, sort_keys=True) + "\n"
    write_atomically(folder / SIGNATURE_FILE, text.encode())
    return ExportManifest(folder, identity.peer_id, content, files)


def check_export(folder: Path, *, signer: PeerId | None = None) -> ExportManifest:
    """Verify signature, sizes and hashes of an export, and that nothing else lies there.

    Args:
        signer: whose signature is expected; without it any valid one passes, and the caller must
            look at `signer` of what is returned.
    Raises: PayloadMalformed, Oversize: no manifest, or an unreadable one. BadSignature, WeakKey,
        WrongSigner. HashMismatch: a file is missing, differs, or is not listed.
    """
    payload = _bounded(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    raw = _bounded(folder / SIGNATURE_FILE, MAX_SIGNATURE_BYTES)
    try:
        signed = json.loads(raw)
        envelope = Envelope(
            str(signed["payload_type"]),
            payload,
            bytes.fromhex(signed["public_key"]),
            bytes.fromhex(signed["signature"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PayloadMalformed(f"{SIGNATURE_FILE} does not read: {error}") from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise PayloadMalformed(
            f"payload type {envelope.payload_type[:80]!r}, {PAYLOAD_TYPE} expected"
        )
    check_envelope(envelope, signer=signer)
    try:
        content = json.loads(payload)
        files = tuple(
            ExportedFile(str(one["name"]), int(one["size_bytes"]), str(one["sha256"]))
            for one in content["files"]
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PayloadMalformed(f"{MANIFEST_FILE} does not read: {error}") from error
    for file in files:
        _check_file(folder, file)
    if more := {_name(folder, path) for path in _listed(folder)} - {file.name for file in files}:
        raise HashMismatch(f"not in the manifest: {', '.join(sorted(more)[:5])}")
    return ExportManifest(folder, envelope.signer, content, files)


def _check_file(folder: Path, file: ExportedFile) -> None:
    pure = PurePosixPath(file.name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in file.name:
        raise PayloadMalformed(f"{file.name[:80]!r} leads out of the export")
    path = folder / pure
    if not path.is_file() or path.is_symlink():
        raise HashMismatch(f"{file.name} is missing")
    if path.stat().st_size != file.size_bytes:
        raise HashMismatch(
            f"{file.name} has {path.stat().st_size} bytes, {file.size_bytes} were signed"
        )
    if _sha256_of(path) != file.sha256:
        raise HashMismatch(f"{file.name} is not the file that was signed")


def _listed(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in _NOT_LISTED and not path.name.startswith(".")
    )


def _described(folder: Path, path: Path) -> ExportedFile:
    return ExportedFile(_name(folder, path), path.stat().st_size, _sha256_of(path))


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bounded(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise PayloadMalformed(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise Oversize(f"{path.name}: at most {limit} bytes expected")
    return data
