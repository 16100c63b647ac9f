"""Following people: nobody is lost without a word, in either direction of time, however the camera moves."""

from __future__ import annotations

import numpy as np
import pytest

from understudy.privacy.stabilise import Motion
from understudy.privacy.track import follow


def still(count: int) -> Motion:
    return Motion(np.tile(np.eye(3), (count, 1, 1)), np.zeros(count, np.int64))


def scene(people: list[tuple[slice, slice] | None]) -> tuple[np.ndarray, np.ndarray]:
    """Frames and masks (T, 60, 240) with a bright box at each place, or nobody."""
    frames = np.full((len(people), 60, 240, 3), 60, np.uint8)
    drawn = np.zeros((len(people), 60, 240), np.bool_)
    for number, place in enumerate(people):
        if place is not None:
            frames[number][place] = 220
            drawn[number][place] = True
    return frames, drawn


def walk(number: int) -> tuple[slice, slice]:
    return slice(20, 50), slice(90 + 2 * number, 105 + 2 * number)


def test_nobody_is_unsure_of_a_person_who_is_always_masked() -> None:
    frames, drawn = scene([walk(number) for number in range(20)])
    found = follow(drawn, drawn, frames, still(20), 8)
    assert not found.unsure.any() and not found.lost
    assert (found.masks == drawn).all()


def test_a_moving_person_without_a_mask_is_noticed_wherever_in_the_shot() -> None:
    for missed in ([0], [19], [9], [0, 1, 2], [9, 10, 11]):
        frames, drawn = scene([walk(number) for number in range(20)])
        drawn[missed] = False
        found = follow(drawn, drawn, frames, still(20), 8)
        assert found.unsure[missed].all() and not found.lost, missed


def test_who_stands_still_stays_masked_however_long_they_are_missed() -> None:
    frames, drawn = scene([walk(10)] * 60)
    drawn[20:50] = False
    found = follow(drawn, drawn, frames, still(60), 8)
    assert found.masks[20:50, 20:50, 110:125].all()
    assert found.unsure[20:24].all() and found.unsure[46:50].all()


def test_one_of_two_is_missed() -> None:
    frames, drawn = scene([walk(number) for number in range(20)])
    drawn[:, 5:12, 60:75] = True
    frames[:, 5:12, 60:75] = 180
    drawn[10, 5:12, 60:75] = False
    assert follow(drawn, drawn, frames, still(20), 8).unsure[10]


def test_a_person_who_is_missed_for_seconds_is_missed_in_all_of_them() -> None:
    frames, drawn = scene([walk(number) for number in range(48)])
    drawn[14:34] = False  # longer than HELD_S
    assert follow(drawn, drawn, frames, still(48), 8).unsure[14:34].all()


def test_a_part_of_a_person_who_stays_is_kept_and_noticed() -> None:
    frames, drawn = scene([walk(0)] * 20)
    drawn[10, 20:32] = False
    found = follow(drawn, drawn, frames, still(20), 8)
    assert found.masks[10, 20:32, 90:105].all()
    assert found.unsure[10] and found.unsure.sum() == 1


def test_the_mask_of_one_is_no_sign_of_the_next() -> None:
    """Two who stand close; one is masked less and less, and at last not at all."""
    frames, drawn = scene([walk(0)] * 24)
    for number in range(24):
        left = 130 + (number % 3)
        frames[number, 20:50, left : left + 15] = 140 + 40 * (number % 2)
        drawn[number, 20:50, left : left + 15] = number < 10
    unsure = follow(drawn, drawn, frames, still(24), 8).unsure
    assert unsure[10:].all() and not unsure[:10].any()


def test_people_may_leave_at_the_edge_but_not_in_the_middle() -> None:
    out_of_picture = [(slice(20, 50), slice(min(200 + 6 * n, 240), min(215 + 6 * n, 240))) for n in range(7)]
    frames, drawn = scene([*out_of_picture, *[None] * 10])
    assert not follow(drawn, drawn, frames, still(17), 8).unsure.any()
    frames, drawn = scene([walk(n) for n in range(7)] + [None] * 10)
    assert follow(drawn, drawn, frames, still(17), 8).unsure[7]


def test_what_was_masked_out_of_caution_may_vanish() -> None:
    """A flickering false mask costs picture, not the clip; a person beyond doubt who is not masked at all does."""
    frames, drawn = scene([walk(number) for number in range(20)])
    sure = drawn.copy()
    drawn[::3, 0:12, 20:60] = True
    assert not follow(drawn, sure, frames, still(20), 8).unsure.any()
    assert follow(drawn, drawn, frames, still(20), 8).unsure.any()
    drawn[10], sure[10] = False, False
    assert follow(drawn, sure, frames, still(20), 8).unsure[10]


def test_who_vanishes_for_good_is_lost_however_long_the_clip() -> None:
    """A few unsure seconds are a small share of a minute; the person is there in all of it."""
    places = [(slice(20, 50), slice(x := 60 + int(40 * np.sin(n / 9)), x + 15)) for n in range(480)]
    frames, drawn = scene(places)
    drawn[60:] = False
    found = follow(drawn, drawn, frames, still(480), 8)
    assert found.lost and found.unsure.mean() < 0.1
    back = follow(drawn[::-1], drawn[::-1], frames[::-1], still(480), 8)
    assert back.lost, "in the other direction too"


def test_where_the_camera_is_lost_nobody_is_forgotten() -> None:
    frames, drawn = scene([walk(number) for number in range(40)])
    drawn[20:] = False
    groups = Motion(still(40).to_reference, (np.arange(40) >= 20).astype(np.int64))
    for motion in (still(40), groups):
        assert follow(drawn, drawn, frames, motion, 8).unsure[20:].all()
    frames, drawn = scene([walk(number) for number in range(40)])
    found = follow(drawn, drawn, frames, groups, 8)
    assert not found.unsure.any() and not found.lost, "who is masked nearby has been found"


@pytest.mark.parametrize("fps", [6, 10, 30])
@pytest.mark.parametrize("left", [0, 20, 110])
def test_large_people_who_do_not_move_do_not_leave(fps: int, left: int) -> None:
    """They flicker, so that nothing looks the same, and from half a second on nobody masks them."""
    rng, count = np.random.default_rng(0), 3 * fps
    frames = np.full((count, 240, 320, 3), 120, np.uint8)
    drawn = np.zeros((count, 240, 320), np.bool_)
    for number in range(count):
        looks = np.repeat(np.repeat(rng.integers(0, 255, (20, 10, 3), np.uint8), 10, 0), 10, 1)
        frames[number, 20:220, left : left + 100] = looks
        drawn[number, 20:220, left : left + 100] = number < fps // 2
    assert follow(drawn, drawn, frames, still(count), fps).unsure[fps // 2 :].all()


@pytest.mark.parametrize("fps", [6, 30])
def test_large_people_who_walk_out_have_left(fps: int) -> None:
    """At a size a second; the last that is to be seen of them, a fifth, has no mask any more."""
    starts = [160 + round(100 * number / fps) for number in range(5 * fps)]
    frames = np.full((len(starts), 240, 320, 3), 120, np.uint8)
    drawn = np.zeros(frames.shape[:3], np.bool_)
    for number, start in enumerate(starts):
        frames[number, 20:220, start : start + 100] = 220
        drawn[number, 20:220, start : start + 100] = start < 300
    found = follow(drawn, drawn, frames, still(len(starts)), fps)
    assert not found.lost and found.unsure.sum() <= 0.4 * fps
