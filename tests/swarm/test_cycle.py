"""Whole cycles of real processes: what survives a SIGKILL, who may join when, what comes out."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from peft import PeftModel

from ares_coordinator.ledger.balances import fold_balances, verify_balances
from ares_coordinator.store.rows import CyclePhase
from ares_coordinator.store.sql import open_store
from ares_p2p.shards.format import decode_jsonl
from ares_p2p.training.base import BaseSpec, load_base, load_tokenizer
from ares_p2p.training.data import build_dataset
from ares_p2p.training.evaluate import example_losses
from localnet import Child, LocalNetwork
from swarm_settings import QUICK

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]

PHASES = ("generate", "prepare", "publish", "train", "stack", "evaluate", "promote", "settle")
# the hardest moment of each: the work is done, and nothing of it is recorded or published yet
MOMENTS = (
    *(f"{phase}-end" for phase in PHASES),
    "round-1-open",
    "round-1-commit",
    "round-1-closed",
    "round-2",
)
ROUNDS = 4
WAIT_S = 200.0


async def _finish(net: LocalNetwork, coordinator: Child) -> None:
    """Wait until the cycle is over, then stop the coordinator so that its database is at rest."""
    for child in net.children:
        if child.name.startswith("peer"):
            assert await child.process.wait() == 0, child.log_tail()
    await net.wait_for_phase("done", timeout_s=WAIT_S)  # the last audits
    assert await coordinator.stop() == 0, coordinator.log_tail()


def _check_books(net: LocalNetwork, *, rounds: int) -> None:
    """Nothing counted twice: one commit a peer and round, each paid once, balances add up."""
    store = open_store(net.coordinator_dir / "ares.db")
    try:
        cycle = store.latest_cycle()
        assert cycle is not None
        assert cycle.phase is CyclePhase.DONE
        settled = 0
        for number in range(rounds):
            contributions = store.contributions(cycle.cycle, number)
            assert contributions
            assert len({row.peer for row in contributions}) == len(contributions)
            settled += len(contributions)
        postings = store.postings(limit=1000)
        paid = [item for item in postings if item.state == "settled"]
        assert len(paid) == settled
        assert len({item.commit_sha256 for item in paid}) == settled
        assert verify_balances(store) == len(fold_balances(postings))
    finally:
        store.close()


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(moment, marks=pytest.mark.xdist_group(f"crash-{number % 2}"))
        for number, moment in enumerate(MOMENTS)
    ],
)
async def test_coordinator_killed_at_moment_completes_the_cycle(
    moment: str, tmp_path: Path, tiny_base: Path
) -> None:
    async with LocalNetwork(tmp_path) as net:
        await net.init(base=tiny_base, settings=QUICK)
        await net.start_bootstrap()
        first = await net.start_coordinator(env={"ARES_FAILPOINT": moment})
        await net.start_peer("peer-1", arguments=("--exit-after-cycle",))
        assert await first.process.wait() == -signal.SIGKILL, first.log_tail()
        await _finish(net, await net.start_coordinator())
        assert await net.close() == []
        _check_books(net, rounds=ROUNDS)


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
        await _finish(net, coordinator)
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
