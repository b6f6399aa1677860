"""The codec: against a slow reading of its format, golden bytes, errors, hostile bytes."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ares_p2p.averaging.codec import (
    decode,
    encode,
    encoded_size_bytes,
    open_encoded,
)
from ares_p2p.averaging.vectors import Difference, parts
from ares_p2p.errors import NonFinite, Oversize, PayloadMalformed, PeerFault, ShapeMismatch
from ares_p2p.training.layout import Layout, layout_of_shapes

F = np.float32
VECTORS = Path(__file__).parents[1] / "vectors"
BITS = [1, 2, 3, 4, 8]
BLOCKS = [32, 64, 128, 256]


def flat(size: int) -> Layout:
    return layout_of_shapes({"x": (size,)})


def normal(size: int, seed: int = 0, scale: float = 0.01) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size, dtype=F) * F(scale)


def slow_decode(data: bytes) -> list[float]:
    """Read one frame as the module's docstring says, number by number."""
    magic, bits, _, block, _, size, _ = struct.unpack_from("<8sBBHIQ32s", data)
    assert magic == b"ARESQNT1"
    assert size <= 65_536
    blocks = math.ceil(size / block)
    steps = struct.unpack_from(f"<{blocks}e", data, 56)
    codes = int.from_bytes(data[56 + 2 * blocks :], "little")
    return [
        float(F(((codes >> (i * bits)) % 2**bits) - (2**bits - 1) / 2) * F(steps[i // block]))
        for i in range(size)
    ]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [1, 31, 128, 129, 1_000])
def test_decode_reads_the_documented_format(bits: int, size: int) -> None:
    layout = flat(size)
    for block in BLOCKS:
        data = encode(normal(size), bits=bits, layout_sha256=layout.digest_sha256, block=block)
        assert len(data) == encoded_size_bytes(size, bits=bits, block=block)
        assert decode(data, layout=layout, bits=bits, block=block).tolist() == slow_decode(data)


@pytest.mark.parametrize("bits", BITS)
def test_encoder_takes_the_nearest_level(bits: int) -> None:
    layout, vector = flat(1_000), normal(1_000)
    data = encode(vector, bits=bits, layout_sha256=layout.digest_sha256)
    decoded = decode(data, layout=layout, bits=bits)
    steps = np.repeat(np.frombuffer(data[56 : 56 + 16], dtype="<f2").astype(F), 128)[:1_000]
    levels = (np.arange(2**bits) - (2**bits - 1) / 2) * steps[:, None]
    nearest = np.abs(levels - vector[:, None]).min(axis=1)
    assert np.abs(np.abs(decoded - vector) - nearest).max() < 1e-8  # float32 of about 0.01


@pytest.mark.parametrize(
    ("bits", "gauss", "uniform"),
    [(1, 0.61, 0.51), (2, 0.36, 0.31), (3, 0.20, 0.16), (4, 0.11, 0.08), (8, 0.008, 0.006)],
)
def test_relative_error_stays_low(bits: int, gauss: float, uniform: float) -> None:
    size = 200_000
    layout = flat(size)
    evenly = np.random.default_rng(1).uniform(-1, 1, size).astype(F)
    for vector, bound in ((normal(size), gauss), (evenly, uniform)):
        data = encode(vector, bits=bits, layout_sha256=layout.digest_sha256)
        error = np.linalg.norm(decode(data, layout=layout, bits=bits) - vector)
        assert error / np.linalg.norm(vector) < bound


@pytest.mark.parametrize("size", [128, 150, 1_000])
def test_one_bit_takes_the_step_of_the_least_squared_error(size: int) -> None:
    """Also in a last block that is filled up: what fills it does not count."""
    layout, vector = flat(size), normal(size)
    data = encode(vector, bits=1, layout_sha256=layout.digest_sha256)
    for start in range(0, size, 128):
        block = vector[start : start + 128].astype(float)
        (step,) = struct.unpack_from("<e", data, 56 + 2 * (start // 128))
        assert step == pytest.approx(2 * np.abs(block).mean(), rel=1e-3)  # a float16

        def error(step: float, block: np.ndarray = block) -> float:
            return float(((np.abs(block) - step / 2) ** 2).sum())

        assert error(step) < min(error(0.99 * step), error(1.01 * step))
    decoded = decode(data, layout=layout, bits=1)
    assert ((decoded > 0) == (vector >= 0)).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [150, 8 * 65_536 + 100, 17 * 65_536])
def test_a_source_is_encoded_like_an_array(bits: int, size: int) -> None:
    layout, start, end = flat(size), normal(size), normal(size, seed=1)
    name = layout.digest_sha256
    expected = encode(start - end, bits=bits, layout_sha256=name)
    assert encode(Difference(start, end), bits=bits, layout_sha256=name) == expected
    with pytest.raises(ShapeMismatch):
        Difference(start, end[1:])


@pytest.mark.parametrize("bits", BITS)
def test_groups_of_frames_are_encoded_like_single_ones(bits: int) -> None:
    """How many frames the encoder looks at together is nobody's business but its own."""
    size = 17 * 65_536 + 77
    vector = normal(size)
    whole = encode(vector, bits=bits, layout_sha256=b"\0" * 32)
    frames = [
        encode(vector[part], bits=bits, layout_sha256=b"\0" * 32)[56:] for part in parts(size)
    ]
    assert whole[56:] == b"".join(frames)


def test_averaging_removes_most_of_the_noise() -> None:
    """One peer's error is 0.5 of the common part; that of the mean of sixteen is 0.17."""
    size, common = 100_000, normal(100_000, seed=9)
    layout = flat(size)
    total = np.zeros(size)
    for peer in range(16):
        own = common + normal(size, seed=peer, scale=0.01)
        data = encode(own, bits=2, layout_sha256=layout.digest_sha256)
        total += decode(data, layout=layout, bits=2) - own
    assert np.linalg.norm(total / 16) / np.linalg.norm(common) < 0.2


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", BLOCKS)
def test_frames_decode_alone(bits: int, block: int) -> None:
    size = 2 * 65_536 + 77
    layout, vector = flat(size), normal(2 * 65_536 + 77)
    data = encode(vector, bits=bits, layout_sha256=layout.digest_sha256, block=block)
    whole = decode(data, layout=layout, bits=bits, block=block)
    encoded = open_encoded(data, layout=layout, bits=bits, block=block)
    out = np.empty(65_536, dtype=F)
    for part in reversed(list(parts(size))):
        assert np.array_equal(encoded.read(part, out), whole[part])
    with pytest.raises(ValueError, match="no frame"):
        encoded.read(slice(1, 65_536), out)


def test_zero_and_tiny_blocks_become_zero() -> None:
    layout, vector = flat(256), np.zeros(256, dtype=F)
    vector[200] = 1e-9
    for bits in BITS:
        data = encode(vector, bits=bits, layout_sha256=layout.digest_sha256)
        assert not decode(data, layout=layout, bits=bits).any()


def test_encode_leaves_its_input_alone() -> None:
    vector = normal(500)
    before = vector.tobytes()
    encode(vector, bits=2, layout_sha256=b"\0" * 32)
    assert vector.tobytes() == before


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_encode_refuses_what_has_no_step(bits: int, bad: float) -> None:
    for place in (0, 299):
        vector = normal(300)
        vector[place] = bad
        with pytest.raises(NonFinite):
            encode(vector, bits=bits, layout_sha256=b"\0" * 32)


@pytest.mark.parametrize("bits", BITS)
def test_blocks_of_one_sign_have_their_own_range(bits: int) -> None:
    """The encoder finds the largest magnitude among positive and among negative numbers."""
    layout = flat(512)
    vector = np.abs(normal(512))
    vector[128:256] *= -1
    vector[256:384] = -0.0
    data = encode(vector, bits=bits, layout_sha256=layout.digest_sha256)
    steps = np.frombuffer(data[56:64], dtype="<f2")
    mirrored = np.frombuffer(
        encode(-vector, bits=bits, layout_sha256=layout.digest_sha256)[56:64], dtype="<f2"
    )
    assert steps.tolist() == mirrored.tolist()
    assert [bool(step > 0) for step in steps] == [True, True, False, True]


def test_unknown_codecs_and_vectors_are_refused() -> None:
    for bits, block in ((0, 128), (5, 128), (16, 128), (2, 0), (2, 16), (2, 100)):
        with pytest.raises(PayloadMalformed):
            encode(normal(300), bits=bits, block=block, layout_sha256=b"\0" * 32)
        with pytest.raises(PayloadMalformed):
            decode(b"", layout=flat(300), bits=bits, block=block)
    with pytest.raises(ShapeMismatch):
        encode(np.zeros(300), bits=2, layout_sha256=b"\0" * 32)  # type: ignore[arg-type]


def test_decode_refuses_hostile_bytes() -> None:
    layout = flat(300)
    good = encode(normal(300), bits=2, layout_sha256=layout.digest_sha256)

    def refused(data: bytes, error: type[PeerFault], max_bytes: int | None = None) -> None:
        with pytest.raises(error):
            decode(data, layout=layout, bits=2, max_bytes=max_bytes)

    refused(good, Oversize, max_bytes=len(good) - 1)
    refused(good + b"\0", Oversize)
    refused(good + b"\0", PayloadMalformed, max_bytes=1 << 20)
    for size in range(0, len(good), 7):
        refused(good[:size], PayloadMalformed)
    refused(b"ARESQNT2" + good[8:], PayloadMalformed)
    refused(good[:9] + b"\1" + good[10:], PayloadMalformed)
    refused(good[:12] + b"\1" + good[13:], PayloadMalformed)
    refused(good[:8] + b"\3" + good[9:], PayloadMalformed)
    refused(good[:10] + struct.pack("<H", 64) + good[12:], PayloadMalformed)
    refused(good[:16] + struct.pack("<Q", 2**40) + good[24:], ShapeMismatch)
    refused(good[:24] + b"\0" * 32 + good[56:], ShapeMismatch)
    for step, error in ((math.nan, NonFinite), (math.inf, NonFinite), (-math.inf, NonFinite)):
        refused(good[:60] + struct.pack("<e", step) + good[62:], error)
    refused(good[:60] + struct.pack("<e", -0.5) + good[62:], PayloadMalformed)
    refused(good[:60] + struct.pack("<e", -0.0) + good[62:], PayloadMalformed)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 140))
def test_random_bytes_are_refused_or_decode_to_finite_numbers(noise: bytes, place: int) -> None:
    layout = flat(300)
    good = encode(normal(300), bits=2, layout_sha256=layout.digest_sha256)
    data = good[:place] + noise + good[place + len(noise) :]
    try:
        decoded = decode(data, layout=layout, bits=2)
    except PeerFault:
        return
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("path", sorted(VECTORS.glob("codec_*.json")), ids=lambda path: path.stem)
def test_golden_vectors(path: Path) -> None:
    case = json.loads(path.read_text())
    vector = np.frombuffer(bytes.fromhex(case["vector_f32_hex"]), dtype="<f4")
    layout = layout_of_shapes({"x": (vector.size,)})
    bits, block = case["bits"], case["block"]
    data = encode(vector, bits=bits, block=block, layout_sha256=layout.digest_sha256)
    assert data.hex() == case["encoded_hex"]
    decoded = decode(data, layout=layout, bits=bits, block=block)
    assert decoded.tobytes().hex() == case["decoded_f32_hex"]


def test_there_is_a_golden_vector_of_every_width() -> None:
    assert [path.stem for path in sorted(VECTORS.glob("codec_*.json"))] == [
        f"codec_{bits}bit" for bits in BITS
    ]


@pytest.mark.parametrize("bits", BITS)
def test_subnormal_steps_still_give_the_nearest_level(bits: int) -> None:
    """The largest of each block climbs through float16's smallest numbers."""
    layout = flat(64 * 128)
    vector = normal(64 * 128).reshape(64, 128)
    vector /= np.abs(vector).max(axis=1, keepdims=True)
    vector *= np.linspace(1e-8, 2e-5, 64, dtype=F)[:, None]
    flat_vector = vector.reshape(-1)
    data = encode(flat_vector, bits=bits, layout_sha256=layout.digest_sha256)
    decoded = decode(data, layout=layout, bits=bits)
    steps = np.repeat(np.frombuffer(data[56 : 56 + 128], dtype="<f2").astype(F), 128)
    levels = (np.arange(2**bits) - (2**bits - 1) / 2) * steps[:, None]
    nearest = np.abs(levels - flat_vector[:, None]).min(axis=1)
    assert (np.abs(decoded - flat_vector) <= nearest * F(1.0001) + F(1e-12)).all()
