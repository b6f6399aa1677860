"""What a cycle needs before the first step: the base, the stack, the examples.

Each thing is looked for where it may already lie, else fetched by its hash, and never used
before the hash fits. What was fetched stays in the data directory for the next cycle.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ares_p2p.domain import (
    AdapterRef,
    BaseFile,
    BaseRef,
    CycleConfig,
    DatasetManifest,
    ShardRef,
)
from ares_p2p.errors import (
    BaseDigestMismatch,
    DiskFull,
    HashMismatch,
    PayloadMalformed,
    RecordUnavailable,
)
from ares_p2p.files import naming_full_disk, write_atomically
from ares_p2p.ids import Digest, PeerId, sha256
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.shards.format import Example, decode_shard
from ares_p2p.shards.manifest import check_examples, check_manifest, join_chunks
from ares_p2p.training.base_files import base_files_digest
from ares_peer.links import Links
from ares_peer.ownmerge import MAX_MERGED, merge_from_parent

BLOB_TIMEOUT_S = 600.0  # one file of a base; it resumes on the next try
CHUNKS_AT_ONCE = 16  # 768 kB: one step of the progress bar
DISK_MARGIN_BYTES = 256 * 1024**2  # snapshots, contributions and logs of a few rounds

BlobProgress = Callable[[int, int], None]
Progress = Callable[[str, int, int], None]  # (what, done bytes, total bytes)


@dataclass(frozen=True, slots=True)
class Materials:
    """Everything local and verified."""

    base: Path
    stack: tuple[Path, ...]
    examples: tuple[Example, ...]


async def gather_materials(
    links: Links,
    config: CycleConfig,
    *,
    data_dir: Path,
    base: Path | None,
    sources: Sequence[PeerId],
    progress: Progress,
) -> Materials:
    """Return the cycle's materials, fetching what is missing.

    Args:
        base: the folder the volunteer named, None to keep it in the data directory.
        sources: peers that may serve blobs.
    Raises: BaseDigestMismatch: `base` holds another model. BlobUnavailable, RecordUnavailable.
        DiskFull. PeerFault: a signed manifest with impossible content.
    """
    base = await _the_base(
        links, config, data_dir=data_dir, named=base, sources=sources, progress=progress
    )
    await asyncio.to_thread(_check_base, base, config)
    stack = await _adapters(
        links, config.stack, data_dir=data_dir, sources=sources, progress=progress
    )
    examples = await _fetch_examples(links, config, folder=data_dir / "shards", progress=progress)
    return Materials(base, stack, examples)


async def _the_base(
    links: Links,
    config: CycleConfig,
    *,
    data_dir: Path,
    named: Path | None,
    sources: Sequence[PeerId],
    progress: Progress,
) -> Path:
    """Return the folder of the base: the one that was named, or one that is merged or fetched here.

    After a merge the folder that the volunteer named holds the old base: it is merged from, and
    the new one lies in the data directory.
    """
    ref, bases = config.base, data_dir / "bases"
    if named is not None and not (ref.merged and await _holds_another(named, ref)):
        return named
    folder = bases / ref.sha256.hex()[:16]
    if ref.merged and not await asyncio.to_thread(_is_complete, folder, ref.files):
        if not 0 < len(ref.merged) <= MAX_MERGED:
            raise PayloadMalformed(f"a base of {len(ref.merged)} merged adapters")
        known = bases / ref.parent_sha256.hex()[:16]
        parents = [path for path in (named, known) if path is not None and path.is_dir()]
        if parents:
            merged = await _adapters(
                links, ref.merged, data_dir=data_dir, sources=sources, progress=progress
            )
            await merge_from_parent(
                ref,
                folder,
                parents=parents,
                adapters=merged,
                on_bytes=lambda done, total: progress("merge", done, total),
            )
    await _fetch_files(links, folder, ref.files, what="base", sources=sources, progress=progress)
    return folder


async def _holds_another(folder: Path, ref: BaseRef) -> bool:
    found = await asyncio.to_thread(base_files_digest, folder)
    return found.digest_sha256 != ref.sha256


async def _adapters(
    links: Links,
    refs: Sequence[AdapterRef],
    *,
    data_dir: Path,
    sources: Sequence[PeerId],
    progress: Progress,
) -> tuple[Path, ...]:
    """Return the folders of adapters, fetched where they are missing."""
    folders = []
    for adapter in refs:
        folder = data_dir / "adapters" / adapter.sha256.hex()[:16]
        await _fetch_files(
            links, folder, adapter.files, what="adapter", sources=sources, progress=progress
        )
        folders.append(folder)
    return tuple(folders)


def _check_base(folder: Path, config: CycleConfig) -> None:
    found = base_files_digest(folder)
    if found.digest_sha256 == config.base.sha256:
        return
    signed = {file.name: file.sha256 for file in config.base.files}
    here = {file.name: file.sha256 for file in found.files}
    differing = sorted(n for n in signed.keys() | here.keys() if signed.get(n) != here.get(n))
    raise BaseDigestMismatch(
        f"{folder} is not the cycle's base {config.base.name!r}: {', '.join(differing[:4])} differ"
    )


async def _fetch_files(
    links: Links,
    folder: Path,
    files: Sequence[BaseFile],
    *,
    what: str,
    sources: Sequence[PeerId],
    progress: Progress,
) -> None:
    """Bring a signed list of files into `folder`.

    A fetched file and its blob are one file on the disk where the file system can do that; the
    blob is then served on. Where it cannot, the blob goes, so that nothing is stored twice.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    missing = await asyncio.to_thread(_missing, folder, files)
    total, done = sum(file.size_bytes for file in files), 0
    if missing:
        _check_room(links.blobs.store, folder, missing, what=what)
    for file in files:
        if file in missing:
            path = await links.blobs.fetch(
                file.blob_id,
                sources=sources,
                max_bytes=file.size_bytes,
                timeout_s=BLOB_TIMEOUT_S,
                progress=_shifted(progress, what, done, total),
            )
            try:
                linked = await asyncio.to_thread(_install, path, folder / file.name, file)
            except HashMismatch:  # of the disk or of the signed list: fetch it anew next time
                await asyncio.to_thread(links.blobs.store.delete, file.blob_id)
                raise
            if not linked:
                await asyncio.to_thread(links.blobs.store.delete, file.blob_id)
        done += file.size_bytes
        progress(what, done, total)


