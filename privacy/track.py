"""Following people from frame to frame, to notice whom the segmenter missed: nobody vanishes in mid-picture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.masks import Masks, widened
from understudy.privacy.opencv import difference, opencv
from understudy.privacy.stabilise import Motion

Frames = NDArray[np.uint8]

KNOWN_S, HELD_S = 0.25, 3.0  # a person masked for the first and then not for the second is lost
FOUND = 0.5  # least that must be masked near a person in the next frame, of the person's area
NEAR = 0.75  # share of a person that must have a mask nearby: of two who stand close, one may be missed
DIP, DIP_S = 0.6, 0.5  # a frame with less than that share of what is masked before and after has missed something
TOGETHER = 3.0  # margins by which pieces are apart at most that are taken for one person
PACE = 4.0  # own sizes that a person may move in a second
LEAVING_S = 1.5  # who moved towards an edge is taken to have moved on like that for so long
STEADY_S = 0.25  # that motion is the mean over about so long
SAME, LIKE = 0.5, 20  # a share of a person's pixels that look the same, to so many grey levels: still there


@dataclass(frozen=True)
class Person:
    """Where somebody was when last masked, moved along with the camera: `mask` (H, W), and `looks` (H, W, 3) there.
    `age` is for how many frames in a row they had been masked, `gone` for how many they have not. `speed` (4,) is by
    how many pixels a frame what they lack to be out of the picture became less, by each of its edges.
    """

    mask: Masks
    looks: Frames
    age: int = 1
    gone: int = 0
    speed: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))


@dataclass(frozen=True)
class Followed:
    """`masks` (T, H, W) with those added who were missed while they stood still; `unsure` (T,), the frames in which
    someone else may have been missed; `lost`, whether someone went missing for good.
    """

    masks: Masks
    unsure: NDArray[np.bool_]
    lost: bool


def follow(masks: Masks, sure: Masks, frames: Frames, motion: Motion, fps: float) -> Followed:
    """Notice whom `masks` (T, H, W) miss; `sure` (T, H, W), within them, is where there is no doubt of a person.

    Who is that for KNOWN_S and then is not masked at all makes frames unsure, and is lost after HELD_S; people may
    vanish only by way of an edge of the picture that they moved towards. What was masked out of caution may come and
    go. What looks as before in the place of a person stays masked, and makes the frame unsure where it is much of them.
    Where the camera's motion is not known, people are looked for where they were. All of it forwards and backwards in
    time.
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
    lost = [_follow(masks, sure, frames, motion, fps, step, out, unsure) for step in (1, -1)]
    return Followed(out, unsure, any(lost))


def _follow(
    masks: Masks,
    sure: Masks,
    frames: Frames,
    motion: Motion,
    fps: float,
    step: int,
    out: Masks,
    unsure: NDArray[np.bool_],
) -> bool:
    """One direction in time, +1 or -1; adds to `out` and `unsure`, and says whether somebody was lost."""
    cv2 = opencv()

    height, width = masks.shape[1:]
    known, held = max(2, round(KNOWN_S * fps)), max(1, round(HELD_S * fps))
    newest, leaving = min(1.0, 1 / (STEADY_S * fps)), max(1, round(LEAVING_S * fps))
    lost = False
    blurred = [cv2.blur(frame, (5, 5)) for frame in frames]
    near = widened(masks, TOGETHER)
    people: list[Person] = []
    for number in range(len(masks))[::step]:
        current = [Person(mask, blurred[number]) for mask in _pieces(sure[number], near[number])]
        matrix = motion.between(number - step, number) if people else None
        people = [_moved(person, matrix, (width, height)) for person in people]
        people = [person for person in people if person.mask.any()]
        missing: list[Person] = []
        for moved in people:
            # What is where somebody else was is no sign of this one.
            elsewhere = masks[number].copy()
            for other in people:
                if other is not moved and other.gone == 0:
                    elsewhere &= ~other.mask | moved.mask
            same = difference(moved.looks, blurred[number]) < LIKE
            pace = np.sqrt(moved.mask.sum()) * (min(1.0, PACE * (moved.gone + 1) / fps) if matrix is not None else 1.0)
            around = elsewhere & (_distance(moved.mask) <= pace)
            staying = _staying(moved, leaving)
            whole = around.any() and around.sum() >= FOUND * staying.sum()
            if whole and (_distance(elsewhere)[staying] > pace).sum() <= (1 - NEAR) * staying.sum():
                if any((other.mask & moved.mask).any() for other in current):
                    current = [
                        _went_on(moved, other, newest) if (other.mask & moved.mask).any() else other
                        for other in current
                    ]
                else:
                    missing.append(_went_on(moved, Person(around, blurred[number]), newest))
                part = moved.mask & ~masks[number] & same
                out[number] |= part
                unsure[number] |= moved.age >= known and part.sum() > (1 - NEAR) * moved.mask.sum()
            elif moved.age >= known:
                still = same[moved.mask].mean() >= SAME
                if still:
                    out[number] |= moved.mask
                elif not staying.any():
                    continue  # out of the picture
                lost |= moved.gone >= held and not still
                unsure[number] |= moved.gone < held
                missing.append(replace(moved, gone=moved.gone + 1))
        people = current + missing
    return lost


