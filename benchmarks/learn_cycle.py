"""What one cycle on procedural rows teaches the shipped base: answers, checked by a program.

    python -m benchmarks.learn_cycle --output benchmarks/results/learning.json

One cycle in one process, by the network's own code: the rows of a cycle, each peer's assigned
examples, local steps on the NF4 base, codec, checks, robust mean, outer step. Before and after, the
same held-out tasks are answered greedily and checked by the verifier. They are worded by templates
that are in no training row, and ask tasks that no training row asks. The interval of each
category's gain is a paired bootstrap over its tasks. Renews docs/procedural.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ares_coordinator.distiller.pipeline import build_dataset
from ares_coordinator.distiller.procedural import ProceduralTeacher, check_answer, verify_all
from ares_coordinator.distiller.procedural.families import LEVEL_SHARES
from ares_coordinator.distiller.procedural.spec import CheckSpec
from ares_coordinator.settings import TrainingSection
from ares_p2p.averaging.aggregate import robust_coefficients
from ares_p2p.averaging.bounds import check_contribution, reach_of
from ares_p2p.averaging.codec import encode, open_encoded
from ares_p2p.averaging.vectors import VectorSource
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import CATEGORIES
from ares_p2p.ids import PeerId
from ares_p2p.shards import Example, chatml_messages
from ares_p2p.training.evaluate import ExampleLosses, Improvement, paired_bootstrap
from ares_p2p.training.lora import write_parameters
from ares_p2p.training.replica import next_state
from ares_p2p.training.rig import TrainingRig, tokenize_for
from ares_p2p.training.state import TrainingState, initial_state
from benchmarks.marked import MarkedPart
from benchmarks.shipped_base import load_shipped

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "procedural.md"
PART = MarkedPart(PAGE, "learnt")
MAX_NEW_TOKENS = 120  # the longest right answer, two calls of tools, has about 90
BATCH = 50


def play_round(rig: TrainingRig, state: TrainingState, peers: Sequence[PeerId]) -> TrainingState:
    """Return the state after a round of `peers`: as a coordinator and its peers make it."""
    training, layout = rig.config.training, rig.layout
    steps, lr = training.max_steps, training.inner_lr
    reach = reach_of(steps, lr=lr, beta2=training.beta2)
    sent: list[VectorSource] = []
    for peer in peers:
        result = rig.train(
            state.theta,
            round_number=state.round,
            peer=peer,
            lr=lr,
            min_steps=steps,
            max_steps=steps,
        )
        data = encode(
            state.theta - result.theta,
            bits=training.codec_bits,
            block=training.codec_block,
            layout_sha256=layout.digest_sha256,
        )
        found = open_encoded(
            data, layout=layout, bits=training.codec_bits, block=training.codec_block
        )
        check_contribution(found, size=layout.size, reach=reach)
        sent.append(found)
    coefficients = robust_coefficients(sent, layout=layout)
    used = [(vector, one.value) for vector, one in zip(sent, coefficients, strict=True)]
    return next_state(state, used, training)


@torch.no_grad()
def answers_of(rig: TrainingRig, rows: Sequence[Example]) -> list[str]:
    """Return greedy answers to the last turn of each row, in order."""
    tokenizer: Any = rig.tokenizer
    prompts: list[list[int]] = [
        tokenizer.apply_chat_template(
            chatml_messages(row)[:-1], tokenize=True, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
    answers = [""] * len(rows)
    was_training = rig.model.training
    rig.model.eval()
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        width = max(len(prompts[i]) for i in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros(len(part), width, dtype=torch.long)
        for line, i in enumerate(part):
            ids[line, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[line, width - len(prompts[i]) :] = 1
        made = rig.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=0,
        )
        for line, i in enumerate(part):
            new = made[line, width:].tolist()
            end = new.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in new else len(new)
            answers[i] = tokenizer.decode(new[:end])
    rig.model.train(was_training)
    return answers


def score(rig: TrainingRig, state: TrainingState, rows: Sequence[Example]) -> np.ndarray:
    """Return for every row 1.0 if its greedy answer is right, else 0.0."""
    write_parameters(rig.model, rig.layout, state.theta)
    found = zip(rows, answers_of(rig, rows), strict=True)
    return np.array([float(check_answer(row, answer)) for row, answer in found])


def gain_of(before: np.ndarray, after: np.ndarray, chosen: Sequence[int]) -> Improvement:
    """Return the gain in accuracy on some rows, with its 95 % interval."""
    ones = np.ones(len(chosen), dtype=np.int64)
    wrong = [ExampleLosses(1.0 - right[list(chosen)], ones) for right in (before, after)]
    return paired_bootstrap(wrong[0], wrong[1], seed=1)


def held_out_rows(per_category: int, levels: Mapping[int, float], *, seed: int) -> list[Example]:
    """Return verified held-out tasks, all different."""
    rows: dict[str, Example] = {}
    for category in CATEGORIES:
        teacher, index, wanted = (
            ProceduralTeacher(side="eval", levels=levels),
            0,
            len(rows) + per_category,
        )
        while len(rows) < wanted:
            row = teacher.example(category, index, seed=seed)
            rows.setdefault(row.key, row)
            index += 1
    found = list(rows.values())
    for refusal in verify_all(found):
        if refusal is not None:
            raise refusal
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the cycle; return what goes into the JSON."""
    torch.set_num_threads(1)
    training = TrainingSection(
        inner_lr=options.lr,
        outer_lr=options.outer_lr,
        sequences_per_step=options.sequences,
        min_steps=options.steps,
        max_steps=options.steps,
    ).to_domain()
    levels = dict.fromkeys(options.levels, 1.0) if options.levels else LEVEL_SHARES
    counts = dict.fromkeys(CATEGORIES, options.rows)
    train = build_dataset(
        ProceduralTeacher(side="train", levels=levels), counts=counts, seed=options.seed
    ).train
    held_out = held_out_rows(options.held_out, levels, seed=options.seed)
    assert not {row.key for row in train} & {row.key for row in held_out}
    rig = load_shipped(training, train, key=b"learn cycle %d" % options.seed)
    names = [Identity.from_seed(bytes([n]) * 32).peer_id for n in range(options.peers)]
    state = initial_state(rig.layout, cycle=1, seed=rig.config.init_seed)
    clock = time.process_time()
    before = score(rig, state, held_out)
    tokens = tokenize_for(rig.tokenizer, held_out, training)
    nll_before = rig.evaluate(state.theta, tokens).mean
    evaluated_s, clock = time.process_time() - clock, time.process_time()
    for number in range(options.rounds):
        state = play_round(rig, state, names)
        if number % 10 == 9 and number + 1 < options.rounds:
            spent = (time.process_time() - clock) / 60
            nll = rig.evaluate(state.theta, tokens).mean
            print(f"round {number + 1}, {spent:.1f} CPU minutes, NLL {nll:.3f}", flush=True)
    trained_s = time.process_time() - clock
    after = score(rig, state, held_out)
    nll_after = rig.evaluate(state.theta, tokens).mean
    kinds = [CheckSpec.parse(row.check).kind for row in held_out]
    categories = {}
    for name in CATEGORIES:
        chosen = [i for i, row in enumerate(held_out) if row.category == name]
        gain = gain_of(before, after, chosen)
        categories[name] = {
            "before": float(before[chosen].mean()),
            "after": float(after[chosen].mean()),
            "gain": gain.mean,
            "low": gain.low,
            "high": gain.high,
            "kinds": {
                kind: [
                    sum(kinds[i] == kind for i in chosen),
                    *(
                        int(r[[i for i in chosen if kinds[i] == kind]].sum())
                        for r in (before, after)
                    ),
                ]
                for kind in sorted({kinds[i] for i in chosen})
            },
        }
    return {
        "benchmark": "learning",
        "settings": {
            "rows_per_category": options.rows,
            "held_out_per_category": options.held_out,
            "levels": sorted(levels),
            "peers": options.peers,
            "rounds": options.rounds,
            "steps": training.max_steps,
            "sequences_per_step": training.sequences_per_step,
            "sequence_length": training.sequence_length,
            "rank": training.rank,
            "inner_lr": training.inner_lr,
            "outer_lr": training.outer_lr,
            "seed": options.seed,
        },
        "better": sum(one["low"] > 0 for one in categories.values()),
        "worse": sum(one["high"] < 0 for one in categories.values()),
        "nll_before": nll_before,
        "nll_after": nll_after,
        "train_cpu_minutes": round(trained_s / 60, 2),
        "one_evaluation_cpu_minutes": round(evaluated_s / 60, 2),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "categories": categories,
    }


