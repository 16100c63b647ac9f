"""Taking the people out of one video: shots, masks, camera, background, filling, and the reasons to give it up.

Files, many videos at once and the record are in `removal.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.background import behind, belongings
from understudy.privacy.detect import Detector
from understudy.privacy.fill import Filler, Frames, Shot
from understudy.privacy.masks import BOX_S, FLICKER_S, Masks, around_in_time, boxed, solid, steady, widened
from understudy.privacy.opencv import opencv
from understudy.privacy.segment import Segmenter
from understudy.privacy.shots import Piece, split_shots
from understudy.privacy.stabilise import Matrix, Motion, camera_motion
from understudy.privacy.track import Beside, Followed, follow, look_back

BATCH = 16  # frames that a segmenter gets at a time
GUARD_S = 0.07  # a pixel masked within so many seconds is no source of background
SURE = 0.7  # probability from which a pixel is of a person beyond doubt
REACH = 2.5  # of the zone around people, in widths of the margin: what belongs to them is looked for there
PLAIN = 4.0  # mean difference of neighbouring pixels, grey levels, up to which inpainting looks like the real thing


@dataclass(frozen=True)
class Limits:
    """When a clip is given up. All are shares, 0..1."""

    unsure: float = 0.1
    """Of the frames, in which someone may have been missed. What is in such a frame is never shown."""
    masked: float = 0.35
    """Of the picture, that is masked."""
    seen: float = 0.3
    """Least share of the holes in front of a textured background that other frames show."""
    residual: float = 0.0
    """Of the frames looked at afterwards, in which a detector sees a person."""


@dataclass(frozen=True)
class Settings:
    """How people are removed."""

    threshold: float = 0.3
    """Probability from which a pixel is of a person; low, as what is missed costs more than what is masked too much."""
    least_confidence: float = 0.5
    """A frame on which the segmenter is less sure than this is unsure."""
    margin: float = 1.0
    """Width of the margin around people, in units of a tenth of a person's size. 0 takes the masks as they are."""
    belongings: bool = True
    """Remove shadows, limbs that were missed and things in hand too: what stands out from the background close by."""
    shape: Literal["mask", "box"] = "mask"
    """box removes whole boxes, so that no silhouette shows in the filling."""
    exact: bool = False
    """The masks are known to be right wherever there are any, so that what is close to them is background."""
    gate_every: int = 5
    """One frame in so many is looked at again afterwards."""


@dataclass(frozen=True)
class Removed:
    """One shot: the frames without people, and what was done. Arrays as in `Shot`; `unsure` (T,). `lost` says that
    somebody went missing in mid-picture and may still be there in frames that are not unsure.
    """

    frames: Frames
    before: Frames
    holes: Masks
    seen: Masks
    unsure: NDArray[np.bool_]
    lost: bool


@dataclass
class Tally:
    """What was found in a clip, added up shot by shot."""

    frames: int = 0
    unsure: int = 0
    masked: float = 0.0
    hole: int = 0
    seen: int = 0
    textured_hole: int = 0
    textured_seen: int = 0
    looked: int = 0
    hits: int = 0
    lost: bool = False

    def add(self, shot: Removed) -> None:
        """Count a shot, but for what detectors see in it."""
        sure = ~shot.unsure
        self.frames += len(sure)
        self.unsure += int(shot.unsure.sum())
        self.lost |= shot.lost
        self.masked += float(shot.holes[sure].mean((1, 2)).sum())
        hole, seen = shot.holes.sum((1, 2)), shot.seen.sum((1, 2))
        self.hole += int(hole.sum())
        self.seen += int(seen.sum())
        for number in np.flatnonzero(hole):
            if _texture(shot.frames[number], ~shot.holes[number]) > PLAIN:
                self.textured_hole += int(hole[number])
                self.textured_seen += int(seen[number])

    def why_dropped(self, limits: Limits) -> str | None:
        """The reason, in words, or None where the clip may be kept."""
        sure = self.frames - self.unsure
        if self.lost:
            return "a person vanished in mid-picture and was not found again"
        if self.unsure > limits.unsure * self.frames:
            return f"the segmenter was unsure on {self.unsure} of {self.frames} frames"
        if sure and self.masked > limits.masked * sure:
            return f"people cover {self.masked / sure:.0%} of the picture"
        if self.textured_hole and self.textured_seen < limits.seen * self.textured_hole:
            return f"only {self.textured_seen / self.textured_hole:.0%} of what is behind people was ever seen"
        if self.hits > limits.residual * self.looked:
            return f"a person is still seen in {self.hits} of {self.looked} frames"
        return None


