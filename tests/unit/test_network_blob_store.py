"""Blobs on disk: atomic, verified, resumable, bounded."""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from ares_p2p.errors import BlobUnavailable, DiskFull, HashMismatch
from ares_p2p.ids import CHUNK_BYTES, blob_id_of, chunk_list_of
from ares_p2p.network.blob_store import RESERVED_BYTES, BlobStore

DATA = os.urandom(2 * CHUNK_BYTES + 77)
ID = blob_id_of(DATA)
LIST = chunk_list_of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(DATA)])
def test_bytes_and_files_are_stored_under_one_id(
    store: BlobStore, tmp_path: Path, size: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA[:size])
    blob_id = store.put(DATA[:size])
    assert store.put(source) == store.put(memoryview(DATA)[:size]) == blob_id
    assert blob_id == blob_id_of(DATA[:size])
    assert store.read(blob_id) == store.path(blob_id).read_bytes() == DATA[:size]
    assert store.size(blob_id) == size
    assert store.ids() == [blob_id]
    with store.open(blob_id) as file:
        assert file.read() == DATA[:size]
    assert source.exists()


def test_what_is_not_here_is_said(store: BlobStore) -> None:
    assert not store.has(ID)
    for ask in (store.size, store.read, store.open, store.chunk_list):
        with pytest.raises(BlobUnavailable):
            ask(ID)
    store.delete(ID)


def test_a_flipped_bit_is_noticed_and_the_blob_removed(store: BlobStore) -> None:
    store.put(DATA)
    with store.path(ID).open("r+b") as file:
        file.seek(CHUNK_BYTES + 5)
        file.write(bytes([DATA[CHUNK_BYTES + 5] ^ 1]))
    assert store.read_chunk(ID, LIST, 0) == DATA[:CHUNK_BYTES]
    with pytest.raises(HashMismatch):
        store.read_chunk(ID, LIST, 1)
    assert not store.has(ID)


def test_a_broken_list_is_noticed(store: BlobStore) -> None:
    store.put(DATA)
    store._list_path(ID).write_bytes(b"ARESBLB1")
    with pytest.raises(HashMismatch):
        store.chunk_list(ID)
    assert not store.has(ID)


def test_downloads_go_on_where_they_were(store: BlobStore) -> None:
    assert store.partial_list(ID) is None
    assert store.begin_partial(ID, LIST) == set()
    store.write_chunk(ID, LIST, 2, DATA[2 * CHUNK_BYTES :])  # out of order: a hole before it
    again = BlobStore(store.folder)  # another process
    assert again.partial_list(ID) == LIST
    assert again.begin_partial(ID, LIST) == {2}
    assert not again.has(ID)
    for index in (1, 0):
        again.write_chunk(ID, LIST, index, DATA[index * CHUNK_BYTES :][:CHUNK_BYTES])
    assert again.finish_partial(ID, LIST) == again.path(ID)
    assert again.read(ID) == DATA


def test_torn_writes_are_fetched_again(store: BlobStore) -> None:
    store.begin_partial(ID, LIST)
    store.write_chunk(ID, LIST, 0, DATA[:CHUNK_BYTES])
    store.write_chunk(ID, LIST, 1, DATA[CHUNK_BYTES : 2 * CHUNK_BYTES])
    with store._part_path(ID).open("r+b") as file:
        file.truncate(CHUNK_BYTES + 1000)
    assert store.begin_partial(ID, LIST) == {0}


def test_wrong_chunks_are_never_written(store: BlobStore) -> None:
    store.begin_partial(ID, LIST)
    with pytest.raises(HashMismatch):
        store.write_chunk(ID, LIST, 0, DATA[1 : CHUNK_BYTES + 1])
    assert store.begin_partial(ID, LIST) == set()


def test_unfinished_downloads_are_no_blobs(store: BlobStore) -> None:
    store.begin_partial(ID, LIST)
    with pytest.raises(HashMismatch):
        store.finish_partial(ID, LIST)
    assert store.ids() == []


def test_a_killed_process_leaves_no_strays(store: BlobStore) -> None:
    (store.folder / ".put-abc").write_bytes(b"half")
    BlobStore(store.folder)
    assert list(store.folder.iterdir()) == []


def test_withholding_survives_a_restart(store: BlobStore) -> None:
    store.withhold(ID)  # before it is even there: no moment in between
    store.put(DATA)
    assert BlobStore(store.folder).is_withheld(ID)
    store.release(ID)
    store.release(ID)
    assert not store.is_withheld(ID)
    store.withhold(ID)
    store.delete(ID)
    assert list(store.folder.iterdir()) == []


def test_the_quota_holds(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, quota_bytes=len(DATA) + 10)
    store.put(DATA)
    with pytest.raises(DiskFull, match="quota"):
        store.put(b"x" * 11)
    with pytest.raises(DiskFull, match="quota"):
        store.begin_partial(blob_id_of(b"x" * 11), chunk_list_of(b"x" * 11))
    store.put(b"x" * 10)


def test_the_disk_is_not_filled_to_the_brim(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(RESERVED_BYTES + 10))
    store.put(b"x" * 10)
    with pytest.raises(DiskFull, match="11 bytes wanted"):
        store.put(b"x" * 11)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(_descriptor: int) -> Any:
        raise OSError(number, "full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFull):
        store.put(DATA)
    assert list(store.folder.iterdir()) == []


def test_foreign_files_are_no_blobs(store: BlobStore) -> None:
    (store.folder / "readme.blob").write_bytes(b"")
    (store.folder / f"{'z' * 64}.blob").write_bytes(b"")
    assert store.ids() == []
