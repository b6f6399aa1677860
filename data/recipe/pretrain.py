"""Make the base that ships: `python data/recipe/pretrain.py --out data/base`.

One thread, one seed, a fixed number of steps: the same machine makes the same weights again. A
base whose `recipe.json` carries this recipe's hash is left as it is. `--minutes` replaces the
fixed number of steps by a time, for trying things out.

Source: DATA notes in data/README.md; model family: Llama (arXiv:2302.13971).
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from corpus import (
    BASE_SEED,
    END_OF_TEXT,
    TURN_END,
    TURN_START,
    Row,
    chat_row,
    drill,
    tasks,
    texts,
    vocabulary,
)
from muon import Muon
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ares_coordinator.distiller import procedural

HERE: Final = Path(__file__).resolve().parent
STEPS: Final = 2800
BATCH_TOKENS: Final = 2048
VOCABULARY: Final = 2048
HIDDEN, INTERMEDIATE, LAYERS, HEADS = 192, 384, 4, 6  # multiples of 64: NF4 blocks fit every row
POSITIONS: Final = 1024
LONG_ROW: Final = 160  # tokens; half of the longer tasks are left out: they cost four times as much
MUON_LR, MUON_DECAY, ADAM_LR = 0.02, 0.02, 0.004
WARMUP, COOLDOWN = 0.02, 0.5  # shares of the run: linear up, then flat, then linear down
SHARES: Final = {"tasks": 0.45, "drills": 0.45, "text": 0.10}  # of tokens
MEAN_TOKENS: Final = {"tasks": 75, "drills": 40, "text": 200}  # generous guesses: rows wrap around
TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _code(path: Path) -> str:
    """Return a module's code without comments, docstrings and layout."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def recipe_sha256() -> str:
    """Return the hash of all that decides the base: this folder's code and the generators'."""
    digest = hashlib.sha256()
    generators = (
        *("words", "templates", "draft", "puzzles", "programs", "writing", "tools", "dialogues"),
        *("documents", "planning", "instructions", "personas", "families"),
    )
    folder = Path(procedural.__file__).parent
    files = [HERE / f"{name}.py" for name in ("corpus", "muon", "pretrain")]
    for path in (*files, *(folder / f"{name}.py" for name in generators)):
        digest.update(_code(path).encode())
    return digest.hexdigest()


