"""What is behind the people, as other frames of the shot show it. What was never seen is for `fill.py` to make up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.masks import Masks
from understudy.privacy.opencv import opencv
from understudy.privacy.stabilise import Motion

Frames = NDArray[np.uint8]

SAMPLES = 5  # frames that a pixel's median is over, the nearest in time that show it
LEAST = 2  # of them; what a single frame shows may be something that moves, or someone who was missed
LIKE = 12  # grey levels up to which two frames show the same
AGREE = 40  # grey levels that two samples may differ by
NEAR = 8  # frames that are all looked at; beyond, every step is FARTHER times longer
FARTHER = 1.15
STANDS_OUT = 24  # grey levels by which what belongs to a person differs from the background


def behind(frames: Frames, zone: Masks, usable: Masks, core: Masks, motion: Motion) -> tuple[Frames, Masks]:
    """The background (T, H, W, 3) within `zone` (T, H, W), and where it was seen in at least LEAST other frames.

    Pixels come only from where `usable` (T, H, W) is set, and in the `core` (T, H, W) of people only from frames that
    show something else there: where another frame shows the same, the person may be there too and was missed.
    """
    cv2 = opencv()

    count, (height, width) = len(zone), zone.shape[1:]
    background, seen = np.zeros_like(frames), np.zeros_like(zone)
    useful = set(np.flatnonzero(usable.any((1, 2))).tolist())
    for target in range(count):
        pixels = np.flatnonzero(zone[target])
        place = np.zeros(height * width, np.int64)  # of a pixel among `pixels`
        place[pixels] = np.arange(len(pixels))
        samples = np.full((SAMPLES, len(pixels), 3), 255, np.uint8)
        taken = np.zeros(len(pixels), np.int64)
        wanting = zone[target].copy()
        for source in _nearest(target, count):
            box = bounds(wanting)  # shrinks as pixels have all their samples
            if box is None:
                break
            matrix = motion.between(source, target) if source in useful else None
            if matrix is None:
                continue
            picture = _through(frames[source], matrix, box)
            shown = _through(usable[source] * np.uint8(255), matrix, box)
            red, green, blue = cv2.split(cv2.absdiff(picture, frames[target][box]))
            good = wanting[box] & (shown == 255)  # all four neighbours are usable
            good &= ~core[target][box] | (cv2.max(cv2.max(red, green), blue) > LIKE)
            y, x = np.nonzero(good)
            filled = place[(y + box[0].start) * width + x + box[1].start]
            samples[taken[filled], filled] = picture[y, x]
            taken[filled] += 1
            wanting.ravel()[pixels[filled[taken[filled] == SAMPLES]]] = False
        known = np.flatnonzero(taken >= LEAST)
        median, spread = _median(samples[:, known], taken[known])
        known, median = (part[(taken[known] != 2) | (spread <= AGREE)] for part in (known, median))
        background[target].reshape(-1, 3)[pixels[known]] = median
        seen[target].ravel()[pixels[known]] = True
    return background, seen


def _through(picture: Frames, matrix: NDArray[np.float64], box: tuple[slice, slice]) -> Frames:
    """The part `box` of a target frame, whose pixels `matrix` (3, 3) maps to those of `picture` (H, W, 3) or (H, W)."""
    if np.array_equal(matrix, np.eye(3)):
        return picture[box]
    cv2 = opencv()

    rows, columns = box
    corner = np.array([[1, 0, columns.start], [0, 1, rows.start], [0, 0, 1]], np.float64)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    return cv2.warpPerspective(picture, matrix @ corner, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _median(samples: Frames, taken: NDArray[np.int64]) -> tuple[Frames, NDArray[np.int64]]:
    """Median (n, 3) of the first `taken` (n,) of `samples` (SAMPLES, n, 3), the rest being 255; and their spread."""
    ordered = np.sort(samples, axis=0).astype(np.int64)
    each = np.arange(samples.shape[1])
    middle = (ordered[(taken - 1) // 2, each] + ordered[taken // 2, each]) // 2
    return middle.astype(np.uint8), (ordered[taken - 1, each] - ordered[0]).max(-1, initial=0)


def _nearest(target: int, count: int) -> Iterator[int]:
    """The other frames of a shot, nearest first, thinned out with distance."""
    step, distance = 1.0, 0.0
    while True:
        distance += step
        offset = round(distance)
        if offset >= count:
            return
        for source in (target - offset, target + offset):
            if 0 <= source < count:
                yield source
        if offset >= NEAR:
            step *= FARTHER


def belongings(frames: Frames, holes: Masks, background: Frames, seen: Masks) -> Masks:
    """What stands out from the background in one piece with a hole: limbs that were missed, shadows, what is held."""
    cv2 = opencv()

    out = holes.copy()
    for number, hole in enumerate(holes):
        box = bounds(seen[number] & ~hole)
        if box is None or not hole.any() or hole.all():
            continue
        difference = cv2.absdiff(frames[number][box], background[number][box])
        difference = cv2.blur(difference, (3, 3)).max(-1)
        beside = seen[number][box] & ~hole[box]
        # Where nothing fits, because the camera's motion was misjudged or the light changed, nothing stands out.
        usual = float(np.median(difference[beside]))
        stands_out = (difference > STANDS_OUT + 2 * usual) & beside
        stands_out = cv2.morphologyEx(stands_out.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        _, pieces = cv2.connectedComponents(stands_out | hole[box])
        joined = np.zeros(pieces.max() + 1, np.bool_)
        joined[pieces[hole[box]]] = True
        joined[0] = False
        grown = joined[pieces] & ~hole[box]
        out[number][box] |= cv2.dilate(grown.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.bool_)
    return out


def bounds(mask: Masks) -> tuple[slice, slice] | None:
    """Rows and columns of the box around what is set in a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
