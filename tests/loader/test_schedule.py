from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.loader.schedule import BLOCK, Schedule
from understudy.shards.errors import UserError

weight_lists = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(weight_lists, st.integers(0, 5))
def test_every_block_keeps_to_the_weights_and_places_count_on(weights: list[float], seed: int) -> None:
    schedule = Schedule(weights, seed)
    seen: Counter[int] = Counter()
    for block in range(5):
        here: Counter[int] = Counter()
        for step in range(block * BLOCK, (block + 1) * BLOCK):
            source, place = schedule.at(step)
            assert place == seen[source]
            seen[source] += 1
            here[source] += 1
        for source, weight in enumerate(weights):
            assert abs(here[source] - BLOCK * weight / sum(weights)) < 1 + 1e-6


@given(weight_lists, st.integers(0, 5), st.integers(0, 10_000))
def test_any_step_is_found_alone(weights: list[float], seed: int, step: int) -> None:
    walked = Schedule(weights, seed)
    walked.at(0)
    for near in range(max(0, step - 70), step):
        walked.at(near)
    assert walked.at(step) == Schedule(weights, seed).at(step)
    assert walked.at(step // 2) == Schedule(weights, seed).at(step // 2)  # and back


def test_sources_alternate_irregularly_and_by_seed() -> None:
    first = [Schedule([1, 1], 0).at(step)[0] for step in range(BLOCK)]
    assert sum(first) == BLOCK // 2
    assert first != [Schedule([1, 1], 1).at(step)[0] for step in range(BLOCK)]
    schedule = Schedule([1, 1], 0)
    assert first != [schedule.at(step)[0] for step in range(BLOCK, 2 * BLOCK)]
    assert any(a == b for a, b in pairwise(first))


def test_long_run_share_is_the_weight() -> None:
    schedule = Schedule([0.903, 0.097], 3)
    share = sum(schedule.at(step)[0] for step in range(200 * BLOCK)) / (200 * BLOCK)
    assert share == pytest.approx(0.097, abs=0.002)


def test_seeking_far_is_quick() -> None:
    started = time.process_time()
    schedule = Schedule([3, 1], 0)
    source, place = schedule.at(50_000_000)
    assert time.process_time() - started < 1
    started = time.process_time()
    for block in range(100):
        schedule.at(50_000_000 + block * BLOCK)
    assert time.process_time() - started < 0.5  # what lies before is not counted again
    assert place == pytest.approx(50_000_000 * (0.75, 0.25)[source], rel=1e-3)


def test_bad_weights_are_refused() -> None:
    for weights in ([], [1.0, 0.0], [-1.0], [float("nan")], [float("inf"), 1]):
        with pytest.raises(UserError):
            Schedule(weights, 0)
