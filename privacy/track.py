"""Following people from frame to frame, to notice whom the segmenter missed: nobody vanishes in mid-picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.masks import Masks, widened
from understudy.privacy.opencv import difference, opencv
from understudy.privacy.stabilise import Motion

Frames = NDArray[np.uint8]

KNOWN_S, HELD_S = 0.25, 3.0  # a person masked for the first and then not is looked for during the second
FOUND = 0.5  # least that must be masked near a person in the next frame, of the person's area
NEAR = 0.75  # share of a person that must have a mask nearby: of two who stand close, one may be missed
DIP, DIP_S = 0.6, 0.5  # a frame with less than that share of what is masked before and after has missed something
TOGETHER = 3.0  # margins by which pieces are apart at most that are taken for one person
PACE = 4.0  # own sizes that a person may move in a second
SAME, LIKE = 0.5, 20  # a share of a person's pixels that look the same, to so many grey levels: still there


@dataclass(frozen=True)
class Person:
    """Where somebody was when last masked, moved along with the camera: `mask` (H, W), and `looks` (H, W, 3) there.
    `age` is for how many frames in a row they had been masked, `gone` for how many they have not.
    """

    mask: Masks
    looks: Frames
    age: int = 1
    gone: int = 0


def follow(masks: Masks, sure: Masks, frames: Frames, motion: Motion, fps: float) -> tuple[Masks, NDArray[np.bool_]]:
    """`masks` (T, H, W) with those added who were missed while they stood still; and the frames (T,) in which someone
    else may have been missed.

    `sure` (T, H, W), within `masks`, is where there is no doubt that it is a person. Who is that for KNOWN_S and then
    is not masked at all makes frames unsure, for up to HELD_S; only by way of the picture's edge may people vanish.
    What was masked out of caution may come and go. What looks as before in the place of a person stays masked, and
    makes the frame unsure where it is much of them. All of it forwards and backwards in time.
    """
    area, least = masks.sum((1, 2)).astype(np.float64), DIP * sure.sum((1, 2))
    reach = max(1, round(DIP_S * fps))
    unsure = np.zeros(len(masks), np.bool_)
    for number in range(1, len(masks) - 1):
        before, after = least[max(0, number - reach) : number], least[number + 1 : number + 1 + reach]
        unsure[number] = area[number] < min(before.max(), after.max())
    out = masks.copy()
    for end, inwards in ((0, least[1 : 1 + reach]), (-1, least[-1 - reach : -1])):
        unsure[end] |= bool(len(inwards)) and area[end] < inwards.min()
    for step in (1, -1):
        _follow(masks, sure, frames, motion, fps, step, out, unsure)
    return out, unsure


def _follow(
    masks: Masks,
    sure: Masks,
    frames: Frames,
    motion: Motion,
    fps: float,
    step: int,
    out: Masks,
    unsure: NDArray[np.bool_],
) -> None:
    """One direction in time, +1 or -1; adds to `out` and `unsure`."""
    cv2 = opencv()

    height, width = masks.shape[1:]
    known, held = max(2, round(KNOWN_S * fps)), max(1, round(HELD_S * fps))
    blurred = [cv2.blur(frame, (5, 5)) for frame in frames]
    near = widened(masks, TOGETHER)
    people: list[Person] = []
    for number in range(len(masks))[::step]:
        current = [Person(mask, blurred[number]) for mask in _pieces(sure[number], near[number])]
        people = [
            moved
            for person in people
            if (moved := _moved(person, motion.between(number - step, number), (width, height))) is not None
        ]
        missing: list[Person] = []
        for moved in people:
            # What is where somebody else was is no sign of this one.
            elsewhere = masks[number].copy()
            for other in people:
                if other is not moved and other.gone == 0:
                    elsewhere &= ~other.mask | moved.mask
            same = difference(moved.looks, blurred[number]) < LIKE
            pace = np.sqrt(moved.mask.sum()) * min(1.0, PACE * (moved.gone + 1) / fps)
            around = elsewhere & (_distance(moved.mask) <= pace)
            whole = around.sum() >= FOUND * moved.mask.sum()
            if whole and (_distance(elsewhere)[moved.mask] <= pace).mean() >= NEAR:
                if any((other.mask & moved.mask).any() for other in current):
                    current = [
                        replace(other, age=max(other.age, moved.age + 1)) if (other.mask & moved.mask).any() else other
                        for other in current
                    ]
                else:
                    missing.append(Person(around, blurred[number], moved.age + 1))
                part = moved.mask & ~masks[number] & same
                out[number] |= part
                unsure[number] |= moved.age >= known and part.sum() > (1 - NEAR) * moved.mask.sum()
            elif moved.age >= known:
                still = same[moved.mask].mean() >= SAME
                if still:
                    out[number] |= moved.mask
                if moved.gone < held and (still or not _may_have_left(moved.mask, pace)):
                    unsure[number] = True
                if still or unsure[number]:
                    missing.append(replace(moved, gone=moved.gone + 1))
        people = current + missing


def _distance(mask: Masks) -> NDArray[np.float32]:
    """(H, W): pixels to the nearest that is set."""
    cv2 = opencv()

    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)


def _moved(person: Person, matrix: NDArray[np.float64] | None, size: tuple[int, int]) -> Person | None:
    """The person moved along with the camera; None where they are out of the picture, or nobody knows."""
    cv2 = opencv()

    if matrix is None:
        return None
    if np.array_equal(matrix, np.eye(3)):
        return person
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    mask = cv2.warpPerspective(person.mask.astype(np.uint8), matrix, size, flags=flags).astype(np.bool_)
    looks = cv2.warpPerspective(person.looks, matrix, size, flags=flags)
    return replace(person, mask=mask, looks=looks) if mask.any() else None


def _pieces(mask: Masks, near: Masks) -> list[Masks]:
    """The people in a mask, each with shadows and limbs apart: what of it is in one piece in `near`, a wider mask."""
    cv2 = opencv()

    count, labels = cv2.connectedComponents(near.astype(np.uint8))
    pieces = ((labels == index) & mask for index in range(1, count))
    return [piece for piece in pieces if piece.any()]


def _may_have_left(person: Masks, pace: float) -> bool:
    """Whether all of the person was so close to one edge of the picture that a step could have taken them out of it."""
    rows, columns = np.flatnonzero(person.any(1)), np.flatnonzero(person.any(0))
    height, width = person.shape
    ways = (rows[-1], height - rows[0], columns[-1], width - columns[0])
    return bool(min(ways) <= 1.5 * pace + min(height, width) / 60)
