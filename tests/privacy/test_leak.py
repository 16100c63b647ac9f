"""The probe finds what leaks and nothing where nothing does."""

from __future__ import annotations

import numpy as np
import pytest

from understudy.privacy.leak import artefact_features, outline_features, probe


def clip(rng: np.random.Generator, label: int, *, smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """A noisy scene in which a square moves right (label 0) or down (1); filled in there, if `smooth`."""
    frames = rng.integers(60, 190, (12, 48, 64, 3)).astype(np.uint8)
    masks = np.zeros(frames.shape[:3], bool)
    start = int(rng.integers(4, 12))
    for time, mask in enumerate(masks):
        y, x = (start + 2 * time, 24) if label else (16, start + 2 * time)
        mask[y : y + 14, x : x + 14] = True
    if smooth:
        frames[masks] = 125
    return frames, masks


def told(kind: str, smooth: bool, clips: int = 80):
    rng = np.random.default_rng(0)
    labels = [index % 2 for index in range(clips)]
    made = [clip(rng, label, smooth=smooth) for label in labels]
    features = np.stack([artefact_features(f) if kind == "artefacts" else outline_features(m) for f, m in made])
    return probe(features, labels, range(clips))


@pytest.mark.parametrize("kind", ["artefacts", "outlines"])
def test_an_action_that_shows_in_the_filling_is_told(kind: str):
    leak = told(kind, smooth=True)
    assert leak and leak.accuracy > 0.9 and leak.low > leak.chance == 0.5 and leak.over_chance > 0.4


def test_nothing_is_told_where_nothing_was_filled():
    leak = told("artefacts", smooth=False)
    assert leak and leak.low <= leak.chance <= leak.high


def test_groups_are_not_torn_apart():
    """Random labels, but each group is a point of its own: told perfectly if its clips lie on both sides."""
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(60, 40)), rng.integers(0, 2, 60)
    features = np.repeat(points, 4, 0).astype(np.float32) + rng.normal(size=(240, 40)).astype(np.float32) * 0.01
    every = np.repeat(labels, 4).tolist()
    torn, whole = probe(features, every, range(240)), probe(features, every, np.repeat(np.arange(60), 4).tolist())
    assert torn and whole
    assert torn.accuracy > 0.8 and whole.accuracy < 0.65


def test_too_few_clips_say_nothing():
    assert probe(np.zeros((8, 3), np.float32), [0, 1] * 4, range(8)) is None
    assert probe(np.zeros((20, 3), np.float32), [0] * 20, range(20)) is None


def test_short_and_tiny_clips_have_features_of_the_same_length():
    sizes = {len(artefact_features(np.zeros((frames, 20, 30, 3), np.uint8))) for frames in (1, 3, 4, 17)}
    assert len(sizes) == 1
