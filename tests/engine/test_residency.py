"""Residency: what SRAM holds from launch to launch."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mtia.chips import load
from mtia.engine.memory import Residency, survives


def test_what_was_touched_is_resident_until_newer_bytes_push_it_out():
    r = Residency(100)
    r.touch(0, 60, written=False)
    assert r.fraction(0, 60) == 1.0 and r.fraction(0, 120) == 0.5
    r.touch(200, 260, written=False)
    assert r.fraction(200, 260) == 1.0
    assert r.fraction(0, 60) == 40 / 60  # the first 20 bytes made room


def test_touching_again_keeps_a_range():
    r = Residency(100)
    r.touch(0, 50, written=False)
    r.touch(100, 150, written=False)
    r.touch(0, 50, written=False)
    r.touch(200, 250, written=False)
    assert r.fraction(0, 50) == 1.0 and r.fraction(100, 150) == 0.0


def test_evicting_dirty_bytes_is_counted():
    r = Residency(100)
    assert r.touch(0, 80, written=True) == 0
    assert r.touch(200, 300, written=False) == 80


def test_pressure_is_what_a_touch_would_write_back():
    r = Residency(100)
    r.touch(0, 40, written=True)
    r.touch(100, 150, written=False)
    assert r.pressure(10) == 0 and r.pressure(30) == 20 and r.pressure(100) == 40
    assert r.touch(200, 230, written=False) == 20


def test_of_a_range_larger_than_the_sram_its_end_stays():
    r = Residency(100)
    assert r.touch(0, 1000, written=True) == 900
    assert r.fraction(900, 1000) == 1.0 and r.fraction(0, 900) == 0.0


def test_streams_side_by_side_share_the_sram():
    r = Residency(100)
    r.touch_together([(0, 1000, False, 1000), (5000, 6000, False, 1000)])
    assert r.fraction(950, 1000) == 1.0 and r.fraction(5950, 6000) == 1.0


def test_forgotten_ranges_need_no_write_back():
    r = Residency(100)
    r.touch(0, 80, written=True)
    r.forget(0, 80)
    assert r.n_bytes == 0 and r.touch(200, 300, written=False) == 0


def test_a_hashed_cache_forgets_gradually_and_a_full_one_at_once():
    sram = load("l40s").sram
    shares = [survives(sram, load_ * sram.shared_bytes) for load_ in (0.1, 0.5, 0.9, 1.0, 1.2, 2.0, 5.0, 100.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[1] > 0.95 and 0.4 < shares[3] < 0.6 and shares[5] < 0.01
    full = replace(sram, ways=None)
    assert [survives(full, load_ * sram.shared_bytes) for load_ in (1.0, 1.01)] == [1.0, 0.0]


ranges = st.tuples(st.integers(0, 50), st.integers(1, 40), st.booleans())


@given(st.lists(ranges, max_size=30))
def test_never_holds_more_than_it_can_and_never_a_byte_twice(script: list[tuple[int, int, bool]]):
    r = Residency(37)
    for lo, n, written in script:
        r.touch(lo, lo + n, written)
        assert r.n_bytes <= 37
        assert all(0 <= s.dirty_bytes <= s.n_bytes <= s.hi - s.lo for s in r.segments)
        by_address = sorted(r.segments, key=lambda s: s.lo)
        assert all(a.hi <= b.lo for a, b in itertools.pairwise(by_address))