def remove_people(
    frames: Iterable[NDArray[np.uint8]],
    fps: float,
    segment: Segmenter,
    fill: Filler,
    settings: Settings,
    gate: Sequence[Detector],
    tally: Tally,
    beat: Callable[[], None] = lambda: None,
) -> Iterator[Removed]:
    """Yield the shots of a video without its people; `tally` says after the last one whether it is fit to keep.

    `frames` are RGB uint8 (H, W, 3) at `fps` a second. `beat` is called as the work gets on.
    """
    found = _found(split_shots(frames), fps, segment, settings, beat)
    reach = max(1, round((BOX_S if settings.shape == "box" else FLICKER_S) * fps))
    before, earlier = None, None
    piece = next(found, None)
    while piece is not None:
        # People are followed backwards too, so that what comes next is looked at before anything is shown.
        coming = next(found, None) if piece.goes_on else None
        after = None if coming is None else coming.looking_back
        followed = _follow(piece, fps, settings, before, after)
        later = None if coming is None else coming.people[:reach]
        if coming is None or after is None:
            before = None
        else:
            area = np.concatenate([np.zeros(0) if before is None else before.area, piece.sure.sum((1, 2))])
            before = Beside(followed.people, coming.entering, area, followed.masks[-1].copy(), after.people)
        frames, motion, piece = piece.frames, piece.motion, coming  # the rest is not needed any more, and large
        removed = _filled(frames, motion, followed, fps, fill, settings, earlier, later)
        masks = followed.masks if earlier is None else np.concatenate([earlier, followed.masks])
        earlier = None if before is None else masks[-reach:].copy()
        beat()
        tally.add(removed)
        looked_at = removed.frames[:: settings.gate_every]
        tally.looked += len(looked_at) if gate else 0
        tally.hits += sum(any(hits) for hits in zip(*([bool(h) for h in detect(looked_at)] for detect in gate)))
        beat()
        yield removed
        del removed, followed, looked_at, frames, masks, later, coming
        piece = piece or next(found, None)


def remove_from_shot(
    frames: Frames,
    people: Masks,
    unsure: NDArray[np.bool_],
    fps: float,
    fill: Filler,
    settings: Settings,
    sure: Masks | None = None,
) -> Removed:
    """One shot without its people, who are at `people` (T, H, W) but for the frames that are `unsure` (T,).

    `sure` (T, H, W) is which of `people` are people beyond doubt and so can't just vanish; all, where it is None.

    No pixel of an unsure frame, or of one that seems to have missed someone, is in the result, neither in its own
    place nor as background in another.
    """
    piece = _masked(frames, people, people if sure is None else sure, unsure, settings)
    return _filled(frames, piece.motion, _follow(piece, fps, settings), fps, fill, settings)


@dataclass(frozen=True)
class Masked:
    """A piece of a shot: `frames` RGB uint8 (T, H, W, 3), where `people` are and where people are for `sure`
    (T, H, W), which frames are `unsure` (T,), and the camera's `motion`.

    Where its shot began in an earlier piece, `entering` (3, 3) is from pixels of its first frame to those of the one
    before, None where that is not known, and `looking_back` is what those earlier frames have beside them.
    """

    frames: Frames
    people: Masks
    sure: Masks
    unsure: NDArray[np.bool_]
    motion: Motion
    goes_on: bool = False
    entering: Matrix | None = None
    looking_back: Beside | None = None


def _masked(frames: Frames, people: Masks, sure: Masks, unsure: NDArray[np.bool_], settings: Settings) -> Masked:
    """A shot of one piece."""
    people = people if settings.exact else solid(people)
    motion = camera_motion(frames, widened(people, settings.margin))
    return Masked(frames, people, people & solid(sure), unsure, motion)


