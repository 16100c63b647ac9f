"""Following people from frame to frame, to notice whom the segmenter missed: nobody vanishes in mid-picture."""

from __future__ import annotations

from collections.abc import Sequence
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
class Beside:
    """What is known beyond an end of the frames at which their shot goes on: the `people` there, `matrix` (3, 3) from
    pixels of the frame at that end to those of the next one (None where the camera's motion is not known), and `area`
    (n,), pixels beyond doubt of people in the frames there, in order of time.

    Of frames before that have been shown, `masks` (H, W) are of the last one, and `noticed` is who was known, looking
    back from their end, when it was decided what to show.
    """

    people: Sequence[Person]
    matrix: NDArray[np.float64] | None
    area: NDArray[np.float64]
    masks: Masks | None = None
    noticed: Sequence[Person] = ()


@dataclass(frozen=True)
class Followed:
    """`masks` (T, H, W) with those added who were missed while they stood still; `unsure` (T,), the frames in which
    someone else may have been missed; `lost`, whether someone went missing for good; `people`, who there is at the end.
    """

    masks: Masks
    unsure: NDArray[np.bool_]
    lost: bool
    people: Sequence[Person]


def follow(
    masks: Masks,
    sure: Masks,
    frames: Frames,
    motion: Motion,
    fps: float,
    before: Beside | None = None,
    after: Beside | None = None,
) -> Followed:
    """Notice whom `masks` (T, H, W) miss; `sure` (T, H, W), within them, is where there is no doubt of a person.

    Who is that for KNOWN_S and then is not masked at all makes frames unsure, and is lost after HELD_S; people may
    vanish only by way of an edge of the picture that they moved towards. What was masked out of caution may come and
    go. What looks as before in the place of a person stays masked, and makes the frame unsure where it is much of them.
    Where the camera's motion is not known, people are looked for where they were. All of it forwards and backwards in
    time.

    `before` and `after` are given where the shot is longer than these frames. Who turns out, too late, to have been
    missed in frames before that were shown is lost.
    """
    reach = max(1, round(DIP_S * fps))
    lead = before.area[-reach:] if before else np.zeros(0)
    tail = after.area[:reach] if after else np.zeros(0)
    least = DIP * np.concatenate([lead, sure.sum((1, 2)), tail])
    area = masks.sum((1, 2)).astype(np.float64)
    unsure = np.zeros(len(masks), np.bool_)
    for number in range(len(masks)):
        place = len(lead) + number
        earlier, later = least[max(0, place - reach) : place], least[place + 1 : place + 1 + reach]
        if len(earlier) and len(later):
            unsure[number] = area[number] < min(earlier.max(), later.max())
        elif len(earlier) or len(later):
            unsure[number] = area[number] < np.concatenate([earlier, later]).min()
    out = masks.copy()
    people, lost = _follow(masks, sure, frames, motion, fps, 1, out, unsure, before)
    at_start, lost_back = _follow(masks, sure, frames, motion, fps, -1, out, unsure, after)
    lost |= lost_back or (before is not None and _too_late(at_start, before, _known(fps)))
    return Followed(out, unsure, lost, people)


def look_back(
    masks: Masks, sure: Masks, frames: Frames, motion: Motion, fps: float, *, goes_on: bool
) -> Sequence[Person]:
    """Who there is at the first of the frames, followed backwards from the last; arguments as for `follow`.

    Of who is there at the end of a few frames that `goes_on`, nobody can tell for how long; they count as known.
    """
    beyond = None
    if goes_on and len(masks) < _known(fps):
        people = [Person(mask, frames[-1], _known(fps)) for mask in _pieces(sure[-1], widened(masks[-1:], TOGETHER)[0])]
        beyond = Beside(people, np.eye(3), np.zeros(0))
    unsure = np.zeros(len(masks), np.bool_)
    return _follow(masks, sure, frames, motion, fps, -1, masks.copy(), unsure, beyond)[0]


def _known(fps: float) -> int:
    """Frames in a row after which somebody who is masked is known."""
    return max(2, round(KNOWN_S * fps))


def _too_late(people: Sequence[Person], before: Beside, known: int) -> bool:
    """Whether one of the `people` at the first frame was missed in frames before, when they were shown."""
    assert before.masks is not None
    for person in people:
        missed = person.gone > 0 or not (person.mask & before.masks).any()
        noticed = any(other.age >= known and (other.mask & person.mask).any() for other in before.noticed)
        if person.age >= known and missed and not noticed:
            return True
    return False


def _follow(
    masks: Masks,
    sure: Masks,
    frames: Frames,
    motion: Motion,
    fps: float,
    step: int,
    out: Masks,
    unsure: NDArray[np.bool_],
    beside: Beside | None,
) -> tuple[Sequence[Person], bool]:
    """One direction in time, +1 or -1, from what is `beside` the first frame; adds to `out` and `unsure`, and says who
    there is at the last one, and whether somebody was lost.
    """
    cv2 = opencv()

    height, width = masks.shape[1:]
    known, held = _known(fps), max(1, round(HELD_S * fps))
    newest, leaving = min(1.0, 1 / (STEADY_S * fps)), max(1, round(LEAVING_S * fps))
    lost = False
    people, matrix = ([], None) if beside is None else (list(beside.people), beside.matrix)
    for index, number in enumerate(range(len(masks))[::step]):
        blurred = cv2.blur(frames[number], (5, 5))
        near = widened(masks[number : number + 1], TOGETHER)[0]
        current = [Person(mask, blurred) for mask in _pieces(sure[number], near)]
        if index:
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
            same = difference(moved.looks, blurred) < LIKE
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
                    missing.append(_went_on(moved, Person(around, blurred), newest))
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
    return people, lost


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
