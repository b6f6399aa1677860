"""README.md of an export: what it is made of, how good it is, whose work it is, how to use it.

Written from the books. What is not known is left out or said to be unknown, never guessed.
"""

from __future__ import annotations

from ares_coordinator.exports.subject import ExportSubject
from ares_p2p.training.stack import Adapter

_PEFT_USE = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "{base}"  # the folder or hub id of the base
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "peft")
tokenizer = AutoTokenizer.from_pretrained(base)
```
"""
_MERGED_USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("merged")
tokenizer = AutoTokenizer.from_pretrained("merged")
```
"""


def adapter_card(subject: ExportSubject, adapter: Adapter) -> str:
    """Return the card of the PEFT folder, as Markdown with the hub's front matter."""
    head = ["---", "library_name: peft", "pipeline_tag: text-generation"]
    if subject.base.hub_id:
        head.append(f"base_model: {subject.base.hub_id}")
    head += ["tags:", "- lora", "- ares", "---"]
    what = (
        f"A LoRA adapter for {_base(subject)}. It holds the adapters of "
        f"{_cycles(subject)} as one: rank {adapter.spec.rank} is the sum of their ranks, and it "
        "changes the base exactly as all of them together do."
    )
    return "\n".join([*head, "", *_title(subject), what, "", *_body(subject, _PEFT_USE)])


def merged_card(subject: ExportSubject) -> str:
    """Return the card of the merged model."""
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if subject.base.hub_id:
        head.append(f"base_model: {subject.base.hub_id}")
    head += ["tags:", "- ares", "---"]
    what = (
        f"{_base(subject)} with the adapters of {_cycles(subject)} merged into it, in the precision "
        "that the base is stored in. Whoever has the base and the adapters makes the same bytes; "
        "`merge.json` says from what."
    )
    return "\n".join([*head, "", *_title(subject), what, "", *_body(subject, _MERGED_USE)])


def _title(subject: ExportSubject) -> list[str]:
    return [f"# {subject.version} of the network {subject.network}", ""]


def _base(subject: ExportSubject) -> str:
    revision = f" at revision {subject.base.revision}" if subject.base.revision else ""
    return f"the base `{subject.base_name}`{revision}"


def _cycles(subject: ExportSubject) -> str:
    numbers = [str(cycle) for cycle in subject.cycles]
    if len(numbers) == 1:
        return f"cycle {numbers[0]}"
    return f"cycles {', '.join(numbers[:-1])} and {numbers[-1]}"


def _body(subject: ExportSubject, use: str) -> list[str]:
    counts = subject.parameters
    return [
        "Volunteers trained it over the internet; every contribution could be audited.",
        "",
        "## Use",
        "",
        use.format(base=subject.base_name),
        "Prompts are ChatML: `<|im_start|>user`, a new line, the text, `<|im_end|>`.",
        "",
        "## How good it is",
        "",
        *_evaluation(subject),
        "",
        "## What it was trained on",
        "",
        *_sources(subject),
        "",
        "The licence of the base and the terms of these texts both apply to what is made of them.",
        "",
        "## Credits",
        "",
        f"The work of {_people(subject.contributors)} became part of these adapters.",
        "",
        "## Sizes and digests",
        "",
        f"- base: {counts.base:,} parameters, digest {subject.base.sha256.hex()}",
        f"- adapters on top of it: {counts.stacked:,} parameters",
        *([f"- adapters merged into it before: {counts.merged:,}"] if counts.merged else []),
        f"- effective parameters, the sum of what was trained: {counts.effective:,}",
        "- every file with its SHA-256: `manifest.json`, signed in `manifest.sig`",
        "",
        "## Limits",
        "",
        (
            "Held-out rows are of the same kinds as the rows it was trained on: they say little about "
            "anything else. Nobody looked at it for safety."
        ),
        "",
    ]


def _people(count: int) -> str:
    return "one contributor" if count == 1 else f"{count:,} contributors"


def _evaluation(subject: ExportSubject) -> list[str]:
    row = subject.row
    if row.loss_before is None or row.loss_after is None:
        return ["No evaluation was kept."]
    lines = [
        (
            "Loss on held-out rows, nats per answer token, lower is better; base and stack in "
            f"{subject.config.training.quantization} as they were trained."
        ),
        "",
        "| | before the last cycle | after it |",
        "|---|---:|---:|",
        f"| all | {row.loss_before:.4f} | {row.loss_after:.4f} |",
    ]
    if subject.evaluation is not None:
        lines += [
            f"| {category} | | {mean:.4f} |" for category, mean in subject.evaluation.category_means
        ]
    if row.loss_change_low is not None and row.loss_change_high is not None:
        lines += [
            "",
            (
                f"The loss changed by {row.loss_after - row.loss_before:+.4f}; 95 % interval of a paired "
                f"bootstrap over rows: {row.loss_change_low:+.4f} to {row.loss_change_high:+.4f}."
            ),
        ]
    return lines


def _sources(subject: ExportSubject) -> list[str]:
    if not subject.sources:
        return ["The rows are not on this coordinator any more; see the cards of the datasets."]
    return [
        "| written by | licence | permission | rows |",
        "|---|---|---|---:|",
        *(
            f"| {_cell(one.teacher)} | {_cell(one.licence)} | {_cell(one.permission_ref) or '-'} "
            f"| {one.rows:,} |"
            for one in subject.sources
        ),
    ]


def _cell(text: str) -> str:
    """Return a text that cannot end a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
