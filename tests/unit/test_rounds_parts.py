"""The rules of a round by parts: the split, who makes what, what a manifest and a plan may say."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.averaging import codec
from ares_p2p.domain import EntryStatus, ManifestEntry, PartRef, RoundCorrection, RoundManifest
from ares_p2p.errors import PayloadMalformed
from ares_p2p.ids import CHUNK_BYTES, PeerId, sha256
from ares_p2p.rounds import parts
from ares_p2p.rounds.parts import (
    ExchangeSizes,
    check_parts,
    choose_exchange,
    grace_ms,
    jobs_of,
    most_parts,
    parts_bytes,
    ranked_reducers,
    sources_of_part,
    split_frames,
    typical_upload,
)
from ares_p2p.rounds.plan import check_plan
from sim.samples import cycle_config, header, open_round, payload_sha256

SEED = sha256(b"seed")
BIG = ExchangeSizes(  # 168 M parameters, 2 bits up, 4 bits down
    168_000_000,
    codec.encoded_size_bytes(168_000_000, bits=2),
    codec.encoded_size_bytes(168_000_000, bits=4),
)
SMALL = ExchangeSizes(200_000, 53_000, 100_000)


def people(count: int) -> list[PeerId]:
    return [PeerId(f"peer-{number}") for number in range(count)]


def test_the_frames_are_the_codecs() -> None:
    assert parts.FRAME_ELEMENTS == codec.FRAME_ELEMENTS


# --- the split ----------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(1, 64))
def test_parts_cover_all_frames_once_and_differ_by_one_at_most(frames: int, count: int) -> None:
    count = min(frames, count)
    runs = split_frames(frames, count)
    assert [frame for run in runs for frame in run] == list(range(frames))
    assert len(runs) == count
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


@pytest.mark.parametrize("count", [0, -1, 4])
def test_a_split_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="3 frames cannot be split"):
        split_frames(3, count)


def test_small_vectors_have_few_parts() -> None:
    assert [most_parts(n) for n in (1, 65_536, 65_537, 10**9)] == [1, 1, 2, parts.MAX_PARTS]


# --- who does what ------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 64))
def test_work_is_dealt_out_evenly_and_nobody_is_its_own_spare(peers: int, count: int) -> None:
    ranking = ranked_reducers(SEED, people(peers), parts=count)
    assert len(ranking) == count
    jobs: Counter[PeerId] = Counter()
    for ranked in ranking:
        assert len(set(ranked)) == len(ranked) == peers
        jobs.update(ranked[:2])
    loads = [jobs[peer] for peer in people(peers)]
    assert max(loads) - min(loads) <= (2 if peers > 1 else 0)
    for peer in people(peers):
        assert len(jobs_of(peer, ranking)) == jobs[peer]


def test_with_as_many_parts_as_peers_each_has_one_to_make_and_one_to_check() -> None:
    ranking = ranked_reducers(SEED, people(8), parts=8)
    assert Counter(ranked[0] for ranked in ranking) == Counter(people(8))
    assert Counter(ranked[1] for ranked in ranking) == Counter(people(8))


def test_the_seed_decides_and_the_order_of_the_peers_does_not() -> None:
    ranking = ranked_reducers(SEED, people(9), parts=5)
    assert ranked_reducers(SEED, people(9)[::-1], parts=5) == ranking
    assert ranked_reducers(sha256(b"another"), people(9), parts=5) != ranking


def test_the_order_is_the_written_one() -> None:
    """A golden vector: another implementation must deal out the same."""
    order = sorted(people(4), key=lambda peer: sha256(b"ares/reducers/v1\0", SEED, peer.encode()))
    first, second, third, fourth = order
    assert ranked_reducers(SEED, people(4), parts=2) == (
        (first, third, second, fourth),
        (second, fourth, third, first),
    )
    assert ranked_reducers(SEED, people(4), parts=4)[3] == (fourth, first, second, third)
    assert [peer[-1] for peer in order] == ["2", "3", "0", "1"]


def test_a_round_without_commits_has_nobody_to_ask() -> None:
    assert ranked_reducers(SEED, [], parts=3) == ((), (), ())


def test_sources_are_the_makers_and_then_the_others_behind_oneself() -> None:
    ranked = people(6)
    assert sources_of_part(ranked, ranked[3]) == (ranked[:2], [ranked[4], ranked[5], ranked[2]])
    assert sources_of_part(ranked, ranked[0]) == ([ranked[1]], ranked[2:])
    assert sources_of_part(ranked, PeerId("a stranger")) == (ranked[:2], ranked[2:])


# --- plan and manifest --------------------------------------------------------------------------


def test_a_plan_with_impossible_parts_is_refused() -> None:
    round_ = open_round()
    training = dataclasses.replace(round_.config.training, down_bits=4)
    config = cycle_config(training=training, parameters=3 * 65_536)
    digest = payload_sha256(config, "cycle")
    plan = dataclasses.replace(
        round_.plan, cycle_config_sha256=digest, state=config.initial_state, parts=3
    )
    check_plan(plan, config=config, config_sha256=digest)
    with pytest.raises(PayloadMalformed, match="4 parts, at most 3"):
        check_plan(dataclasses.replace(plan, parts=4), config=config, config_sha256=digest)
    for bits in (0, 1, 5):
        other = dataclasses.replace(training, down_bits=bits)
        without = dataclasses.replace(config, training=other)
        with pytest.raises(PayloadMalformed, match=f"with {bits} bits"):
            check_plan(plan, config=without, config_sha256=digest)


def manifest(*sizes: int, coefficient: float = 0.5) -> RoundManifest:
    entry = ManifestEntry(SEED, people(1)[0], coefficient, EntryStatus.ACCEPTED, "", "")
    refs = tuple(PartRef(sha256(b"%d" % number), size) for number, size in enumerate(sizes))
    return RoundManifest(header(), SEED, SEED, (entry,), SEED, 1, False, parts=refs)


@pytest.mark.parametrize(
    "named", [(), (10,), (10, 21), (20, 10), (10, 20, 30)], ids=lambda sizes: str(len(sizes))
)
def test_a_manifest_with_other_parts_than_planned_is_refused(named: tuple[int, ...]) -> None:
    check_parts(manifest(10, 20), sizes=(10, 20))
    with pytest.raises(PayloadMalformed, match="expected"):
        check_parts(manifest(*named), sizes=(10, 20))


def test_parts_that_nobody_planned_are_refused() -> None:
    check_parts(manifest(), sizes=())
    with pytest.raises(PayloadMalformed, match="1 parts, 0 expected"):
        check_parts(manifest(10), sizes=())


def test_a_round_without_a_sum_has_no_parts() -> None:
    nothing = manifest(coefficient=0.0)
    check_parts(nothing, sizes=(10, 20))
    with pytest.raises(PayloadMalformed, match="2 parts, 0 expected"):
        check_parts(manifest(10, 20, coefficient=0.0), sizes=(10, 20))


def test_a_correction_names_the_parts_of_the_corrected_sum() -> None:
    correction = RoundCorrection(0, SEED, manifest().entries, 1.0, 2.0, 1.0)
    aside = manifest(10, 20, coefficient=0.0)
    check_parts(dataclasses.replace(aside, corrections=(correction,)), sizes=(10, 20))
    nothing = dataclasses.replace(correction, entries=aside.entries)
    with pytest.raises(PayloadMalformed, match="2 parts, 0 expected"):
        check_parts(dataclasses.replace(aside, corrections=(nothing,)), sizes=(10, 20))


@pytest.mark.parametrize(("serve_s", "expected_ms"), [(1, 5_000), (60, 30_000), (3600, 60_000)])
def test_the_grace_is_a_share_of_the_serve_time_within_bounds(
    serve_s: int, expected_ms: int
) -> None:
    plan = open_round().plan
    plan = dataclasses.replace(plan, serve_deadline_ms=plan.commit_deadline_ms + 1000 * serve_s)
    assert grace_ms(plan) == expected_ms


# --- the choice ---------------------------------------------------------------------------------


def choice(peers: int, sizes: ExchangeSizes = BIG, *, kind: str = "auto", **facts: object) -> int:
    found = choose_exchange(kind, peers=peers, sizes=sizes, **facts)  # type: ignore[arg-type]
    return found.parts


def test_large_rounds_go_by_parts_and_small_ones_do_not() -> None:
    assert [choice(peers) > 0 for peers in (1, 2, 4, 16, 64)] == [False, False, False, True, True]
    assert choice(64) >= 32
    assert [choice(peers, SMALL) for peers in (2, 8, 30)] == [0, 0, 0]


def test_gather_grows_with_the_peers_and_parts_do_not() -> None:
    few, many = (choose_exchange("auto", peers=peers, sizes=BIG) for peers in (8, 64))
    assert many.gather_s > 7 * few.gather_s
    assert many.parts_s < 1.3 * few.parts_s
    assert many.parts_s < many.gather_s / 8


def test_slow_links_go_by_parts_sooner_than_the_waits_between_the_steps_count() -> None:
    sizes = ExchangeSizes(20_000_000, 5_400_000, 10_300_000)
    slow, fast = [1e5] * 16, [1e9] * 16
    assert choice(16, sizes, upload_bytes_per_s=slow) > 0
    assert choice(16, sizes, upload_bytes_per_s=fast) == 0


def test_nobody_alone_decides_the_speed() -> None:
    assert typical_upload([]) == typical_upload([0.0, 0.0]) == parts.DEFAULT_UPLOAD_BYTES_PER_S
    honest = [1e6, 1.1e6, 1.2e6, 1.3e6, 1.4e6, 1.5e6, 1.6e6]
    for lie in (1.0, 1e12):
        assert 1e6 <= typical_upload([*honest, lie]) <= 1.2e6


def test_settings_overrule_the_estimate() -> None:
    assert choice(64, kind="gather") == 0
    assert choice(2, SMALL, kind="butterfly") >= 1
    assert choice(2, kind="butterfly", parts=5) == 5
    assert choice(2, SMALL, kind="butterfly", parts=60) == most_parts(SMALL.elements)


def test_parts_are_not_smaller_than_chunks_make_sense_of() -> None:
    sizes = ExchangeSizes(10**9, 4 * CHUNK_BYTES, 8 * CHUNK_BYTES)
    best = choice(64, sizes, kind="butterfly")
    assert best < 64
    assert parts_bytes(64, sizes, parts=best) <= parts_bytes(64, sizes, parts=64)