def _found(
    pieces: Iterable[Piece], fps: float, segment: Segmenter, settings: Settings, beat: Callable[[], None]
) -> Iterator[Masked]:
    """The people in each piece, and how the pieces of a shot hang together."""
    latest: tuple[NDArray[np.uint8], Masks] | None = None
    for piece in pieces:
        frames = piece.frames
        people, sure, unsure = _segmented(frames, segment, settings, beat)
        if latest is None:
            masked = replace(_masked(frames, people, sure, unsure, settings), goes_on=piece.goes_on)
        else:
            people = people if settings.exact else solid(people)
            sure = people & solid(sure)
            hidden = widened(people, settings.margin), widened(latest[1][None], settings.margin)
            both = camera_motion([latest[0], *frames], [*hidden[1], *hidden[0]])
            motion = Motion(both.to_reference[1:], both.group[1:])
            at_start = look_back(people, sure, frames, motion, fps, goes_on=piece.goes_on)
            beside = Beside(at_start, both.between(1, 0), sure.sum((1, 2)).astype(np.float64))
            masked = Masked(frames, people, sure, unsure, motion, piece.goes_on, both.between(0, 1), beside)
        latest = (frames[-1].copy(), masked.people[-1].copy()) if piece.goes_on else None
        yield masked
        del piece, frames, people, sure, masked  # they are large


def _follow(
    piece: Masked, fps: float, settings: Settings, before: Beside | None = None, after: Beside | None = None
) -> Followed:
    followed = follow(piece.people, piece.sure, piece.frames, piece.motion, fps, before, after)
    if settings.exact:
        relied_on = piece.people.any((1, 2))
        followed.masks[relied_on] = piece.people[relied_on]
    return replace(followed, unsure=piece.unsure | followed.unsure, lost=followed.lost and not settings.exact)


def _filled(
    frames: Frames,
    motion: Motion,
    followed: Followed,
    fps: float,
    fill: Filler,
    settings: Settings,
    earlier: Masks | None = None,
    later: Masks | None = None,
) -> Removed:
    """A piece without its people; `earlier` and `later` (n, H, W) are the masks next to it, of the same shot."""
    people, unsure = followed.masks, followed.unsure
    beside = [people[:0] if masks is None or settings.exact else masks for masks in (earlier, later)]
    here = slice(len(beside[0]), len(beside[0]) + len(people))
    if len(beside[0]) or len(beside[1]):
        people = np.concatenate([beside[0], people, beside[1]])
    holes = widened(people if settings.exact else steady(people, fps), settings.margin)
    if settings.shape == "box":
        holes = boxed(holes, fps)
    zone = widened(people, REACH * max(settings.margin, 1.0)) | holes
    zone[here][unsure] = holes[here][unsure] = True
    # An unsure frame can't be used, so it need not guard the frames next to it.
    guard = (zone if settings.belongings else holes).copy()
    guard[here][unsure] = False
    if not settings.exact:
        guard = around_in_time(guard, max(1, round(GUARD_S * fps)))
    people, holes, zone, guard = people[here], holes[here], zone[here], guard[here]
    core = np.zeros_like(people) if settings.exact else people & ~unsure[:, None, None]
    usable = ~guard & ~unsure[:, None, None]
    del guard
    background, seen = behind(frames, zone, usable, core, motion)
    del zone, usable, core
    if settings.belongings:
        holes = belongings(frames, holes, background, seen)
    filled = fill(Shot(frames, holes, background, seen, motion))
    return Removed(filled, frames, holes, seen & holes, unsure, followed.lost)


def _segmented(
    shot: Frames, segment: Segmenter, settings: Settings, beat: Callable[[], None]
) -> tuple[Masks, Masks, NDArray[np.bool_]]:
    """Where people are in a shot (T, H, W), where there is no doubt (T, H, W), and the frames that are unsure (T,)."""
    people, sure = np.empty(shot.shape[:3], np.bool_), np.empty(shot.shape[:3], np.bool_)
    unsure = np.empty(len(shot), np.bool_)
    for start in range(0, len(shot), BATCH):
        part = slice(start, start + BATCH)
        found = segment(shot[part])
        people[part], sure[part] = found.probability > settings.threshold, found.probability > SURE
        unsure[part] = found.confidence < settings.least_confidence
        beat()
    return people, sure, unsure


def _texture(frame: Frames, where: Masks) -> float:
    """Mean absolute difference of pixels two apart, less what noise makes of it, in grey levels."""
    cv2 = opencv()

    grey = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (0, 0), 1.0).astype(np.int16)
    steps = np.abs(grey[:, 2:] - grey[:, :-2])[where[:, 1:-1]]
    return float(steps.mean()) if steps.size else 0.0
