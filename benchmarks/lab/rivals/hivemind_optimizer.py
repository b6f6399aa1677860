"""One volunteer that trains the same adapter with `hivemind.Optimizer` and its defaults.

    python -m benchmarks.lab.rivals.hivemind_optimizer CONFIG.json     (the benchmark starts it)

The same base, rows, adapter and start as ours, AdamW on the LoRA parameters only, hivemind's own
defaults for everything it decides: when to average, over what, how compressed (not at all). What it
needs to run at all (large messages between its processes) is mended as in our own node.

Says, one JSON object a line: `ready` with addresses, `epoch` after each averaged step. The
parameters after some epochs go to a folder, to be looked at after the run: evaluating meanwhile
would take the training's time.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RUN_ID = "rival"


@dataclass(frozen=True, slots=True)
class RivalConfig:
    """What one volunteer is told."""

    base: str
    rows: str  # train.jsonl of our run
    training: dict[str, Any]  # the numbers of our cycle's TrainingConfig that both need
    theta: str  # .npy: where everybody starts
    initial_peers: list[str]
    port: int
    seed: int  # of the order of the rows, another one for each volunteer
    rows_per_epoch: int  # hivemind's target_batch_size
    lr: float
    stop_s: float  # after the first step
    go: str  # a file: training begins when it is there
    keep: str = ""  # folder for parameters; "": this volunteer keeps none
    keep_every: int = 1  # epochs


def say(event: str, **facts: Any) -> None:
    """Print one line."""
    print(json.dumps({"event": event, "at_s": time.time(), **facts}), flush=True)


def shuffled(count: int, *, seed: int) -> Iterator[int]:
    """Return an endless stream of row numbers: every row once, then again in another order."""
    rng = np.random.default_rng(seed)
    while True:
        yield from (int(index) for index in rng.permutation(count))


def train(config: RivalConfig) -> None:
    """Train until the time is over or SIGTERM comes."""
    from ares_p2p.network import hivemind_fixes

    hivemind_fixes.apply()  # before any process of hivemind is forked
    import hivemind
    import torch

    from ares_p2p.shards.format import decode_jsonl
    from ares_p2p.training.base import BaseSpec, load_base, load_tokenizer
    from ares_p2p.training.data import batches, build_dataset
    from ares_p2p.training.inner import token_losses
    from ares_p2p.training.lora import (
        attach_lora,
        layout_of_model,
        read_parameters,
        trainable_parameters,
        write_parameters,
    )
    from ares_p2p.training.lora_spec import LoraSpec

    torch.set_num_threads(1)
    dht = hivemind.DHT(
        start=True,
        initial_peers=config.initial_peers,
        host_maddrs=[f"/ip4/0.0.0.0/tcp/{config.port}"],
        startup_timeout=60,
    )
    numbers = config.training
    spec = BaseSpec(
        config.base,
        quantization=numbers["quantization"],
        compute_dtype=numbers["compute_dtype"],
    )
    tokenizer = load_tokenizer(spec)
    lora = LoraSpec(numbers["rank"], numbers["alpha"], tuple(numbers["targets"]))
    model = attach_lora(load_base(spec), lora)
    layout = layout_of_model(model)
    write_parameters(model, layout, np.load(config.theta))
    rows = decode_jsonl(Path(config.rows).read_bytes())
    length, sequences = numbers["sequence_length"], numbers["sequences_per_step"]
    dataset = build_dataset(tokenizer, (row.messages for row in rows), sequence_length=length)
    stream = batches(
        dataset,
        shuffled(len(dataset), seed=config.seed),
        sequence_length=length,
        sequences_per_step=sequences,
    )
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id=RUN_ID,
        target_batch_size=config.rows_per_epoch,
        batch_size_per_step=sequences,
        params=trainable_parameters(model, layout),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=config.lr),
    )
    say("ready", addresses=[str(address) for address in dht.get_visible_maddrs()])
    while not Path(config.go).exists():  # all begin together
        time.sleep(0.05)
    model.train()
    begin_s, epoch, tokens, steps = time.monotonic(), optimizer.local_epoch, 0, 0
    try:
        while time.monotonic() - begin_s < config.stop_s:
            batch = next(stream)
            losses = token_losses(
                model,
                torch.from_numpy(batch.tokens),
                labels=torch.from_numpy(batch.labels),
                position_ids=torch.from_numpy(batch.position_ids),
            )
            loss = losses.sum() / batch.loss_tokens
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step(batch_size=sequences)
            optimizer.zero_grad()
            tokens += batch.token_count
            steps += 1
            if optimizer.local_epoch != epoch:
                epoch = optimizer.local_epoch
                if config.keep and epoch % config.keep_every == 0:
                    np.save(Path(config.keep) / f"{epoch:06d}.npy", read_parameters(model, layout))
                say("epoch", epoch=epoch, tokens=tokens, steps=steps, loss=float(loss.detach()))
    finally:
        say("done", epoch=epoch, tokens=tokens, steps=steps)
        optimizer.shutdown()
        dht.shutdown()


def serve_dht(port: int) -> None:
    """Run a DHT node that volunteers meet at, until SIGTERM."""
    from ares_p2p.network import hivemind_fixes

    hivemind_fixes.apply()
    import hivemind

    dht = hivemind.DHT(start=True, host_maddrs=[f"/ip4/0.0.0.0/tcp/{port}"], startup_timeout=60)
    say("ready", addresses=[str(address) for address in dht.get_visible_maddrs()])
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    dht.shutdown()


def main() -> int:
    """Run a volunteer, or with `dht PORT` the node that they meet at; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that children are shut down
    if sys.argv[1] == "dht":
        serve_dht(int(sys.argv[2]))
        return 0
    train(RivalConfig(**json.loads(Path(sys.argv[1]).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
