"""Which frames and which boxes of a stored video become clips: pure functions of sizes, settings and a random key.

Nothing here reads or decodes. Boxes are (x, y, w, h) in stored pixels, windows are indices of stored frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from understudy.loader.philox import uniform
from understudy.shards.errors import UserError
from understudy.shards.holes import CELL

TRIES = 10  # boxes drawn before the fallback, as in torchvision's RandomResizedCrop


@dataclass(frozen=True)
class Clip:
    """The shape of a clip: `frames` stored frames, `stride` apart, resized to `size` x `size` pixels."""

    frames: int = 16
    stride: int = 1
    size: int = 224

    def __post_init__(self) -> None:
        if min(self.frames, self.stride, self.size) < 1:
            raise UserError(f"a clip's frames, stride and size must be at least 1, not {self}")


@dataclass(frozen=True)
class Views:
    """Random views for training: `count` crops of one window, each a box of `scale` of the area and `ratio` (width to
    height) before it is resized to a square, mirrored half of the time if `flip`.
    """

    count: int = 1
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        # Loaded from JSON or a command line these may be lists; two equal settings must compare equal.
        object.__setattr__(self, "scale", tuple(self.scale))
        object.__setattr__(self, "ratio", tuple(self.ratio))
        if self.count < 1:
            raise UserError(f"views: count must be at least 1, not {self.count}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"views: scale must be two numbers in order, above 0 and at most 1, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"views: ratio must be two positive numbers in order, not {self.ratio}")


@dataclass(frozen=True)
class EvalViews:
    """Fixed views for evaluation: `clips` windows from the first frame to the last (1: the middle one), and of each
    `crops` squares of the short side from one end of the long side to the other (1: the middle one).

    With `starts` "released" window i starts at i/clips of the room, not at i/(clips - 1), and the last seconds are
    never seen: so do PyTorchVideo up to 0.1.5, the latest on PyPI, and what was evaluated with it.
    """

    clips: int = 1
    """Windows per video."""
    crops: int = 1
    """Squares per window."""
    starts: Literal["even", "released"] = "even"
    """even: from the first frame to the last; released: as PyTorchVideo 0.1.5, which never sees the last seconds."""

    def __post_init__(self) -> None:
        if min(self.clips, self.crops) < 1:
            raise UserError(f"evaluation needs at least 1 clip and 1 crop, not {self}")
        if self.starts not in ("even", "released"):
            raise UserError(f"evaluation clips start even or as released, not {self.starts}")


@dataclass(frozen=True)
class Draw:
    """What becomes of one stored video: windows int32 (C, T), and of each crops int32 (K, 4) and flips bool (K,)."""

    windows: NDArray[np.int32]
    crops: NDArray[np.int32]
    flips: NDArray[np.bool_]


def draw_training(
    clip: Clip, views: Views, frames: int, width: int, height: int, key: int, sample: int, visit: int
) -> Draw:
    """One random window and `views.count` random crops of it, for a video of `frames` frames of `width` x `height`.

    A pure function of `key` (the corpus and the seed), `sample` and `visit`, so that any batch can be made again alone.
    """
    per_view = 2 * TRIES + 3
    numbers = uniform(key, (sample, visit, 0), 1 + views.count * per_view)
    start = int(numbers[0] * max(1, frames - span(clip) + 1))
    own = numbers[1:].reshape(views.count, per_view)
    return Draw(
        windows=window(clip, frames, start)[None],
        crops=random_boxes(views, width, height, own[:, :-1]),
        flips=(own[:, -1] < 0.5) & views.flip,
    )


def draw_evaluation(clip: Clip, views: EvalViews, frames: int, width: int, height: int) -> Draw:
    """The fixed windows and squares of a video of `frames` frames of `width` x `height`."""
    side = min(width, height)
    room = max(0, frames - span(clip))
    released = views.starts == "released"
    starts = [i * room // views.clips for i in range(views.clips)] if released else spread(room, views.clips)
    return Draw(
        windows=np.stack([window(clip, frames, start) for start in starts]),
        crops=np.array(
            [(x, y, side, side) for x, y in zip(spread(width - side, views.crops), spread(height - side, views.crops))],
            np.int32,
        ),
        flips=np.zeros(views.crops, np.bool_),
    )


def hole_shares(
    cells: NDArray[np.bool_], crops: NDArray[np.int32], flips: NDArray[np.bool_], places: int
) -> NDArray[np.uint8]:
    """How much of each of `places` x `places` parts of every crop was filled in: (K, T, places, places), 255 for all.

    `cells` (T, rows, columns) of CELL x CELL stored pixels, `crops` (K, 4) boxes (x, y, w, h), `flips` (K,).
    """
    frames, rows, columns = cells.shape
    # The integral over the picture is bilinear within a cell, so that this is exact.
    integral = np.zeros((frames, rows + 1, columns + 1), np.float32)
    integral[:, 1:, 1:] = cells.cumsum(1).cumsum(2)
    shares = np.empty((len(crops), frames, places, places), np.uint8)
    steps = np.arange(places + 1) / places
    for k, (x, y, w, h) in enumerate(crops.tolist()):
        part = _between(_between(integral, (y + h * steps) / CELL, 1), (x + w * steps) / CELL, 2)
        area = np.diff(np.diff(part, axis=1), axis=2) * (255 * (CELL * places) ** 2 / (w * h))
        shares[k] = np.rint(area[:, :, ::-1] if flips[k] else area).clip(0, 255)
    return shares


def _between(values: NDArray[np.float32], at: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """`values` at places between its entries along `axis`, linearly."""
    below = np.minimum(at.astype(np.int64), values.shape[axis] - 2)
    weight = (at - below).astype(np.float32).reshape((-1, 1) if axis == 1 else (-1,))
    low, high = values.take(below, axis), values.take(below + 1, axis)
    return (low + weight * (high - low)).astype(np.float32)


def span(clip: Clip) -> int:
    """Stored frames from the first of a window to the last, both counted."""
    return (clip.frames - 1) * clip.stride + 1


def window(clip: Clip, frames: int, start: int) -> NDArray[np.int32]:
    """Indices int32 (T,) of the window at `start`.

    A video too short for it is stretched: T indices spread over all of its frames, repeating some.
    """
    if frames < span(clip):
        return (np.arange(clip.frames) * (frames - 1) // max(1, clip.frames - 1)).astype(np.int32)
    return np.arange(start, start + span(clip), clip.stride, dtype=np.int32)


def spread(room: int, n: int) -> list[int]:
    """`n` whole offsets from 0 to `room`, evenly apart; the middle one if `n` is 1."""
    return [room // 2] if n == 1 else [round(i * room / (n - 1)) for i in range(n)]


def random_boxes(views: Views, width: int, height: int, numbers: NDArray[np.float64]) -> NDArray[np.int32]:
    """Boxes (x, y, w, h), int32 (K, 4), by torchvision's RandomResizedCrop rule, from uniform `numbers`
    (K, 2 * TRIES + 2).

    Area uniform in `views.scale`, ratio log-uniform in `views.ratio`; of TRIES draws the first that fits is taken, and
    if none does, the largest middle box within the ratio.
    """
    low, high = math.log(views.ratio[0]), math.log(views.ratio[1])
    areas = width * height * (views.scale[0] + (views.scale[1] - views.scale[0]) * numbers[:, 0 : 2 * TRIES : 2])
    ratios = np.exp(low + (high - low) * numbers[:, 1 : 2 * TRIES : 2])
    ws, hs = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = (ws > 0) & (ws <= width) & (hs > 0) & (hs <= height)
    boxes: list[tuple[int, int, int, int]] = []
    for i, first in enumerate(fits.argmax(axis=1).tolist()):
        if fits[i, first]:
            w, h = int(ws[i, first]), int(hs[i, first])
            x, y = int(numbers[i, -2] * (width - w + 1)), int(numbers[i, -1] * (height - h + 1))
        else:
            ratio = min(max(width / height, views.ratio[0]), views.ratio[1])
            w = min(width, max(1, round(height * ratio)))
            h = min(height, max(1, round(width / ratio)))
            x, y = (width - w) // 2, (height - h) // 2
        boxes.append((x, y, w, h))
    return np.array(boxes, np.int32)