def _is_complete(folder: Path, files: Sequence[BaseFile]) -> bool:
    return not _missing(folder, files)


def _missing(folder: Path, files: Sequence[BaseFile]) -> list[BaseFile]:
    return [file for file in files if not _is_there(folder / _plain(file.name), file)]


def _check_room(store: BlobStore, folder: Path, missing: Sequence[BaseFile], *, what: str) -> None:
    """Refuse to begin what cannot be completed.

    Raises: DiskFull.
    """
    to_fetch = [file.size_bytes - _fetched_bytes(store, file) for file in missing]
    needs = {store.folder: sum(to_fetch)}  # links take no room
    if store.folder.stat().st_dev != folder.stat().st_dev:  # one blob at a time is copied
        needs = {folder: sum(file.size_bytes for file in missing), store.folder: max(to_fetch)}
    for place, wanted in needs.items():
        free = shutil.disk_usage(place).free
        if free < wanted + DISK_MARGIN_BYTES:
            raise DiskFull(
                f"the {what} needs {wanted / 1e6:.0f} MB and {DISK_MARGIN_BYTES / 1e6:.0f} MB to "
                f"work with; {place} has {free / 1e6:.0f} MB free"
            )


def _fetched_bytes(store: BlobStore, file: BaseFile) -> int:
    """Return what of a file an earlier try has brought already."""
    blob = store.path(file.blob_id)
    sizes = [path.stat().st_size for path in (blob, blob.with_suffix(".part")) if path.exists()]
    return min(file.size_bytes, max(sizes, default=0))