def _distance(mask: Masks) -> NDArray[np.float32]:
    """(H, W): pixels to the nearest that is set."""
    cv2 = opencv()

    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)


def _moved(person: Person, matrix: NDArray[np.float64] | None, size: tuple[int, int]) -> Person:
    """The person moved along with the camera, where nobody knows its motion left in place; with an empty mask if that
    is out of the picture.
    """
    cv2 = opencv()

    if matrix is None or np.array_equal(matrix, np.eye(3)):
        return person
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    mask = cv2.warpPerspective(person.mask.astype(np.uint8), matrix, size, flags=flags).astype(np.bool_)
    looks = cv2.warpPerspective(person.looks, matrix, size, flags=flags)
    return replace(person, mask=mask, looks=looks)


def _went_on(before: Person, now: Person, newest: float) -> Person:
    """`now` as somebody who was `before` a frame earlier; the share `newest` of the speed is of this step."""
    step = (_ways_out(before.mask) - _ways_out(now.mask)) / (before.gone + 1)
    speed = step if before.age == 1 else (1 - newest) * before.speed + newest * step
    return replace(now, age=max(now.age, before.age + 1), speed=np.maximum(now.speed, speed))


def _pieces(mask: Masks, near: Masks) -> list[Masks]:
    """The people in a mask, each with shadows and limbs apart: what of it is in one piece in `near`, a wider mask."""
    cv2 = opencv()

    count, labels = cv2.connectedComponents(near.astype(np.uint8))
    pieces = ((labels == index) & mask for index in range(1, count))
    return [piece for piece in pieces if piece.any()]


def _ways_out(person: Masks) -> NDArray[np.float64]:
    """By how many pixels a person would have to move to be out of the picture by the top, bottom, left, right."""
    rows, columns = np.flatnonzero(person.any(1)), np.flatnonzero(person.any(0))
    height, width = person.shape
    return np.array([rows[-1] + 1, height - rows[0], columns[-1] + 1, width - columns[0]], np.float64)


def _staying(person: Person, leaving: int) -> Masks:
    """What of a person would still be in the picture by now, had they moved on as they did before."""
    up, down, left, right = np.maximum(person.speed, 0) * min(person.gone + 1, leaving)
    height, width = person.mask.shape
    slack = min(height, width) / 60
    staying = person.mask.copy()
    # Who becomes smaller nears opposite edges at once, and leaves by neither.
    if abs(down - up) >= 1:
        gone = round(abs(down - up) + slack)
        staying[slice(max(height - gone, 0), None) if down > up else slice(gone)] = False
    if abs(right - left) >= 1:
        gone = round(abs(right - left) + slack)
        staying[:, slice(max(width - gone, 0), None) if right > left else slice(gone)] = False
    return staying
