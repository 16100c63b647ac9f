"""Where one shot ends and the next begins. What is filled in a shot may come from that shot only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
# Pixels of a piece; a longer shot is cut into several. 320 x 240 for half a minute at 30 frames a second.
MOST_PIXELS = 64_000_000


@dataclass(frozen=True)
class Piece:
    """Frames RGB uint8 (T, H, W, 3) of one shot. `goes_on` says that the shot is too long to be held at once, and that
    its next piece follows.
    """

    frames: Frames
    goes_on: bool


def split_shots(frames: Iterable[Frame]) -> Iterator[Piece]:
    """Yield the shots of a video, in order and without a gap, in pieces of MOST_PIXELS at most.

    A cut that is missed costs little: frames that don't match are never used for each other, see `stabilise.py`.
    """
    shot: list[Frame] = []
    changes: deque[float] = deque(maxlen=BEFORE)
    latest: NDArray[np.float32] | None = None
    for frame in frames:
        colours = _colours(frame)
        change = 0.0 if latest is None else float(np.abs(colours - latest).sum(-1).mean() / 2)
        usual = float(np.median(changes)) if changes else UNKNOWN
        cut = change > max(CUT, STANDS_OUT * usual)
        if cut:
            changes.clear()
        elif latest is not None:
            changes.append(change)
        latest = colours
        if shot and (cut or (len(shot) + 1) * frame[..., 0].size > MOST_PIXELS):
            piece, shot = Piece(np.stack(shot), goes_on=not cut), []
            yield piece
            del piece  # it is large
        shot.append(frame)
    if shot:
        yield Piece(np.stack(shot), goes_on=False)


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
