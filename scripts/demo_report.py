"""What came of the demo: the table, the picture, and whether all promises held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from localnet import Child

WANTED_FALL = 0.03  # held-out loss must fall by at least this share


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """One peer's part in the cycle."""

    name: str
    peer_id: str
    accepted: int
    refused: Counter[str]
    missed: int
    up_bytes: int
    down_bytes: int
    final_state: str
    first_accepted_s: float | None


@dataclass(slots=True)
class Outcome:
    """Everything the report shows."""

    peers: list[PeerFacts]
    rounds: list[dict[str, Any]]
    history: dict[str, Any]
    leaderboard: dict[str, dict[str, Any]]
    api_url: str
    out: Path
    checks: dict[str, bool]
    leftovers: list[Any] = field(default_factory=list)

    @staticmethod
    def of(
        facts: Mapping[str, Any],
        peers: Mapping[str, Child],
        *,
        late: str,
        killed: str,
        api_url: str,
        out: Path,
    ) -> Outcome:
        """Return the outcome from the API's answers and the peers' own words."""
        parts = [_facts_of(name, child) for name, child in peers.items()]
        by_name = {part.name: part for part in parts}
        training, history = facts["training"], facts["model"]["history"][-1]
        before, after = history["loss_before"], history["loss_after"]
        killed_child = peers[killed]
        returned = [record for record in killed_child.said if record.get("event") == "round_done"]
        states = {part.final_state for part in parts}
        checks = {
            "all peers end with the coordinator's state": states
            == {training["rounds"][-1]["next_state"]},
            f"held-out loss falls by at least {WANTED_FALL:.0%}": after
            <= before * (1 - WANTED_FALL),
            "the fall is beyond luck (bootstrap's lower end above 0)": history["loss_change_high"]
            < 0,
            f"{killed} contributed again after the kill": any(
                record["status"] in ("accepted", "clipped") for record in returned
            ),
            f"{late}, who joined late, contributed": by_name[late].accepted > 0,
            "the adapter was promoted": bool(history["promoted"]),
        }
        board = {row["workerId"]: row for row in facts["leaderboard?limit=10"]}
        return Outcome(parts, training["rounds"], history, board, api_url, out, checks)

    @property
    def passed(self) -> bool:
        """Whether every check held and nothing was left running."""
        return all(self.checks.values()) and not self.leftovers


def _facts_of(name: str, child: Child) -> PeerFacts:
    said = list(child.said)
    if said and said[0].get("event") == "killed":
        said = [*said[0]["before"], *said[1:]]
    done = [record for record in said if record.get("event") == "round_done"]
    refused = Counter(
        record["code"]
        for record in said
        if (record.get("event") == "commit" and not record["accepted"])
        or (record.get("event") == "round_done" and record["status"] == "refused")
    )
    states = [record["state"] for record in said if record.get("event") == "cycle_done"]
    first = [record["seconds"] for record in said if record.get("event") == "first_accepted"]
    identity = next((r for r in said if r.get("event") == "identity"), {"peer_id": ""})
    return PeerFacts(
        name=name,
        peer_id=identity["peer_id"],
        accepted=sum(record["status"] in ("accepted", "clipped") for record in done),
        refused=refused,
        missed=sum(record["status"] == "missed" for record in done),
        up_bytes=_traffic(said, "up_bytes"),
        down_bytes=_traffic(said, "down_bytes"),
        final_state=states[-1] if states else "",
        first_accepted_s=first[0] if first else None,
    )


def _traffic(said: list[dict[str, Any]], key: str) -> int:
    """Return the bytes over all lives of a peer: the counter starts again at zero with each."""
    total, last = 0, 0
    for record in said:
        if record.get("event") == "traffic":
            if record[key] < last:
                total += last
            last = record[key]
    return total + last


