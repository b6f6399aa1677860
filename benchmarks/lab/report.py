"""What a run comes to: rounds, bytes, what each peer's time went into, what the events cost. Pure.

Times are in seconds since the first process was started. A round's window goes from its plan to
the next one's, the last one's to its manifest. A peer's time in it is of one kind each moment:

    training       local steps
    communicating  encoding and handing in the commit; fetching, from the close of the commits on
    waiting        for slower peers or for the coordinator
    computing      the sum and the outer step
    joining        starting, connecting, fetching base, data and states
    off            the process does not run
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks.lab.counters import Carried, Counters
from benchmarks.lab.record import Said
from benchmarks.lab.scenario import Expectation, Scenario

KINDS: Final = ("training", "communicating", "waiting", "computing", "joining", "off")
_KIND_OF_PHASE: Final = {
    "starting": "joining",
    "connecting": "joining",
    "syncing": "joining",
    "waiting": "waiting",
    "training": "training",
    "uploading": "communicating",
    "exchanging": "communicating",
    "reducing": "communicating",
    "aggregating": "computing",
    "auditing": "computing",
    "finishing": "waiting",
    "stopped": "off",
}
USED: Final = ("accepted", "clipped")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a node's time."""

    start_s: float
    end_s: float
    kind: str


@dataclass(frozen=True, slots=True)
class Window:
    """One round as the coordinator's API tells it, with the end of its window."""

    number: int
    opened_s: float
    closed_s: float | None
    finished_s: float | None
    end_s: float
    row: Mapping[str, Any]


@dataclass(slots=True)
class Facts:
    """What a report is made of. Times in `said` and `counters` are seconds since the epoch."""

    scenario: Scenario
    began_s: float
    ended_s: float
    said: Sequence[Said]
    counters: Counters
    wire: Mapping[str, Any]
    training: Mapping[str, Any]
    leaderboard: Sequence[Mapping[str, Any]]
    history: Mapping[str, Any] | None
    failure: str = ""
    leftovers: Sequence[Any] = ()
    untold: Sequence[str] = ()  # events that did not happen
    versions: Mapping[str, Any] = field(default_factory=dict)


def windows_of(training: Mapping[str, Any], *, ended_s: float) -> list[Window]:
    """Return the rounds of the newest cycle."""
    rows = training["rounds"]
    opened = [row["opened_ms"] / 1000 for row in rows]
    windows = []
    for place, row in enumerate(rows):
        finished_s = _seconds(row["finished_ms"])
        following = opened[place + 1] if place + 1 < len(rows) else None
        end_s = following if following is not None else (finished_s or ended_s)
        closed_s = _seconds(row["closed_ms"])
        windows.append(Window(row["round"], opened[place], closed_s, finished_s, end_s, row))
    return windows


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def spans_of(
    said: Iterable[Said], node: str, windows: Sequence[Window], *, ended_s: float
) -> list[Span]:
    """Return what a peer's time went into, from its first start on."""
    closed = {window.number: window.closed_s for window in windows}
    spans: list[Span] = []
    start_s, kind, round_number = 0.0, "", -1

    def end(at_s: float) -> None:
        if not kind or at_s <= start_s:
            return
        close_s = closed.get(round_number)
        if kind == "exchanging":  # until the commits close there is nothing to fetch
            border_s = at_s if close_s is None else min(max(close_s, start_s), at_s)
            spans.append(Span(start_s, border_s, "waiting"))
            spans.append(Span(border_s, at_s, "communicating"))
        else:
            spans.append(Span(start_s, at_s, kind))

    for item in said:
        if item.node != node:
            continue
        following = kind
        if item.event == "lab" and item.record["do"] in ("start", "kill"):
            following = "joining" if item.record["do"] == "start" else "off"
        elif item.event == "phase":
            phase = item.record["phase"]
            following = phase if phase == "exchanging" else _KIND_OF_PHASE.get(phase, "computing")
        elif item.event == "round_open":
            round_number = item.record["round"]
        if following != kind:
            end(item.at_s)
            start_s, kind = item.at_s, following
    end(ended_s)
    return [span for span in spans if span.end_s > span.start_s]


