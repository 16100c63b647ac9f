"""What to take out of each frame, from where a segmenter saw people: solid, steady in time, wide enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.opencv import opencv

Masks = NDArray[np.bool_]

SPECK = 1 / 3000  # share of the frame: a smaller piece is noise
FLICKER_S = 0.1  # a pixel that is masked before and after, within so many seconds, is masked
WIDEN = 0.1  # margin around a person, times the square root of the person's area
BOX_S = 0.4  # boxes are drawn around where a person is within so many seconds


def solid(masks: Masks, least_share: float = SPECK) -> Masks:
    """`masks` (T, H, W) with holes filled and without specks, pieces of less than that share of the frame."""
    cv2 = opencv()

    out = np.zeros_like(masks)
    least = least_share * masks[0].size
    for mask, result in zip(masks, out):
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = np.zeros(mask.shape, np.uint8)
        # Drawn one by one, as outlines drawn together cancel each other out.
        for outline in outlines:
            if cv2.contourArea(outline) + len(outline) / 2 >= least:
                cv2.drawContours(filled, [outline], 0, 1, cv2.FILLED)
        result[:] = filled
    return out


def steady(masks: Masks, fps: float) -> Masks:
    """`masks` with what is missing for a moment: masked at most FLICKER_S before and as long after."""
    reach = max(1, round(FLICKER_S * fps))
    before, after = masks.copy(), masks.copy()
    for step in range(1, min(reach, len(masks) - 1) + 1):
        before[step:] |= masks[:-step]
        after[:-step] |= masks[step:]
    return before & after


def around_in_time(masks: Masks, reach: int) -> Masks:
    """The union of each mask with those up to `reach` frames before and after."""
    out = masks.copy()
    for step in range(1, min(reach, len(masks) - 1) + 1):
        out[step:] |= masks[:-step]
        out[:-step] |= masks[step:]
    return out


def widened(masks: Masks, factor: float = 1.0) -> Masks:
    """`masks` with a margin around each piece that grows with its size, WIDEN times `factor`.

    At least an 80th of the frame's short side, at most an eighth.
    """
    cv2 = opencv()

    short = min(masks.shape[1:])
    out = np.zeros_like(masks)
    for mask, result in zip(masks, out):
        if not mask.any() or factor == 0:
            result[:] = mask
            continue
        distance, nearest = cv2.distanceTransformWithLabels(
            (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_CCOMP
        )
        area = np.bincount(nearest[mask], minlength=int(nearest.max()) + 1)
        margin = factor * np.clip(WIDEN * np.sqrt(area), short / 80, short / 8)
        result[:] = distance <= margin[nearest]
    return out


def boxed(masks: Masks, fps: float) -> Masks:
    """The upright boxes around the pieces of `masks`, held over BOX_S so that they don't follow every limb."""
    cv2 = opencv()

    out = np.zeros_like(masks)
    for mask, result in zip(masks, out):
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        for x, y, width, height, _ in stats[1:count].tolist():
            result[y : y + height, x : x + width] = True
    return around_in_time(out, max(1, round(BOX_S * fps)))
