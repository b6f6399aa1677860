"""Which files a base model consists of, and their digest, without loading anything.

A cycle is signed for one base. A peer hashes the files that decide what the model computes
(weights, configuration, tokenizer) before torch reads the first of them. Other files of the folder
(readme, licence, images) do not matter. Pickled weights are refused outright: loading one runs
whatever code its author chose.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ares_p2p.errors import BaseDigestMismatch, BaseUnsupported
from ares_p2p.ids import Digest, sha256

BASE_DOMAIN = b"ares/base-files/1\0"
READ_BYTES = 1 << 20
MAX_FILES = 1_024  # the largest open models have about 200 weight files

EXACT_NAMES = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
PICKLED_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})


@dataclass(frozen=True, slots=True)
class BaseFile:
    """One file of a base model."""

    name: str
    sha256: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """The files of a base model, sorted by name."""

    files: tuple[BaseFile, ...]

    @property
    def digest_sha256(self) -> Digest:
        """What a cycle is signed for: sha256 of domain, then per file name, size, sha256."""
        content = [BASE_DOMAIN, struct.pack("<I", len(self.files))]
        for file in self.files:
            raw = file.name.encode()
            content += [struct.pack("<HQ", len(raw), file.size_bytes), raw, file.sha256]
        return sha256(*content)


def base_files_digest(folder: Path) -> BaseFiles:
    """Hash the files of the base in `folder`.

    Args:
        folder: a local folder in the layout of the Hugging Face hub (links are followed).
    Returns: the files that matter, with their sha256 and size, and the digest over them.
    Raises: BaseUnsupported: no such folder, no config.json, or no safetensors weights.
    """
    if not folder.is_dir():
        raise BaseUnsupported(f"there is no base model folder {folder}")
    present = {path.name: path for path in folder.iterdir() if path.is_file()}
    names = sorted(n for n in present if n in EXACT_NAMES or n.endswith(".safetensors"))
    if "config.json" not in names:
        raise BaseUnsupported(f"{folder} holds no config.json")
    if not any(name.endswith(".safetensors") for name in names):
        pickled = sorted(n for n, path in present.items() if path.suffix in PICKLED_SUFFIXES)
        found = f"only pickled weights ({', '.join(pickled[:3])})" if pickled else "no weights"
        raise BaseUnsupported(
            f"{folder} holds no *.safetensors: {found}",
            hint="Use a base published as safetensors, or convert it on a machine you trust.",
        )
    if len(names) > MAX_FILES:
        raise BaseUnsupported(f"{folder} holds {len(names)} files, at most {MAX_FILES} expected")
    return BaseFiles(tuple(_hash_file(present[name]) for name in names))


def check_base_files(
    folder: Path, *, expected_sha256: Digest, expected_files: Sequence[BaseFile] = ()
) -> BaseFiles:
    """Check that `folder` holds the base that the cycle was signed for.

    Args:
        folder: a local folder.
        expected_sha256: the cycle's base digest.
        expected_files: if known, lets the message name the files that differ.
    Returns: the files found.
    Raises:
        BaseDigestMismatch: other files than expected.
        BaseUnsupported: see `base_files_digest`.
    """
    found = base_files_digest(folder)
    if found.digest_sha256 == expected_sha256:
        return found
    known, here = set(expected_files), set(found.files)
    names = sorted({file.name for file in known ^ here}) if known else []
    detail = f" (differs in: {', '.join(names[:5])})" if names else ""
    raise BaseDigestMismatch(
        f"base in {folder} has digest {found.digest_sha256.hex()[:12]}, the cycle wants "
        f"{expected_sha256.hex()[:12]}{detail}"
    )


def _hash_file(path: Path) -> BaseFile:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
            size += len(piece)
    return BaseFile(path.name, digest.digest(), size)
