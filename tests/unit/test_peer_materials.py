"""What a cycle needs: fetched once, stored once, never used before its hash fits."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ares_p2p.errors import (
    BaseDigestMismatch,
    BlobUnavailable,
    DiskFull,
    HashMismatch,
    RecordUnavailable,
)
from ares_p2p.ids import sha256
from ares_peer import materials
from ares_peer.materials import Materials, gather_materials
from sim.samples import COORDINATOR
from sim.session_world import EXAMPLES, Peer, World

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path) as world:
        yield world


async def gather(peer: Peer, *, folder: Path | None = None, **changes: Any) -> Materials:
    """Gather what the cycle needs; `changes` are of its configuration."""
    return await gather_materials(
        peer.links,
        dataclasses.replace(peer.world.host.config, **changes),
        data_dir=peer.folder,
        base=folder,
        sources=[COORDINATOR.peer_id],
        progress=lambda what, done, total: peer.events.append((what, done, total)),
    )


async def test_materials_come_whole_and_base_and_blob_are_one_file(world: World) -> None:
    peer = world.peer()
    found = await gather(peer)
    assert len(found.examples) == EXAMPLES
    assert found.examples[3].answer == "4"
    for file in world.host.config.base.files:
        blob = peer.links.blobs.store.path(file.blob_id)
        assert blob.samefile(found.base / file.name)
    assert sorted(p.name for p in found.base.iterdir()) == ["config.json", "model.safetensors"]
    for what in ("base", "dataset"):
        done = [event for event in peer.events if event[0] == what]
        assert done[-1][1] == done[-1][2]
        assert [d for _, d, _ in done] == sorted(d for _, d, _ in done)


async def test_second_time_nothing_is_fetched(world: World) -> None:
    peer = world.peer()
    await gather(peer)
    taken = peer.links.blobs.traffic.down_bytes
    for file in world.host.config.base.files:
        peer.links.blobs.store.delete(file.blob_id)
    assert (await gather(peer)).base.is_dir()
    assert peer.links.blobs.traffic.down_bytes == taken


async def test_where_links_do_not_work_the_blob_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_source: object, _target: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    peer = world.peer()
    found = await gather(peer)
    assert (found.base / "config.json").read_text() == "{}"
    assert not peer.links.blobs.store.ids()


async def test_file_that_the_disk_changed_is_fetched_again(world: World) -> None:
    peer = world.peer()
    found = await gather(peer)
    with (found.base / "model.safetensors").open("r+b") as file:  # its blob with it
        file.write(b"x")
    with pytest.raises(HashMismatch, match=r"model\.safetensors is not the signed file"):
        await gather(peer)
    assert (await gather(peer)).base == found.base


async def test_no_room_is_said_before_the_download(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = world.peer()
    free = materials.DISK_MARGIN_BYTES + 4_000  # the base has 8,002 bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 0, free))
    with pytest.raises(DiskFull, match="the base needs 0 MB and 268 MB to work with"):
        await gather(peer)
    assert peer.links.blobs.traffic.down_bytes == 0


async def test_room_is_asked_only_for_what_is_missing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = world.peer()
    weights = next(f for f in world.host.config.base.files if f.name == "model.safetensors")
    await peer.links.blobs.fetch(
        weights.blob_id, sources=[COORDINATOR.peer_id], max_bytes=10_000, timeout_s=5.0
    )
    free = materials.DISK_MARGIN_BYTES + 4_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 0, free))
    assert (await gather(peer)).base.is_dir()


async def test_another_base_is_named_by_its_differing_files(world: World) -> None:
    folder = world.folder / "mine"
    shutil.copytree(world.folder / "base", folder)
    (folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(BaseDigestMismatch, match=r"toy': model\.safetensors differ"):
        await gather(world.peer(), folder=folder)


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", ""])
async def test_file_name_that_leads_elsewhere_is_refused(world: World, name: str) -> None:
    base = world.host.config.base
    files = (dataclasses.replace(base.files[0], name=name),)
    with pytest.raises(HashMismatch, match="no plain file name"):
        await gather(world.peer(), base=dataclasses.replace(base, files=files))


async def test_base_that_nobody_serves_is_a_network_fault(world: World) -> None:
    for file in world.host.config.base.files:
        world.host.links.blobs.withhold(file.blob_id)
    with pytest.raises(BlobUnavailable):
        await gather(world.peer())


async def test_dataset_of_another_signature_is_refused(world: World) -> None:
    with pytest.raises(HashMismatch, match="dataset"):
        await gather(world.peer(), dataset_sha256=sha256(b"another"))


async def test_dataset_that_is_not_there_is_a_network_fault(world: World) -> None:
    header = dataclasses.replace(world.host.config.header, cycle=77)
    with pytest.raises(RecordUnavailable, match="dataset of cycle 77"):
        await gather(world.peer(), header=header)


async def test_oversize_dataset_is_refused_before_it_is_fetched(world: World) -> None:
    limits = dataclasses.replace(world.host.config.limits, max_dataset_bytes=10)
    with pytest.raises(DiskFull, match="10 allowed"):
        await gather(world.peer(), limits=limits)


async def test_damaged_chunk_on_the_disk_is_fetched_again(world: World) -> None:
    peer = world.peer()
    await gather(peer)
    (chunk,) = (peer.folder / "shards").glob("*.chunk")
    good = chunk.read_bytes()
    chunk.write_bytes(b"rot" + good[3:])
    assert len((await gather(peer)).examples) == EXAMPLES
    assert chunk.read_bytes() == good
