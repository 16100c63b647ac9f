"""Schedules and intervals, against independent computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import t

from understudy.models.optim import learning_rate
from understudy.models.stats import accuracy_interval, paired_difference, student, wilson

Floats = NDArray[np.float64]


def test_rate_warms_up_then_falls_without_a_jump() -> None:
    rates = [learning_rate(step, 1000, 8e-4, 50) for step in range(1000)]
    assert rates[0] == 1e-6
    assert rates[25] == pytest.approx(1e-6 + (8e-4 - 1e-6) / 2)
    assert rates[50] == 8e-4 == max(rates)
    assert rates[525] == pytest.approx(4e-4)
    assert all(a > b for a, b in itertools.pairwise(rates[50:]))
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 2e-5
    assert rates[-1] < 1e-8


@given(trials=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_solves_its_equation(trials: int, share: float) -> None:
    p = round(share * trials) / trials
    z = 1.959964
    for end in wilson(round(share * trials), trials):
        if 1e-9 < end < 1 - 1e-9:  # Wilson's bounds are where the score statistic equals z
            assert abs(p - end) == pytest.approx(z * math.sqrt(end * (1 - end) / trials), rel=1e-6, abs=1e-9)


def test_wilson_at_a_known_point() -> None:
    low, high = wilson(8, 10)  # 0.4902-0.9433 in published tables
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)


def in_groups(rng: np.random.Generator, count: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Right answers of two models, right with chances 0.7 and 0.6, that stand and fall together within a recording."""
    groups = np.repeat(np.arange(count), rng.integers(10, 31, size=count))
    shift = rng.normal(0, 0.15, (2, count)).clip(-0.3, 0.3)[:, groups]
    a, b = (rng.random((2, len(groups))) < np.array([[0.7], [0.6]]) + shift).astype(float)
    return a, b, groups


@pytest.mark.parametrize("count", [4, 8, 30])
def test_intervals_of_few_groups_cover_the_truth_as_often_as_they_say(count: int) -> None:
    trials, rng = 1000, np.random.default_rng(0)
    difference, accuracy, percentiles, independent = 0, 0, 0, 0
    for trial in range(trials):
        a, b, groups = in_groups(rng, count)
        mean, low, high = paired_difference(a, b, groups, draws=300, seed=trial)
        assert low <= mean <= high
        difference += low <= 0.1 <= high
        narrow = t.ppf(0.975, count - 1) / 1.959964 * math.sqrt(count / (count - 1))  # what plain percentiles lack
        percentiles += mean + (low - mean) / narrow <= 0.1 <= mean + (high - mean) / narrow
        low, high = accuracy_interval(a, groups)
        accuracy += low <= 0.7 <= high
        low, high = wilson(a.sum(), len(a))
        independent += low <= 0.7 <= high
    # 95 % less three standard errors of a share of 1,000 trials, and what percentiles and independent videos come to.
    assert difference / trials > 0.925 and accuracy / trials > 0.925
    assert percentiles / trials < {4: 0.87, 8: 0.91, 30: 0.94}[count]
    assert independent / trials < 0.85


def test_without_groups_the_accuracys_interval_is_wilsons() -> None:
    correct = np.array([1.0] * 8 + [0.0] * 2)
    assert accuracy_interval(correct, np.arange(10) * 5) == wilson(8, 10)
    assert accuracy_interval(correct, np.zeros(10, np.int64)) == (0, 1)
    # All are right, so nothing tells how alike the videos of a recording are: each recording counts once.
    assert accuracy_interval(np.ones(40), np.arange(40) // 10) == wilson(4, 4)
    assert accuracy_interval(np.zeros(40), np.arange(40) // 10) == wilson(0, 4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8, 29, 100, 6190])
def test_students_quantile_is_scipys(freedom: int) -> None:
    assert student(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-9)