def draw_picture(outcome: Outcome, path: Path) -> None:
    """Draw the loss by round: held-out and training, with the contributions below."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in outcome.rounds if row["mean_loss"] is not None]
    before, after = outcome.history["loss_before"], outcome.history["loss_after"]
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(9, 5.6), dpi=130, sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    rounds = [row["round"] + 1 for row in rows]
    looked = [row for row in rows if row["held_out_loss"] is not None]
    upper.plot(
        rounds, [row["mean_loss"] for row in rows], color="#9aa5b1", label="training (peers)"
    )
    upper.plot(
        [row["round"] + 1 for row in looked],
        [row["held_out_loss"] for row in looked],
        color="#0b6e99",
        marker="o",
        markersize=3,
        label="held-out (sample)",
    )
    upper.axhline(before, color="#c0562a", linestyle="--", linewidth=1)
    upper.annotate(
        f"base, all held-out examples: {before:.3f}",
        (rounds[0], before),
        xytext=(0, 4),
        textcoords="offset points",
        color="#c0562a",
        fontsize=8,
    )
    fall = 1 - after / before
    upper.set_title(
        f"One cycle, {len(outcome.peers)} peers: held-out loss {before:.3f} "
        f"to {after:.3f} ({fall:.1%} less)",
        loc="left",
        fontsize=11,
    )
    upper.set_ylabel("nats per token")
    upper.legend(frameon=False, fontsize=8)
    lower.bar(rounds, [row["used"] for row in rows], color="#0b6e99", width=0.7)
    lower.set_ylabel("accepted")
    lower.set_xlabel("round")
    for axis in (lower.xaxis, lower.yaxis):
        axis.get_major_locator().set_params(integer=True)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def print_report(outcome: Outcome, console: Console, *, picture: Path) -> None:
    """Print what a newcomer wants to know, and the checks."""
    history = outcome.history
    fall = 1 - history["loss_after"] / history["loss_before"]
    table = Table(title="What each peer did", title_justify="left")
    for header in ("peer", "accepted", "refused", "missed", "up", "down", "credits", "tier"):
        left = header in ("peer", "refused")
        table.add_column(header, justify="left" if left else "right", no_wrap=not left)
    for peer in outcome.peers:
        row = outcome.leaderboard.get(peer.peer_id, {"totalCredits": 0, "tier": "FREE"})
        reasons = ", ".join(f"{count} x {code}" for code, count in peer.refused.items()) or "0"
        table.add_row(
            f"{peer.name} ..{peer.peer_id[-6:]}",
            str(peer.accepted),
            reasons,
            str(peer.missed),
            f"{peer.up_bytes / 1e6:.2f} MB",
            f"{peer.down_bytes / 1e6:.2f} MB",
            f"{row['totalCredits']:.2f}",
            row["tier"],
        )
    console.print()
    console.print(table)
    console.print(
        f"held-out loss  {history['loss_before']:.4f} -> {history['loss_after']:.4f} nats per "
        f"token, {fall:.1%} less (95 % interval of the change: "
        f"{history['loss_change_low']:+.4f} to {history['loss_change_high']:+.4f})"
    )
    console.print(f"rounds         {len(outcome.rounds)}, {_by_reason(outcome)}")
    for peer in outcome.peers:
        if peer.first_accepted_s is not None:
            console.print(
                f"first credit   {peer.name}: {peer.first_accepted_s:.1f} s after its start"
            )
    console.print(f"adapter        {outcome.out / 'coordinator' / 'ares-adapters' / 'cycle-1'}")
    console.print(f"picture        {picture}")
    console.print(f"API            {outcome.api_url}/api/ares/status (ended with the demo; again:")
    console.print(
        f"               ares-coordinator run --cycles 0 --data-dir {outcome.out / 'coordinator'})"
    )
    for text, held in outcome.checks.items():
        console.print(
            f"  [green]passed[/green]  {text}" if held else f"  [red]FAILED[/red]  {text}"
        )
    if outcome.leftovers:
        console.print(f"  [red]FAILED[/red]  processes were left running: {outcome.leftovers}")


def _by_reason(outcome: Outcome) -> str:
    accepted = sum(row["used"] for row in outcome.rounds)
    refused: Counter[str] = Counter()
    for row in outcome.rounds:
        for item in row["refusals"]:
            refused[f"{item['code']} {item['message']}"] += item["count"]
    text = f"{accepted} contributions accepted, {sum(refused.values())} refused"
    return text + "".join(f"\n               {count} x {why}" for why, count in refused.items())
