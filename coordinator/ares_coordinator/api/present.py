"""Stored rows and the live snapshot become replies. Pure functions."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence

from ares_coordinator.api.present_credit import present_credits
from ares_coordinator.api.reads import DataRead, StatusRead, TrainingRead
from ares_coordinator.api.schemas import (
    AdapterReply,
    AlarmReply,
    CycleHistory,
    DataReply,
    DatasetCycle,
    ModelReply,
    NetworkReply,
    RefusalReply,
    RoundReply,
    StatusReply,
    SwarmReply,
    SwarmWorker,
    TakenOutReply,
    TeacherReply,
    TrainingReply,
)
from ares_coordinator.api.views import LiveSnapshot
from ares_coordinator.ledger.tiers import TierRule
from ares_coordinator.store.alarm_rows import AlarmRow, TakenOutRow
from ares_coordinator.store.rows import CycleRow, DatasetRow, RecordRow, RoundCounts, RoundState
from ares_coordinator.teacherstate import TeacherState
from ares_p2p.domain import CATEGORIES, NetworkDescriptor
from ares_p2p.wire.codec import decode_envelope, decode_payload

DEFINITION = "parameters of the first base + of all promoted adapters, stacked or merged"
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


def human_count(number: int | None) -> str:
    """Return a count as people say it: 71.2B, 12.3K, 999; "unknown" for None."""
    if number is None:
        return "unknown"
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def _version(number: int | None) -> str | None:
    return None if number is None else f"ares-v{number}"


def present_model(
    cycles: Sequence[CycleRow], live: LiveSnapshot, *, merged_after: int
) -> ModelReply:
    """Return the model from all cycles, oldest first, and the base that the network began with.

    Args:
        merged_after: the newest cycle whose adapter is merged into the base; 0: none is.
    """
    promoted = [row for row in cycles if row.promoted]
    added = sum(row.adapter_parameters or 0 for row in promoted)
    base = live.base_parameters
    effective = None if base is None else base + added
    ranks = [row.rank for row in cycles if row.rank is not None]
    measured = [row.loss_after for row in promoted if row.loss_after is not None]
    newest = max((row.version for row in promoted if row.version is not None), default=0)
    return ModelReply(
        version=f"ares-v{newest}",
        base=live.base_name,
        base_params=base,
        effective_params=effective,
        effective_params_human=human_count(effective),
        effective_params_definition=DEFINITION,
        adapter_count=sum(row.cycle > merged_after for row in promoted),
        merged_adapters=sum(row.cycle <= merged_after for row in promoted),
        lora_rank=ranks[-1] if ranks else None,
        current_cycle=cycles[-1].cycle if cycles else None,
        held_out_loss=measured[-1] if measured else None,
        adapters=[
            AdapterReply(cycle=row.cycle, rank=row.rank, parameters=row.adapter_parameters)
            for row in promoted
            if row.cycle > merged_after
        ],
        history=[_history(row) for row in cycles],
    )


def _history(row: CycleRow) -> CycleHistory:
    return CycleHistory(
        cycle=row.cycle,
        phase=row.phase,
        loss_before=row.loss_before,
        loss_after=row.loss_after,
        loss_change_low=row.loss_change_low,
        loss_change_high=row.loss_change_high,
        promoted=row.promoted,
        version=_version(row.version),
        lora_rank=row.rank,
        adapter_parameters=row.adapter_parameters,
        failure=row.failure or None,
        created_ms=row.created_ms,
        updated_ms=row.updated_ms,
    )


def present_training(read: TrainingRead, live: LiveSnapshot) -> TrainingReply:
    """Return the newest cycle's training."""
    cycle = read.cycle
    done = sum(row.state == RoundState.AGGREGATED for row in read.rounds)
    total = None if cycle is None else cycle.rounds_total
    return TrainingReply(
        state=live.state,
        activity=live.activity,
        failure=live.failure,
        cycle=None if cycle is None else cycle.cycle,
        phase=None if cycle is None else cycle.phase,
        progress=None if not total else min(1.0, done / total),
        round=read.rounds[-1].round if read.rounds else None,
        rounds_done=done,
        rounds_total=total,
        deadline_ms=live.deadline_ms,
        schedule=live.schedule,
        next_cycle_ms=live.next_cycle_ms,
        round_clock=live.round_clock,
        audits_open=read.audits.open,
        audits_lag_ms=_lag_ms(read.audits.oldest_ms, now_ms=live.at_ms),
        rounds=_rounds(read),
        swarm=_swarm(read, live),
    )


def _lag_ms(oldest_ms: int | None, *, now_ms: int) -> int | None:
    return None if oldest_ms is None else max(0, now_ms - oldest_ms)


