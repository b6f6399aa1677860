"""Merges a stack of adapters into its base: a new base, the same bytes on every machine.

For every weight that the stack adapts, W' = W + sum_i (alpha_i / r_i) B_i A_i, with the sum of
products as `exact_product` defines it, added in float64 and rounded to the type W is stored in.
Every other byte stays. So each peer makes the new base from what it has and compares the digest:
nobody downloads it, and nobody has to believe the one who merged.

The base may be larger than memory: files are read and written in order, a block of rows at a time,
and hashed as they pass. A file appears complete under its name or not at all. `merge.json` lists
what is done; after a crash the finished files are hashed again and kept. `config.json` comes last:
without it no folder is a base.

Refuses: quantized weights, adapted modules that the base lacks or has in another shape or type, and
folders with the results of another merge. Source: docs/adr/0011-merging-a-stack-into-its-base.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ares_p2p.averaging.vectors import FLOAT32, Vector
from ares_p2p.datadir import DataDirLock
from ares_p2p.errors import BaseDigestMismatch, DiskFull, MergeRefused
from ares_p2p.files import naming_full_disk, write_atomically
from ares_p2p.ids import Digest, sha256
from ares_p2p.training.base_files import BaseFile, BaseFiles, base_files_digest
from ares_p2p.training.exact_product import ExactProduct
from ares_p2p.training.layout import Layout, layout_of_shapes
from ares_p2p.training.lora_spec import NAME_PREFIX, LoraSpec, load_spec
from ares_p2p.training.safetensors_stream import (
    StoredFile,
    StoredTensor,
    read_head,
    weight_files,
)
from ares_p2p.training.stack import LORA_A, LORA_B, module_shapes
from ares_p2p.training.stored_floats import ITEM_BYTES, decode_floats, encode_floats

MERGE_DOMAIN = b"ares/merge/1\0"  # another rule, another number
MERGE_FILE = "merge.json"
CONFIG = "config.json"
COPY_BYTES = 1 << 20
BLOCK_ELEMENTS = 1 << 18  # of a weight at a time: 2 MB a temporary in float64, about a cache
DISK_MARGIN_BYTES = 64 * 1024**2

OnProgress = Callable[[str, int, int], None]  # (file, bytes done, bytes in all)


@dataclass(frozen=True, slots=True)
class MergedBase:
    """What a merge made: the files of the new base, and of the old one as they were read."""

    folder: Path
    files: BaseFiles
    source: BaseFiles


def merge_base(
    base: Path,
    adapters: Sequence[Path],
    out: Path,
    *,
    expected_base_sha256: Digest | None = None,
    on_progress: OnProgress | None = None,
) -> MergedBase:
    """Write `base` with `adapters` merged into it as a new base to `out`; goes on where it was.

    Args:
        base: folder with safetensors in float32, float16 or bfloat16, one file or many.
        adapters: PEFT folders, oldest first; the order does not change the result.
        out: created if missing; empty, or with an unfinished or finished merge of the same things.
        expected_base_sha256: refuse another base before anything is written.
        on_progress: called as bytes are written.
    Returns: the new base's files and digest, computed while they were written.
    Raises: BaseUnsupported, ConfigFault: base or an adapter is unreadable. BaseDigestMismatch:
        another base than expected, or one that changed meanwhile. MergeRefused: see above.
        NonFinite: a merged weight does not fit its type. DiskFull.
    """
    source = base_files_digest(base)
    if expected_base_sha256 not in (None, source.digest_sha256):
        raise BaseDigestMismatch(
            f"{base} has digest {source.digest_sha256.hex()[:12]}, another base expected"
        )
    stack = _Stack.open(adapters)
    heads = weight_files(base)
    _check_mergeable(base, heads, stack)
    out.mkdir(parents=True, exist_ok=True)
    with DataDirLock(out):
        return _Merge(base, source, heads, stack, out, on_progress).run()


def merged_parameters(base: Path) -> int:
    """Return how many adapter parameters were merged into a base, over all its generations.

    Raises: MergeRefused: `merge.json` is there and does not read.
    """
    path = base / MERGE_FILE
    if not path.is_file():
        return 0
    try:
        return int(json.loads(path.read_bytes())["merged_parameters"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MergeRefused(f"{path} does not read: {error}") from error


@dataclass(frozen=True, slots=True)
class _OpenAdapter:
    """An adapter on the disk: what is read of it is read when it is needed."""

    spec: LoraSpec
    layout: Layout
    path: Path
    head: StoredFile
    digest_sha256: Digest

    @staticmethod
    def open(folder: Path) -> _OpenAdapter:
        spec = load_spec(folder)
        path = folder / "adapter_model.safetensors"
        head = read_head(path)
        if any(tensor.dtype != "F32" for tensor in head.tensors):
            raise MergeRefused(f"{path}: float32 tensors expected")
        layout = layout_of_shapes({tensor.name: tensor.shape for tensor in head.tensors})
        digests = [_sha256_of(folder / "adapter_config.json"), _sha256_of(path)]
        return _OpenAdapter(spec, layout, path, head, sha256(*digests))

    def tensor(self, name: str) -> Vector | None:
        """Return one tensor, read from the disk, None if there is no such."""
        found = next((tensor for tensor in self.head.tensors if tensor.name == name), None)
        if found is None:
            return None
        offset = len(self.head.prefix) + found.start
        values = np.fromfile(self.path, dtype="<f4", count=found.elements, offset=offset)
        return values.astype(FLOAT32, copy=False).reshape(found.shape)


@dataclass(frozen=True, slots=True)
class _Stack:
    """The adapters to merge, and which weights they change: tensor name -> (out, in)."""

    adapters: tuple[_OpenAdapter, ...]
    weights: dict[str, tuple[int, int]]

    @staticmethod
    def open(folders: Sequence[Path]) -> _Stack:
        if not folders:
            raise MergeRefused("no adapter to merge")
        adapters = tuple(_OpenAdapter.open(folder) for folder in folders)
        weights: dict[str, tuple[int, int]] = {}
        for adapter in adapters:
            for stem, shape in module_shapes(adapter.layout).items():
                if not stem.startswith(NAME_PREFIX):
                    raise MergeRefused(f"{stem}: a name in PEFT's naming expected")
                name = f"{stem.removeprefix(NAME_PREFIX)}.weight"
                if weights.setdefault(name, shape) != shape:
                    raise MergeRefused(
                        f"{name}: {shape} in one adapter, {weights[name]} in another"
                    )
        return _Stack(adapters, weights)

    @property
    def parameters(self) -> int:
        return sum(adapter.layout.size for adapter in self.adapters)

    def product(self, name: str) -> ExactProduct:
        """Return what a weight changes by: all adapters' factors side by side, scales folded in."""
        stem = f"{NAME_PREFIX}{name.removesuffix('.weight')}"
        left, right = [], []
        for adapter in self.adapters:
            a, b = adapter.tensor(stem + LORA_A), adapter.tensor(stem + LORA_B)
            if a is None or b is None:
                continue
            scale = np.float64(adapter.spec.alpha) / np.float64(adapter.spec.rank)
            left.append(b.astype(np.float64) * scale)
            right.append(a)
        return ExactProduct(np.concatenate(left, axis=1), np.concatenate(right, axis=0))


