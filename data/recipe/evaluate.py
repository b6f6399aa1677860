"""What the base can do, and what one LoRA cycle teaches it.

    python data/recipe/evaluate.py --base data/base            scores per category
    python data/recipe/evaluate.py --base data/base --cycle    before and after one short cycle

The cycle is a simulation of three peers in one process, by plain PEFT on an NF4 base: 20 rounds
of 10 local steps of 8 rows each, pseudo-gradients averaged. It shows that there is room to learn;
the network's own trainer is elsewhere.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import torch
from corpus import EVAL_SEED, Row, chat_row, tasks, texts
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from ares_coordinator.distiller.procedural import FAMILIES, check_answer
from ares_p2p.shards import Example, Message

CYCLE_SEED: Final = -3
ROUNDS, PEERS, LOCAL_STEPS, ROWS_PER_STEP = 20, 3, 10, 8
INNER_LR, BETA2, OUTER_LR, OUTER_MOMENTUM = 0.0025, 0.99, 1.2, 0.5
MAX_NEW_TOKENS: Final = 90
BATCH: Final = 32


def token_losses(model: torch.nn.Module, rows: Sequence[Row]) -> list[torch.Tensor]:
    """Return for every row the loss of each of its supervised tokens."""
    length = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = torch.tensor(row.supervised)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return [losses[i][mask[i, 1:]] for i in range(len(rows))]


@torch.no_grad()
def row_nlls(model: torch.nn.Module, rows: Sequence[Row]) -> list[float]:
    """Return the mean loss per supervised token of every row, in nats."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    found = [0.0] * len(rows)
    for start in range(0, len(rows), BATCH):
        part = order[start : start + BATCH]
        for i, losses in zip(part, token_losses(model, [rows[i] for i in part]), strict=True):
            found[i] = losses.mean().item()
    return found


@torch.no_grad()
def answers(model: torch.nn.Module, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[str]:
    """Return greedy answers, one row after another."""
    end = tokenizer.token_to_id("<|im_end|>")
    texts_ = []
    for example in examples:
        head = chat_row(tokenizer, [*example.messages[:-1], Message("assistant", "")])
        ids = torch.tensor([head.ids[:-2]])  # without end of turn and newline
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False, eos_token_id=end, pad_token_id=0,
        )  # fmt: skip
        new = made[0, ids.shape[1] :].tolist()
        new = new[: new.index(end)] if end in new else new
        texts_.append(tokenizer.decode(new))
    return texts_


def scores(
    model: torch.nn.Module, tokenizer: Tokenizer, examples: Sequence[Example]
) -> tuple[dict[str, dict[str, float]], list[float], list[bool]]:
    """Return NLL and accuracy per category and over all, and both per row."""
    model.eval()
    nlls = row_nlls(model, [chat_row(tokenizer, e.messages) for e in examples])
    right = [
        check_answer(e, a)
        for e, a in zip(examples, answers(model, tokenizer, examples), strict=True)
    ]
    table: dict[str, dict[str, float]] = {}
    for name in (*FAMILIES, "all"):
        mine = [i for i, e in enumerate(examples) if name in (e.category, "all")]
        table[name] = {
            "nll": round(sum(nlls[i] for i in mine) / len(mine), 4),
            "accuracy": round(sum(right[i] for i in mine) / len(mine), 4),
        }
    return table, nlls, right


def text_nll(model: torch.nn.Module, tokenizer: Tokenizer) -> float:
    """Return the mean NLL of some text, in nats per token."""
    pieces = texts(random.Random(EVAL_SEED), chars=60_000)
    rows = [
        Row(tuple(ids), (True,) * len(ids))
        for ids in (e.ids for e in tokenizer.encode_batch(pieces))
    ]
    found = row_nlls(model, rows)
    return round(sum(found) / len(found), 4)


