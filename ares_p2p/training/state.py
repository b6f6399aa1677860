"""The public state of a network between two rounds, and its snapshot.

A state is the LoRA parameters `theta` and the outer momentum `mu`, at the start of a round of a
cycle. Its digest *is* the blob address of its snapshot: whoever knows the digest from a signed
manifest can fetch the snapshot by it, and whoever has computed the state can serve it.

Snapshot, little-endian, without any freedom (equal states have equal bytes):

    8 bytes   magic "ARESSNP1"
    u32       cycle
    u32       round
    32 bytes  digest of the layout
    u64       size, number of elements of each vector
    f32[size] theta
    f32[size] mu

Refuses: other layouts, NaN and infinities, missing or trailing bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ares_p2p.averaging.vectors import FLOAT32, Vector, check_finite, check_vector, parts
from ares_p2p.errors import Oversize, PayloadMalformed, ShapeMismatch
from ares_p2p.ids import CHUNK_BYTES, Digest, chunk_list_of_stream, sha256
from ares_p2p.training.layout import Layout

SNAPSHOT_MAGIC = b"ARESSNP1"
_HEADER = struct.Struct("<8sII32sQ")
_INIT_DOMAIN = b"ares/lora-init/1\0"
_LORA_A = ".lora_A."


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """Parameters and outer momentum at the start of `round`; compare states by digest."""

    cycle: int
    round: int
    layout_sha256: Digest
    theta: Vector  # (size,)
    mu: Vector  # (size,)


def snapshot_size_bytes(layout: Layout) -> int:
    """Return how many bytes a snapshot of `layout` has."""
    return _HEADER.size + 2 * FLOAT32.itemsize * layout.size


def stream_snapshot(state: TrainingState) -> Iterator[bytes | memoryview]:
    """Yield the snapshot in pieces of at most `CHUNK_BYTES`: views, without a copy of anything.

    Raises: ShapeMismatch: theta and mu differ in size or dtype. NonFinite: NaN or infinity; when
        the piece with it is reached, while it is in the cache anyway.
    """
    size = state.theta.size
    for what, vector in (("theta", state.theta), ("mu", state.mu)):
        check_vector(vector, size=size, what=what)
    yield _HEADER.pack(SNAPSHOT_MAGIC, state.cycle, state.round, state.layout_sha256, size)
    for what, vector in (("theta", state.theta), ("mu", state.mu)):
        for part in parts(size, part_elements=CHUNK_BYTES // FLOAT32.itemsize):
            check_finite(vector[part], what=what)
            yield vector[part].data.cast("B")


def encode_snapshot(state: TrainingState) -> bytes:
    """Return the snapshot's bytes.

    Raises: ShapeMismatch: theta and mu differ in size or dtype. NonFinite: NaN or infinity.
    """
    return b"".join(stream_snapshot(state))


def decode_snapshot(
    data: bytes | memoryview, *, layout: Layout, max_bytes: int | None = None
) -> TrainingState:
    """Return the state that `data`, from anybody, holds.

    Args:
        data: a whole snapshot.
        layout: what the network trains; the snapshot must be of it.
        max_bytes: an upper bound; without it the layout's own size is the bound.
    Returns: a state with its own, writable vectors.
    Raises:
        Oversize: more bytes than the bound.
        PayloadMalformed: no magic, or missing or trailing bytes.
        ShapeMismatch: a snapshot of another layout.
        NonFinite: NaN or infinity inside.
    """
    expected = snapshot_size_bytes(layout)
    limit = expected if max_bytes is None else max_bytes
    if len(data) > limit:
        raise Oversize(f"snapshot of {len(data)} bytes, at most {limit} expected")
    if len(data) < _HEADER.size:
        raise PayloadMalformed(f"snapshot of {len(data)} bytes is shorter than its header")
    magic, cycle, round_, layout_sha256, size = _HEADER.unpack_from(data)
    if magic != SNAPSHOT_MAGIC:
        raise PayloadMalformed("snapshot without its magic")
    if layout_sha256 != layout.digest_sha256 or size != layout.size:
        raise ShapeMismatch(
            f"snapshot of layout {layout_sha256.hex()[:12]} with {size} elements, "
            f"{layout.digest_sha256.hex()[:12]} with {layout.size} expected"
        )
    if len(data) != expected:
        raise PayloadMalformed(f"snapshot of {len(data)} bytes, {expected} expected")
    numbers = np.frombuffer(data, dtype=FLOAT32, offset=_HEADER.size)
    theta, mu = numbers[:size].copy(), numbers[size:].copy()
    check_finite(theta, what="theta")
    check_finite(mu, what="mu")
    return TrainingState(cycle, round_, layout_sha256, theta, mu)


def state_digest(state: TrainingState) -> Digest:
    """Return the state's digest: the blob address of its snapshot, in bounded memory.

    Raises: ShapeMismatch: theta and mu differ in size or dtype. NonFinite: NaN or infinity.
    """
    return chunk_list_of_stream(stream_snapshot(state)).blob_id


def initial_state(layout: Layout, *, cycle: int, seed: bytes) -> TrainingState:
    """Return the state before round 0: A random, B zero (the adapter changes nothing), mu zero.

    A is uniform in [-1/sqrt(fan_in), 1/sqrt(fan_in)): PEFT's own start (Kaiming, a = sqrt 5). It is
    drawn from the *raw* words of Philox, whose stream numpy keeps stable between versions (which
    it does not promise for its distributions), so that every peer has the same bits.

    Args:
        layout: tensors named `*.lora_A.*` of shape (rank, in_features) are drawn, others are zero.
        cycle: number of the cycle.
        seed: public; any bytes.
    Returns: a state of round 0.
    Source: LoRA, arXiv:2106.09685, section 4.1; Philox, Salmon et al. 2011; NEP 19.
    """
    theta = np.zeros(layout.size, dtype=FLOAT32)
    for name, tensor in layout.split(theta).items():
        if _LORA_A not in name:
            continue
        key = np.frombuffer(sha256(_INIT_DOMAIN, seed, b"\0", name.encode())[:16], dtype="<u8")
        words = np.random.Philox(key=key).random_raw(tensor.size)  # (size,) u64
        # 24 bits are exact in float32, so is the shift to [-1, 1): one rounding, in the product
        unit = (words >> np.uint64(40)).astype(FLOAT32) * np.float32(2.0**-23) - np.float32(1)
        tensor[...] = (unit * np.float32(1 / math.sqrt(tensor.shape[-1]))).reshape(tensor.shape)
    return TrainingState(cycle, 0, layout.digest_sha256, theta, np.zeros_like(theta))
