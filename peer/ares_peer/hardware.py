"""What this machine is, told without torch: a label for people, not a capability check.

It refuses nothing. Whether a GPU can be used is the trainer's finding, with torch at hand.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from ares_peer.settings import Device

CPU_INFO: Final = Path("/proc/cpuinfo")
NVIDIA_GPUS: Final = Path("/proc/driver/nvidia/gpus")  # one folder per GPU, by NVIDIA's driver
MAX_LABEL_CHARS: Final = 80  # as the wire's `device` field


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine, as its operating system describes it."""

    cpu: str
    cores: int  # those this process may run on
    memory_bytes: int
    gpus: tuple[str, ...]


def probe_hardware(*, cpu_info: Path = CPU_INFO, nvidia_gpus: Path = NVIDIA_GPUS) -> Hardware:
    """Return what this machine is; whatever cannot be read is left out."""
    return Hardware(
        cpu=_cpu_name(cpu_info),
        cores=_usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpus=_gpu_names(nvidia_gpus),
    )


def device_label(hardware: Hardware, *, device: Device = "auto") -> str:
    """Return what will train, in at most 80 characters: "2x NVIDIA H100" or "AMD EPYC, 8 cores"."""
    if hardware.gpus and device != "cpu":
        first, count = hardware.gpus[0], len(hardware.gpus)
        label = first if count == 1 else f"{count}x {first}"
    else:
        cores = "1 core" if hardware.cores == 1 else f"{hardware.cores} cores"
        label = f"{hardware.cpu}, {cores}, {hardware.memory_bytes / 1024**3:.0f} GiB"
    return label[:MAX_LABEL_CHARS]


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name(cpu_info: Path) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text(cpu_info), re.MULTILINE)
    name = found.group(1) if found else platform.processor() or platform.machine() or "CPU"
    name = re.sub(r"\((R|TM|tm|r)\)|\bCPU\b|@.*$|\d+-Core|\bProcessor\b", " ", name)
    return " ".join(name.split()) or "CPU"


def _gpu_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    names = []
    for gpu in sorted(folder.iterdir()):
        found = re.search(r"^Model:\s*(.+)$", _text(gpu / "information"), re.MULTILINE)
        names.append(" ".join(found.group(1).split()) if found else "NVIDIA GPU")
    return tuple(names)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
