"""`ares-coordinator audit calibrate`: what it refuses before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ares_coordinator.audit.calibrate import calibrate
from ares_coordinator.audit.calibration.plan import Plan
from ares_coordinator.cli import app
from ares_coordinator.settings import TrainingSection
from ares_p2p.errors import AresError, BaseUnsupported, ConfigFault, NotInitialised


def fault_of(*arguments: str) -> AresError:
    result = CliRunner().invoke(app, ["audit", "calibrate", *arguments])
    assert isinstance(result.exception, AresError), result.output
    return result.exception


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bits", "5"), "--bits '5': one of 2, 3, 4, 8"),
        (("--dtypes", "float16"), "--dtypes 'float16'"),
        (("--device", "tpu"), "--device 'tpu'"),
        (("--builds", "eager,nothing"), "--builds 'nothing'"),
        ((), "neither --out nor --data-dir"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    fault = fault_of("--base", str(tmp_path), *arguments)
    assert isinstance(fault, ConfigFault)
    assert says in fault.message


def test_missing_base_or_coordinator_is_named(tmp_path: Path) -> None:
    assert isinstance(fault_of("--out", str(tmp_path)), BaseUnsupported)
    assert isinstance(fault_of("--base", str(tmp_path / "none")), BaseUnsupported)
    assert isinstance(fault_of("--data-dir", str(tmp_path)), NotInitialised)


def test_one_step_is_too_few_to_skip_one(tmp_path: Path) -> None:
    training = TrainingSection(min_steps=1, max_steps=1).to_domain()
    plan = Plan(tmp_path, training, "cpu", 1, 1, (2,), ("float32",))
    with pytest.raises(ConfigFault, match="one local step"):
        calibrate(plan, tmp_path / "out", on_progress=lambda _: None)
    assert not (tmp_path / "out").exists()
