"""What is stored again, and when."""

from __future__ import annotations

from ares_p2p.domain import CycleConfig, RoundManifest
from ares_p2p.ids import sha256
from ares_p2p.network.record_keys import key_of_payload
from ares_p2p.network.republish import KEPT_ROUNDS, Keeper
from netfixtures import COORDINATOR, payload, signed


def keep(keeper: Keeper, cls: type, *, now_s: float = 0.0, **header: int) -> None:
    inside = payload(cls, **header)
    key = key_of_payload(inside, signer=COORDINATOR.peer_id)
    envelope = signed(COORDINATOR, cls, **header)
    keeper.keep_record(envelope, inside, key, now_s=now_s, lifetime_s=300.0)


def test_records_are_due_every_third_of_their_lifetime() -> None:
    keeper = Keeper()
    keep(keeper, CycleConfig)
    assert list(keeper.due_records(99.0)) == []
    (kept,) = keeper.due_records(100.0)
    keeper.mark_record(kept, now_s=130.0)
    assert list(keeper.due_records(229.0)) == []
    assert len(list(keeper.due_records(230.0))) == 1


def test_a_newer_record_takes_the_place_of_the_older() -> None:
    keeper = Keeper()
    keep(keeper, CycleConfig, cycle=1, seq=1)
    keep(keeper, CycleConfig, cycle=2, seq=2)
    (kept,) = keeper.due_records(1e9)
    assert kept.header.cycle == 2


def test_only_the_latest_rounds_are_kept() -> None:
    keeper = Keeper()
    for round_number in range(KEPT_ROUNDS + 5):
        keep(keeper, RoundManifest, cycle=1, round=round_number)
    keep(keeper, CycleConfig, cycle=1)
    rounds = [k.header.round for k in keeper.due_records(1e9) if k.kind is RoundManifest]
    assert rounds == list(range(5, KEPT_ROUNDS + 5))
    assert len(list(keeper.due_records(1e9))) == KEPT_ROUNDS + 1


def test_chunks_are_spread_over_time() -> None:
    keeper = Keeper()
    digests = [sha256(bytes([number])) for number in range(100)]
    for digest in digests:
        keeper.keep_chunk(digest, lambda _: None, now_s=0.0, lifetime_s=300.0)
    assert list(keeper.due_chunks(50.0)) == []
    early = list(keeper.due_chunks(75.0))
    assert 20 < len(early) < 80
    for held in early:
        keeper.mark_chunk(held, now_s=75.0)
    assert len(list(keeper.due_chunks(100.0))) == 100 - len(early)
    keeper.drop_chunk(digests[0])
    assert len(list(keeper.due_chunks(1e9))) == 99
