"""What a contribution was computed on, as far as it decides its bits, and how two such profiles relate.

A profile is a line of seven fields that travels in a Commit and in an AuditReport, one for each
thing that changed bits when it was changed alone (measured, docs/adr/0005):

    device/hardware/capability/attention/torch/transformers/bitsandbytes
    cpu/amd-25-1/AVX2/sdpa/2.13.0+cpu/5.23.0/0.50.2

Not in it, on purpose: the number of threads (1, 2 and 4 threads gave equal bits in every kernel
whose result reaches a gradient), and the **compute dtype**. The dtype is signed in the cycle's
config; a claim of another one would only widen what its own author may get away with.

A profile is a claim, free of charge, and nothing here believes it further than that: what relation
it has to the auditor's decides which measured distances are honest, and the bounds of a relation
never reach beyond what was measured under the signed config.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from ares_p2p.errors import PayloadMalformed

MAX_PROFILE_CHARS: Final = 200  # the longest seen has 88; a commit set holds a hundred of them
MAX_FIELD_CHARS: Final = 48
CPU: Final = "cpu"
CUDA: Final = "cuda"
DEFAULT_ATTENTION: Final = "sdpa"  # what `training.base` loads
_FIELD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,47}")
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9.+_-]+")
_CPU_VENDORS: Final = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}


@dataclass(frozen=True, slots=True)
class Profile:
    """What decides the bits of local steps, beside the public inputs.

    Args:
        device: device class, "cpu" or "cuda".
        hardware: family of the processor ("amd-25-1") or name of the GPU.
        capability: vector instructions in use ("AVX2") or compute capability ("sm90").
        attention: the attention kernel, "sdpa" or "eager".
        torch: version, with its build ("2.13.0+cpu"), which names the mathematics library.
        transformers: version.
        bitsandbytes: version.
    Raises: PayloadMalformed: a field is empty, too long, or not of letters, digits and `.+_-`.
    """

    device: str
    hardware: str
    capability: str
    attention: str
    torch: str
    transformers: str
    bitsandbytes: str

    def __post_init__(self) -> None:
        for field in self._fields():
            if not _FIELD.fullmatch(field):
                raise PayloadMalformed(
                    f"field {field[:MAX_FIELD_CHARS]!r} of a profile: 1 to {MAX_FIELD_CHARS} "
                    "letters, digits and .+_- expected"
                )
        if len(self.text) > MAX_PROFILE_CHARS:
            raise PayloadMalformed(
                f"profile of {len(self.text)} characters, at most {MAX_PROFILE_CHARS} expected"
            )

    @property
    def text(self) -> str:
        """The line that travels."""
        return "/".join(self._fields())

    def _fields(self) -> tuple[str, ...]:
        return (
            self.device,
            self.hardware,
            self.capability,
            self.attention,
            self.torch,
            self.transformers,
            self.bitsandbytes,
        )


class RelationKind(StrEnum):
    """How close two profiles are."""

    SAME_BUILD = "same-build"  # equal in every field: honest work has equal bits
    SAME_DEVICE = "same-device"  # one device class; other hardware, kernels or versions
    CROSS_DEVICE = "cross-device"  # a processor and a GPU
    UNKNOWN = "unknown"  # one of the two is unreadable


@dataclass(frozen=True, slots=True)
class Relation:
    """What a pair of profiles has in common, as far as distances were measured for it.

    Args:
        kind: how close.
        devices: the device classes, sorted and joined: "cpu", "cuda", "cpu+cuda"; "" if unknown.
        compute_dtype: the cycle's, "float32" or "bfloat16".
    """

    kind: RelationKind
    devices: str
    compute_dtype: str

    @property
    def text(self) -> str:
        """The relation as it is written: "cpu/same-device/float32"."""
        return f"{self.devices or '-'}/{self.kind}/{self.compute_dtype}"


def parse_profile(text: str) -> Profile:
    """Return the profile that somebody sent.

    Raises: PayloadMalformed: too long, another number of fields, or foreign characters.
    """
    if len(text) > MAX_PROFILE_CHARS:
        raise PayloadMalformed(
            f"profile of {len(text)} characters, at most {MAX_PROFILE_CHARS} expected"
        )
    fields = text.split("/")
    if len(fields) != 7:
        raise PayloadMalformed(f"profile of {len(fields)} fields, 7 expected")
    return Profile(*fields)


def relation_of(claimed: str, auditor: str, *, compute_dtype: str) -> Relation:
    """Return how the profile of a claim relates to the auditor's; never raises on its content.

    Args:
        claimed: `Commit.profile`, from anybody.
        auditor: of the process that replayed.
        compute_dtype: of the cycle's config.
    """
    try:
        ours, theirs = parse_profile(auditor), parse_profile(claimed)
    except PayloadMalformed:
        return Relation(RelationKind.UNKNOWN, "", compute_dtype)
    devices = "+".join(sorted({ours.device, theirs.device}))
    if ours == theirs:
        kind = RelationKind.SAME_BUILD
    elif ours.device == theirs.device:
        kind = RelationKind.SAME_DEVICE
    else:
        kind = RelationKind.CROSS_DEVICE
    return Relation(kind, devices, compute_dtype)


def profile_here(device: str, *, attention: str = DEFAULT_ATTENTION) -> Profile:
    """Return the profile of this process. Imports torch.

    Args:
        device: "cpu" or "cuda" (with or without a number).
        attention: the kernel that the base was loaded with.
    """
    import bitsandbytes
    import torch
    import transformers

    if device.startswith(CUDA):
        major, minor = torch.cuda.get_device_capability()
        where = (CUDA, _clean(torch.cuda.get_device_name()), f"sm{major}{minor}")
    else:
        where = (CPU, _clean(processor_name()), _clean(torch.backends.cpu.get_cpu_capability()))
    versions = (torch.__version__, transformers.__version__, bitsandbytes.__version__)
    return Profile(*where, attention, *(_clean(version) for version in versions))


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return "vendor-family-model" of the processor, or the machine's type where it is not told.

    The mathematics libraries choose their kernels by it, beside the vector instructions.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    if "vendor_id" in found:  # x86
        vendor = _CPU_VENDORS.get(found["vendor_id"], found["vendor_id"])
        return f"{vendor}-{found.get('cpu family', '0')}-{found.get('model', '0')}"
    if "CPU implementer" in found:  # ARM
        return f"arm-{found['CPU implementer']}-{found.get('CPU part', '0')}"
    return platform.machine() or "unknown"


def _clean(text: str) -> str:
    """Return `text` as a field: foreign characters become dashes."""
    return _FOREIGN.sub("-", text).strip("-.+_")[:MAX_FIELD_CHARS] or "unknown"
