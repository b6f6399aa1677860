"""Layouts: names, shapes, views, digests."""

from __future__ import annotations

import numpy as np
import pytest

from ares_p2p.errors import ShapeMismatch
from ares_p2p.training.layout import Layout, layout_of_shapes

LAYOUT = layout_of_shapes({"b": (2, 3), "a": (4,)})


def test_layout_sorts_names_and_counts_elements() -> None:
    assert LAYOUT.names == ("a", "b")
    assert LAYOUT.size == 10
    assert LAYOUT.spans == ((0, 4), (4, 10))


def test_split_gives_views_of_the_vector() -> None:
    vector = np.arange(10, dtype=np.float32)
    tensors = LAYOUT.split(vector)
    assert tensors["b"].tolist() == [[4, 5, 6], [7, 8, 9]]
    tensors["b"][1, 2] = -1
    assert vector[9] == -1


def test_join_is_the_inverse_of_split() -> None:
    vector = np.arange(10, dtype=np.float32)
    joined = LAYOUT.join(LAYOUT.split(vector))
    assert np.array_equal(joined, vector)
    assert not np.shares_memory(joined, vector)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(9, dtype=np.float32),
        np.zeros((2, 5), dtype=np.float32),
        np.zeros(10, dtype=np.float64),
        np.zeros(20, dtype=np.float32)[::2],
        np.zeros(10, dtype=">f4"),
    ],
)
def test_split_refuses_other_vectors(vector: np.ndarray) -> None:
    with pytest.raises(ShapeMismatch):
        LAYOUT.split(vector)


def test_join_refuses_missing_foreign_and_misshapen_tensors() -> None:
    good = LAYOUT.split(np.zeros(10, dtype=np.float32))
    with pytest.raises(ShapeMismatch, match="'b'"):
        LAYOUT.join({"a": good["a"]})
    with pytest.raises(ShapeMismatch, match="'c'"):
        LAYOUT.join({**good, "c": good["a"]})
    with pytest.raises(ShapeMismatch, match="b: "):
        LAYOUT.join({**good, "b": good["b"].T})


@pytest.mark.parametrize(
    ("names", "shapes"),
    [
        (("b", "a"), ((1,), (1,))),
        (("a", "a"), ((1,), (1,))),
        (("a",), ((0,),)),
        (("a",), ((),)),
        (("a",), ((-1,),)),
        (("a",), ((1,), (1,))),
        ((), ()),
        (("",), ((1,),)),
        (("a" * 513,), ((1,),)),
        (("a",), ((2**20, 2**20),)),
    ],
)
def test_layout_refuses_what_makes_no_vector(
    names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(ShapeMismatch):
        Layout(names, shapes)


def test_digest_is_stable_and_tells_names_and_shapes_apart() -> None:
    others = (
        {"a": (4,), "b": (3, 2)},
        {"a": (4,), "c": (2, 3)},
        {"a": (4,), "b": (6,)},
        {"a": (10,)},
    )
    digests = {layout_of_shapes(shapes).digest_sha256 for shapes in others}
    assert len(digests) == 4
    assert LAYOUT.digest_sha256 not in digests
    assert (
        LAYOUT.digest_sha256.hex()
        == "93d7178ca1ccb2e3bfb72de3c1b08be454c211fdbc7b55e0ba3dd4327f499c02"
    )
