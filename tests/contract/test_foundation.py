"""Adapters become a new base when there are enough: what cycles are then trained on, and by whom it is made."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from ares_coordinator import foundation
from ares_coordinator.exports.subject import find_subject
from ares_coordinator.foundation import Foundation, base_of, foundation_before, merge_if_due
from ares_coordinator.settings import DATABASE_FILE
from ares_coordinator.store.base import Store
from ares_coordinator.store.sql import open_store
from ares_p2p.domain import BaseRef
from ares_p2p.errors import BaseDigestMismatch, BaseUnsupported, PayloadMalformed
from ares_p2p.training.base_files import base_files_digest
from ares_p2p.training.parameters import count_parameters
from ares_peer.materials import Materials, gather_materials
from ares_peer.ownmerge import merge_from_parent
from exportfixtures import BASE, ROLLED_BACK, ExportWorld, make_world
from sim.samples import COORDINATOR
from sim.session_world import Peer, World

THRESHOLD, CYCLES = 2, 6  # promoted: 1, 2, 4, 5, 6; merged: 1 and 2, then 4 and 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExportWorld:
    """Six cycles, the third rolled back."""
    return make_world(tmp_path_factory.mktemp("grown"), cycles=CYCLES, threshold=THRESHOLD)


@pytest.fixture
def store(world: ExportWorld) -> Store:
    return open_store(world.folder / DATABASE_FILE, read_only=True)


def no_bytes(_done: int, _total: int) -> None:
    pass


def stack_of(world: ExportWorld, cycle: int) -> list[int]:
    return [item.cycle for item in world.configs[cycle].stack]


def merged_of(world: ExportWorld, cycle: int) -> list[int]:
    return [item.cycle for item in world.configs[cycle].base.merged]


def test_cycles_are_signed_for_the_right_base_and_stack(world: ExportWorld) -> None:
    assert ROLLED_BACK == 3
    assert [stack_of(world, n) for n in range(1, 7)] == [[], [1], [], [], [4], []]
    assert [merged_of(world, n) for n in range(1, 7)] == [[], [], [1, 2], [1, 2], [1, 2], [4, 5]]
    first, second = world.configs[1].base, world.configs[3].base
    assert second.parent_sha256 == first.sha256 == base_files_digest(BASE).digest_sha256
    assert world.configs[6].base.parent_sha256 == second.sha256
    # a cycle that was rolled back changes nothing: the next one has the same base
    assert world.configs[4].base == second
    names = [world.configs[n].base.name for n in (1, 3, 6)]
    assert names == [
        "the-shipped-base",
        "the-shipped-base-after-cycle-2",
        "the-shipped-base-after-cycle-5",
    ]


def test_the_merged_base_is_the_model_that_was_promoted(world: ExportWorld) -> None:
    """Cycle 3 begins where cycle 2 ended, though one has adapters and the other has none."""
    for before, after in ((3, 2), (6, 5)):
        held_out = [world.files.dataset(n) / "eval.jsonl" for n in (before, after)]
        assert held_out[0].read_bytes() == held_out[1].read_bytes()  # one seed: the same rows
        assert world.before[before] == pytest.approx(world.loss[after], abs=1e-5)


def test_effective_parameters_are_those_of_the_first_base_and_every_promoted_adapter(
    world: ExportWorld, store: Store
) -> None:
    counted = count_parameters(BASE)
    adapters = sum(world.configs[n].parameters for n in range(1, CYCLES + 1) if n != ROLLED_BACK)
    subject = find_subject(store, world.settings, world.files)
    assert subject.cycles == (6,)
    assert subject.parameters.effective == counted.base + adapters
    assert subject.parameters.stacked == world.configs[6].parameters
    assert subject.base_folder == world.files.merged_base(5)
    subject.check_base()
    # the model as it was before any merge is exported from the first base
    older = find_subject(store, world.settings, world.files, cycle=2)
    assert (older.base_folder, older.cycles) == (BASE, (1, 2))
    assert sum(one.rows for one in subject.sources) > sum(one.rows for one in older.sources)


async def make(world: ExportWorld, base: BaseRef, target: Path, *parents: Path) -> bool:
    """Merge as a peer does."""
    return await merge_from_parent(
        base,
        target,
        parents=parents,
        adapters=[world.files.adapter(item.cycle) for item in base.merged],
        on_bytes=no_bytes,
    )


async def test_a_peer_makes_both_merged_bases_itself(world: ExportWorld, tmp_path: Path) -> None:
    second, third = world.configs[3].base, world.configs[6].base
    assert await make(world, second, tmp_path / "2", BASE)
    assert await make(world, third, tmp_path / "3", BASE, tmp_path / "2")  # the first is no parent
    for base, name in ((second, "2"), (third, "3")):
        assert base_files_digest(tmp_path / name).digest_sha256 == base.sha256


async def test_a_peer_without_the_parent_makes_nothing(world: ExportWorld, tmp_path: Path) -> None:
    assert not await make(world, world.configs[6].base, tmp_path / "made", BASE)
    assert not await make(world, world.configs[6].base, tmp_path / "made", tmp_path / "nothing")
    assert not (tmp_path / "made").exists()


async def test_what_comes_out_otherwise_than_signed_is_thrown_away(
    world: ExportWorld, tmp_path: Path
) -> None:
    signed = dataclasses.replace(world.configs[3].base, sha256=bytes(32))
    assert not await make(world, signed, tmp_path / "made", BASE)
    assert not (tmp_path / "made").exists()


async def test_a_folder_with_other_files_is_left_alone(world: ExportWorld, tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.mkdir()
    (target / "model.safetensors").write_bytes(b"half of a download")
    assert not await make(world, world.configs[3].base, target, BASE)
    assert (target / "model.safetensors").read_bytes() == b"half of a download"


async def test_a_merge_that_was_interrupted_goes_on(
    world: ExportWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = dataclasses.replace(world.files, root=tmp_path)
    for cycle in (1, 2):
        shutil.copytree(world.files.adapter(cycle), files.adapter(cycle))
    before = Foundation(BASE, (1, 2), world.configs[1].base.sha256)
    seen: list[int] = []
    begun = asyncio.Event()

    def stop(done: int, total: int) -> None:
        seen.append(done)
        begun.set()

    merging = asyncio.create_task(merge_if_due(before, threshold=2, files=files, on_bytes=stop))
    await begun.wait()
    merging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await merging
    found = await merge_if_due(before, threshold=2, files=files, on_bytes=no_bytes)
    assert found == Foundation(
        files.merged_base(2),
        (),
        world.configs[3].base.sha256,
        world.configs[1].base.sha256,
        (1, 2),
    )
    monkeypatch.setattr(foundation, "merge_in_thread", merge_again(found, found.base))
    assert await merge_if_due(before, threshold=2, files=files, on_bytes=no_bytes) == found


def merge_again(found: Foundation, folder: Path) -> object:
    """Return a merge that checks that nothing is written again."""
    from ares_p2p.training.merging import merge_in_thread

    stamps = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}

    async def merge(*arguments: object, **named: object) -> object:
        made = await merge_in_thread(*arguments, **named)  # type: ignore[arg-type]
        assert {p.name: p.stat().st_mtime_ns for p in folder.glob("*.safetensors")} == stamps
        return made

    return merge


@pytest.mark.parametrize("threshold", [0, 3])
async def test_below_the_threshold_nothing_is_merged(world: ExportWorld, threshold: int) -> None:
    found = Foundation(BASE, (1, 2))
    same = await merge_if_due(found, threshold=threshold, files=world.files, on_bytes=no_bytes)
    assert same is found


async def test_another_base_than_was_signed_is_not_merged_into(
    world: ExportWorld, tmp_path: Path
) -> None:
    other = shutil.copytree(BASE, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "note": "another"}))
    files = dataclasses.replace(world.files, root=tmp_path)
    found = Foundation(other, (1, 2), world.configs[1].base.sha256)
    for cycle in (1, 2):
        shutil.copytree(world.files.adapter(cycle), files.adapter(cycle))
    with pytest.raises(BaseDigestMismatch):
        await merge_if_due(found, threshold=2, files=files, on_bytes=no_bytes)
    assert not files.merged_base(2).exists()


def test_the_books_say_what_the_next_cycle_builds_on(world: ExportWorld, store: Store) -> None:
    found = foundation_before(store, world.settings, world.files, CYCLES + 1)
    assert (found.base, found.stack) == (world.files.merged_base(5), (6,))
    assert found.merged == (4, 5)
    # a cycle that failed before it was signed says nothing: the one before does
    found = foundation_before(store, world.settings, world.files, CYCLES + 9)
    assert found.stack == (6,)
    first = foundation_before(store, world.settings, world.files, 1)
    assert first == Foundation(BASE, ())


def test_a_merged_base_that_is_gone_is_named(world: ExportWorld, tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(world.files, root=tmp_path)
    with pytest.raises(BaseUnsupported, match="after-cycle-5 is not there"):
        base_of(world.configs[6].base, world.settings, elsewhere)


# --- in a peer's session -----------------------------------------------------------------------


async def gather(
    world: ExportWorld, swarm: World, peer: Peer, cycle: int, *, named: Path | None
) -> Materials:
    """Gather what a cycle of `world` needs, from a coordinator that serves all of its files."""
    config, store = world.configs[cycle], swarm.host.links.blobs.store
    for ref in (*config.base.merged, *config.stack):
        for file in ref.files:
            store.put(world.files.adapter(ref.cycle) / file.name)
    folder = base_of(config.base, world.settings, world.files)
    for file in config.base.files:
        store.put(folder / file.name)
    return await gather_materials(
        peer.links,
        dataclasses.replace(swarm.host.config, base=config.base, stack=config.stack),
        data_dir=peer.folder,
        base=named,
        sources=[COORDINATOR.peer_id],
        progress=lambda what, done, total: peer.events.append((what, done, total)),
    )


def weights_bytes(world: ExportWorld, cycle: int) -> int:
    return max(file.size_bytes for file in world.configs[cycle].base.files)


async def test_a_volunteer_who_named_a_base_folder_merges_and_downloads_no_base(
    world: ExportWorld, tmp_path: Path
) -> None:
    async with World(tmp_path) as swarm:
        peer = swarm.peer()
        for cycle in (1, 3, 5, 6):  # 5: the merged base with a stack on it
            found = await gather(world, swarm, peer, cycle, named=BASE)
            digest = base_files_digest(found.base).digest_sha256
            assert digest == world.configs[cycle].base.sha256
            assert (found.base == BASE) is (cycle == 1)
            assert len(found.stack) == len(world.configs[cycle].stack)
        merged = [event for event in peer.events if event[0] == "merge"]
        assert {done for _, done, total in merged if done == total}
        assert peer.links.blobs.traffic.down_bytes < weights_bytes(world, 6)


async def test_a_volunteer_from_before_the_merge_needs_no_folder_of_its_own(
    world: ExportWorld, tmp_path: Path
) -> None:
    async with World(tmp_path) as swarm:
        peer = swarm.peer()
        await gather(world, swarm, peer, 1, named=None)  # downloads the first base
        taken = peer.links.blobs.traffic.down_bytes
        assert taken >= weights_bytes(world, 1)
        await gather(world, swarm, peer, 3, named=None)
        assert peer.links.blobs.traffic.down_bytes - taken < weights_bytes(world, 3) / 4
        assert "merge" in {what for what, _, _ in peer.events}


async def test_who_comes_after_two_merges_downloads_the_base(
    world: ExportWorld, tmp_path: Path
) -> None:
    async with World(tmp_path) as swarm:
        peer = swarm.peer()
        for named in (None, BASE):  # BASE is not the parent: it is two merges old
            found = await gather(world, swarm, peer, 6, named=named)
            assert base_files_digest(found.base).digest_sha256 == world.configs[6].base.sha256
            assert "merge" not in {what for what, _, _ in peer.events}


async def test_a_config_with_absurdly_many_merged_adapters_is_refused(
    world: ExportWorld, tmp_path: Path
) -> None:
    base = world.configs[3].base
    many = dataclasses.replace(base, merged=base.merged * 200)
    async with World(tmp_path) as swarm:
        peer = swarm.peer()
        with pytest.raises(PayloadMalformed, match="400 merged adapters"):
            await gather_materials(
                peer.links,
                dataclasses.replace(swarm.host.config, base=many),
                data_dir=peer.folder,
                base=None,
                sources=[COORDINATOR.peer_id],
                progress=lambda *_: None,
            )
        assert peer.links.blobs.traffic.down_bytes == 0
