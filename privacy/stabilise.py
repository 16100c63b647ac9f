"""How the camera moved: for each frame of a shot, the homography to a frame that others share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.align import Small, align, mismatch
from understudy.privacy.opencv import opencv

Frame = Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Matrix = NDArray[np.float64]
Points = NDArray[np.float32]

MOST_CORNERS = 500
FEWEST = 12  # tracked corners that a motion is believed from
ERROR_PX = 1.5  # RANSAC's limit
RELIABLE = 60  # with so many, their motion is taken as it is
MISMATCH = 4.0  # mean grey levels up to which pixels fit, where corners don't tell
STILL_PX = 0.2  # a frame that is off by less at all corners is not moved: resampling would only blur it
RENEW = 0.5  # a new reference when fewer of its corners are left
BACK_PX = 0.7  # a corner tracked there and back again has to come out this close to where it was
SEED = 0


@dataclass(frozen=True)
class Motion:
    """`to_reference` (T, 3, 3) maps pixels (x, y, 1) of a frame to those of the reference of its group; `group` (T,).

    Frames of different groups could not be matched, and know nothing of each other.
    """

    to_reference: Matrix
    group: NDArray[np.int64]

    def between(self, source: int, target: int) -> Matrix | None:
        """(3, 3) from pixels of frame `target` to those of frame `source`, exactly the identity where they are."""
        if self.group[source] != self.group[target]:
            return None
        if np.array_equal(self.to_reference[source], self.to_reference[target]):
            return np.eye(3)
        matrix = np.linalg.inv(self.to_reference[source]) @ self.to_reference[target]
        return matrix / matrix[2, 2]


def camera_motion(frames: Sequence[Frame] | Frames, people: Sequence[Mask] | Mask) -> Motion:
    """The motion of the background in one shot: T frames (H, W, 3), `people` T times (H, W) where not to look.

    Corners are tracked from frame to frame (Lucas-Kanade), and each frame is fitted to the reference frame that the
    corners were found in (RANSAC), so that errors don't add up. The simplest of still, shift, similarity and
    homography that explains the tracks is taken. Where corners are too few, the pixels themselves are aligned.
    """
    cv2 = opencv()

    cv2.setRNGSeed(SEED)
    count = len(frames)
    grey = [cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (0, 0), 0.8) for frame in frames]
    to_reference = np.tile(np.eye(3), (count, 1, 1))
    group = np.zeros(count, np.int64)
    small = [Small.of(picture, masked) for picture, masked in zip(grey, people)]
    reference, moved = 0, np.eye(3)
    start = now = _corners(grey[0], people[0])
    enough = RENEW * len(start)
    for number in range(1, count):
        now, tracked = _track(grey[number - 1], grey[number], now, people[number])
        start = start[tracked]
        fitted = _fit(now, start)
        if fitted is not None:
            start, now = start[fitted.inliers], now[fitted.inliers]
        moved = _best(fitted, moved, small[number], small[reference])
        group[number] = group[number - 1]
        if moved is None:
            # No way to tell where this frame lies, after a cut, a flash or a blur: it starts anew.
            group[number] += 1
        else:
            to_reference[number] = to_reference[reference] @ moved
        if moved is None or (fitted is not None and fitted.reliable and len(start) < enough):
            reference, moved = number, np.eye(3)
            start = now = _corners(grey[number], people[number])
            enough = RENEW * len(start)
    return Motion(to_reference, group)


@dataclass(frozen=True)
class Fit:
    """A motion (3, 3) that corners tell of, those that take part (n,), and whether they are enough to rely on."""

    matrix: Matrix
    inliers: NDArray[np.bool_]
    reliable: bool


def _best(fitted: Fit | None, before: Matrix, now: Small, reference: Small) -> Matrix | None:
    """The motion since the reference: what many corners say, else whatever makes the pixels fit; None if nothing does.

    `before` is the motion of the frame before.
    """
    if fitted is not None and fitted.reliable:
        return fitted.matrix
    guesses = [before] if fitted is None else [before, fitted.matrix]
    guess = min(guesses, key=lambda matrix: mismatch(now, reference, matrix))
    aligned = align(now, reference, guess)
    best = min((aligned, *guesses), key=lambda matrix: mismatch(now, reference, matrix))
    return best if mismatch(now, reference, best) < MISMATCH else None


def _corners(grey: NDArray[np.uint8], people: NDArray[np.bool_]) -> Points:
    cv2 = opencv()

    apart = max(3.0, max(grey.shape) / 64)
    found: Any = cv2.goodFeaturesToTrack(grey, MOST_CORNERS, 0.005, apart, mask=(~people).astype(np.uint8))
    return np.zeros((0, 2), np.float32) if found is None else found[:, 0]


def _track(before: NDArray[np.uint8], after: NDArray[np.uint8], points: Points, people: NDArray[np.bool_]):
    """Where `points` (n, 2) are in the next frame, and which of them (n,) are still to be seen there."""
    cv2 = opencv()

    if len(points) == 0:
        return points, np.zeros(0, np.bool_)
    settings: Any = {"winSize": (15, 15), "maxLevel": 3}
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, **settings)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, None, **settings)
    height, width = after.shape
    inside = ((moved >= 0) & (moved <= [width - 1, height - 1])).all(-1)
    x, y = np.clip(moved.round().astype(np.int64), 0, [width - 1, height - 1]).T
    good = (found[:, 0] & found_back[:, 0]).astype(np.bool_) & inside & ~people[y, x]
    good &= np.abs(back - points).max(-1) < BACK_PX
    return moved[good], good


def _fit(now: Points, start: Points) -> Fit | None:
    """The motion that takes `now` to `start`."""
    cv2 = opencv()

    if len(now) < FEWEST:
        return None
    found, kept = cv2.findHomography(now, start, cv2.RANSAC, ERROR_PX, maxIters=500)
    if found is None or kept.sum() < max(FEWEST, len(now) / 3):
        return None
    inliers = kept[:, 0].astype(np.bool_)
    reliable = bool(inliers.sum() >= RELIABLE and inliers.mean() >= 0.5)
    now, start = now[inliers], start[inliers]
    limit = 1.1 * _error(found, now, start) + 0.05
    still, shift = np.eye(3), np.eye(3)
    shift[:2, 2] = (start - now).mean(0)
    if np.abs(shift[:2, 2]).max() < STILL_PX and _error(still, now, start) < limit:
        return Fit(still, inliers, reliable)
    if _error(shift, now, start) < limit:
        return Fit(shift, inliers, reliable)
    similarity, _ = cv2.estimateAffinePartial2D(now, start, method=cv2.LMEDS)
    if similarity is not None and _error(similar := np.vstack([similarity, [0, 0, 1]]), now, start) < limit:
        return Fit(similar, inliers, reliable)
    return Fit(found, inliers, reliable)


def _error(matrix: Matrix, now: Points, start: Points) -> float:
    """Root mean square distance, pixels."""
    cv2 = opencv()

    moved = cv2.perspectiveTransform(now[None].astype(np.float64), matrix)[0]
    return float(np.sqrt(((moved - start) ** 2).sum(-1).mean()))
