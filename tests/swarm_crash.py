"""Kill a coordinator at a moment, start it again, and look at the books."""

from __future__ import annotations

import signal
from pathlib import Path

from ares_coordinator.herald import payload_of
from ares_coordinator.ledger.balances import fold_balances, verify_balances
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import CyclePhase
from ares_coordinator.store.sql import open_store
from ares_p2p.domain import RoundSettlement
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.proofs.ledger import decode_page
from localnet import Child, LocalNetwork
from swarm_settings import QUICK

WAIT_S = 200.0


async def finish_cycle(net: LocalNetwork, coordinator: Child) -> None:
    """Wait until the cycle is over, then stop the coordinator so that its database is at rest."""
    for child in net.children:
        if child.name.startswith("peer"):
            assert await child.process.wait() == 0, child.log_tail()
    await net.wait_for_phase("done", timeout_s=WAIT_S)  # the last audits
    assert await coordinator.stop() == 0, coordinator.log_tail()


def check_books(net: LocalNetwork, *, rounds: int) -> None:
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
        check_settlements(net, store, cycle.cycle, rounds=rounds)
        postings = store.postings(limit=1000)
        paid = [item for item in postings if item.state == "settled"]
        assert len(paid) == settled
        assert len({item.commit_sha256 for item in paid}) == settled
        assert verify_balances(store) == len(fold_balances(postings))
    finally:
        store.close()


def check_settlements(net: LocalNetwork, store: Store, cycle: int, *, rounds: int) -> None:
    """Every round is settled once, and its page of the ledger can be served."""
    blobs, size = BlobStore(net.coordinator_dir / "blobs"), 0
    for number in range(rounds):
        record = store.record("settlement", cycle, number)
        assert record is not None
        settlement = payload_of(record, RoundSettlement)
        works = store.contributions(cycle, number)
        assert [entry.commit_sha256 for entry in settlement.entries] == [
            work.commit_sha256 for work in works
        ]
        page = decode_page(blobs.read(settlement.page))
        assert page.first == size
        size = page.size
    assert size == store.log_size()


async def check_kill_and_resume(moment: str, root: Path, base: Path, *, peers: int) -> None:
    """Let the coordinator die at `moment`, start it again: the cycle completes, once."""
    async with LocalNetwork(root) as net:
        await net.init(base=base, settings={**QUICK, "rounds.min_peers": peers})
        await net.start_bootstrap()
        for number in range(peers):  # they wait for the coordinator
            await net.start_peer(f"peer-{number}", arguments=("--exit-after-cycle",))
        first = await net.start_coordinator(env={"ARES_FAILPOINT": moment})
        assert await first.process.wait() == -signal.SIGKILL, first.log_tail()
        await finish_cycle(net, await net.start_coordinator())
        assert await net.close() == []
        check_books(net, rounds=int(str(QUICK["rounds.rounds"])))
