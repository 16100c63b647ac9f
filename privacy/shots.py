"""Where one shot ends and the next begins. What is filled in a shot may come from that shot only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.opencv import opencv

Frame = NDArray[np.uint8]
Frames = NDArray[np.uint8]

# A cut changes the colours of most of the picture at once; a pan or a passing bus changes them for several frames.
CUT = 0.2  # least mean change of the cells' colours, 0..1, of a cut
STANDS_OUT = 3.0  # times the median of the changes before it
BEFORE = 8  # changes that the median is over
UNKNOWN = 0.12  # stands for it at the start of a shot, where there are none
CELLS, LEVELS = 4, 6
# Pixels that are held at a time; a longer shot is treated as several. 320 x 240 for a minute at 30 frames a second.
MOST_PIXELS = 140_000_000


def split_shots(frames: Iterable[Frame], most_pixels: int = MOST_PIXELS) -> Iterator[Frames]:
    """Yield the shots of a video, each RGB uint8 (T, H, W, 3), in order and without a gap.

    A cut that is missed costs little: frames that don't match are never used for each other, see `stabilise.py`.
    """
    shot: list[Frame] = []
    changes: deque[float] = deque(maxlen=BEFORE)
    latest: NDArray[np.float32] | None = None
    for frame in frames:
        colours = _colours(frame)
        change = 0.0 if latest is None else float(np.abs(colours - latest).sum(-1).mean() / 2)
        usual = float(np.median(changes)) if changes else UNKNOWN
        latest = colours
        if shot and (change > max(CUT, STANDS_OUT * usual) or (len(shot) + 1) * frame[..., 0].size > most_pixels):
            yield np.stack(shot)
            shot = []
            changes.clear()
        elif shot:
            changes.append(change)
        shot.append(frame)
    if shot:
        yield np.stack(shot)


def _colours(frame: Frame) -> NDArray[np.float32]:
    """(cells, bins): the share of each colour in each cell of a grid, with neighbouring bins blurred together."""
    cv2 = opencv()

    small = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA)
    cell = np.arange(64) * CELLS // 64
    where = (cell[:, None] * CELLS + cell)[..., None] * 3 + np.arange(3)
    # Each value counts for the two bins that it lies between, so that noise and fades move little.
    position = small.astype(np.float32) * ((LEVELS - 1) / 255)
    lower = np.minimum(position.astype(np.int64), LEVELS - 2)
    share = position - lower
    counts = np.zeros(CELLS * CELLS * 3 * LEVELS, np.float32)
    for index, weight in ((lower, 1 - share), (lower + 1, share)):
        counts += np.bincount((where * LEVELS + index).ravel(), weight.ravel(), len(counts)).astype(np.float32)
    return counts.reshape(CELLS * CELLS, 3 * LEVELS) / np.float32(3 * (64 // CELLS) ** 2)
