"""Stand-alone training of a cycle: `train-cycle-N.py` with a `.sh` and a `.bat` that start it.

The script needs torch, transformers and peft, and nothing of ours: whoever doubts the network can
repeat what one machine does in a cycle with tools they know. Templates lie in `templates/`; what is
put into them is the signed config and the places of files, relative to the script where they can be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from ares_p2p.domain import CycleConfig
from ares_p2p.errors import ConfigFault
from ares_p2p.files import write_atomically
from ares_p2p.ids import PeerId, sha256
from ares_p2p.training.chatml import CHATML_TEMPLATE

NEEDED = ("torch", "transformers", "peft", "accelerate", "safetensors", "numpy")
NEEDED_4_BIT = "bitsandbytes"


def write_training_scripts(
    folder: Path,
    config: CycleConfig,
    *,
    network: str,
    base: Path,
    train: Path,
    stack: Sequence[Path],
    worker: PeerId,
) -> tuple[Path, ...]:
    """Write the three scripts of a cycle to `folder`; equal input gives equal bytes.

    Args:
        config: of the cycle, as it was signed.
        base: folder of the base.
        train: the cycle's `train.jsonl`.
        stack: PEFT folders of the earlier adapters, oldest first.
        worker: whose rows, in which order: each peer of a cycle has its own order.
    Returns: the paths, the Python script first.
    Raises: ConfigFault: a name that would leave its place in a template. DiskFull.
    """
    cycle = config.header.cycle
    packages = [*NEEDED, *([NEEDED_4_BIT] if config.training.quantization == "nf4" else [])]
    pins = [f"{name}=={version(name).partition('+')[0]}" for name in packages]
    if not network.replace("-", "").isalnum():
        raise ConfigFault(f"network name {network[:40]!r}")
    facts = _facts(config, folder, base=base, train=train, stack=stack, worker=worker)
    text = json.dumps(facts, indent=1, sort_keys=True)  # ASCII, so no quote can end the literal
    values = {
        "CYCLE": str(cycle),
        "NETWORK": network,
        "VERSIONS": ", ".join(pins),
        "CHECK": (
            "import importlib.util as u, sys; "
            f"sys.exit(not all(map(u.find_spec, {tuple(packages)!r})))"
        ),
        "REQUIREMENTS": " ".join(pins),
        "CHAT_TEMPLATE": CHATML_TEMPLATE.replace("\n", "\\n"),
        "CONFIG": text,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, mode, line_end in (
        ("py", 0o755, "\n"),
        ("sh", 0o755, "\n"),
        ("bat", 0o644, "\r\n"),
    ):
        path = folder / f"train-cycle-{cycle}.{suffix}"
        content = _filled(f"train-cycle.{suffix}.txt", values).replace("\n", line_end)
        write_atomically(path, content.encode(), mode=mode)
        written.append(path)
    return tuple(written)


def _facts(
    config: CycleConfig,
    folder: Path,
    *,
    base: Path,
    train: Path,
    stack: Sequence[Path],
    worker: PeerId,
) -> dict[str, Any]:
    training = config.training
    names = (
        "rank alpha quantization compute_dtype gradient_checkpointing sequence_length "
        "sequences_per_step max_steps inner_lr beta2 eps max_grad_norm outer_lr outer_momentum"
    ).split()
    return {
        **{name: getattr(training, name) for name in names},
        "targets": list(training.targets),
        "cycle": config.header.cycle,
        "rounds": config.rounds,
        "worker": worker,
        "assignment_key": config.assignment_key.hex(),
        "init_seed": config.init_seed.hex(),
        "base": _place(base, folder),
        "train": _place(train, folder),
        "train_sha256": sha256(train.read_bytes()).hex(),
        "stack": [_place(one, folder) for one in stack],
    }


def _place(path: Path, folder: Path) -> str:
    """Return a path as seen from `folder` where both lie in one data directory, else in full."""
    full = path.resolve()
    if full.is_relative_to(folder.resolve().parent):
        return Path(os.path.relpath(full, folder.resolve())).as_posix()
    return str(full)


def _filled(name: str, values: Mapping[str, str]) -> str:
    text = (package_files("ares_coordinator.exports") / "templates" / name).read_text("utf-8")
    for key, value in values.items():
        text = text.replace(f"@@{key}@@", value)
    return text