def _install(blob: Path, target: Path, file: BaseFile) -> bool:
    """Put a fetched blob into its folder, checked; True when both are one file on the disk.

    Raises: HashMismatch: not the signed file. DiskFull.
    """
    partial = target.with_name(f".{target.name}.part")
    partial.unlink(missing_ok=True)
    linked = True
    try:
        os.link(blob, partial)
    except OSError:  # another disk, or a file system without links
        linked = False
        with naming_full_disk(target):
            shutil.copyfile(blob, partial)
    if not _is_there(partial, file):
        partial.unlink()
        raise HashMismatch(f"{file.name} is not the signed file")
    target.unlink(missing_ok=True)  # renaming one link of a file over another does nothing
    os.replace(partial, target)
    return linked


def _shifted(progress: Progress, what: str, before: int, total: int) -> BlobProgress:
    """Return the progress of one file as a part of all of them."""
    return lambda done, _size: progress(what, before + done, total)


def _plain(name: str) -> str:
    """Return `name` if it is a mere file name.

    Raises: HashMismatch: nothing, or a path that would lead out of the folder.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise HashMismatch(f"{name!r} is no plain file name")
    return name


def _is_there(path: Path, file: BaseFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest() == file.sha256


async def _fetch_examples(
    links: Links, config: CycleConfig, *, folder: Path, progress: Progress
) -> tuple[Example, ...]:
    found = await links.records.fetch(DatasetManifest, cycle=config.header.cycle)
    if found is None:
        raise RecordUnavailable(f"the dataset of cycle {config.header.cycle} is not in the DHT")
    if found.envelope.payload_sha256 != config.dataset_sha256:
        raise HashMismatch("the dataset record is not the one the cycle was signed with")
    content = found.payload.content
    check_manifest(content)
    total = sum(ref.compressed_size_bytes for ref in content.shards)
    if total > config.limits.max_dataset_bytes:
        raise DiskFull(f"a dataset of {total} bytes, {config.limits.max_dataset_bytes} allowed")
    chunks = _ChunkFolder(folder)
    done = 0
    rows: list[Example] = []
    for ref in content.shards:
        parts: list[bytes] = []
        for start in range(0, len(ref.chunk_sha256), CHUNKS_AT_ONCE):
            digests = ref.chunk_sha256[start : start + CHUNKS_AT_ONCE]
            parts += await _chunks(links, digests, folder=chunks)
            done = min(total, done + sum(map(len, parts[-len(digests) :])))
            progress("dataset", done, total)
        rows += await asyncio.to_thread(_rows_of, parts, ref)
        links.records.hold_chunks(ref.chunk_sha256, chunks.read)
    await asyncio.to_thread(check_examples, content, rows)
    return tuple(rows)


def _rows_of(parts: list[bytes], ref: ShardRef) -> Sequence[Example]:
    return decode_shard(join_chunks(parts, ref), content_sha256=ref.content_sha256)


@dataclass(frozen=True, slots=True)
class _ChunkFolder:
    """Chunks on the disk, by their hash; what a peer holds it keeps in the DHT."""

    path: Path

    def read(self, digest: Digest) -> bytes | None:
        """Return a chunk, None when it is not here whole."""
        file = self.path / f"{digest.hex()}.chunk"
        data = file.read_bytes() if file.is_file() else b""
        return data if sha256(data) == digest else None

    def write_all(self, chunks: Mapping[Digest, bytes]) -> None:
        """Keep chunks.

        Raises: DiskFull.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for digest, data in chunks.items():
            write_atomically(self.path / f"{digest.hex()}.chunk", data)


async def _chunks(links: Links, digests: Sequence[Digest], *, folder: _ChunkFolder) -> list[bytes]:
    """Return chunks from the disk or the DHT."""
    here = await asyncio.to_thread(lambda: {digest: folder.read(digest) for digest in digests})
    found = {digest: data for digest, data in here.items() if data is not None}
    missing = [digest for digest in digests if digest not in found]
    fetched = dict(zip(missing, await links.records.fetch_chunks(missing), strict=True))
    await asyncio.to_thread(folder.write_all, fetched)
    found |= fetched
    return [found[digest] for digest in digests]
