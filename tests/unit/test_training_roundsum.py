"""The sum of a round: the same bits for whoever adds everything up and for whoever joins the parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ares_p2p.averaging.aggregate import combine
from ares_p2p.averaging.codec import encoded_size_bytes
from ares_p2p.averaging.runs import frames_of, open_run, part_sizes, run_bytes, split_runs
from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import BeyondReach, NonFinite, PayloadMalformed, ShapeMismatch
from ares_p2p.ids import Digest, blob_id_of
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.replica import (
    bind_layout,
    corrected_state,
    encode_contribution,
    next_state,
    open_contribution,
    state_after,
)
from ares_p2p.training.roundsum import (
    PartLayout,
    encode_sum,
    join_parts,
    open_part,
    open_piece,
    parts_of,
    range_of_part,
    reduce_part,
    round_sum,
    sizes_of_parts,
)
from ares_p2p.training.state import TrainingState, state_digest
from payloads import identity
from sim.samples import TRAINING, open_round

LAYOUT = layout_of_shapes({"a": (3, 65_536), "b": (1, 20_001)})  # four frames, the last not whole
PLAN = dataclasses.replace(open_round().plan, parts=3)
DIGEST: Digest = bytes(range(32))
UP = dataclasses.replace(TRAINING, down_bits=4)
COEFFICIENTS = (0.5, 0.0, 0.3, 0.2)


def contribution(number: int, training=UP) -> bytes:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(number)
    vector: Vector = rng.standard_normal(LAYOUT.size, dtype=np.float32) * np.float32(1e-3)
    layout = bind_layout(LAYOUT, plan_sha256=DIGEST, peer=identity(number).peer_id)
    return encode_contribution(np.zeros_like(vector), -vector, layout=layout, training=training)


BLOBS = [contribution(number) for number in range(len(COEFFICIENTS))]
WHOLE = [
    (
        open_contribution(
            data,
            layout=bind_layout(LAYOUT, plan_sha256=DIGEST, peer=identity(number).peer_id),
            training=UP,
        ),
        COEFFICIENTS[number],
    )
    for number, data in enumerate(BLOBS)
]
USED = [one for one in WHOLE if one[1]]


def parts(count: int = 3, digest: Digest = DIGEST) -> tuple[PartLayout, ...]:
    plan = dataclasses.replace(PLAN, parts=count)
    return parts_of(LAYOUT, plan=plan, plan_sha256=digest)


def reduced(part: PartLayout) -> bytes:
    """One part as a reducer makes it: from the bytes of its range of every blob alone."""
    start, stop = range_of_part(part, UP)
    pieces = [
        (open_piece(data[start:stop], part=part, training=UP), coefficient)
        for data, coefficient in zip(BLOBS, COEFFICIENTS, strict=True)
        if coefficient
    ]
    return reduce_part(pieces, UP, part)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_reducers_and_whoever_holds_everything_make_the_same_bytes(count: int, bits: int) -> None:
    training = dataclasses.replace(UP, down_bits=bits)
    made = encode_sum(USED, training, parts(count))
    if bits == 4:
        assert [reduced(part) for part in parts(count)] == made
    joined = join_parts(made, training, parts(count))
    assert joined.tobytes() == round_sum(USED, training, parts(count)).tobytes()
    exact = combine([vector for vector, _ in USED], [value for _, value in USED])
    error = float(np.linalg.norm(joined - exact) / np.linalg.norm(exact))
    assert error < {2: 0.4, 3: 0.2, 4: 0.11, 8: 0.01}[bits]
    assert error > 0.0


def test_arrays_and_encoded_vectors_have_the_same_sum() -> None:
    arrays = [
        (np.concatenate([_read(vector, frame) for frame in range(4)]), value)
        for vector, value in USED
    ]
    assert encode_sum(arrays, UP, parts()) == encode_sum(USED, UP, parts())


def _read(vector, frame: int) -> Vector:  # type: ignore[no-untyped-def]
    part = slice(65_536 * frame, min(65_536 * (frame + 1), LAYOUT.size))
    return vector.read(part, np.empty(part.stop - part.start, dtype=np.float32))


def test_without_parts_the_sum_is_exact() -> None:
    assert parts_of(LAYOUT, plan=dataclasses.replace(PLAN, parts=0), plan_sha256=DIGEST) == ()
    exact = combine([vector for vector, _ in USED], [value for _, value in USED])
    assert round_sum(USED, UP).tobytes() == exact.tobytes()


def test_states_are_the_same_for_whoever_fetched_parts_and_for_whoever_made_the_sum() -> None:
    rng = np.random.default_rng(9)
    theta = rng.standard_normal(LAYOUT.size, dtype=np.float32)
    start = TrainingState(3, 5, LAYOUT.digest_sha256, theta, theta * np.float32(0.01))
    fetched = state_after(start, join_parts([reduced(p) for p in parts()], UP, parts()), UP)
    assert state_digest(fetched) == state_digest(next_state(start, WHOLE, UP, parts()))
    assert state_digest(fetched) != state_digest(next_state(start, WHOLE, UP))
    corrected = corrected_state(start, WHOLE, UP, parts())
    assert corrected.round == 7
    assert corrected.theta.tobytes() == fetched.theta.tobytes()
    nothing = state_after(start, None, UP)
    assert (nothing.theta is start.theta, nothing.mu is start.mu) == (True, True)


def test_a_part_is_worth_nothing_in_another_round_or_place() -> None:
    made = encode_sum(USED, UP, parts())
    for data, part in (
        (made[0], parts(digest=bytes(32))[0]),
        (made[0], parts()[1]),
        (made[0], parts(count=4)[0]),
    ):
        with pytest.raises(ShapeMismatch):
            open_part(data, part=part, training=UP)
    with pytest.raises(PayloadMalformed):
        open_part(made[0], part=parts()[0], training=dataclasses.replace(UP, down_bits=8))
    assert len({blob_id_of(data) for data in made}) == len(made)


def test_sizes_are_those_of_the_encoded_parts() -> None:
    sizes = sizes_of_parts(LAYOUT.size, plan=PLAN, training=UP)
    assert sizes == tuple(len(data) for data in encode_sum(USED, UP, parts()))
    assert sizes_of_parts(LAYOUT.size, plan=dataclasses.replace(PLAN, parts=0), training=UP) == ()
    assert part_sizes(LAYOUT.size, 1, bits=4, block=128) == (
        encoded_size_bytes(LAYOUT.size, bits=4),
    )


def test_runs_are_whole_frames_and_cover_the_blob() -> None:
    assert frames_of(LAYOUT.size) == 4
    runs = split_runs(LAYOUT.size, 3)
    assert [run[0] for run in runs[1:]] == [run[1] for run in runs[:-1]]
    assert (runs[0][0], runs[-1][1]) == (0, LAYOUT.size)
    bounds = [run_bytes(run, bits=2, block=128) for run in runs]
    assert bounds[-1][1] == len(BLOBS[0])
    assert [stop for _, stop in bounds[:-1]] == [start for start, _ in bounds[1:]]


def test_a_piece_that_can_be_no_part_of_a_contribution_is_refused() -> None:
    part = parts()[1]
    start, stop = range_of_part(part, UP)
    honest = BLOBS[0][start:stop]
    with pytest.raises(PayloadMalformed, match="bytes"):
        open_piece(honest[:-1], part=part, training=UP)
    with pytest.raises(NonFinite):
        open_piece(b"\x00\x7c" + honest[2:], part=part, training=UP)  # a step of infinity
    with pytest.raises(PayloadMalformed, match="negative"):
        open_run(b"\x00\xbc" + honest[2:], part.run, bits=2, block=128)
    with pytest.raises(BeyondReach):
        open_piece(b"\xff\x7b" + honest[2:], part=part, training=UP)  # a step of 65,504
