"""Blobs on disk: a folder of files named by their blob id.

    <id>.blob       the bytes, complete: it appears by renaming, never half written
    <id>.list       its chunk list, which hashes to the id
    <id>.part       a download under way, or some chunks of a blob of which no more is wanted;
                    what of it is good is found by hashing, so nothing that a SIGKILL tore is
                    ever trusted
    <id>.withheld   an empty mark: held, but not to be served (it survives a restart)

A chunk is verified each time it is read: a flipped bit on disk is noticed here, not by a peer.
It refuses to fill the disk to the brim and to exceed its quota. Methods block; not thread-safe
for two writers of one blob.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from ares_p2p.errors import BlobUnavailable, DiskFull, HashMismatch, PayloadMalformed
from ares_p2p.ids import CHUNK_BYTES, DIGEST_BYTES, ChunkList, Digest, chunk_list_of_stream, sha256

RESERVED_BYTES = 64 * 1024 * 1024  # left free: a full disk breaks more than this program
_COPY_BYTES = 1024 * 1024
_BLOB_NAME = re.compile(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}")


@contextlib.contextmanager
def _disk_faults(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(f"no space left in {folder}") from error
        raise


def _write_atomic(path: Path, data: bytes) -> None:
    # two threads may put one blob at a time
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class BlobStore:
    """The blobs that one node holds.

    Args:
        folder: made when missing; nothing else may lie in it.
        quota_bytes: the most that complete blobs may take together, None for no limit but the
            disk's.
    """

    def __init__(self, folder: Path, *, quota_bytes: int | None = None) -> None:
        self.folder = folder
        self.quota_bytes = quota_bytes
        folder.mkdir(parents=True, exist_ok=True)
        for stray in folder.glob(".*"):  # temporary files of a process that was killed
            stray.unlink(missing_ok=True)

    def path(self, blob_id: Digest) -> Path:
        """Return where the complete blob lies, or would."""
        return self.folder / f"{blob_id.hex()}.blob"

    def _list_path(self, blob_id: Digest) -> Path:
        return self.folder / f"{blob_id.hex()}.list"

    def _part_path(self, blob_id: Digest) -> Path:
        return self.folder / f"{blob_id.hex()}.part"

    def _mark_path(self, blob_id: Digest) -> Path:
        return self.folder / f"{blob_id.hex()}.withheld"

    # --- whole blobs ---------------------------------------------------------------------------

    def put(self, source: bytes | memoryview | Path) -> Digest:
        """Store bytes, or a copy of a file, and return the blob id.

        Raises: DiskFull.
        """
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        self.check_room(size)
        with _disk_faults(self.folder):
            descriptor, name = tempfile.mkstemp(prefix=".put-", dir=self.folder)
            partial = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    chunks = chunk_list_of_stream(_copied(source, file))
                    file.flush()
                    os.fsync(file.fileno())
                blob_id = chunks.blob_id
                if not self.has(blob_id):
                    _write_atomic(self._list_path(blob_id), chunks.encode())
                    partial.replace(self.path(blob_id))
            finally:
                partial.unlink(missing_ok=True)
        return blob_id

    def has(self, blob_id: Digest) -> bool:
        """Whether the complete blob is here."""
        return self.path(blob_id).is_file() and self._list_path(blob_id).is_file()

    def size(self, blob_id: Digest) -> int:
        """Return the blob's size in bytes.

        Raises: BlobUnavailable: not here.
        """
        self._check_here(blob_id)
        return self.path(blob_id).stat().st_size

    def _check_here(self, blob_id: Digest) -> None:
        if not self.has(blob_id):
            raise BlobUnavailable(f"blob {blob_id.hex()[:12]} is not held here")

    def open(self, blob_id: Digest) -> BinaryIO:
        """Return the complete blob, opened for reading; the caller closes it.

        Raises: BlobUnavailable: not here.
        """
        self._check_here(blob_id)
        return self.path(blob_id).open("rb")

    def read(self, blob_id: Digest) -> bytes:
        """Return the whole blob, every chunk verified.

        Raises: BlobUnavailable: not here. HashMismatch: the disk changed it; it was removed.
        """
        chunks = self.chunk_list(blob_id)
        return b"".join(
            self.read_chunk(blob_id, chunks, index) for index in range(len(chunks.chunk_sha256))
        )

    def delete(self, blob_id: Digest) -> None:
        """Remove the blob, its mark and what is there of a download."""
        for path in (
            self.path(blob_id),
            self._part_path(blob_id),
            self._list_path(blob_id),
            self._mark_path(blob_id),
        ):
            path.unlink(missing_ok=True)

    def ids(self) -> list[Digest]:
        """Return the complete blobs, the longest unchanged first."""
        found = sorted(self.folder.glob("*.blob"), key=lambda path: path.stat().st_mtime_ns)
        named = [path.stem for path in found if _BLOB_NAME.fullmatch(path.stem)]
        return [blob_id for name in named if self.has(blob_id := bytes.fromhex(name))]

    def used_bytes(self) -> int:
        """Return what the complete blobs take together."""
        return sum(self.size(blob_id) for blob_id in self.ids())

    def check_room(self, size_bytes: int) -> None:
        """Refuse what would not fit.

        Raises: DiskFull.
        """
        free = shutil.disk_usage(self.folder).free
        if size_bytes + RESERVED_BYTES > free:
            raise DiskFull(f"{size_bytes:,} bytes wanted, {free:,} free in {self.folder}")
        if self.quota_bytes is not None and self.used_bytes() + size_bytes > self.quota_bytes:
            raise DiskFull(
                f"{size_bytes:,} bytes wanted, {self.used_bytes():,} of the quota of "
                f"{self.quota_bytes:,} used in {self.folder}",
                hint="Raise --max-disk.",
            )

    # --- chunks --------------------------------------------------------------------------------

    def chunk_list(self, blob_id: Digest) -> ChunkList:
        """Return the blob's chunk list.

        Raises: BlobUnavailable: not here. HashMismatch: the disk changed it; it was removed.
        """
        self._check_here(blob_id)
        try:
            return ChunkList.decode(self._list_path(blob_id).read_bytes(), blob_id=blob_id)
        except (HashMismatch, PayloadMalformed):
            self.delete(blob_id)
            raise

    def read_chunk(self, blob_id: Digest, chunks: ChunkList, index: int) -> bytes:
        """Return one verified chunk of a complete blob.

        Raises: BlobUnavailable: not here. HashMismatch: the disk changed it; it was removed.
        """
        try:
            with self.path(blob_id).open("rb") as file:
                file.seek(index * CHUNK_BYTES)
                data = file.read(CHUNK_BYTES)
        except FileNotFoundError as error:
            raise BlobUnavailable(f"blob {blob_id.hex()[:12]} is not held here") from error
        if sha256(data) != chunks.chunk_sha256[index]:
            self.delete(blob_id)
            raise HashMismatch(f"chunk {index} of blob {blob_id.hex()[:12]} changed on disk")
        return data

    def read_range(self, blob_id: Digest, start: int, stop: int) -> bytes:
        """Return some bytes of a blob of which at least those chunks are here, each verified.

        Raises: BlobUnavailable: not all of them are here. HashMismatch: the disk changed it.
        """
        chunks = self.partial_list(blob_id)
        if chunks is None or not 0 <= start <= stop <= chunks.size_bytes:
            raise BlobUnavailable(f"bytes {start}..{stop} of blob {blob_id.hex()[:12]} not held")
        span = chunks_of_range(start, stop)
        is_whole = self.has(blob_id)
        pieces = [
            self.read_chunk(blob_id, chunks, index)
            if is_whole
            else self._read_partial(blob_id, chunks, index)
            for index in span
        ]
        first = span.start * CHUNK_BYTES
        return b"".join(pieces)[start - first : stop - first]

    def _read_partial(self, blob_id: Digest, chunks: ChunkList, index: int) -> bytes:
        try:
            with self._part_path(blob_id).open("rb") as file:
                file.seek(index * CHUNK_BYTES)
                data = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            data = b""
        if sha256(data) != chunks.chunk_sha256[index]:
            raise BlobUnavailable(f"chunk {index} of blob {blob_id.hex()[:12]} is not held here")
        return data

    # --- downloads -----------------------------------------------------------------------------

    def partial_list(self, blob_id: Digest) -> ChunkList | None:
        """Return the chunk list that an earlier download got, None when there is none."""
        try:
            return ChunkList.decode(self._list_path(blob_id).read_bytes(), blob_id=blob_id)
        except (FileNotFoundError, HashMismatch, PayloadMalformed):
            return None

    def begin_partial(
        self, blob_id: Digest, chunks: ChunkList, wanted: Collection[int] | None = None
    ) -> set[int]:
        """Make room for a download, or find what is left of one; return the good chunks.

        Args:
            wanted: the chunks that are asked for, the others are not looked at; None for all.
        Raises: DiskFull.
        """
        part = self._part_path(blob_id)
        there = part.stat().st_size if part.exists() else 0
        if wanted is None:
            wanted = range(len(chunks.chunk_sha256))
            self.check_room(max(0, chunks.size_bytes - there))
        else:
            self.check_room(len(wanted) * CHUNK_BYTES)
        with _disk_faults(self.folder):
            _write_atomic(self._list_path(blob_id), chunks.encode())
            with part.open("ab") as file:
                file.truncate(min(there, chunks.size_bytes))
        good: set[int] = set()
        with part.open("rb") as file:
            for index in sorted(wanted):
                file.seek(index * CHUNK_BYTES)
                data = file.read(CHUNK_BYTES)
                if not data:
                    break
                if sha256(data) == chunks.chunk_sha256[index]:
                    good.add(index)
        return good

    def write_chunk(self, blob_id: Digest, chunks: ChunkList, index: int, data: bytes) -> None:
        """Write a chunk of a download, after verifying it.

        Raises: HashMismatch: it is not this chunk. DiskFull.
        """
        if sha256(data) != chunks.chunk_sha256[index]:
            raise HashMismatch(f"chunk {index} of blob {blob_id.hex()[:12]} does not hash right")
        with _disk_faults(self.folder), self._part_path(blob_id).open("r+b") as file:
            file.seek(index * CHUNK_BYTES)
            file.write(data)

    def finish_partial(self, blob_id: Digest, chunks: ChunkList) -> Path:
        """Turn a download with all its chunks into a blob and return its path.

        Raises: HashMismatch: it has not the right size.
        """
        part = self._part_path(blob_id)
        with _disk_faults(self.folder), part.open("r+b") as file:
            if os.fstat(file.fileno()).st_size != chunks.size_bytes:
                raise HashMismatch(f"download of blob {blob_id.hex()[:12]} has the wrong size")
            os.fsync(file.fileno())
        part.replace(self.path(blob_id))
        return self.path(blob_id)

    # --- withholding ---------------------------------------------------------------------------

    def withhold(self, blob_id: Digest) -> None:
        """Mark a blob (here or still to come) as not to be served."""
        self._mark_path(blob_id).touch()

    def release(self, blob_id: Digest) -> None:
        """Remove the mark."""
        self._mark_path(blob_id).unlink(missing_ok=True)

    def is_withheld(self, blob_id: Digest) -> bool:
        """Whether the blob is marked."""
        return self._mark_path(blob_id).exists()


def chunks_of_range(start: int, stop: int) -> range:
    """Return the indices of the chunks that hold some bytes of a blob."""
    return range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES))


def _copied(source: bytes | memoryview | Path, file: BinaryIO) -> Iterator[bytes]:
    """Yield the source in pieces while they are written to `file`."""
    if not isinstance(source, Path):
        view = memoryview(source)
        for start in range(0, len(view), _COPY_BYTES):
            piece = view[start : start + _COPY_BYTES]
            file.write(piece)
            yield bytes(piece)
        return
    with source.open("rb") as original:
        while piece_read := original.read(_COPY_BYTES):
            file.write(piece_read)
            yield piece_read
