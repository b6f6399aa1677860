"""What a machine is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from ares_peer.hardware import MAX_LABEL_CHARS, Hardware, device_label, probe_hardware

GIB = 1024**3


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", "Intel Core i7-8550U"),
        ("Intel(R) Xeon(R) Platinum 8480C", "Intel Xeon Platinum 8480C"),
    ],
)
def test_cpu_name_is_tidied(tmp_path: Path, model: str, name: str) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor\t: 0\nmodel name\t: {model}\nflags\t: fpu\n")
    found = probe_hardware(cpu_info=cpu_info, nvidia_gpus=tmp_path / "none")
    assert found.cpu == name
    assert found.gpus == ()
    assert found.cores >= 1


def test_gpus_are_read_from_the_driver(tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 7\n")
    found = probe_hardware(nvidia_gpus=tmp_path)
    assert found.gpus == ("NVIDIA H100 80GB HBM3",) * 2


def test_nothing_readable_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    found = probe_hardware(cpu_info=tmp_path / "absent", nvidia_gpus=tmp_path)
    assert found.cpu
    assert found.gpus == ("NVIDIA GPU",)


def test_label_names_what_will_train() -> None:
    machine = Hardware("AMD EPYC", 8, 32 * GIB, ("NVIDIA H100",))
    assert device_label(machine) == "NVIDIA H100"
    assert device_label(machine, device="cpu") == "AMD EPYC, 8 cores, 32 GiB"
    assert device_label(Hardware("A", 1, GIB, ("G", "G"))) == "2x G"
    assert device_label(Hardware("A", 1, GIB, ())) == "A, 1 core, 1 GiB"
    assert len(device_label(Hardware("A" * 200, 1, GIB, ()))) == MAX_LABEL_CHARS