def table(found: dict[str, Any]) -> str:
    """Return the page's measured part."""
    said = found["settings"]
    lines = [
        (
            f"{said['rows_per_category']} training rows and {said['held_out_per_category']} held-out tasks a "
            f"category, levels {', '.join(map(str, said['levels']))}, seed {said['seed']}; {said['peers']} peers, {said['rounds']} rounds of {said['steps']} "
            f"local steps of {said['sequences_per_step']} x {said['sequence_length']} tokens, rank "
            f"{said['rank']}, inner rate {said['inner_lr']}, outer rate {said['outer_lr']}: "
            f"{found['train_cpu_minutes']} CPU minutes of training for all peers together, "
            f"{found['one_evaluation_cpu_minutes']} for one evaluation. NLL "
            f"{found['nll_before']:.3f} -> {found['nll_after']:.3f} nats a token.\n"
        ),
        "| category | right before | right after | gain in points (95 %) | kinds: tasks, right before, right after |",
        "|---|---|---|---|---|",
    ]
    for name, one in found["categories"].items():
        kinds = "; ".join(f"{kind} {n}, {b}, {a}" for kind, (n, b, a) in one["kinds"].items())
        gain = f"{100 * one['gain']:+.1f} ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"
        bold = "**" if one["low"] > 0 else ""
        lines.append(
            f"| {name} | {one['before']:.1%} | {one['after']:.1%} | {bold}{gain}{bold} | {kinds} |"
        )
    lines.append(
        f"\n{found['better']} of {len(found['categories'])} categories gain beyond the interval, "
        f"{found['worse']} lose."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line, run, write the JSON and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=700)
    parser.add_argument("--held-out", type=int, default=50)
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--levels", type=int, nargs="*", help="the teacher's own shares without it")
    parser.add_argument("--steps", type=int, default=TrainingSection().max_steps)
    parser.add_argument("--sequences", type=int, default=TrainingSection().sequences_per_step)
    parser.add_argument("--lr", type=float, default=TrainingSection().inner_lr)
    parser.add_argument("--outer-lr", type=float, default=TrainingSection().outer_lr)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = measure(options)
    print(table(found))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        PART.write(table(found))


if __name__ == "__main__":
    main()
