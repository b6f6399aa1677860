"""The part of a page that a benchmark writes: what stands between two marks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MarkedPart:
    """`<!-- name: begin -->` to `<!-- name: end -->` of a page."""

    page: Path
    name: str

    def _split(self) -> tuple[str, str, str]:
        begin, end = (f"<!-- {self.name}: {mark} -->\n" for mark in ("begin", "end"))
        before, rest = self.page.read_text(encoding="utf-8").split(begin)
        content, after = rest.split(end, maxsplit=1)
        return before + begin, content, end + after

    def read(self) -> str:
        """Return what stands there."""
        return self._split()[1]

    def write(self, content: str) -> None:
        """Put something else there."""
        before, _, after = self._split()
        self.page.write_text(before + content + after, encoding="utf-8")
