"""The stack of a model as one plain PEFT folder: loads with `peft.PeftModel.from_pretrained`."""

from __future__ import annotations

from pathlib import Path

from ares_coordinator.exports.card import adapter_card
from ares_coordinator.exports.subject import ExportSubject
from ares_p2p.files import write_atomically
from ares_p2p.training.lora_spec import save_adapter
from ares_p2p.training.stack import Adapter, read_stack


def read_model_adapter(subject: ExportSubject) -> Adapter:
    """Return all adapters of the model as one.

    Raises: ConfigFault, ShapeMismatch: an adapter is unreadable, or they do not fit each other.
    """
    return read_stack(subject.adapters)


def write_peft(folder: Path, subject: ExportSubject, adapter: Adapter) -> None:
    """Write adapter and card to `folder`, created if missing; equal input gives equal bytes.

    Raises: DiskFull.
    """
    save_adapter(
        folder, adapter.layout, adapter.vector, spec=adapter.spec, base_name=subject.base_name
    )
    write_atomically(folder / "README.md", adapter_card(subject, adapter).encode())