def seconds_by_kind(spans: Iterable[Span], start_s: float, end_s: float) -> dict[str, float]:
    """Return how many seconds of a window went into each kind."""
    found = dict.fromkeys(KINDS, 0.0)
    for span in spans:
        overlap = min(span.end_s, end_s) - max(span.start_s, start_s)
        if overlap > 0:
            found[span.kind] += overlap
    return found


# --- what the events cost -----------------------------------------------------------------------


def events_of(facts: Facts, windows: Sequence[Window]) -> list[dict[str, Any]]:
    """Return what the lab did to the nodes, and for cuts and kills what it cost."""
    late = facts.scenario.late
    started: set[str] = set()
    found = []
    for place, item in enumerate(facts.said):
        if item.event != "lab":
            continue
        record = {key: value for key, value in item.record.items() if key != "event"}
        first = item.record["do"] == "start" and item.node not in started
        if item.record["do"] == "start":
            started.add(item.node)
        if first and item.node not in late:
            continue  # everybody starts once; that is no event
        entry: dict[str, Any] = {
            "at_s": round(item.at_s - facts.began_s, 2),
            "node": item.node,
            **record,
            "round": _round_at(windows, item.at_s),
        }
        if item.record["do"] in ("cut", "kill"):
            entry["cost"] = _cost_of(facts, windows, place)
        found.append(entry)
    return found


def _round_at(windows: Sequence[Window], at_s: float) -> int | None:
    return max((w.number for w in windows if w.opened_s <= at_s), default=None)


def _cost_of(facts: Facts, windows: Sequence[Window], place: int) -> dict[str, Any]:
    """Return what a cut or kill cost the network and, if it is a peer, the node itself."""
    event = facts.said[place]
    after = [item for item in facts.said[place + 1 :] if item.node == event.node]
    wanted = "restore" if event.record["do"] == "cut" else "start"
    up_again = next((i for i in after if i.event == "lab" and i.record["do"] == wanted), None)
    until_s = facts.ended_s if up_again is None else up_again.at_s
    cost: dict[str, Any] = {
        "until_s": None if up_again is None else round(until_s - facts.began_s, 2),
        "rounds_finished_meanwhile": sum(
            event.at_s < (window.finished_s or 0) <= until_s for window in windows
        ),
    }
    if event.node not in {peer.name for peer in facts.scenario.peers}:
        return cost
    if up_again is None:
        return cost | {"back": None}
    then = after[after.index(up_again) + 1 :]
    joined = next((item for item in then if item.event == "round_open"), None)
    ready = up_again
    if wanted == "start":  # it must load its base first: plans count from then on
        loaded = next((item for item in then if _is_loaded(item)), None)
        ready = min(filter(None, (loaded, joined)), key=lambda i: i.at_s, default=up_again)
    plans = [window.number for window in windows if window.opened_s > ready.at_s]
    in_round = None if joined is None else joined.record["round"]
    missed = [number for number in plans if in_round is None or number < in_round]
    used = {
        item.record["round"]
        for item in facts.said
        if item.node == event.node and item.event == "round_done" and item.record["status"] in USED
    }
    last = windows[-1].number if windows else -1
    through = last if in_round is None else in_round - 1
    begun = _round_at(windows, event.at_s) or 0
    return cost | {
        "back": joined is not None if plans else None,
        "ready_after_s": round(ready.at_s - until_s, 2),
        "back_after_s": None if joined is None else round(joined.at_s - until_s, 2),
        "back_in_round": in_round,
        "plans_missed": len(missed),
        "rounds_lost": [n for n in range(begun, through + 1) if n not in used],
    }


def _is_loaded(said: Said) -> bool:
    """Whether a peer says with this line that it has all that it trains with."""
    return said.event == "phase" and _KIND_OF_PHASE.get(said.record["phase"]) != "joining"


# --- peers ---------------------------------------------------------------------------------------


