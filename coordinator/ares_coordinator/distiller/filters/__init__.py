"""Filters: pure stages `(row) -> row | Reject`, each with a stable reason that is counted and shown.

    base            Reject, Reason; what is prose and what is code in an answer
    exact           the same task or prompt a second time
    near            nearly the same row a second time (MinHash)
    wording         refusals, cut ends, loops, lengths
    language        of the answer
    private         secrets, personal data
    syntax          Python and JSON that do not parse
    contamination   text of evaluation sets
    screen          all of them in their order

How good they are: docs/filters.md, measured on data/filters/labelled.jsonl.
"""

from ares_coordinator.distiller.filters.base import Reason, Reject, fold
from ares_coordinator.distiller.filters.exact import Deduplicator, prompt_sha256
from ares_coordinator.distiller.filters.screen import Screen

__all__ = ["Deduplicator", "Reason", "Reject", "Screen", "fold", "prompt_sha256"]