def _check_mergeable(base: Path, heads: dict[str, StoredFile], stack: _Stack) -> None:
    try:
        config = json.loads((base / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise MergeRefused(f"{base}/{CONFIG} does not read: {error}") from error
    if not isinstance(config, dict) or config.get("quantization_config"):
        raise MergeRefused(
            f"{base} stores quantized weights: a merge onto them would round the adapters away",
            hint="Merge into the base that was quantized.",
        )
    stored = {tensor.name: tensor for head in heads.values() for tensor in head.tensors}
    for name, shape in stack.weights.items():
        weight = stored.get(name)
        if weight is None:
            raise MergeRefused(f"the adapters change {name}, which {base} does not hold")
        if weight.dtype not in ITEM_BYTES:
            raise MergeRefused(
                f"{name} is stored as {weight.dtype}; {', '.join(ITEM_BYTES)} expected"
            )
        if weight.shape != shape:
            raise MergeRefused(f"{name} has shape {weight.shape}, the adapters want {shape}")


@dataclass(slots=True)
class _Merge:
    """One run of a merge."""

    base: Path
    source: BaseFiles
    heads: dict[str, StoredFile]
    stack: _Stack
    out: Path
    on_progress: OnProgress | None
    finished: dict[str, BaseFile] = field(default_factory=dict)
    done_bytes: int = 0

    def run(self) -> MergedBase:
        self._resume()
        self._check_room()
        others = [
            f.name for f in self.source.files if f.name not in self.heads and f.name != CONFIG
        ]
        for name in (*self.heads, *others, CONFIG):
            if name not in self.finished:
                write = self._merge_file if name in self.heads else self._copy_file
                file = write(name)
                self._note(file, is_complete=name == CONFIG)
        return MergedBase(self.out, self._result(), self.source)

    def _result(self) -> BaseFiles:
        return BaseFiles(tuple(self.finished[file.name] for file in self.source.files))

    @property
    def _total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.source.files)

    @property
    def _key(self) -> Digest:
        digests = (adapter.digest_sha256 for adapter in self.stack.adapters)
        return sha256(MERGE_DOMAIN, self.source.digest_sha256, *digests)

    def _resume(self) -> None:
        """Take over the files of an earlier run that are still as it left them.

        Raises: MergeRefused: the folder holds something else.
        """
        there = {path.name for path in self.out.iterdir()}
        path = self.out / MERGE_FILE
        if not path.is_file():
            if {file.name for file in self.source.files} & there:
                raise MergeRefused(f"{self.out} holds files of another model", hint="Empty it.")
            return
        try:
            noted = json.loads(path.read_bytes())
            key, files = noted["key"], [_file_of(entry) for entry in noted["files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MergeRefused(
                f"{path} does not read: {error}", hint="Empty the folder."
            ) from error
        if key != self._key.hex():
            raise MergeRefused(
                f"{self.out} holds the merge of another base or of other adapters",
                hint="Choose another folder, or empty it.",
            )
        for file in files:
            target = self.out / file.name
            if target.is_file() and _sha256_of(target) == file.sha256:
                self.finished[file.name] = file
                self._progress(file.name, file.size_bytes)

    def _check_room(self) -> None:
        wanted = sum(f.size_bytes for f in self.source.files if f.name not in self.finished)
        free = shutil.disk_usage(self.out).free
        if wanted and free < wanted + DISK_MARGIN_BYTES:
            raise DiskFull(
                f"the merged base needs {wanted / 1e6:.0f} MB more in {self.out}, "
                f"{free / 1e6:.0f} MB are free"
            )

    def _note(self, file: BaseFile, *, is_complete: bool) -> None:
        """Write `merge.json`: what was merged, what is done, and in the end the digest."""
        self.finished[file.name] = file
        noted = {
            "rule": MERGE_DOMAIN.decode().rstrip("\0"),
            "key": self._key.hex(),
            "base_sha256": self.source.digest_sha256.hex(),
            "adapters": [
                {
                    "sha256": adapter.digest_sha256.hex(),
                    "rank": adapter.spec.rank,
                    "alpha": adapter.spec.alpha,
                    "parameters": adapter.layout.size,
                }
                for adapter in self.stack.adapters
            ],
            "merged_parameters": merged_parameters(self.base) + self.stack.parameters,
            "files": [
                {"name": one.name, "size_bytes": one.size_bytes, "sha256": one.sha256.hex()}
                for one in sorted(self.finished.values(), key=lambda one: one.name)
            ],
            "digest_sha256": self._result().digest_sha256.hex() if is_complete else "",
        }
        text = json.dumps(noted, indent=2, sort_keys=True) + "\n"
        write_atomically(self.out / MERGE_FILE, text.encode(), durable=True)

    def _progress(self, name: str, size_bytes: int) -> None:
        self.done_bytes += size_bytes
        if self.on_progress is not None:
            self.on_progress(name, self.done_bytes, self._total_bytes)

    # --- files ---------------------------------------------------------------------------------

    def _copy_file(self, name: str) -> BaseFile:
        with (self.base / name).open("rb") as file, _new_file(self.out / name) as target:
            reader, writer = _Hashed(file), _Hashed(target)
            while piece := reader.read(COPY_BYTES):
                writer.write(piece)
                self._progress(name, len(piece))
        return self._checked(name, reader, writer)

    def _merge_file(self, name: str) -> BaseFile:
        head = self.heads[name]
        with (self.base / name).open("rb") as file, _new_file(self.out / name) as target:
            reader, writer = _Hashed(file), _Hashed(target)
            writer.write(reader.read_exactly(len(head.prefix)))  # names, types, places: the same
            self._progress(name, len(head.prefix))
            for tensor in head.tensors:
                if tensor.name in self.stack.weights:
                    pieces = self._merged(tensor, reader)
                else:
                    pieces = reader.pieces(tensor.size_bytes)
                for piece in pieces:
                    writer.write(piece)
                    self._progress(name, len(piece))
            assert not reader.read(1)
        return self._checked(name, reader, writer)

    def _merged(self, tensor: StoredTensor, reader: _Hashed) -> Iterator[bytes]:
        """Yield the merged bytes of a weight, a block of rows at a time."""
        rows, columns = tensor.shape
        row_bytes = columns * ITEM_BYTES[tensor.dtype]
        step = max(1, BLOCK_ELEMENTS // columns)
        product = self.stack.product(tensor.name)
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            data = reader.read_exactly((stop - start) * row_bytes)
            values = decode_floats(data, tensor.dtype).reshape(stop - start, columns)
            values += product.rows(start, stop)
            yield encode_floats(values, tensor.dtype, what=tensor.name)

    def _checked(self, name: str, reader: _Hashed, writer: _Hashed) -> BaseFile:
        signed = next(file for file in self.source.files if file.name == name)
        if reader.digest != signed.sha256:
            (self.out / name).unlink()
            raise BaseDigestMismatch(f"{self.base / name} changed while it was merged")
        return BaseFile(name, writer.digest, writer.size_bytes)


class _Hashed:
    """A file that is read or written in order, and hashed as it passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def digest(self) -> Digest:
        return self._hash.digest()

    def _pass(self, data: bytes) -> bytes:
        self._hash.update(data)
        self.size_bytes += len(data)
        return data

    def read(self, size: int) -> bytes:
        return self._pass(self._file.read(size))

    def read_exactly(self, size: int) -> bytes:
        data = self.read(size)
        if len(data) != size:
            raise BaseDigestMismatch(f"{self._file.name} became shorter while it was merged")
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.read_exactly(min(size, COPY_BYTES))
            size -= len(piece)
            yield piece

    def write(self, data: bytes) -> None:
        self._file.write(self._pass(data))


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write that appears under its name, durably, when the block ends well."""
    partial = path.with_name(f".{path.name}.part")  # of a killed run: begun anew
    with naming_full_disk(path):
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def _file_of(entry: dict[str, Any]) -> BaseFile:
    name = str(entry["name"])
    if name != Path(name).name:
        raise ValueError(f"{name!r} is no plain file name")
    return BaseFile(name, bytes.fromhex(entry["sha256"]), int(entry["size_bytes"]))


def _sha256_of(path: Path) -> Digest:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