def peer_facts(facts: Facts, node: str) -> dict[str, Any]:
    """Return what became of a peer's work."""
    said = [item for item in facts.said if item.node == node]
    done = {i.record["round"]: i.record for i in said if i.event == "round_done"}
    by_status = Counter(record["status"] for record in done.values())
    refused = Counter(
        i.record["code"]
        for i in said
        if (i.event == "commit" and not i.record["accepted"])
        or (i.event == "round_done" and i.record["status"] == "refused")
    )
    errors = Counter(i.record["code"] for i in said if i.event == "error")
    states = [i.record["state"] for i in said if i.event == "cycle_done"]
    first = [i.record["seconds"] for i in said if i.event == "first_accepted"]
    peer_id = next((i.record["peer_id"] for i in said if i.event == "identity"), "")
    ways = [i.record["way"] for i in said if i.event == "way" and i.record.get("way")]
    row = next((row for row in facts.leaderboard if row["workerId"] == peer_id), None)
    return {
        "peer_id": peer_id,
        "accepted": sum(by_status[status] for status in USED),
        "refused": dict(refused),
        "missed": by_status["missed"],
        "errors": dict(errors),
        "blob_up_bytes": _over_lives(said, "up_bytes"),
        "blob_down_bytes": _over_lives(said, "down_bytes"),
        "first_accepted_s": first[0] if first else None,
        "final_state": states[-1] if states else "",
        "credits": None if row is None else row["totalCredits"],
        "ways": ways,
    }


def _over_lives(said: Iterable[Said], key: str) -> int:
    """Return the bytes of blobs as a peer counts them; its counter starts at zero with each life."""
    total = last = 0
    for item in said:
        if item.event == "traffic":
            if item.record[key] < last:
                total += last
            last = item.record[key]
    return total + last


# --- the whole -----------------------------------------------------------------------------------


def build_report(facts: Facts) -> dict[str, Any]:
    """Return everything, as JSON."""
    windows = windows_of(facts.training, ended_s=facts.ended_s)
    peers = [peer.name for peer in facts.scenario.peers]
    spans = {name: spans_of(facts.said, name, windows, ended_s=facts.ended_s) for name in peers}
    nodes: dict[str, Any] = {}
    final = facts.counters.samples[-1] if facts.counters.samples else {}
    for name in facts.scenario.nodes:
        carried = final.get(name, Carried())
        nodes[name] = {"up_bytes": carried.up, "down_bytes": carried.down}
        if name in peers:
            nodes[name] |= peer_facts(facts, name)
            nodes[name]["seconds"] = _whole_rounds(spans[name], windows)
    rounds = [_round(window, facts, spans) for window in windows]
    report: dict[str, Any] = {
        "lab": facts.scenario.name,
        "says": facts.scenario.says,
        "versions": dict(facts.versions),
        "seconds": round(facts.ended_s - facts.began_s, 2),
        "rounds": rounds,
        "nodes": nodes,
        "events": events_of(facts, windows),
        "outside_rounds": _outside(facts, windows),
        "wire": dict(facts.wire),
        "losses": _losses(facts),
        "timeline": {
            name: [
                [round(s.start_s - facts.began_s, 2), round(s.end_s - facts.began_s, 2), s.kind]
                for s in of
            ]
            for name, of in spans.items()
        },
        "failure": facts.failure,
        "scenario": facts.scenario.model_dump(mode="json"),
    }
    report["checks"] = checks_of(facts, report)
    report["passed"] = all(report["checks"].values())
    return report


def _round(window: Window, facts: Facts, spans: Mapping[str, Sequence[Span]]) -> dict[str, Any]:
    carried = facts.counters.between(window.opened_s, window.end_s)
    row = window.row
    return {
        "round": window.number,
        "opened_s": round(window.opened_s - facts.began_s, 2),
        "closed_s": _since(window.closed_s, facts.began_s),
        "finished_s": _since(window.finished_s, facts.began_s),
        "end_s": round(window.end_s - facts.began_s, 2),
        "mean_loss": row["mean_loss"],
        "held_out_loss": row["held_out_loss"],
        "commits": row["commits"],
        "used": row["used"],
        "refused": [
            {"code": item["code"], "message": item["message"], "count": item["count"]}
            for item in row["refusals"]
        ],
        "blob_bytes": row["blob_bytes"],
        "next_state": row["next_state"],
        "tokens": _tokens_of(facts.said, window.number),
        "bytes": {name: {"up": c.up, "down": c.down} for name, c in carried.items()},
        "seconds": {
            name: _rounded(seconds_by_kind(of, window.opened_s, window.end_s))
            for name, of in spans.items()
        },
    }


