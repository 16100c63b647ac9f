"""One video: no pixel of a person comes through, the background that was seen does, and doubt means giving up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from painted import of_person, painted  # pyright: ignore[reportMissingImports]

from understudy.privacy.detect import Hit, What
from understudy.privacy.fill import Shot, background, flat, inpaint, load_filler
from understudy.privacy.remove import Limits, Removed, Settings, Tally, remove_from_shot, remove_people
from understudy.privacy.segment import Segmentation
from understudy.privacy.stabilise import Motion
from understudy.shards.demo import FPS, demo_sources, render
from understudy.shards.errors import UserError

EXACT = Settings(margin=0, belongings=False, exact=True)
CLIPS = [("demo-actions-train", n) for n in (1, 3)] + [("demo-synthetic", n) for n in (0, 5)]


def removed(frames: np.ndarray, masks: np.ndarray, settings: Settings, unsure: np.ndarray | None = None) -> Removed:
    unsure = np.zeros(len(frames), np.bool_) if unsure is None else unsure
    return remove_from_shot(frames, masks, unsure, FPS, background, settings)


def why_dropped(result: Removed) -> str | None:
    tally = Tally()
    tally.add(result)
    return tally.why_dropped(Limits(seen=0, masked=1))


@pytest.mark.parametrize(("corpus", "number"), CLIPS)
def test_with_true_masks_no_pixel_of_the_person_is_left(corpus: str, number: int) -> None:
    clip, frames = painted(corpus, number)
    assert of_person(frames).any()
    result = removed(frames, clip.person, EXACT)
    assert not of_person(result.frames).any()
    assert (result.frames[~clip.person] == frames[~clip.person]).all()


def test_the_filling_is_close_to_the_true_empty_scene_where_it_was_seen() -> None:
    errors, pixels = 0.0, 0
    for corpus in ("demo-actions-train", "demo-synthetic"):
        for source in demo_sources(corpus, 6):
            clip = render(source, seed=0)
            result = removed(clip.frames, clip.person, EXACT)
            visible = clip.person & ever_visible(clip.person)
            difference = np.abs(result.frames.astype(int) - clip.empty).mean(-1)
            errors, pixels = errors + float(difference[visible].sum()), pixels + int(visible.sum())
    assert pixels > 10_000
    assert errors / pixels <= 6


def ever_visible(person: np.ndarray) -> np.ndarray:
    """Where another frame shows what is behind, by the camera that all frames are taken to share."""
    return np.broadcast_to(~person.all(0), person.shape)


@pytest.mark.parametrize("kind", ["absent", "empty"])
@pytest.mark.parametrize(("corpus", "number"), CLIPS)
def test_withheld_masks_never_paint_a_person_back_in(corpus: str, number: int, kind: str) -> None:
    clip, frames = painted(corpus, number)
    for first in (0, 5, 13):
        withheld = np.arange(len(frames)) % 20 == first
        masks = clip.person & ~withheld[:, None, None]
        unsure = withheld if kind == "absent" else np.zeros_like(withheld)
        result = removed(frames, masks, Settings(), unsure)
        assert why_dropped(result) or not of_person(result.frames).any(), (first, np.flatnonzero(result.unsure))


def test_a_person_who_is_missed_for_long_is_given_up() -> None:
    clip, frames = painted("demo-synthetic", 5)
    masks = clip.person.copy()
    masks[6:14] = False
    assert why_dropped(removed(frames, masks, Settings()))


def test_nothing_of_an_unsure_frame_is_shown_anywhere() -> None:
    clip = render(demo_sources("demo-actions-train", 4)[3], seed=0)
    frames, unsure = clip.frames.copy(), np.zeros(len(clip.frames), np.bool_)
    frames[7], unsure[7] = (255, 0, 255), True
    result = removed(frames, clip.person, Settings(), unsure)
    assert not of_person(result.frames).any()


def test_boxes_hide_the_outline() -> None:
    clip = render(demo_sources("demo-synthetic", 1)[0], seed=0)
    outline = removed(clip.frames, clip.person, EXACT).holes
    boxes = removed(clip.frames, clip.person, Settings(shape="box", margin=0, belongings=False, exact=True)).holes
    assert (boxes | ~outline).all()
    # Every row of a box is as wide as the next, but for the few boxes that overlap.
    widths = boxes.sum(2)
    changes = (np.diff(widths, axis=1) != 0).sum(1)
    assert changes.mean() < 0.5 * (np.diff(outline.sum(2), axis=1) != 0).sum(1).mean()


def test_belongings_take_a_missed_arm_and_the_shadow() -> None:
    frames = np.full((12, 80, 100, 3), 90, np.uint8)
    frames += np.random.default_rng(0).integers(0, 12, (1, 80, 100, 1), np.uint8)
    masks = np.zeros((12, 80, 100), np.bool_)
    for number in range(12):
        left = 6 * number
        frames[number, 20:60, left : left + 14] = 220
        frames[number, 30:34, left + 14 : left + 18] = 200  # an arm that the masks leave out
        masks[number, 20:60, left : left + 14] = True
    with_them = removed(frames, masks, Settings())
    without = removed(frames, masks, Settings(belongings=False, margin=0))
    assert (without.frames > 150).any()
    assert not (with_them.frames > 150).any()


def segment_bright(frames: np.ndarray) -> Segmentation:
    bright = (frames.min(-1) > 200).astype(np.float32)
    return Segmentation(bright, np.ones(len(frames), np.float32), bright.max((1, 2)))


class SegmentBright:
    name, licence, models, still_there = "bright", "none", ("test/bright",), 0.5
    __call__ = staticmethod(segment_bright)


class SeesAll:
    name, licence, models = "all", "none", ("test/all",)
    what: What = "person"

    def __call__(self, frames: np.ndarray) -> list[list[Hit]]:
        return [[Hit("person", (0, 0, 1, 1), 1.0)] for _ in frames]


def walk_past(frames: int = 16, size: int = 10) -> list[np.ndarray]:
    scene = np.random.default_rng(1).integers(40, 140, (60, 90, 3), np.uint8)
    scene = np.repeat(np.repeat(scene[::6, ::6], 6, 0), 6, 1)[:60, :90]
    out = [scene.copy() for _ in range(frames)]
    for number, frame in enumerate(out):
        frame[15:45, 5 * number : 5 * number + size] = 255
    return out


def test_reasons_for_dropping() -> None:
    def run(frames: list[np.ndarray], gate: list[SeesAll], **limits: float) -> str | None:
        tally = Tally()
        for _ in remove_people(frames, 8, SegmentBright(), background, Settings(), gate, tally):
            pass
        return tally.why_dropped(Limits(**limits))

    assert run(walk_past(), []) is None
    assert "still seen" in (run(walk_past(), [SeesAll()]) or "")
    assert "cover" in (run(walk_past(), [], masked=0.05) or "")
    still = [walk_past()[8]] * 16
    assert "ever seen" in (run(still, []) or "")
    # Someone whom the segmenter sees for two of twenty seconds, and who has not left.
    there = walk_past()[8] == 255
    flicker = [np.where(there & (number > 15), 40 + 100 * (number % 2), walk_past()[8]) for number in range(160)]
    assert "vanished" in (run([frame.astype(np.uint8) for frame in flicker], [], seen=0, unsure=1) or "")


class SegmentUnless:
    """Sees the bright box but in the frames `missed`."""

    name, licence, models, still_there = "unless", "none", ("test/unless",), 0.5

    def __init__(self, missed: range) -> None:
        self.missed, self.given = missed, 0

    def __call__(self, frames: np.ndarray) -> Segmentation:
        found = segment_bright(frames)
        for number in range(len(frames)):
            found.probability[number] *= self.given + number not in self.missed
        self.given += len(frames)
        return found


def to_and_fro(count: int, fps: float, pan: int = 0) -> Iterator[np.ndarray]:
    """Somebody who stays in the middle, filmed by a camera that turns by `pan` pixels a frame."""
    scene = np.random.default_rng(1).integers(40, 140, (10, 200, 3), np.uint8)
    scene = np.repeat(np.repeat(scene, 6, 0), 6, 1)
    for number in range(count):
        frame = scene[:, pan * number :][:, :90].copy()
        left = 40 + round(12 * np.sin(number / fps))
        frame[15:45, left : left + 10] = 255
        yield frame


def followed_in_pieces(missed: range, length: int, count: int, fps: float, pan: int = 0) -> tuple[bool, list[int]]:
    """Whether the person is lost, and the unsure frames, in pieces of `length` frames."""
    tally = Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("understudy.privacy.shots.MOST_PIXELS", 60 * 90 * length)
        segment = SegmentUnless(missed)
        shots = list(remove_people(to_and_fro(count, fps, pan), fps, segment, background, Settings(), [], tally))
    assert len(shots) == -(-count // length)
    return tally.lost, np.flatnonzero(np.concatenate([shot.unsure for shot in shots])).tolist()


@pytest.mark.parametrize("length", [3, 12, 20])
@pytest.mark.parametrize("first", [23, 24, 25, 60])
def test_who_vanishes_is_lost_however_little_of_a_shot_is_held(first: int, length: int) -> None:
    for missed in (range(first, 120), range(120 - first)):
        lost, unsure = followed_in_pieces(missed, 120, 120, 8)
        assert lost
        in_pieces, unsure_in_pieces = followed_in_pieces(missed, length, 120, 8)
        assert in_pieces, missed
        if missed.start:  # who comes from nowhere is noticed at once, but may not be followed back as far
            assert unsure_in_pieces == unsure


@pytest.mark.parametrize("length", [12, 20])
@pytest.mark.parametrize("first", [10, 11, 12, 19, 20])
@pytest.mark.parametrize("count", [1, 5])
def test_a_moment_without_a_mask_is_noticed_at_the_end_of_a_piece_too(first: int, count: int, length: int) -> None:
    missed = range(first, first + count)
    whole = followed_in_pieces(missed, 60, 60, 8)
    assert whole == (False, list(missed))
    assert followed_in_pieces(missed, length, 60, 8) == whole


@pytest.mark.parametrize("missed", [range(0), range(27, 120), range(30, 120), range(90), range(28, 32)])
def test_the_camera_is_followed_from_piece_to_piece(missed: range) -> None:
    """Who is missed as it turns away from them may have been left behind."""
    whole = followed_in_pieces(missed, 120, 120, 8, pan=2)
    assert len(whole[1]) >= min(len(missed), 4)
    assert followed_in_pieces(missed, 30, 120, 8, pan=2) == whole


@pytest.mark.parametrize("fill", [flat, inpaint, background])
def test_fillers_fill_the_holes_and_nothing_else(fill) -> None:
    clip, frames = painted("demo-actions-train", 2)
    result = remove_from_shot(frames, clip.person, np.zeros(len(frames), np.bool_), FPS, fill, EXACT)
    assert not of_person(result.frames).any()
    assert (result.frames[~result.holes] == frames[~result.holes]).all()


def test_what_stands_in_front_is_not_continued_in_the_filling() -> None:
    """A red pole beside the hole, which other frames show to be no part of the background."""
    shape = (1, 60, 80)
    scenery, holes, seen = np.full((*shape, 3), 90, np.uint8), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    frames = scenery.copy()
    holes[0, 10:50, 30:50], seen[0, 5:55, 20:60] = True, True
    frames[0, 5:55, 50:55] = (250, 0, 0)
    frames[holes] = 255
    motion = Motion(np.eye(3)[None], np.zeros(1, np.int64))
    filled = background(Shot(frames, holes, scenery, seen & ~holes, motion))
    assert (np.abs(filled[holes].astype(int) - 90) <= 2).all()
    assert (filled[~holes] == frames[~holes]).all()


def test_a_filler_of_ones_own() -> None:
    assert load_filler("understudy.privacy.fill:flat") is flat
    for wrong in ("nothing", "understudy.privacy.fill:nothing", "no_such_module:f"):
        with pytest.raises(UserError, match="filler"):
            load_filler(wrong)


def test_the_same_input_gives_the_same_bytes() -> None:
    clip = render(demo_sources("demo-actions-train", 2)[1], seed=0)
    first, second = (removed(clip.frames, clip.person, Settings()).frames for _ in range(2))
    assert (first == second).all()