def _rounds(read: TrainingRead) -> list[RoundReply]:
    counts = {row.round: row for row in read.round_counts}
    alarms = {row.round: row for row in read.alarms}
    corrects = {
        row.corrected_in_round: row.round
        for row in read.alarms
        if row.corrected_in_round != row.round  # the last round leaves out before it is signed
    }
    replies = []
    for row in read.rounds:
        of_round = counts.get(row.round, RoundCounts(row.round, 0, 0, 0))
        replies.append(
            RoundReply(
                round=row.round,
                state=row.state,
                opened_ms=row.opened_ms,
                closed_ms=row.closed_ms,
                finished_ms=row.finished_ms,
                mean_loss=row.mean_loss,
                held_out_loss=row.held_out_loss,
                commits=of_round.commits,
                used=of_round.used,
                refused=of_round.refused,
                blob_bytes=row.blob_bytes,
                next_state=row.next_state_digest.hex() if row.next_state_digest else None,
                refusals=[
                    RefusalReply(
                        peer=item.peer, code=item.code, message=item.message, count=item.count
                    )
                    for item in read.refusals
                    if item.round == row.round
                ],
                alarm=_alarm(alarms.get(row.round), read.taken_out),
                corrects=corrects.get(row.round),
            )
        )
    return replies


def _alarm(alarm: AlarmRow | None, taken_out: Sequence[TakenOutRow]) -> AlarmReply | None:
    if alarm is None:
        return None
    return AlarmReply(
        held_out_before=alarm.held_out_before,
        held_out_bad=alarm.held_out_bad,
        held_out_after=alarm.held_out_after,
        corrected_in_round=alarm.corrected_in_round,
        evaluations=alarm.evaluations,
        message=alarm.message,
        taken_out=[
            TakenOutReply(peer=item.peer, message=item.message)
            for item in taken_out
            if item.round == alarm.round
        ],
    )


def _swarm(read: TrainingRead, live: LiveSnapshot) -> SwarmReply:
    return SwarmReply(
        total_workers=read.counts.workers,
        gpu_workers=read.counts.gpu_workers,
        online_workers=len(live.online),
        total_gradients=read.counts.contributions,
        throughput=live.tokens_per_s,
        bytes_sent=live.bytes_sent,
        bytes_received=live.bytes_received,
        refused_records=dict(live.refused_records),
        workers=[
            SwarmWorker(
                id=row.peer,
                gpu=row.gpu,
                status="online" if row.peer in live.online else "offline",
                way=live.ways.get(row.peer, ""),
                tasks_completed=row.tasks_completed,
                last_seen=row.last_seen_ms,
            )
            for row in read.workers
        ],
    )


def present_data(read: DataRead) -> DataReply:
    """Return all datasets together, every category with its count, and the teacher."""
    datasets = read.datasets
    cycles = [_dataset(row) for row in datasets]
    tokens = _sum({count.category: count.tokens for count in row.categories} for row in datasets)
    examples = _sum(row.by_category for row in cycles)
    return DataReply(
        total_examples=sum(examples.values()),
        total_tokens=sum(tokens.values()),
        cost_estimate=sum(row.cost_microusd for row in datasets) / 1_000_000,
        by_category={name: examples[name] for name in CATEGORIES},
        tokens_by_category={name: tokens[name] for name in CATEGORIES},
        rejected_by_reason=dict(_sum(row.rejected_by_reason for row in cycles)),
        disk_files=sum(row.disk_files for row in datasets),
        disk_bytes=sum(row.disk_bytes for row in datasets),
        teacher=None if read.teacher is None else _teacher(read.teacher),
        cycles=cycles,
    )


def _teacher(state: TeacherState) -> TeacherReply:
    return TeacherReply(
        state=state.condition,
        teacher=state.teacher,
        cycle=state.cycle,
        since_ms=state.since_ms,
        code=state.code,
        message=state.message,
        hint=state.hint,
        tries=state.tries,
        next_try_ms=state.next_try_ms,
    )


def _sum(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _dataset(row: DatasetRow) -> DatasetCycle:
    return DatasetCycle(
        cycle=row.cycle,
        teacher=row.teacher,
        train_examples=sum(count.train_examples for count in row.categories),
        held_out_examples=sum(count.held_out_examples for count in row.categories),
        tokens=sum(count.tokens for count in row.categories),
        cost_estimate=row.cost_microusd / 1_000_000,
        by_category={
            count.category: count.train_examples + count.held_out_examples
            for count in row.categories
        },
        rejected_by_reason=dict(row.rejected),
        updated_ms=row.updated_ms,
    )


def present_network(record: RecordRow, invite: str) -> NetworkReply:
    """Return how to join, from the signed descriptor.

    Raises: PayloadMalformed, EnvelopeMalformed: the stored record is none.
    """
    envelope = decode_envelope(record.envelope)
    network = decode_payload(envelope.payload_type, envelope.payload, NetworkDescriptor)
    return NetworkReply(
        invite=invite,
        network_id=network.header.network_id,
        name=network.name,
        coordinator=network.coordinator,
        protocol_min=network.protocol_min,
        protocol_max=network.protocol_max,
        bootstrap_addresses=list(network.bootstrap_addresses),
        api_url=network.api_url,
        descriptor=base64.b64encode(record.envelope).decode(),
    )


def present_status(
    read: StatusRead, live: LiveSnapshot, *, tiers: Sequence[TierRule], software: str
) -> StatusReply:
    """Return everything at a glance."""
    return StatusReply(
        name=read.name,
        network_id=read.network_id,
        software=software,
        at_ms=live.at_ms,
        uptime_s=max(0, live.at_ms - live.started_ms) // 1000,
        model=present_model(read.cycles, live, merged_after=read.merged_after),
        training=present_training(read.training, live),
        data=present_data(read.data),
        credits=present_credits(read.credits, tiers),
    )
