"""Snapshots, their digests, and the initial state."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from ares_p2p.errors import NonFinite, Oversize, PayloadMalformed, ShapeMismatch
from ares_p2p.ids import blob_id_of
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.state import (
    TrainingState,
    decode_snapshot,
    encode_snapshot,
    initial_state,
    snapshot_size_bytes,
    state_digest,
)

LAYOUT = layout_of_shapes({"m.lora_A.weight": (4, 64), "m.lora_B.weight": (32, 4)})


def make_state(round_: int = 7) -> TrainingState:
    rng = np.random.default_rng(3)
    theta, mu = rng.standard_normal((2, LAYOUT.size), dtype=np.float32)
    return TrainingState(2, round_, LAYOUT.digest_sha256, theta, mu)


def test_snapshot_roundtrip_keeps_every_bit() -> None:
    state = make_state()
    state.theta[:3] = [-0.0, 1e-45, 3.4e38]
    data = encode_snapshot(state)
    back = decode_snapshot(data, layout=LAYOUT, max_bytes=len(data))
    assert (back.cycle, back.round, back.layout_sha256) == (2, 7, LAYOUT.digest_sha256)
    assert back.theta.tobytes() == state.theta.tobytes()
    assert back.mu.tobytes() == state.mu.tobytes()
    assert back.theta.flags.writeable
    assert len(data) == snapshot_size_bytes(LAYOUT)


def test_snapshot_layout_is_as_documented() -> None:
    state = make_state()
    head = b"ARESSNP1" + struct.pack("<II", 2, 7) + LAYOUT.digest_sha256
    head += struct.pack("<Q", LAYOUT.size)
    assert encode_snapshot(state) == head + state.theta.tobytes() + state.mu.tobytes()


def test_state_digest_is_the_snapshots_blob_address() -> None:
    state = make_state()
    assert state_digest(state) == blob_id_of(encode_snapshot(state))
    large = layout_of_shapes({"x": (300_000,)})  # more than one chunk
    theta = np.arange(large.size, dtype=np.float32)
    state = TrainingState(1, 0, large.digest_sha256, theta, -theta)
    assert state_digest(state) == blob_id_of(encode_snapshot(state))


def test_state_digest_sees_every_field() -> None:
    base = make_state()
    one_bit = base.theta.copy()
    one_bit[-1] = np.nextafter(one_bit[-1], np.float32(9))
    states = [
        base,
        make_state(8),
        TrainingState(3, 7, base.layout_sha256, base.theta, base.mu),
        TrainingState(2, 7, b"\1" * 32, base.theta, base.mu),
        TrainingState(2, 7, base.layout_sha256, one_bit, base.mu),
        TrainingState(2, 7, base.layout_sha256, base.mu, base.theta),
    ]
    assert len({state_digest(state) for state in states}) == len(states)


def test_decode_refuses_hostile_bytes() -> None:
    data = encode_snapshot(make_state())
    with pytest.raises(Oversize):
        decode_snapshot(data, layout=LAYOUT, max_bytes=len(data) - 1)
    with pytest.raises(Oversize):
        decode_snapshot(data + b"\0", layout=LAYOUT)
    with pytest.raises(PayloadMalformed):
        decode_snapshot(data + b"\0", layout=LAYOUT, max_bytes=1 << 20)
    for size in (0, 8, 55, 56, len(data) - 1):
        with pytest.raises(PayloadMalformed):
            decode_snapshot(data[:size], layout=LAYOUT)
    with pytest.raises(PayloadMalformed):
        decode_snapshot(b"X" + data[1:], layout=LAYOUT)
    with pytest.raises(ShapeMismatch):
        decode_snapshot(data[:16] + b"\0" * 32 + data[48:], layout=LAYOUT)
    with pytest.raises(ShapeMismatch):
        decode_snapshot(data[:48] + struct.pack("<Q", 1) + data[56:], layout=LAYOUT)
    for bad in (float("nan"), float("inf")):
        for offset in (56, len(data) - 4):
            hostile = data[:offset] + struct.pack("<f", bad) + data[offset + 4 :]
            with pytest.raises(NonFinite):
                decode_snapshot(hostile, layout=LAYOUT)


def test_encode_refuses_non_finite_and_uneven_states() -> None:
    state = make_state()
    with pytest.raises(ShapeMismatch):
        encode_snapshot(TrainingState(1, 1, b"\0" * 32, state.theta, state.mu[:-1].copy()))
    state.mu[5] = np.nan
    with pytest.raises(NonFinite):
        state_digest(state)


def test_initial_state_has_random_a_zero_b_and_golden_bits() -> None:
    state = initial_state(LAYOUT, cycle=4, seed=b"public")
    tensors = LAYOUT.split(state.theta)
    a = tensors["m.lora_A.weight"]
    assert not tensors["m.lora_B.weight"].any()
    assert not state.mu.any()
    assert (state.cycle, state.round) == (4, 0)
    assert a.min() >= -0.125  # 1 / sqrt(64)
    assert a.max() < 0.125
    assert abs(float(a.mean())) < 0.02
    assert abs(float(a.std()) - 0.125 / 3**0.5) < 0.01
    assert (
        state_digest(state).hex()
        == "5a41ac4ab617a1e952b7c901be3d9065f4b895aab9e403083862083da88c5cd3"
    )


def test_initial_state_depends_on_seed_and_name_only() -> None:
    first = initial_state(LAYOUT, cycle=1, seed=b"a")
    assert np.array_equal(first.theta, initial_state(LAYOUT, cycle=2, seed=b"a").theta)
    assert not np.array_equal(first.theta, initial_state(LAYOUT, cycle=1, seed=b"b").theta)
    two = layout_of_shapes({"x.lora_A.weight": (4, 64), "y.lora_A.weight": (4, 64)})
    tensors = two.split(initial_state(two, cycle=1, seed=b"a").theta)
    assert not np.array_equal(tensors["x.lora_A.weight"], tensors["y.lora_A.weight"])
