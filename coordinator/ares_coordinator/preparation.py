"""From rows and a base to a signed cycle: files, blobs, shards, the first state, the config.

Everything here is a function of the settings, the cycle's stored secrets and the files, so a
preparation that was killed is simply made again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from ares_coordinator.context import RunningCycle
from ares_coordinator.exports.scripts import write_training_scripts
from ares_coordinator.foundation import Foundation, base_of
from ares_coordinator.herald import Herald, payload_of
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.rows import CycleRow, RecordRow
from ares_p2p.averaging.codec import encoded_size_bytes
from ares_p2p.averaging.group import half_bytes
from ares_p2p.domain import AdapterRef, BaseFile, BaseRef, CycleConfig, DatasetManifest
from ares_p2p.errors import BaseUnsupported
from ares_p2p.files import write_atomically
from ares_p2p.ids import sha256
from ares_p2p.network.blobs import BlobStore
from ares_p2p.proofs.thresholds import CALIBRATION_FOLDER, load_calibration
from ares_p2p.rounds.seedchain import seed_anchor
from ares_p2p.rounds.strategy import HIVEMIND
from ares_p2p.shards.format import Example, Shard, decode_jsonl
from ares_p2p.shards.manifest import build_dataset_shards
from ares_p2p.training.base_files import base_files_digest
from ares_p2p.training.layout import Layout
from ares_p2p.training.lora_spec import LoraSpec, layout_of_folder
from ares_p2p.training.state import encode_snapshot, initial_state

HELD_OUT_DOMAIN = b"ares/held-out/v1\0"
ADAPTER_DOMAIN = b"ares/adapter-files/v1\0"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Signed records of a cycle, and the shards they speak of."""

    dataset: RecordRow
    config: RecordRow
    shards: tuple[Shard, ...]
    parameters: int


def lora_spec(settings: CoordinatorSettings) -> LoraSpec:
    """Return the adapter that the next cycle trains."""
    training = settings.training
    return LoraSpec(training.rank, training.alpha, tuple(sorted(training.targets)))


def load_rows(files: DataLayout, cycle: int, side: str) -> tuple[Example, ...]:
    """Return the rows of `train` or `eval` of a cycle."""
    return decode_jsonl((files.dataset(cycle) / f"{side}.jsonl").read_bytes())


async def prepare_cycle(
    row: CycleRow,
    *,
    foundation: Foundation,
    settings: CoordinatorSettings,
    files: DataLayout,
    blobs: BlobStore,
    herald: Herald,
) -> Prepared:
    """Return the signed dataset and config of a cycle; base files and S_0 lie in the blobs.

    Args:
        foundation: base and adapters under the new one.
    Raises: BaseUnsupported. DiskFull.
    """
    folder = foundation.base
    found = await asyncio.to_thread(base_files_digest, folder)
    base_files = await asyncio.to_thread(
        lambda: tuple(
            BaseFile(file.name, file.size_bytes, file.sha256, blobs.put(folder / file.name))
            for file in found.files
        )
    )
    stack, merged = (
        tuple(_adapter_ref(cycle, files.adapter(cycle), blobs) for cycle in cycles)
        for cycles in (foundation.stack, foundation.merged)
    )
    layout = layout_of_folder(folder, lora_spec(settings))
    content, shards = build_dataset_shards(load_rows(files, row.cycle, "train"))
    held_out = (files.dataset(row.cycle) / "eval.jsonl").read_bytes()
    dataset = herald.signed(
        DatasetManifest(
            header=await herald.header(DatasetManifest, cycle=row.cycle),
            content=content,
            held_out_sha256=sha256(HELD_OUT_DOMAIN, row.secret_seed, held_out),
        )
    )
    training = settings.training
    strategy = settings.averaging.strategy
    blob_bytes = encoded_size_bytes(
        layout.size, bits=training.codec_bits, block=training.codec_block
    )
    if strategy == HIVEMIND:
        blob_bytes = half_bytes(layout.size)
    init_seed = sha256(b"ares/init-seed/v1\0", row.assignment_key)
    start = initial_state(layout, cycle=row.cycle, seed=init_seed)
    config = CycleConfig(
        header=await herald.header(CycleConfig, cycle=row.cycle),
        base=BaseRef(
            f"{settings.base.name}-after-cycle-{merged[-1].cycle}"
            if merged
            else settings.base.name,
            found.digest_sha256,
            base_files,
            "" if merged else settings.base.hub_id,
            "" if merged else settings.base.revision,
            foundation.parent_sha256,
            merged,
        ),
        stack=stack,
        training=replace(settings.training.to_domain(), down_bits=settings.averaging.down_bits),
        limits=settings.rounds.limits(blob_bytes=blob_bytes),
        rounds=settings.rounds.rounds,
        layout_sha256=layout.digest_sha256,
        parameters=layout.size,
        init_seed=init_seed,
        initial_state=blobs.put(encode_snapshot(start)),
        assignment_key=row.assignment_key,
        seed_anchor=seed_anchor(row.secret_seed, rounds=settings.rounds.rounds),
        dataset_sha256=dataset.payload_sha256,
        reference_tokens_per_hour=settings.credit.reference_tokens_per_hour,
        averaging=strategy,
    )
    record = herald.signed(config)
    config_file = files.config_file(row.cycle)
    config_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(config_file, record.envelope, durable=True)
    write_training_scripts(
        files.scripts,
        config,
        network=settings.network.name,
        base=folder,
        train=files.dataset(row.cycle) / "train.jsonl",
        stack=[files.adapter(cycle) for cycle in foundation.stack],
        worker=herald.identity.peer_id,
    )
    return Prepared(dataset, record, shards, layout.size)


def _adapter_ref(cycle: int, folder: Path, blobs: BlobStore) -> AdapterRef:
    """Return a promoted adapter as the config names it; its files lie in the blobs."""
    files = tuple(
        BaseFile(name, path.stat().st_size, sha256(path.read_bytes()), blobs.put(path))
        for name in ADAPTER_FILES
        if (path := folder / name).is_file()
    )
    if len(files) != len(ADAPTER_FILES):
        raise BaseUnsupported(
            f"{folder} does not hold the adapter of cycle {cycle}",
            hint="Restore the folder from a backup: later cycles were trained on top of it.",
        )
    digest = sha256(ADAPTER_DOMAIN, *(file.sha256 for file in files))
    return AdapterRef(cycle, digest, files)


def running_cycle(
    row: CycleRow, record: RecordRow, *, settings: CoordinatorSettings, files: DataLayout
) -> RunningCycle:
    """Return the cycle whose config is signed in `record`."""
    config = payload_of(record, CycleConfig)
    spec = LoraSpec(config.training.rank, config.training.alpha, config.training.targets)
    folder = base_of(config.base, settings, files)
    layout: Layout = layout_of_folder(folder, spec)
    if layout.digest_sha256 != config.layout_sha256:
        raise BaseUnsupported(
            f"the base in {folder} is not the one cycle {row.cycle} was signed for",
            hint="Put the old base back, or let the cycle fail and begin another.",
        )
    examples = len(load_rows(files, row.cycle, "train"))
    calibration = load_calibration(files.root / CALIBRATION_FOLDER)
    if differences := calibration.differences(config.training):
        log.info("audits_calibrated_for_other_settings", measured=", ".join(differences))
    return RunningCycle(
        row, config, record.payload_sha256, layout, examples, settings, files, calibration
    )
