"""The bounds hold as often as they say: against published values, and in simulations of audits with known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.privacy.bounds import (
    binomial_cdf,
    mean_lower,
    mean_upper,
    residual_clips,
    residual_frames,
    share_interval,
    share_lower,
    share_upper,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Two-sided 95 % Clopper-Pearson intervals, as tables of the binomial give them to four places.
    [
        (0, 10, 0.0, 0.3085),
        (1, 10, 0.0025, 0.4450),
        (5, 10, 0.1871, 0.8129),
        (10, 10, 0.6915, 1.0),
        (2, 50, 0.0049, 0.1371),
    ],
)
def test_clopper_pearson_as_in_the_tables(successes: int, trials: int, low: float, high: float):
    assert share_interval(successes, trials) == pytest.approx((low, high), abs=6e-5)


def test_the_rule_of_three():
    assert share_upper(0, 3000, 0.05) == pytest.approx(1 - 0.05 ** (1 / 3000), rel=1e-9)
    assert share_upper(0, 0, 0.05) == 1.0 and share_lower(0, 0, 0.05) == 0.0
    assert share_upper(0, 10**6, 0.05) == pytest.approx(3e-6, rel=0.01)


@given(st.integers(1, 400), st.data())
def test_the_upper_bound_is_where_the_tail_is_alpha(trials: int, data: st.DataObject):
    successes = data.draw(st.integers(0, trials - 1))
    assert binomial_cdf(successes, trials, share_upper(successes, trials, 0.05)) == pytest.approx(0.05, abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_a_mean_lies_between_its_bounds(values: list[float]):
    mean = float(np.mean(values))
    assert mean_lower(values, 0.05) <= mean + 1e-9 and mean - 1e-9 <= mean_upper(values, 0.05) <= 1


def test_the_bound_of_a_mean_costs_little_where_nothing_is_found():
    for clips in (10, 100, 3000):
        assert share_upper(0, clips, 0.05) <= mean_upper(np.zeros(clips), 0.05) <= share_upper(0, clips, 0.05) * 1.08


def clustered(rng: np.random.Generator, clips: int, share: float) -> np.ndarray:
    """Shares of frames with a hit: most clips none, a few many, so that frames are anything but independent."""
    return np.where(rng.random(clips) < share, rng.beta(2, 1, clips), 0.0)


@pytest.mark.parametrize("clips", [20, 200])
@pytest.mark.parametrize("share", [0.005, 0.05, 0.3])
def test_the_bound_of_a_mean_covers_clustered_frames(clips: int, share: float):
    rng = np.random.default_rng(0)
    truth = share * 2 / 3
    missed = [mean_upper(clustered(rng, clips, share), 0.1) < truth for _ in range(400)]
    assert np.mean(missed) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 400)


def test_counting_frames_as_independent_would_not_cover():
    """What the docs say of the naive bound: it is far too small where the frames of a clip go together."""
    rng = np.random.default_rng(1)
    clips, frames, share = 100, 50, 0.01
    missed = []
    for _ in range(300):
        found = int(np.sum(rng.random(clips) < share)) * frames
        missed.append(share_upper(found, clips * frames, 0.05) < share)
    assert np.mean(missed) > 0.2


@pytest.mark.parametrize(
    ("left", "seen", "clips", "canaries"), [(0.02, 0.7, 300, 40), (0.2, 0.5, 60, 20), (0.001, 0.9, 500, 60)]
)
def test_the_residual_bound_covers_what_the_detector_missed(left: float, seen: float, clips: int, canaries: int):
    rng = np.random.default_rng(2)
    exceeded = {"with canaries": [], "without": []}
    for _ in range(400):
        found = int(rng.binomial(clips, left * seen))
        groups = {"whole": (int(rng.binomial(canaries, seen)), canaries), "easy": (canaries, canaries)}
        residual = residual_clips(found, clips, groups, 0.1)
        assert residual.bound is not None
        exceeded["with canaries"].append(residual.bound < left)
        exceeded["without"].append(residual.found_upper < left)
    assert np.mean(exceeded["with canaries"]) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 400)
    if left * clips > 5:  # else even the uncorrected bound is wide enough
        assert np.mean(exceeded["without"]) > np.mean(exceeded["with canaries"])


def test_the_residual_bound_of_frames_covers_too():
    rng = np.random.default_rng(3)
    left, exceeded = 0.05, []
    for _ in range(200):
        clear = rng.beta(3, 2, 1000)  # how well the person of each clip is seen: frames of a clip share it
        has = rng.random(300) < left
        shares = np.where(has, rng.binomial(16, clear[:300]) / 16, 0.0)
        canaries = rng.binomial(16, clear[300:340]) / 16
        bound = residual_frames(shares, {"whole": canaries}, 0.1).bound
        exceeded.append(bound is not None and bound < left)
    assert np.mean(exceeded) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 200)


def test_no_canaries_no_bound_and_blind_ones_bound_nothing():
    assert residual_clips(0, 1000, {}, 0.05).bound is None
    assert residual_clips(0, 1000, {"small": (0, 30)}, 0.05).bound == 1.0
    # The worst group counts, not the mean over all.
    easy, hard = {"whole": (30, 30)}, {"whole": (30, 30), "small": (3, 30)}
    assert residual_clips(0, 1000, hard, 0.05).bound > 5 * residual_clips(0, 1000, easy, 0.05).bound  # type: ignore[operator]
