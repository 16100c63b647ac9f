"""The bounds hold as often as they say: against published values, and in simulations of audits with known truth."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.privacy.audit import _chosen
from understudy.privacy.bounds import (
    Clips,
    Residual,
    binomial_cdf,
    mean_upper,
    residual,
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
    alone = Clips(values, range(len(values)))
    assert alone.lower(0.05) <= mean + 1e-9 and mean - 1e-9 <= mean_upper(values, 0.05) <= 1


def test_the_bound_of_a_mean_costs_little_where_nothing_is_found():
    for clips in (10, 100, 3000):
        assert share_upper(0, clips, 0.05) <= mean_upper(np.zeros(clips), 0.05) <= share_upper(0, clips, 0.05) * 1.08


def apart(values: np.ndarray | list[float]) -> Clips:
    """Each clip a recording of its own."""
    return Clips([float(value) for value in values], range(len(values)))


def holds(found: Residual, truth: float) -> bool:
    return found.bound is not None and found.bound >= truth


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
        groups = {"whole": apart(rng.random(canaries) < seen), "easy": apart(np.ones(canaries))}
        found = residual(apart(rng.random(clips) < left * seen), groups, 0.1)
        exceeded["with canaries"].append(not holds(found, left))
        exceeded["without"].append(found.found_upper < left)
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
        exceeded.append(not holds(residual(apart(shares), {"whole": apart(canaries)}, 0.1), left))
    assert np.mean(exceeded) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 200)


def test_a_clip_that_shows_somebody_for_a_frame_is_no_canary_that_does_so_in_all():
    """One visible frame of 60, seen half of the time; canaries, seen in half of their 60, are all but sure to be found.
    Dividing by how many canaries are found fails every time.
    """
    rng = np.random.default_rng(4)
    failed = {"ours": [], "by canaries found": []}
    for _ in range(40):
        has = rng.random(4000) < 0.1
        hit = has & (rng.random(4000) < 0.5)
        canaries = rng.random((60, 60)) < 0.5
        failed["ours"].append(not holds(residual(apart(hit), {"c": apart(canaries.mean(1))}, 0.05), has.mean()))
        wrong = {"c": apart(canaries.any(1))}
        failed["by canaries found"].append(not holds(residual(apart(hit), wrong, 0.05), has.mean()))
    assert np.mean(failed["ours"]) == 0 and np.mean(failed["by canaries found"]) == 1


@pytest.mark.parametrize(("left", "per_canary"), [(3, (10, 10)), (5, (10, 10)), (3, (200, 1)), (60, (10, 10))])
def test_clips_of_one_recording_count_as_one(left: int, per_canary: tuple[int, int]):
    """20 clips of each of 200 recordings, in all of which the person is seen or in none."""
    rng = np.random.default_rng(5)
    canary_recordings, clips_each = per_canary
    recordings, of_canaries = np.repeat(np.arange(200), 20), np.repeat(np.arange(canary_recordings), clips_each)
    failed = {"as one": [], "as independent": []}
    for _ in range(150):
        shares = ((rng.random(200) < 0.5) & (np.arange(200) < left)).astype(float)[recordings].tolist()
        seen = (rng.random(canary_recordings) < 0.5).astype(float)[of_canaries].tolist()
        together = residual(Clips(shares, recordings.tolist()), {"c": Clips(seen, of_canaries.tolist())}, 0.05)
        failed["as one"].append(not holds(together, left / 200))
        failed["as independent"].append(not holds(residual(apart(shares), {"c": apart(seen)}, 0.05), left / 200))
    assert np.mean(failed["as one"]) <= 0.05
    assert np.mean(failed["as independent"]) > 0.05


def test_recordings_of_unequal_length_count_by_their_clips():
    clips = Clips([1.0] * 30 + [0.0] * 10, ["long"] * 30 + list(range(10)))
    assert clips.lower(0.05) <= 30 / 40 <= clips.upper(0.05)
    rng, failed = np.random.default_rng(6), []
    for _ in range(150):
        recordings = np.repeat(np.arange(100), rng.integers(1, 40, 100))
        shows = (rng.random(100) < 0.1)[recordings]
        failed.append(Clips(shows.astype(float).tolist(), recordings.tolist()).upper(0.1) < 0.1)
    assert np.mean(failed) <= 0.1


def test_no_canaries_no_bound_and_blind_ones_bound_nothing():
    nothing, whole, seldom = apart(np.zeros(1000)), apart(np.ones(30)), apart(np.arange(30) < 3)
    assert residual(nothing, {}, 0.05).bound is None
    assert residual(nothing, {"small": apart(np.zeros(30))}, 0.05).bound == 1.0
    # The worst group counts, not the mean over all.
    easy, hard = (residual(nothing, groups, 0.05).bound for groups in ({"w": whole}, {"w": whole, "s": seldom}))
    assert easy is not None and hard is not None and hard > 5 * easy


@pytest.mark.parametrize(("frames", "every"), [(17, 16), (16, 15), (20, 15), (16, 10), (18, 6)])
def test_the_bound_holds_where_frames_are_left_out_of_short_clips(frames: int, every: int):
    """Somebody in the first and the last frame of half of the clips, which a fixed step from a random start on meets
    too seldom: the mean over what it meets is too small on average.
    """
    nothing, shows = np.zeros((4, 4, 3), np.uint8), {0, frames - 1}
    canaries, truth = {"c": apart(np.ones(2000))}, 0.5 * 2 / frames
    failed, met = [], {"ours": [], "fixed step": []}
    for trial in range(60):
        shares = {"ours": np.zeros(1000), "fixed step": np.zeros(1000)}
        for clip in range(500):
            draw = random.Random(f"{trial} {clip}")
            drawn = list(_chosen(iter([nothing] * frames), every, draw))
            assert sum(count for _, _, count in drawn) == frames and len(drawn) == -(-frames // every)
            shares["ours"][clip] = sum(count for number, _, count in drawn if number in shows) / frames
            step = range(draw.randrange(every), frames, every)
            # Of a clip that ends before the first, any one.
            step = list(step) or [draw.randrange(frames)]
            shares["fixed step"][clip] = np.mean([number in shows for number in step])
        failed.append(not holds(residual(apart(shares["ours"]), canaries, 0.05), truth))
        for way, values in shares.items():
            met[way].append(values.mean())
    assert np.mean(failed) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    assert np.mean(met["ours"]) == pytest.approx(truth, rel=0.05)
    assert (np.mean(met["fixed step"]) < 0.9 * truth) == (frames % every > 0)


@given(st.integers(0, 40), st.integers(1, 45), st.integers(0, 9))
def test_frames_are_drawn_one_of_each_stretch(frames: int, every: int, seed: int):
    drawn = [(n, c) for n, _, c in _chosen(iter([np.zeros(1)] * frames), every, random.Random(seed))]
    for index, (number, count) in enumerate(drawn):
        assert index * every <= number < index * every + count <= frames
    assert sum(count for _, count in drawn) == frames
