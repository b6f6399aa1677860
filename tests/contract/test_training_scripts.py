"""The stand-alone script of a cycle, run as anybody would, against the library's own training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ares_coordinator.exports.scripts import write_training_scripts
from ares_coordinator.preparation import load_rows
from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import ConfigFault
from ares_p2p.training.layout import Layout
from ares_p2p.training.lora_spec import load_adapter
from ares_p2p.training.outer import outer_step, pseudo_gradient
from ares_p2p.training.rig import TrainingRig
from ares_p2p.training.state import initial_state
from exportfixtures import BASE, ExportWorld, make_world
from payloads import identity

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CYCLE, ROUNDS, STEPS = 2, 2, 3
WORKER = identity(1).peer_id  # the coordinator's own: whose order of rows the scripts follow
BLOCKER = "import sys\nfor name in ('ares_p2p', 'ares_coordinator', 'ares_peer'):\n    sys.modules[name] = None\n"


@pytest.fixture(scope="module", params=["none", "nf4"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportWorld:
    folder = tmp_path_factory.mktemp(f"coordinator-{request.param}")
    return make_world(folder, cycles=CYCLE, quantization=request.param)


def run_script(world: ExportWorld, tmp_path: Path, *arguments: str) -> list[dict[str, float]]:
    """Run the generated script where nothing of ours can be imported; return its steps."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    done = subprocess.run(
        [
            sys.executable,
            str(world.files.scripts / f"train-cycle-{CYCLE}.py"),
            *("--device", "cpu", "--rounds", str(ROUNDS), "--steps", str(STEPS), "--json"),
            *arguments,
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def train_here(world: ExportWorld) -> tuple[list[float], Layout, Vector]:
    """Train the same rounds with the library; return losses and the last theta."""
    config = world.configs[CYCLE]
    rig = TrainingRig.load(
        config,
        base=BASE,
        stack=[world.files.adapter(1)],
        examples=load_rows(world.files, CYCLE, "train"),
        device="cpu",
    )
    training = config.training
    theta = initial_state(rig.layout, cycle=CYCLE, seed=config.init_seed).theta
    mu = np.zeros_like(theta)
    losses: list[float] = []

    def note(_step: int, loss: float, _tokens: int) -> bool:
        losses.append(loss)
        return True

    for number in range(ROUNDS):
        done = rig.train(
            theta,
            round_number=number,
            peer=WORKER,
            lr=training.inner_lr,
            min_steps=STEPS,
            max_steps=STEPS,
            on_step=note,
        )
        change = pseudo_gradient(theta, done.theta)
        theta, mu = outer_step(
            theta, mu, change, lr=training.outer_lr, momentum=training.outer_momentum
        )
    return losses, rig.layout, theta


def test_script_trains_what_the_library_trains(world: ExportWorld, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    steps = run_script(world, tmp_path, "--out", str(out))
    losses, layout, theta = train_here(world)
    assert [(one["round"], one["step"]) for one in steps] == [
        (r, s) for r in range(ROUNDS) for s in range(1, STEPS + 1)
    ]
    # Measured: 6e-6 nats. The script keeps the stack apart and takes torch's Adam, so sums differ in
    # their last bits, and the optimizer's first step, the sign of the gradient, spreads that.
    found = [one["loss"] for one in steps]
    assert found == pytest.approx(losses, abs=1e-4)
    assert len(set(found)) == len(found)
    spec, saved_layout, saved = load_adapter(out / "cycle")
    assert saved_layout == layout
    assert spec.alpha / spec.rank == pytest.approx(5 / 3)
    difference = np.linalg.norm(saved - theta) / np.linalg.norm(theta)
    assert difference < 0.01  # measured: 0.002
    if world.settings.training.quantization == "none":
        plain = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        PeftModel.from_pretrained(plain, str(out / "cycle"))


def test_scripts_are_made_again_to_the_same_bytes(world: ExportWorld, tmp_path: Path) -> None:
    folder = world.files.scripts
    names = [f"train-cycle-{CYCLE}.{suffix}" for suffix in ("py", "sh", "bat")]
    before = [(folder / name).read_bytes() for name in names]
    places = {
        "network": "exported",
        "base": BASE,
        "train": world.files.dataset(CYCLE) / "train.jsonl",
        "stack": [world.files.adapter(1)],
        "worker": WORKER,
    }
    paths = write_training_scripts(folder, world.configs[CYCLE], **places)
    assert [path.name for path in paths] == names
    assert [path.read_bytes() for path in paths] == before
    assert not any(b"@@" in text for text in before)
    assert b"ares_" not in before[0]  # no import of ours
    assert os.access(paths[1], os.X_OK)
    assert before[2].count(b"\r\n") == before[2].count(b"\n")
    # what lies in the data directory is found wherever that is moved to
    assert f'"../ares-datasets/cycle-{CYCLE}/train.jsonl"'.encode() in before[0]
    with pytest.raises(ConfigFault):
        write_training_scripts(
            tmp_path, world.configs[CYCLE], **{**places, "network": 'x"""\nimport os'}
        )


def test_shell_script_starts_the_python_script(world: ExportWorld) -> None:
    script = world.files.scripts / f"train-cycle-{CYCLE}.sh"
    run = {"capture_output": True, "text": True, "timeout": 110}
    done = subprocess.run(
        ["/bin/sh", str(script), "--help"], env={**os.environ, "PYTHON": sys.executable}, **run
    )
    assert done.returncode == 0, done.stderr
    assert "--rounds" in done.stdout
    bare = subprocess.run(
        ["/bin/sh", str(script)], env={**os.environ, "PYTHON": "/bin/false"}, **run
    )
    assert bare.returncode == 78
    assert "pip install torch==" in bare.stderr
