"""Whole cycles of real processes: who may join when, what comes out, what the next one builds on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from peft import PeftModel

from ares_coordinator.herald import payload_of
from ares_coordinator.store.sql import open_store
from ares_p2p.domain import CycleConfig
from ares_p2p.shards.format import decode_jsonl
from ares_p2p.training.base import BaseSpec, load_base, load_tokenizer
from ares_p2p.training.data import build_dataset
from ares_p2p.training.evaluate import example_losses
from localnet import LocalNetwork
from swarm_crash import WAIT_S, finish_cycle
from swarm_settings import QUICK

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]


async def test_peer_that_joins_a_running_network_is_in_at_the_next_round(
    tmp_path: Path, tiny_base: Path, record_property: pytest.RecordProperty
) -> None:
    settings = {**QUICK, "rounds.rounds": 40, "training.min_steps": 10, "training.max_steps": 10}
    async with LocalNetwork(tmp_path) as net:
        await net.init(base=tiny_base, settings=settings)
        await net.start_bootstrap()
        await net.start_coordinator()
        first = await net.start_peer("peer-1")
        await first.wait_for_event("round_done", timeout_s=WAIT_S, round=1)
        late = await net.start_peer("peer-2")
        opened = await late.wait_for_event("round_open", timeout_s=WAIT_S)
        done = await late.wait_for_event("round_done", timeout_s=WAIT_S, round=opened["round"])
        assert done["status"] in ("accepted", "clipped")
        accepted = await late.wait_for_event("first_accepted", timeout_s=WAIT_S)
        record_property("seconds_to_first_accepted", accepted["seconds"])
        print(f"start to first accepted contribution: {accepted['seconds']:.1f} s")
        same = await first.wait_for_event("round_done", timeout_s=WAIT_S, round=opened["round"])
        assert same["state"] == done["state"]
        assert await late.stop(signal.SIGINT) == 0
        assert await net.close() == []


async def test_adapter_loads_with_plain_peft_and_gives_the_reported_loss(
    tmp_path: Path, tiny_base: Path
) -> None:
    async with LocalNetwork(tmp_path) as net:
        await net.init(base=tiny_base, settings=QUICK)
        await net.start_bootstrap()
        coordinator = await net.start_coordinator()
        await net.start_peer("peer-1", arguments=("--exit-after-cycle",))
        await finish_cycle(net, coordinator)
    store = open_store(net.coordinator_dir / "ares.db")
    cycle = store.latest_cycle()
    store.close()
    assert cycle is not None
    assert cycle.adapter_path is not None
    rows = decode_jsonl(
        (net.coordinator_dir / "ares-datasets" / "cycle-1" / "eval.jsonl").read_bytes()
    )
    spec = BaseSpec(str(tiny_base), quantization="nf4", compute_dtype="float32")
    model = PeftModel.from_pretrained(load_base(spec), cycle.adapter_path)
    held_out = build_dataset(
        load_tokenizer(spec), (row.messages for row in rows), sequence_length=64
    )
    assert example_losses(model, held_out).mean == pytest.approx(cycle.loss_after, abs=1e-3)
    assert cycle.loss_before is not None
    assert abs(cycle.loss_before - cycle.loss_after) > 1e-2  # the adapter does something


async def test_second_cycle_trains_on_top_of_the_first(tmp_path: Path, tiny_base: Path) -> None:
    async with LocalNetwork(tmp_path) as net:
        # with a seed both cycles ask about the same examples
        await net.init(base=tiny_base, settings={**QUICK, "rounds.rounds": 2, "data.seed": 7})
        await net.start_bootstrap()
        coordinator = await net.start_coordinator(cycles=2)
        peer = await net.start_peer("peer-1")
        await net.wait_for_phase("done", timeout_s=WAIT_S, cycle=2)
        assert await peer.stop(signal.SIGINT) == 0, peer.log_tail()
        assert await coordinator.stop() == 0, coordinator.log_tail()
        assert await net.close() == []
    store = open_store(net.coordinator_dir / "ares.db")
    first, second = store.cycles()
    record = store.record("cycle", 2, 0)
    store.close()
    assert record is not None
    stack = payload_of(record, CycleConfig).stack
    assert [adapter.cycle for adapter in stack] == [1]
    assert first.promoted
    assert first.loss_after is not None
    assert second.loss_before == pytest.approx(first.loss_after, abs=1e-3)
    assert second.loss_before != pytest.approx(first.loss_before, abs=1e-2)
