"""A peer's status as rows of text, for `ares-peer status` and for the end of a run. Pure."""

from __future__ import annotations

from ares_peer.events import Phase
from ares_peer.progress import RoundView, Status, Totals
from ares_peer.wording import (
    bytes_text,
    count_text,
    credits_text,
    duration_text,
    phase_text,
    reason_text,
    way_text,
)

Row = tuple[str, str]  # label, value


def round_text(view: RoundView) -> str:
    """Return which round it is; people count from one."""
    return f"round {view.round + 1}/{view.rounds} of cycle {view.cycle}"


def deadline_text(view: RoundView, *, now_ms: int) -> str:
    """Return how long the round may still take."""
    left_s = (view.deadline_ms - now_ms) / 1000
    return f"{duration_text(left_s)} to the deadline" if left_s > 0 else "deadline passed"


def speed_text(view: RoundView) -> str:
    """Return loss and throughput of the last step."""
    loss = "-" if view.loss is None else f"{view.loss:.3f}"
    return f"loss {loss}, {view.tokens_per_s:,.0f} tokens/s"


def credit_text(status: Status) -> str:
    """Return settled and pending credit. Pending is told in rounds: its price comes later."""
    settled = "0.00" if status.settled_ucredits is None else credits_text(status.settled_ucredits)
    return f"{settled} settled, {count_text(len(status.pending), 'round')} pending"


def audits_text(totals: Totals) -> str:
    """Return what came of the replays of others' work; nothing for a peer that made none."""
    parts = [
        (totals.audits_reported, "reported"),
        (totals.audits_paid, "paid"),
        (totals.audits_contradicted, "contradicted"),
        (totals.audits_unpaid, "not paid"),
    ]
    return ", ".join(f"{count:,} {what}" for count, what in parts if count)


def status_rows(status: Status, *, running: bool, now_ms: int) -> list[Row]:
    """Return everything `ares-peer status` says."""
    rows = [("peer", _life(status, running=running, now_ms=now_ms))]
    if running:
        rows.append(("phase", phase_text(status.phase, status.detail)))
    if running:
        rows.append(("way", way_text(status.way)))
    rows += [("network", status.network), ("id", status.peer_id), ("name", status.name)]
    rows += [("role", status.role), ("device", status.device)]
    if status.round is not None:
        view = status.round
        deadline = f", {deadline_text(view, now_ms=now_ms)}" if running else ""
        rows.append(("round", f"{round_text(view)}, step {view.step}/{view.max_steps}{deadline}"))
        rows.append(("speed", speed_text(view)))
    rows.append(("credit", credit_text(status)))
    rows.append(("rounds", _rounds(status)))
    rows.append(("audits", audits_text(status.totals)))
    if status.refusals:
        last = status.refusals[0]
        where = f"round {last.round + 1} of cycle {last.cycle}"
        rows.append(("last refusal", f"{where}: {reason_text(last.code, last.message)}"))
    if status.last_error is not None:
        error = status.last_error
        ago = duration_text((now_ms - error.at_ms) / 1000)
        rows.append(("last error", f"{reason_text(error.code, error.message)}, {ago} ago"))
    rows.append(("traffic", _traffic(status.totals.up_bytes, status.totals.down_bytes)))
    rows += [("address", address) for address in status.addresses]
    rows.append(("state", status.state))
    return [(label, value) for label, value in rows if value]


def summary_rows(before: Status, after: Status) -> list[Row]:
    """Return what the run between two pictures of one peer came to."""
    old, new = before.totals, after.totals
    accepted = new.rounds_accepted - old.rounds_accepted
    clipped = new.rounds_clipped - old.rounds_clipped
    scaled = f", {clipped:,} of them scaled down" if clipped else ""
    rows = [("rounds accepted", f"{accepted:,}{scaled}")]
    for label, count in (
        ("rounds refused", new.rounds_refused - old.rounds_refused),
        ("rounds missed", new.rounds_missed - old.rounds_missed),
        ("rounds void", new.rounds_void - old.rounds_void),
        ("audits failed", new.rounds_failed_audit - old.rounds_failed_audit),
        ("replays reported", new.audits_reported - old.audits_reported),
        ("replays contradicted", new.audits_contradicted - old.audits_contradicted),
    ):
        if count:
            rows.append((label, f"{count:,}"))
    counted = {refusal.code: refusal.count for refusal in before.refusals}
    for refusal in after.refusals:
        times = refusal.count - counted.get(refusal.code, 0)
        if times > 0:
            rows.append(("reason", f"{times}x {reason_text(refusal.code, refusal.message)}"))
    rows.append(("tokens", f"{new.tokens - old.tokens:,}"))
    rows.append(("credit", _earned(before, after)))
    rows.append(("traffic", _traffic(new.up_bytes - old.up_bytes, new.down_bytes - old.down_bytes)))
    return rows


def _earned(before: Status, after: Status) -> str:
    text = credit_text(after)
    if before.settled_ucredits is None or after.settled_ucredits is None:
        return text
    return f"{credits_text(after.settled_ucredits - before.settled_ucredits)} earned; {text}"


def _life(status: Status, *, running: bool, now_ms: int) -> str:
    if running:
        up = duration_text(now_ms / 1000 - status.started_s)
        restarts = f", {count_text(status.restarts, 'restart')}" if status.restarts else ""
        return f"running for {up} as process {status.pid}{restarts}"
    ago = duration_text((now_ms - status.updated_ms) / 1000)
    how = "stopped" if status.phase is Phase.STOPPED else "ended without saying so"
    return f"not running: {how} {ago} ago"


def _rounds(status: Status) -> str:
    totals = status.totals
    parts = [
        (totals.rounds_accepted, "accepted"),
        (totals.rounds_refused, "refused"),
        (totals.rounds_missed, "missed"),
        (totals.rounds_void, "void"),
        (totals.rounds_failed_audit, "failed an audit"),
    ]
    said = [f"{count:,} {what}" for count, what in parts if count]
    return ", ".join(said) or "none yet"


def _traffic(up_bytes: int, down_bytes: int) -> str:
    return f"{bytes_text(up_bytes)} sent, {bytes_text(down_bytes)} received"
