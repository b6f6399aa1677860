"""A finished round, read back from the books and the disk: enough to make its sum anew."""

from __future__ import annotations

from dataclasses import dataclass

from ares_coordinator.context import RunningCycle
from ares_coordinator.herald import payload_of
from ares_coordinator.judge import Judged
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import CommitRow, RecordRow, RoundRow
from ares_p2p.averaging.vectors import VectorSource
from ares_p2p.domain import RoundManifest, RoundPlan
from ares_p2p.errors import InternalFault
from ares_p2p.ids import Digest
from ares_p2p.network.blobs import BlobStore
from ares_p2p.rounds.commits import SignedCommit, open_commit
from ares_p2p.training.replica import bind_layout, open_contribution
from ares_p2p.training.roundsum import PartLayout, parts_of
from ares_p2p.training.state import TrainingState, decode_snapshot
from ares_p2p.wire.codec import decode_envelope


@dataclass(frozen=True, slots=True)
class PastRound:
    """One round as its manifest judged it, and the state that it started from."""

    row: RoundRow
    manifest_sha256: Digest
    manifest: RoundManifest
    start: TrainingState
    judged: list[Judged]
    parts: tuple[PartLayout, ...]  # of its sum


@dataclass(frozen=True, slots=True)
class RoundBooks:
    """What the database holds of a finished round."""

    row: RoundRow
    plan: RecordRow
    manifest: RecordRow
    commits: tuple[CommitRow, ...]


def read_books(store: Store, cycle: int, round_number: int) -> RoundBooks:
    """Return what is stored of a finished round.

    Raises: InternalFault: there is no such round, or it is not finished.
    """
    rows = [row for row in store.rounds(cycle) if row.round == round_number]
    plan = store.record("plan", cycle, round_number)
    manifest = store.record("manifest", cycle, round_number)
    if not rows or plan is None or manifest is None:
        raise InternalFault(f"round {round_number} of cycle {cycle} is not finished")
    return RoundBooks(rows[0], plan, manifest, store.commits(cycle, round_number))


def read_past(books: RoundBooks, cycle: RunningCycle, blobs: BlobStore) -> PastRound:
    """Return a finished round with the contributions that it counted.

    Raises: BlobUnavailable: its state or a contribution is not held any more. PeerFault: a blob
        is not what it was when it was judged.
    """
    manifest = payload_of(books.manifest, RoundManifest)
    network_id = manifest.header.network_id
    opened = (
        open_commit(decode_envelope(row.envelope), network_id=network_id) for row in books.commits
    )
    commits = {signed.sha256: signed for signed in opened}
    judged = []
    for entry in manifest.entries:
        signed = commits[entry.commit_sha256]
        vector = _contribution(signed, cycle, blobs) if entry.coefficient else None
        judged.append(Judged(signed, entry, vector))
    start = decode_snapshot(blobs.read(books.row.state_digest), layout=cycle.layout)
    parts = parts_of(
        cycle.layout,
        plan=payload_of(books.plan, RoundPlan),
        plan_sha256=books.plan.payload_sha256,
    )
    return PastRound(books.row, books.manifest.payload_sha256, manifest, start, judged, parts)


def _contribution(signed: SignedCommit, cycle: RunningCycle, blobs: BlobStore) -> VectorSource:
    commit = signed.commit
    layout = bind_layout(cycle.layout, plan_sha256=commit.plan_sha256, peer=signed.peer)
    data = blobs.read(commit.blob_id)
    return open_contribution(data, layout=layout, training=cycle.config.training)