def local_steps(model: torch.nn.Module, batches: Iterable[list[Row]], lr: float) -> None:
    """Train the LoRA weights by RMSProp with bias correction, fresh every time."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.0, BETA2), weight_decay=0.0)
    for batch in batches:
        loss = torch.cat(token_losses(model, batch)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def cycle(model: torch.nn.Module, rows: Sequence[Row], *, lr: float = INNER_LR) -> None:
    """Train the adapter in place: rounds of local steps on each peer, then the outer step."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    momentum = [torch.zeros_like(p) for p in trained]
    source = iter(rows)
    for number in range(ROUNDS):
        start = [p.detach().clone() for p in trained]
        mean = [torch.zeros_like(p) for p in trained]
        for _ in range(PEERS):
            for p, s in zip(trained, start, strict=True):
                p.data.copy_(s)
            local_steps(
                model,
                ([next(source) for _ in range(ROWS_PER_STEP)] for _ in range(LOCAL_STEPS)),
                lr,
            )
            for m, p, s in zip(mean, trained, start, strict=True):
                m.add_(s - p.detach(), alpha=1 / PEERS)
        for p, s, m, v in zip(trained, start, mean, momentum, strict=True):
            v.mul_(OUTER_MOMENTUM).add_(m)
            p.data.copy_(s - OUTER_LR * (m + OUTER_MOMENTUM * v))
        print(f"round {number + 1}/{ROUNDS}", end="\r", flush=True)


def paired(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Return mean gain and its 95 % bootstrap interval over rows."""
    gains = torch.tensor(before) - torch.tensor(after)
    generator = torch.Generator().manual_seed(1)
    draws = gains[torch.randint(len(gains), (10_000, len(gains)), generator=generator)].mean(1)
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975])).tolist()
    return gains.mean().item(), low, high


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description="Scores of a base, before and after one cycle.")
    parser.add_argument("--base", type=Path, default=Path("data/base"))
    parser.add_argument("--per-category", type=int, default=40)
    parser.add_argument("--cycle", action="store_true")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=INNER_LR)
    parser.add_argument("--record", action="store_true", help="write the scores into recipe.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(arguments.base).backend_tokenizer
    examples = list(tasks(arguments.per_category, seed=EVAL_SEED, split="eval", held_back=True))
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    options = {"quantization_config": nf4} if arguments.cycle else {}
    model = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32, **options)
    started = time.monotonic()
    before, nll_before, right_before = scores(model, tokenizer, examples)
    text_before = text_nll(model, tokenizer)
    for name, row in before.items():
        print(f"{name:16} nll {row['nll']:.4f}  accuracy {row['accuracy']:.3f}")
    print(f"text nll {text_before:.4f}   ({time.monotonic() - started:.0f} s)")
    if arguments.record:
        log = arguments.base / "recipe.json"
        record = json.loads(log.read_text())
        record |= {
            "evaluation": before,
            "text_nll": text_before,
            "rows_per_category": arguments.per_category,
        }
        log.write_text(json.dumps(record, indent=1) + "\n")
    if not arguments.cycle:
        return
    adapter = LoraConfig(
        r=arguments.rank,
        lora_alpha=2 * arguments.rank,
        target_modules="all-linear",
        lora_dropout=0.0,
    )
    model = get_peft_model(model, adapter)
    needed = ROUNDS * PEERS * LOCAL_STEPS * ROWS_PER_STEP
    fresh = list(tasks(needed // len(FAMILIES) + 1, seed=CYCLE_SEED, split="train", held_back=True))
    random.Random(CYCLE_SEED).shuffle(fresh)
    started = time.monotonic()
    cycle(model, [chat_row(tokenizer, e.messages) for e in fresh], lr=arguments.lr)
    print(f"cycle of {needed} rows took {time.monotonic() - started:.0f} s")
    after, nll_after, right_after = scores(model, tokenizer, examples)
    for name, row in after.items():
        print(
            f"{name:16} nll {before[name]['nll']:.4f} -> {row['nll']:.4f}  "
            f"accuracy {before[name]['accuracy']:.3f} -> {row['accuracy']:.3f}"
        )
    gain, low, high = paired(nll_before, nll_after)
    print(f"NLL gain {gain:.4f} [{low:.4f}, {high:.4f}] nats = {gain / before['all']['nll']:.1%}")
    gain, low, high = paired([float(r) for r in right_after], [float(r) for r in right_before])
    print(
        f"accuracy gain {gain:.3f} [{low:.3f}, {high:.3f}]; text nll {text_before} -> {text_nll(model, tokenizer)}"
    )


if __name__ == "__main__":
    main()
