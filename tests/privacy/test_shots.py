"""Shot boundaries: at cuts and nowhere else, and no shot longer than what fits into memory."""

from __future__ import annotations

import numpy as np
import pytest

from understudy.privacy.shots import split_shots
from understudy.shards.demo import demo_sources, read_demo


def test_cuts_are_found_and_nothing_is_lost() -> None:
    clips = [list(read_demo(source, seed=0)) for source in demo_sources("demo-actions-train", 5)]
    shots = list(split_shots(frame for clip in clips for frame in clip))
    assert [len(shot.frames) for shot in shots] == [len(clip) for clip in clips]
    assert not any(shot.goes_on for shot in shots)
    assert (np.concatenate([shot.frames for shot in shots]) == np.concatenate(clips)).all()


def test_fast_motion_is_no_cut() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (6, 40, 3), np.uint8)
    wide = np.repeat(np.repeat(wide, 16, 0), 16, 1)
    pan = [wide[:, 20 * step : 20 * step + 128] for step in range(20)]
    assert len(list(split_shots(pan))) == 1


def test_long_shots_are_cut_to_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.privacy.shots.MOST_PIXELS", 1000)
    dark, light = np.zeros((10, 10, 3), np.uint8), np.full((10, 10, 3), 255, np.uint8)
    pieces = [(len(piece.frames), piece.goes_on) for piece in split_shots([dark] * 25 + [light] * 10 + [dark] * 5)]
    assert pieces == [(10, True), (10, True), (5, False), (10, False), (5, False)]
    assert list(split_shots([])) == []