def _tokens_of(said: Iterable[Said], number: int) -> int:
    """Return the tokens of the commits that the coordinator took in a round."""
    found = {
        item.node: item.record["tokens"]
        for item in said
        if item.event == "commit" and item.record["accepted"] and item.record["round"] == number
    }
    return sum(found.values())


def _since(at_s: float | None, began_s: float) -> float | None:
    return None if at_s is None else round(at_s - began_s, 2)


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {kind: round(value, 3) for kind, value in seconds.items()}


def _whole_rounds(spans: Sequence[Span], windows: Sequence[Window]) -> dict[str, float]:
    if not windows:
        return _rounded(dict.fromkeys(KINDS, 0.0))
    return _rounded(seconds_by_kind(spans, windows[0].opened_s, windows[-1].end_s))


def _outside(facts: Facts, windows: Sequence[Window]) -> dict[str, Any]:
    """Return the bytes before the first plan and after the last round."""
    if not windows:
        return {}
    start_s, end_s = windows[0].opened_s, windows[-1].end_s
    parts = {"before": (facts.began_s, start_s), "after": (end_s, facts.ended_s)}
    return {
        name: {
            node: {"up": carried.up, "down": carried.down}
            for node, carried in facts.counters.between(*window).items()
        }
        for name, window in parts.items()
    }


def _losses(facts: Facts) -> dict[str, Any]:
    history = facts.history
    keys = ("loss_before", "loss_after", "loss_change_low", "loss_change_high", "promoted")
    return {} if history is None else {key: history[key] for key in keys}


def checks_of(facts: Facts, report: Mapping[str, Any]) -> dict[str, bool]:
    """Return what had to hold, and whether it did."""
    expect, nodes = facts.scenario.expect, report["nodes"]
    running = [peer.name for peer in facts.scenario.peers if nodes[peer.name]["final_state"]]
    rounds = facts.training["rounds"]
    last_state = rounds[-1]["next_state"] if rounds else None
    gone = {
        event["node"]
        for event in report["events"]
        if event["do"] in ("kill", "cut") and event["cost"]["until_s"] is None
    }
    wanted = [peer.name for peer in facts.scenario.peers if peer.name not in gone]
    checks = {
        "all rounds were done in time": not facts.failure
        and bool(rounds)
        and facts.training["rounds_done"] == facts.training["rounds_total"]
        and all(row["finished_ms"] is not None for row in rounds),
        "all peers that are there end with the coordinator's state": (
            set(wanted) <= set(running)
            and {nodes[name]["final_state"] for name in wanted} == {last_state}
        ),
        "every event happened": not facts.untold,
        "nothing was left running": not facts.leftovers,
    }
    if facts.scenario.until == "cycle":
        checks["the cycle was done in time"] = facts.training["phase"] == "done"
    checks |= _event_checks(report, expect)
    for name, least in expect.least_accepted.items():
        key = f"{name}: at least {least} contributions accepted"
        checks[key] = nodes[name]["accepted"] >= least
    for name, share in expect.least_credit_share.items():
        others = [
            nodes[other]["credits"] or 0.0
            for other in nodes
            if "credits" in nodes[other] and other not in expect.least_credit_share
        ]
        earned = nodes[name]["credits"] or 0.0
        key = f"{name}: at least {share:.0%} of the others' credit"
        checks[key] = bool(others) and earned >= share * median(others) > 0
    return checks


def _event_checks(report: Mapping[str, Any], expect: Expectation) -> dict[str, bool]:
    checks = {}
    for event in report["events"]:
        if event["do"] not in ("cut", "kill"):
            continue
        cost = event["cost"]
        what = f"{event['do']} of {event['node']} at {event['at_s']:.0f} s"
        ended = cost["until_s"] is None
        long = (cost["until_s"] or report["seconds"]) - event["at_s"]
        if long > 2 * _usual_round_s(report) or ended:
            checks[f"{what}: rounds went on"] = cost["rounds_finished_meanwhile"] > 0
        if cost.get("back") is not None:
            limit = expect.back_within_rounds
            key = f"{what}: back after at most {limit} missed plans"
            checks[key] = cost["back"] and cost["plans_missed"] <= limit
    return checks


def _usual_round_s(report: Mapping[str, Any]) -> float:
    lengths = [row["end_s"] - row["opened_s"] for row in report["rounds"]]
    return median(lengths) if lengths else 0.0
