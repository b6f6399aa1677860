"""Leaves and pages of the ledger: one form only, and no page that does not prove itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ares_p2p.crypto.merkle import check_inclusion, frontier_at, reader_of, root_at, tree_root
from ares_p2p.domain import Header, LedgerHead, Posting, PostingKind, PostingState
from ares_p2p.errors import AresError, EvidenceBroken, Oversize, PayloadMalformed
from ares_p2p.ids import sha256
from ares_p2p.proofs.ledger import (
    MAX_LEAVES,
    MAX_PAGE_BYTES,
    HeadsContradict,
    LedgerPage,
    check_page,
    decode_page,
    encode_page,
    leaf_of,
    page_reader,
    proven_leaves,
    read_leaf,
    root_in_page,
)
from ares_p2p.wire.codec import encode_envelope, seal
from ares_p2p.wire.v1 import ares_pb2 as pb
from payloads import identity
from sim.samples import COORDINATOR, NETWORK_ID, START_MS

ALICE, BOB, MALLORY = identity(1), identity(2), identity(66)


def posting(number: int, **changes: Any) -> Posting:
    worker = changes.get("worker", (ALICE, BOB)[number % 2].peer_id)
    return dataclasses.replace(
        Posting(
            key=f"settled:cpu_training:{number}",
            worker=worker,
            kind=PostingKind.CPU_TRAINING,
            state=PostingState.SETTLED,
            amount_ucredits=1000 + number,
            cycle=1,
            round=number,
            commit_sha256=sha256(b"commit %d" % number),
            code="",
            at_ms=START_MS + number,
            id=number,
        ),
        **changes,
    )


def log_of(size: int) -> list[bytes]:
    return [leaf_of(posting(number)) for number in range(1, size + 1)]


def head_of(
    leaves: list[bytes], *, who: Any = COORDINATOR, network_id: str = NETWORK_ID, **changes: Any
) -> Any:
    head = LedgerHead(
        Header(network_id, 1, len(leaves), len(leaves), START_MS), len(leaves), tree_root(leaves)
    )
    return seal(who, dataclasses.replace(head, **changes))


def page_of(leaves: list[bytes], first: int, **changes: Any) -> LedgerPage:
    frontier = frontier_at(first, reader_of(leaves))
    page = LedgerPage(head_of(leaves), first, frontier, tuple(leaves[first:]))
    return dataclasses.replace(page, **changes)


def check(page: LedgerPage, head_before: LedgerHead | None = None) -> LedgerHead:
    return check_page(
        page, coordinator=COORDINATOR.peer_id, network_id=NETWORK_ID, head_before=head_before
    )


# --- leaves ------------------------------------------------------------------------------------


def test_leaf_is_eleven_readable_lines_under_its_format() -> None:
    leaf = leaf_of(posting(7, code="ARES-E072", state=PostingState.VOID))
    assert leaf.decode().split("\n") == [
        "ares-posting/1",
        "7",
        "settled:cpu_training:7",
        BOB.peer_id,
        "cpu_training",
        "void",
        "1007",
        "1",
        "7",
        sha256(b"commit 7").hex(),
        "ARES-E072",
        str(START_MS + 7),
    ]
    assert read_leaf(leaf).code == "ARES-E072"


@given(
    st.builds(
        Posting,
        key=st.text(st.characters(exclude_categories=["C", "Z"], codec="utf-8"), max_size=100),
        worker=st.sampled_from([ALICE.peer_id, BOB.peer_id]),
        kind=st.sampled_from(list(PostingKind)),
        state=st.sampled_from(list(PostingState)),
        amount_ucredits=st.integers(0, 2**53 - 1),
        cycle=st.integers(0, 2**32 - 1),
        round=st.integers(0, 2**32 - 1),
        commit_sha256=st.binary(min_size=32, max_size=32),
        code=st.sampled_from(["", "ARES-E076"]),
        at_ms=st.integers(0, 2**53 - 1),
        id=st.integers(1, 2**53 - 1),
    )
)
def test_every_posting_has_one_leaf_and_every_leaf_one_posting(one: Posting) -> None:
    leaf = leaf_of(one)
    assert read_leaf(leaf) == one
    assert leaf_of(read_leaf(leaf)) == leaf


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 0},
        {"key": "two\nlines"},
        {"code": "\x1b[2J"},
        {"amount_ucredits": -1},
        {"commit_sha256": b"short"},
        {"worker": "12D3KooWnobody"},
        {"key": "x" * 2000},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_posting_that_nobody_could_read_gets_no_leaf(changes: dict[str, Any]) -> None:
    with pytest.raises(PayloadMalformed):
        leaf_of(posting(1, **changes))


@pytest.mark.parametrize(
    "change",
    [
        lambda leaf: leaf + b"\n",
        lambda leaf: leaf + b"x",
        lambda leaf: leaf.replace(b"ares-posting/1", b"ares-posting/2"),
        lambda leaf: leaf.replace(b"\n1001\n", b"\n01001\n"),
        lambda leaf: leaf.replace(b"\n1001\n", b"\n+1001\n"),
        lambda leaf: leaf.replace(b"\n1001\n", b"\n1_001\n"),
        lambda leaf: leaf.replace(b"\n1001\n", b"\n 1001\n"),
        lambda leaf: leaf.replace(b"\n1001\n", b"\n-1\n"),
        lambda leaf: leaf.replace(b"\n1001\n", b"\n99999999999999999999\n"),
        lambda leaf: leaf.replace(b"\n1001\n", b"\n" + b"9" * 5000 + b"\n"),
        lambda leaf: leaf.replace(b"\nsettled\n", b"\nSETTLED\n"),
        lambda leaf: leaf.replace(b"\nsettled\n", b"\npaid\n"),
        lambda leaf: leaf.upper(),
        lambda leaf: leaf.replace(ALICE.peer_id.encode(), b"1" + ALICE.peer_id.encode()),
        lambda leaf: b"",
        lambda leaf: b"\xff" * 40,
        lambda leaf: leaf[:-1] + "٣".encode(),
    ],
)
def test_any_other_form_is_no_leaf(change: Callable[[bytes], bytes]) -> None:
    leaf = leaf_of(posting(1, worker=ALICE.peer_id))
    assert read_leaf(leaf)
    assert change(leaf) != leaf
    with pytest.raises(PayloadMalformed):
        read_leaf(change(leaf))


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with pytest.raises(PayloadMalformed):
        read_leaf(data)


# --- pages that hold ---------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(13))
def test_page_proves_its_head_and_goes_on_from_the_one_before(first: int) -> None:
    leaves = log_of(12)
    page = page_of(leaves, first)
    before = LedgerHead(Header(NETWORK_ID, 1, 0, 1, 0), first, tree_root(leaves[:first]))
    assert decode_page(encode_page(page)) == page
    assert check(page, before).root == tree_root(leaves)
    assert page.root_before == tree_root(leaves[:first])
    for size in range(first, 13):
        assert root_in_page(page, size) == tree_root(leaves[:size])
    for size in (first - 1, 13):
        with pytest.raises(ValueError, match="a page of leaves"):
            root_in_page(page, size)


def test_own_leaves_come_with_the_inclusion_proofs_of_the_whole_log() -> None:
    leaves = log_of(21)
    for first in range(22):
        page = page_of(leaves, first)
        found = list(proven_leaves(page, ALICE.peer_id))
        assert [item.index for item in found] == [i for i in range(first, 21) if i % 2]
        for item in found:
            assert item.leaf == leaves[item.index]
            assert item.posting.worker == ALICE.peer_id
            check_inclusion(
                item.leaf, index=item.index, count=21, proof=item.proof, root=tree_root(leaves)
            )


def test_what_lies_below_the_frontier_cannot_be_read() -> None:
    read = page_reader(page_of(log_of(12), 8))
    assert read(3, 0) == root_at(8, reader_of(log_of(8)))
    with pytest.raises(KeyError):
        read(2, 0)
    with pytest.raises(KeyError):
        read(0, 3)


def test_head_of_another_size_says_nothing_about_a_page() -> None:
    page = page_of(log_of(12), 8)
    for size in (3, 13):
        other = LedgerHead(Header(NETWORK_ID, 1, 0, 1, 0), size, sha256(b"anything"))
        assert check(page, other).size == 12


# --- pages that do not -------------------------------------------------------------------------


def _other_leaf(page: LedgerPage) -> LedgerPage:
    changed = leaf_of(dataclasses.replace(read_leaf(page.leaves[1]), amount_ucredits=9))
    return dataclasses.replace(page, leaves=(page.leaves[0], changed, *page.leaves[2:]))


def _hostile() -> dict[str, tuple[LedgerPage, str]]:
    leaves = log_of(12)
    page = page_of(leaves, 7)
    swapped = (page.leaves[1], page.leaves[0], *page.leaves[2:])
    return {
        "first too low": (dataclasses.replace(page, first=6), "its head says 12"),
        "first too high": (dataclasses.replace(page, first=8), "its head says 12"),
        "frontier too short": (
            dataclasses.replace(page, frontier=page.frontier[1:]),
            "2 nodes before leaf 7, 3 expected",
        ),
        "frontier too long": (
            dataclasses.replace(page, frontier=(*page.frontier, bytes(32))),
            "4 nodes before leaf 7",
        ),
        "frontier of another log": (
            dataclasses.replace(page, frontier=(sha256(b"x"), *page.frontier[1:])),
            "come to root",
        ),
        "leaf changed": (_other_leaf(page), "come to root"),
        "leaves swapped": (
            dataclasses.replace(page, leaves=swapped),
            "leaf 7 is posting 9",
        ),
        "leaf that is none": (
            dataclasses.replace(page, leaves=(b"no leaf", *page.leaves[1:])),
            "leaf 7: no leaf of the ledger",
        ),
        "leaf twice": (
            dataclasses.replace(page, leaves=(page.leaves[0], page.leaves[0], *page.leaves[2:])),
            "leaf 8 is posting 8",
        ),
        "head of another signer": (
            dataclasses.replace(page, head=head_of(leaves, who=MALLORY)),
            "signed by",
        ),
        "head of another network": (
            dataclasses.replace(page, head=head_of(leaves, network_id="other")),
            "payload of network 'other'",
        ),
        "head with a forged signature": (
            dataclasses.replace(page, head=dataclasses.replace(page.head, signature=bytes(64))),
            "ledger head",
        ),
        "another record as head": (
            dataclasses.replace(
                page, head=dataclasses.replace(page.head, payload_type="application/x")
            ),
            "ledger head",
        ),
        "head of another root": (
            dataclasses.replace(page, head=head_of(leaves, root=sha256(b"x"))),
            "come to root",
        ),
        "head of another size": (
            dataclasses.replace(page, head=head_of(leaves, size=13)),
            "its head says 13",
        ),
    }


@pytest.mark.parametrize("name", list(_hostile()))
def test_hostile_page_is_refused_with_the_reason(name: str) -> None:
    page, reason = _hostile()[name]
    with pytest.raises(EvidenceBroken, match=reason) as caught:
        check(page)
    assert not isinstance(caught.value, HeadsContradict)


@pytest.mark.parametrize("size", [7, 9, 12])
def test_page_of_a_rewritten_log_contradicts_the_head_that_was_seen(size: int) -> None:
    leaves = log_of(12)
    seen = LedgerHead(Header(NETWORK_ID, 1, 0, 1, 0), size, tree_root(leaves[:size]))
    rewritten = [*leaves]
    rewritten[3] = leaf_of(posting(4, amount_ucredits=1))
    page = page_of(rewritten, 7)
    assert check(page).size == 12  # it holds by itself
    with pytest.raises(HeadsContradict, match=f"ledger of {size} postings had root"):
        check(page, seen)


# --- bytes -------------------------------------------------------------------------------------


def test_bytes_that_are_more_or_less_than_a_page_are_refused() -> None:
    data = encode_page(page_of(log_of(9), 4))
    assert decode_page(data)
    unknown_field = data + b"\x2a\x01x"
    for hostile in (data + b"\0", data + data, unknown_field, data[:-3], b"", b"\xff" * 50):
        with pytest.raises(AresError):
            decode_page(hostile)


def test_page_has_bounds_before_anything_is_read() -> None:
    with pytest.raises(Oversize, match="bytes"):
        decode_page(bytes(MAX_PAGE_BYTES + 1))
    head = encode_envelope(head_of(log_of(1)))
    crowd = pb.LedgerPage(head=head, leaves=[b""] * (MAX_LEAVES + 1)).SerializeToString()
    with pytest.raises(Oversize, match="leaves"):
        decode_page(crowd)
    with pytest.raises(Oversize):
        encode_page(dataclasses.replace(page_of(log_of(1), 0), leaves=(b"",) * (MAX_LEAVES + 1)))
    nodes = pb.LedgerPage(head=head, frontier=[bytes(32)] * 60).SerializeToString()
    with pytest.raises(Oversize):
        decode_page(nodes)
    with pytest.raises(PayloadMalformed):
        decode_page(pb.LedgerPage(head=head, frontier=[b"x"]).SerializeToString())


@settings(max_examples=300)
@given(st.data())
def test_no_changed_byte_of_a_page_passes(data: st.DataObject) -> None:
    original = encode_page(page_of(_NINE, 4))
    place = data.draw(st.integers(0, len(original) - 1))
    flipped = bytearray(original)
    flipped[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AresError):
        check(decode_page(bytes(flipped)))


_NINE = log_of(9)