def build_tokenizer(samples: list[str]) -> Tokenizer:
    """Return a byte-level BPE trained on `samples`; every digit is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(samples, trainer)
    return tokenizer


def build_model() -> LlamaForCausalLM:
    """Return an untrained model; the caller seeds torch."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        max_position_embeddings=POSITIONS, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=0, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def build_rows(tokens: int) -> tuple[Tokenizer, dict[str, list[Row]]]:
    """Return the tokenizer and the rows of each source for about `tokens` tokens of training."""
    rng = random.Random(BASE_SEED)
    wanted = {name: int(tokens * share / MEAN_TOKENS[name]) for name, share in SHARES.items()}
    examples = list(tasks(wanted["tasks"] // 8 + 1, seed=BASE_SEED, split="train"))
    words = vocabulary()
    drills = [drill(rng, words) for _ in range(wanted["drills"])]
    corpus = texts(rng, chars=int(tokens * SHARES["text"] * 3))
    samples = [m.content for e in examples[::8] for m in e.messages] + corpus[: len(corpus) // 3]
    tokenizer = build_tokenizer(samples)
    end = tokenizer.token_to_id(END_OF_TEXT)
    text_ids = [encoding.ids for encoding in tokenizer.encode_batch(corpus)]
    rows = {
        "tasks": [chat_row(tokenizer, e.messages) for e in examples],
        "drills": [chat_row(tokenizer, d) for d in drills],
        "text": [Row((end, *ids, end), (True,) * (len(ids) + 2)) for ids in text_ids],
    }
    documents = [row for row in rows["tasks"] if len(row.ids) > LONG_ROW]
    rows["tasks"] = [row for row in rows["tasks"] if len(row.ids) <= LONG_ROW] + documents[::2]
    for part in rows.values():
        rng.shuffle(part)
    return tokenizer, rows


def batches(rows: dict[str, list[Row]]) -> Iterator[list[Row]]:
    """Yield batches of about `BATCH_TOKENS`, rows of like length together, for ever."""
    rng = random.Random(BASE_SEED)
    cursor = dict.fromkeys(rows, 0)
    spent = dict.fromkeys(rows, 0)
    while True:
        pool: list[Row] = []
        while sum(len(r.ids) for r in pool) < 16 * BATCH_TOKENS:
            name = min(rows, key=lambda source: spent[source] / SHARES[source])
            row = rows[name][cursor[name] % len(rows[name])]
            cursor[name] += 1
            spent[name] += len(row.ids)
            pool.append(row)
        pool.sort(key=lambda r: len(r.ids))
        groups: list[list[Row]] = [[]]
        for row in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(row.ids) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from groups


def batch_loss(model: LlamaForCausalLM, batch: list[Row]) -> torch.Tensor:
    """Return the mean loss over the supervised tokens of right-padded rows."""
    length = max(len(row.ids) for row in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    mask = torch.zeros(len(batch), length, dtype=torch.bool)
    for i, row in enumerate(batch):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = torch.tensor(row.supervised)
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    wanted = mask[:, 1:]
    logits = model.lm_head(
        hidden[wanted]
    )  # (supervised, vocabulary): the head is a fifth of the work
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted])


def rate(done: float) -> float:
    """Return the learning rate's factor at a share `done` of the run."""
    return min(1.0, done / WARMUP, max(0.02, (1 - done) / COOLDOWN))


def train(
    model: LlamaForCausalLM, rows: dict[str, list[Row]], *, steps: int, minutes: float
) -> dict[str, object]:
    """Train in place; stop after `steps`, or after `minutes` if that is not 0."""
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(hidden)
    adam = torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.99), weight_decay=0.0)
    losses: list[float] = []
    smooth, tokens, start = math.nan, 0, time.monotonic()
    for step, batch in enumerate(batches(rows)):
        elapsed = time.monotonic() - start
        done = elapsed / (60 * minutes) if minutes else step / steps
        if done >= 1:
            break
        loss = batch_loss(model, batch)
        loss.backward()
        factor = rate(done)
        muon.step(lr=MUON_LR * factor, weight_decay=MUON_DECAY)
        for group in adam.param_groups:
            group["lr"] = ADAM_LR * factor
        adam.step()
        adam.zero_grad()
        tokens += sum(len(row.ids) for row in batch)
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 100 == 0:
            losses.append(round(smooth, 4))
            print(
                f"{done:5.0%}  step {step}  loss {smooth:.3f}  {tokens / (elapsed + 1e-9):.0f} tokens/s",
                flush=True,
            )
    return {
        "steps": step,
        "tokens": tokens,
        "seconds": round(time.monotonic() - start),
        "losses": losses,
    }


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write the Hugging Face folder; weights in bfloat16."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=TURN_END, pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False, model_max_length=POSITIONS,
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    model.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=2, pad_token_id=0, do_sample=False, max_new_tokens=128
    )
    model.to(torch.float32).save_pretrained(out)
    fast.save_pretrained(out, save_jinja_files=False)


def main() -> None:
    """Read the command line and make the base."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=HERE.parent / "base")
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="train this long instead of a fixed number of steps",
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    log = arguments.out / "recipe.json"
    name = recipe_sha256()
    if (
        log.exists()
        and json.loads(log.read_text())["recipe_sha256"] == name
        and not arguments.minutes
    ):
        print(f"{arguments.out} is up to date")
        return
    torch.set_num_threads(1)
    torch.manual_seed(1)
    steps = int(arguments.minutes * 150) if arguments.minutes else arguments.steps
    tokenizer, rows = build_rows(steps * BATCH_TOKENS)
    for part, found in rows.items():
        print(
            part,
            len(found),
            "rows",
            sum(len(r.ids) for r in found) // max(1, len(found)),
            "tokens each",
        )
    model = build_model()
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    result = train(model, rows, steps=steps, minutes=arguments.minutes)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, arguments.out)
    record = {
        "recipe_sha256": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        **result,
    }
    log.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
