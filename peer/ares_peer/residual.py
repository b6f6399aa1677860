"""What this peer's 1-bit contributions have lost so far, kept beside the session's memory.

One file per round, `residual-CYCLE-ROUND.bin`: an encoded vector (see `averaging.feedback`) whose
layout digest also names cycle and round. A contribution adds what the newest earlier round of its
cycle left, and leaves its own. That earlier file stays until the next round, so that a peer that
was killed before its commit and trains again starts from the same residual.

It refuses nothing: a file that is missing, damaged, of another cycle or layout, or too old counts
as zero. At most two files are kept. A disk that is full costs the residual, not the round.
"""

from __future__ import annotations

import contextlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ares_p2p.averaging.bounds import reach_of
from ares_p2p.averaging.codec import EncodedVector, open_encoded
from ares_p2p.averaging.feedback import RESIDUAL_BITS, encode_with_feedback
from ares_p2p.averaging.vectors import Difference, Vector
from ares_p2p.domain import TrainingConfig
from ares_p2p.errors import PeerFault
from ares_p2p.files import write_atomically
from ares_p2p.ids import Digest, sha256
from ares_p2p.training.layout import Layout
from ares_p2p.training.replica import BoundLayout

FEEDBACK_BITS: Final = 1  # codecs that need it
MAX_AGE_ROUNDS: Final = 4  # what is older was lost on another part of the loss
Place = tuple[int, int]  # cycle, round
_NAME: Final = re.compile(r"residual-(\d+)-(\d+)\.bin")
_DOMAIN: Final = b"ares/residual/1\0"


@dataclass(frozen=True, slots=True)
class Residuals:
    """The residuals of one network, in a folder of their own."""

    folder: Path

    def contribution(
        self,
        start: Vector,
        end: Vector,
        *,
        place: Place,
        layout: BoundLayout,
        training: TrainingConfig,
    ) -> bytes:
        """Return the compressed contribution of a round, and keep what it lost.

        Args:
            start: parameters before the local steps, (size,).
            end: parameters after them, (size,).
            place: cycle and round.
        """
        earlier = self._newest_before(place)
        data, lost = encode_with_feedback(
            Difference(start, end),
            self._opened(earlier, layout.layout, training),
            layout=layout,
            residual_sha256=_digest(layout.layout, place),
            reach=reach_of(training.max_steps, lr=training.inner_lr, beta2=training.beta2),
            bits=training.codec_bits,
            block=training.codec_block,
        )
        self._keep(place, lost, earlier=earlier)
        return data

    def _newest_before(self, place: Place) -> Place | None:
        cycle, number = place
        near = [
            found
            for found in self._files()
            if found[0] == cycle and number - MAX_AGE_ROUNDS <= found[1] < number
        ]
        return max(near, default=None)

    def _opened(
        self, place: Place | None, layout: Layout, training: TrainingConfig
    ) -> EncodedVector | None:
        if place is None:
            return None
        bound = _ResidualLayout(layout.size, _digest(layout, place), layout.spans)
        try:
            data = self._path(place).read_bytes()
            return open_encoded(data, layout=bound, bits=RESIDUAL_BITS, block=training.codec_block)
        except (OSError, PeerFault):
            return None

    def _keep(self, place: Place, lost: bytes, *, earlier: Place | None) -> None:
        kept = {place, earlier}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(place), lost)
        except OSError:
            kept = set()  # the earlier one went into this round; added again it would count twice
        for found, path in self._files().items():
            if found not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _path(self, place: Place) -> Path:
        return self.folder / f"residual-{place[0]}-{place[1]}.bin"

    def _files(self) -> dict[Place, Path]:
        found = {}
        for path in self.folder.glob("residual-*.bin"):
            name = _NAME.fullmatch(path.name)
            if name is not None:
                found[int(name[1]), int(name[2])] = path
        return found


@dataclass(frozen=True, slots=True)
class _ResidualLayout:
    """A layout whose digest also names cycle and round."""

    size: int
    digest_sha256: Digest
    spans: tuple[tuple[int, int], ...]


def _digest(layout: Layout, place: Place) -> Digest:
    return sha256(_DOMAIN, layout.digest_sha256, struct.pack("<QQ", *place))
