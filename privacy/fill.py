"""Fillers: what comes into the holes where people were. A learned one would be one more function of this shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.background import STANDS_OUT, bounds
from understudy.privacy.masks import Masks
from understudy.privacy.opencv import difference, opencv
from understudy.privacy.stabilise import Motion
from understudy.shards.errors import UserError

Frames = NDArray[np.uint8]

GREY = 128


@dataclass(frozen=True)
class Shot:
    """What a filler gets: frames (T, H, W, 3) of one shot, `holes` (T, H, W) to fill, and where it is `seen` (T, H, W),
    in the holes and around them, the `background` (T, H, W, 3) as other frames show it. In the holes, `frames` show
    people.
    """

    frames: Frames
    holes: Masks
    background: Frames
    seen: Masks
    motion: Motion


# The frames with all holes filled, as a new array; every pixel outside of the holes as it was.
Filler = Callable[[Shot], Frames]


def flat(shot: Shot) -> Frames:
    """Grey."""
    out = shot.frames.copy()
    out[shot.holes] = GREY
    return out


def inpaint(shot: Shot) -> Frames:
    """Each frame from what surrounds its holes, whatever other frames show."""
    out = shot.frames.copy()
    for frame, hole in zip(out, shot.holes):
        _make_up(frame, hole)
    return out


def background(shot: Shot) -> Frames:
    """What other frames show; where none does, what was made up in the frame before, and only then inpainting."""
    cv2 = opencv()

    out = shot.frames.copy()
    count, height, width = shot.holes.shape
    made_up = np.zeros((height, width), np.bool_)
    for number in range(count):
        frame, hole = out[number], shot.holes[number]
        known = hole & shot.seen[number]
        frame[known] = shot.background[number][known]
        unknown = hole & ~known
        left = unknown
        matrix = shot.motion.between(number - 1, number) if number and unknown.any() and made_up.any() else None
        if matrix is not None:
            before = np.dstack([out[number - 1], made_up * np.uint8(255)])
            if not np.array_equal(matrix, np.eye(3)):
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                before = cv2.warpPerspective(before, matrix, (width, height), flags=flags)
            kept = unknown & (before[..., 3] == 255)
            frame[kept] = before[kept, :3]
            left = unknown & ~kept
        _make_up(frame, left, _in_front(shot, number))
        # Grey, where nothing at all was known, is not carried along.
        made_up = unknown & ~unknown.all()
    return out


FILLERS: dict[str, Filler] = {"flat": flat, "inpaint": inpaint, "background": background}


def load_filler(name: str) -> Filler:
    """One of FILLERS, or the user's own as MODULE:FUNCTION, which has to be importable."""
    import importlib

    if name in FILLERS:
        return FILLERS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise UserError(f"filler {name!r}: there are {', '.join(FILLERS)}, or your own as MODULE:FUNCTION")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"filler {name!r} can't be imported: {error}") from None


def _in_front(shot: Shot, number: int) -> Masks:
    """(H, W): what around the holes of a frame stands before the background, and should not be continued in them."""
    cv2 = opencv()

    beside = shot.seen[number] & ~shot.holes[number]
    box = bounds(beside)
    out = np.zeros_like(beside)
    if box is not None:
        off = difference(shot.frames[number][box], shot.background[number][box])
        stands_out = (off > STANDS_OUT) & beside[box]
        out[box] = cv2.dilate(stands_out.astype(np.uint8), np.ones((3, 3), np.uint8))
    return out & ~shot.holes[number]


def _make_up(frame: Frames, hole: Masks, ignored: Masks | None = None) -> None:
    """Fill `hole` (H, W) of `frame` (H, W, 3) in place with a smooth continuation of what surrounds it, but for what is
    `ignored` (H, W).

    The picture is halved until the hole is gone, each time from known pixels only, and then doubled again (push-pull,
    Gortler et al. 1996). Unlike copied texture that has no edges, which would look like something.
    """
    cv2 = opencv()

    box = bounds(hole)
    if box is None:
        return
    if hole.all():
        frame[:] = GREY
        return
    edge = max(16, (box[0].stop - box[0].start) // 2)
    box = tuple(slice(max(part.start - edge, 0), part.stop + edge) for part in box)
    missing = hole[box]
    known = ~missing if ignored is None else ~(missing | ignored[box])
    known = cv2.morphologyEx(known.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)).astype(np.bool_)
    weight = (known if known.any() else ~missing).astype(np.float32)
    levels = [(frame[box] * weight[..., None], weight)]
    while min(levels[-1][1].shape) > 1 or (levels[-1][1].size > 1 and levels[-1][1].min() == 0):
        colour, weight = levels[-1]
        size = ((weight.shape[1] + 1) // 2, (weight.shape[0] + 1) // 2)
        weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
        colour = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
        # A little that is known counts for the whole; weights above one would drown what surrounds a hole.
        full = np.minimum(4 * weight, 1)
        levels.append((colour * (full / np.maximum(weight, 1e-6))[..., None], full))
    made = levels[-1][0] / np.maximum(levels[-1][1], 1e-6)[..., None]
    for colour, weight in reversed(levels[:-1]):
        made = cv2.resize(made, weight.shape[::-1], interpolation=cv2.INTER_CUBIC)
        made = colour + made * (1 - weight)[..., None]
    frame[box][missing] = np.clip(made, 0, 255).round().astype(np.uint8)[missing]
