"""The arithmetic of time: which frame is on display at each tick, from stamps of any quality."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.shards.timing import ROUNDING, Timeline, first_output, resample

RATES = st.sampled_from([Fraction(6), Fraction(12), Fraction(30000, 1001), Fraction(1), Fraction(15, 2)])
CLOCKS = st.sampled_from([Fraction(1, n) for n in (1000, 90000, 15360, 600, 30, 25)] + [Fraction(1001, 30000)])


def outputs(stamps, durations, clock, fps, declared=None, frame_time=None, may_break=False):
    """The frame's index that each output shows."""
    frames = [(i, stamp, lasts) for i, (stamp, lasts) in enumerate(zip(stamps, durations, strict=True))]
    runs = resample(frames, Timeline(clock, frame_time, may_break), fps, declared)
    return [i for i, repeats in runs for _ in range(repeats)]


@given(
    st.integers(-(10**6), 10**6),
    st.lists(st.integers(1, 5000), min_size=1, max_size=60),
    CLOCKS,
    RATES,
)
def test_each_output_shows_the_frame_on_display_at_its_time(start, steps, clock, fps):
    """Stamps that rise, durations that fit them: any rate, any start."""
    stamps = [start + sum(steps[:i]) for i in range(len(steps))]
    shown = outputs(stamps, steps, clock, fps)
    duration, slack = sum(steps) * clock, min(clock / 2, ROUNDING)
    assert len(shown) == max(1, math.ceil((duration - slack) * fps))
    edges = [(stamp - start) * clock - slack for stamp in [*stamps, start + sum(steps)]]
    for k, i in enumerate(shown[1:], start=1):
        assert edges[i] <= k / fps < edges[i + 1]
    assert shown[0] == 0 or edges[shown[0]] <= 0


@given(
    st.lists(st.none() | st.integers(-(10**5), 10**5), min_size=1, max_size=40),
    st.data(),
    CLOCKS,
    RATES,
    st.booleans(),
)
def test_broken_stamps_keep_the_order_and_lose_no_time(stamps, data, clock, fps, may_break):
    """Missing, equal and backward stamps: time goes on, so the frames come in order and every video has one."""
    durations = data.draw(st.lists(st.integers(0, 3000), min_size=len(stamps), max_size=len(stamps)))
    timeline = Timeline(clock, Fraction(1, 25), may_break)
    times = [timeline.place(stamp, lasts) for stamp, lasts in zip(stamps, durations, strict=True)]
    assert times[0] == 0 and timeline.end() > times[-1]
    assert all(a < b for a, b in pairwise(times))
    shown = outputs(stamps, durations, clock, fps, frame_time=Fraction(1, 25), may_break=may_break)
    assert shown and shown == sorted(shown)


@pytest.mark.parametrize(
    ("rate", "fps", "frames", "expected"),
    [
        (30, 6, 30, [0, 5, 10, 15, 20, 25]),
        (30, 6, 31, [0, 5, 10, 15, 20, 25, 30]),
        (25, 6, 25, [0, 4, 8, 12, 16, 20]),
        (5, 6, 5, [0, 0, 1, 2, 3, 4]),
        (6, 6, 4, [0, 1, 2, 3]),
        (1, 3, 2, [0, 0, 0, 1, 1, 1]),
    ],
)
def test_constant_rates(rate, fps, frames, expected):
    assert outputs(range(frames), [1] * frames, Fraction(1, rate), Fraction(fps)) == expected


def test_stamps_rounded_to_milliseconds_count_as_meant():
    """30 frames a second in Matroska: 33, 67, 100 ... and 2.167 s for what are 65/30 s, 13 outputs."""
    stamps = [round(i * 1000 / 30) for i in range(65)]
    assert outputs(stamps, [33] * 65, Fraction(1, 1000), Fraction(6)) == list(range(0, 65, 5))


def test_a_splice_goes_on_at_the_usual_pace():
    """The clock starts anew in mid-stream: the second part follows the first."""
    stamps = [*range(0, 100, 10), *range(-5000, -4900, 10)]
    shown = outputs(stamps, [10] * 20, Fraction(1, 100), Fraction(10))
    assert shown == list(range(20))


def test_a_leap_is_a_pause_unless_the_clock_may_break():
    stamps, durations = [0, 10, 20, 5020, 5030], [10] * 5
    assert outputs(stamps, durations, Fraction(1, 100), Fraction(10), may_break=True) == [0, 1, 2, 3, 4]
    assert outputs(stamps, durations, Fraction(1, 100), Fraction(10)) == [0, 1] + [2] * 500 + [3, 4]


def test_frames_without_stamps_come_at_the_promised_rate():
    assert outputs([None] * 10, [0] * 10, Fraction(1, 1000), Fraction(5), frame_time=Fraction(1, 10)) == [
        0,
        2,
        4,
        6,
        8,
    ]


def test_stamps_that_begin_late_go_on_from_where_the_frames_are():
    stamps = [None, None, 5000, 5010, 5020]
    assert outputs(stamps, [10] * 5, Fraction(1, 100), Fraction(10)) == [0, 1, 2, 3, 4]


def test_the_last_frame_lasts_as_the_container_says_where_it_is_right_of_the_others():
    clock, fps = Fraction(1, 100), Fraction(10)
    assert len(outputs([0, 10, 20], [10, 10, 50], clock, fps)) == 7
    assert len(outputs([0, 10, 20], [1, 1, 1], clock, 10 * fps)) == 30  # wrong of the others: as the one before
    assert len(outputs([0, 10, 20], [10, 10, 10], clock, fps, declared=21)) == 3
    assert len(outputs([0, 10, 20], [10, 10, 10], clock, fps, declared=20)) == 2
    assert len(outputs([0, 10, 20], [10, 10, 10], clock, fps, declared=900)) == 3  # can't be: not heeded
    assert len(outputs([7], [0], clock, fps, frame_time=Fraction(1, 4))) == 3


@given(st.fractions(0, 1000), RATES)
def test_first_output_is_the_first_tick_not_before(time, fps):
    k = first_output(time, fps)
    assert k / fps >= time and (k == 0 or (k - 1) / fps < time)
