"""A round that was corrected after its end: what a peer keeps to make its sum anew.

The round after carries the correction. Whoever still holds the state that the corrected round
started from, and its contributions or the parts of its corrected sum, computes the corrected state
itself and compares, as with every other round; who does not fetches the signed snapshot with the
next plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.domain import RoundCorrection, RoundManifest, RoundPlan, TrainingConfig
from ares_p2p.ids import Digest
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.rounds.commits import SignedCommit
from ares_p2p.training.layout import Layout
from ares_p2p.training.replica import bind_layout, corrected_state, open_contribution, state_after
from ares_p2p.training.roundsum import parts_of
from ares_p2p.training.state import TrainingState, decode_snapshot


@dataclass(frozen=True, slots=True)
class EndedRound:
    """A round whose end this peer verified."""

    plan: RoundPlan
    manifest: RoundManifest
    manifest_sha256: Digest
    commits: tuple[SignedCommit, ...]
    revealed_seed: Digest = b""


def remade_state(
    ended: EndedRound,
    correction: RoundCorrection,
    *,
    store: BlobStore,
    layout: Layout,
    training: TrainingConfig,
    total: Vector | None = None,
) -> TrainingState | None:
    """Return the state that a corrected round leads to; None when not all of it is held here.

    Args:
        correction: of `ended`, checked against its manifest.
        total: the corrected sum of a round by parts, which holds nobody's whole contribution.
    Raises: PeerFault, BlobUnavailable: a blob changed on our disk.
    """
    used = [
        (signed, entry.coefficient)
        for signed, entry in zip(ended.commits, correction.entries, strict=True)
        if entry.coefficient
    ]
    if ended.plan.parts and (total is not None or not used):
        if not store.has(ended.plan.state):
            return None
        start = decode_snapshot(store.read(ended.plan.state), layout=layout)
        return replace(state_after(start, total, training), round=start.round + 2)
    needed = [ended.plan.state, *(signed.commit.blob_id for signed, _ in used)]
    if not all(store.has(blob_id) for blob_id in needed):
        return None
    start = decode_snapshot(store.read(ended.plan.state), layout=layout)
    vectors = [
        (_opened(signed, store=store, layout=layout, training=training), coefficient)
        for signed, coefficient in used
    ]
    parts = parts_of(layout, plan=ended.plan, plan_sha256=ended.manifest.plan_sha256)
    return corrected_state(start, vectors, training, parts)


def _opened(
    signed: SignedCommit, *, store: BlobStore, layout: Layout, training: TrainingConfig
) -> VectorSource:
    commit = signed.commit
    bound = bind_layout(layout, plan_sha256=commit.plan_sha256, peer=signed.peer)
    return open_contribution(store.read(commit.blob_id), layout=bound, training=training)
