from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from understudy.loader import Clip, EvalViews, Views
from understudy.loader.views import draw_evaluation, draw_training, span
from understudy.shards.errors import UserError

sizes = st.tuples(st.integers(1, 400), st.integers(1, 400))


@given(st.integers(1, 100), st.integers(1, 20), st.integers(1, 4), sizes, st.integers(1, 4), st.integers(0, 1 << 40))
def test_windows_and_boxes_lie_inside_the_video(
    frames: int, length: int, stride: int, size: tuple[int, int], count: int, sample: int
) -> None:
    clip = Clip(length, stride, 32)
    views = Views(count, scale=(0.05, 1.0), ratio=(0.3, 3.0))
    draw = draw_training(clip, views, frames, *size, 5, sample, 2)
    assert draw.windows.shape == (1, length)
    assert draw.crops.shape == (count, 4)
    assert draw.flips.shape == (count,)
    window = draw.windows[0]
    assert window.min() >= 0
    assert window.max() < frames
    if frames >= span(clip):
        assert set(np.diff(window).tolist()) <= {stride}
    else:
        assert window[0] == 0
        assert length == 1 or window[-1] == frames - 1
        assert set(np.diff(window).tolist()) <= set(range(stride + 1))
    x, y, w, h = draw.crops.T
    assert (w > 0).all()
    assert (h > 0).all()
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (x + w <= size[0]).all()
    assert (y + h <= size[1]).all()


def test_a_draw_depends_on_sample_visit_and_key_alone_and_views_do_not_shift_each_other() -> None:
    def draw(count: int, key: int = 1, sample: int = 2, visit: int = 3) -> tuple[object, ...]:
        made = draw_training(Clip(4), Views(count), 50, 320, 256, key, sample, visit)
        return made.windows.tolist(), made.crops.tolist(), made.flips.tolist()

    assert draw(4) == draw(4)
    assert len({str(draw(4)), str(draw(4, key=2)), str(draw(4, sample=3)), str(draw(4, visit=4))}) == 4
    two, four = draw(2), draw(4)
    assert two[0] == four[0]
    assert two[1] == four[1][:2]  # type: ignore[index]
    assert len({str(crop) for crop in four[1]}) == 4  # type: ignore[attr-defined]


def test_every_start_is_drawn_and_flips_are_even() -> None:
    draws = [draw_training(Clip(4, 2), Views(1), 12, 320, 256, 1, i, 0) for i in range(2000)]
    starts = np.bincount([int(draw.windows[0, 0]) for draw in draws])
    assert len(starts) == 12 - 7 + 1
    assert starts.min() > 2000 / 6 * 0.8
    assert np.mean([draw.flips[0] for draw in draws]) == pytest.approx(0.5, abs=0.05)
    assert not any(draw_training(Clip(), Views(flip=False), 12, 320, 256, 1, i, 0).flips.any() for i in range(50))


def test_boxes_are_distributed_as_torchvision_draws_them() -> None:
    n, width, height, scale, ratio = 4000, 340, 256, (0.2, 1.0), (0.5, 2.0)
    ours = np.concatenate(
        [draw_training(Clip(1), Views(1, scale, ratio), 1, width, height, 9, i, 0).crops for i in range(n)]
    )
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)])
    theirs = theirs[:, [1, 0, 3, 2]]  # i, j, h, w -> x, y, w, h
    for column in range(4):
        for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
            a, b = np.quantile(ours[:, column], quantile), np.quantile(theirs[:, column], quantile)
            assert abs(a - b) < 10, (column, quantile, a, b)


def test_fallback_box_is_the_largest_middle_one_of_the_nearest_ratio() -> None:
    # A ratio that never fits at full scale: wide 400 x 100, tall 100 x 400, and one inside the range.
    wide = draw_training(Clip(1), Views(1, (1.0, 1.0), (1.0, 1.5)), 1, 400, 100, 0, 0, 0).crops[0]
    tall = draw_training(Clip(1), Views(1, (1.0, 1.0), (0.5, 1.0)), 1, 100, 400, 0, 0, 0).crops[0]
    assert wide.tolist() == [125, 0, 150, 100]
    assert tall.tolist() == [0, 100, 100, 200]


def test_evaluation_views_are_fixed_and_reach_both_ends() -> None:
    wide = draw_evaluation(Clip(4, 2), EvalViews(2, 3), 20, 100, 60)
    assert wide.windows.tolist() == [[0, 2, 4, 6], [13, 15, 17, 19]]
    assert wide.crops.tolist() == [[0, 0, 60, 60], [20, 0, 60, 60], [40, 0, 60, 60]]
    tall = draw_evaluation(Clip(4, 2), EvalViews(1, 3), 20, 60, 100)
    assert tall.windows.tolist() == [[6, 8, 10, 12]]
    assert tall.crops.tolist() == [[0, 0, 60, 60], [0, 20, 60, 60], [0, 40, 60, 60]]
    assert draw_evaluation(Clip(4), EvalViews(), 20, 101, 60).crops.tolist() == [[20, 0, 60, 60]]
    assert draw_evaluation(Clip(4), EvalViews(3, 1), 2, 60, 60).windows.tolist() == [[0, 0, 0, 1]] * 3
    assert not wide.flips.any()


def test_released_starts_are_those_of_pytorchvideo_0_1_5() -> None:
    def starts(clips: int, kind: Literal["even", "released"]) -> list[int]:
        return draw_evaluation(Clip(16), EvalViews(clips, 1, kind), 60, 64, 64).windows[:, 0].tolist()

    # ConstantClipsPerVideoSampler: (duration - clip) / clips * i; later versions divide by clips - 1.
    assert starts(2, "released") == [0, 22]
    assert starts(2, "even") == [0, 44]
    assert starts(4, "released") == [0, 11, 22, 33]
    assert starts(1, "released") == [0]
    with pytest.raises(UserError, match="even or as released"):
        EvalViews(starts="late")  # type: ignore[arg-type]


def test_settings_that_make_no_sense_are_refused() -> None:
    for make in (
        lambda: Clip(frames=0),
        lambda: Clip(stride=0),
        lambda: Clip(size=-1),
        lambda: Views(0),
        lambda: Views(scale=(0.8, 0.5)),
        lambda: Views(scale=(0.0, 1.0)),
        lambda: Views(scale=(0.5, 1.5)),
        lambda: Views(ratio=(2.0, 1.0)),
        lambda: EvalViews(0, 1),
    ):
        with pytest.raises(UserError):
            make()
