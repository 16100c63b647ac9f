"""Masks and following people: holes filled, margins by size, and nobody lost without a word."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from understudy.privacy.masks import around_in_time, boxed, solid, steady, widened
from understudy.privacy.stabilise import Motion
from understudy.privacy.track import follow

masks = arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(16, 24), st.integers(16, 24)))


def still(count: int) -> Motion:
    return Motion(np.tile(np.eye(3), (count, 1, 1)), np.zeros(count, np.int64))


@settings(max_examples=40, deadline=None)
@given(masks)
def test_nothing_that_was_masked_is_unmasked(drawn: np.ndarray) -> None:
    whole = solid(drawn, 0)
    for wider in (whole, steady(drawn, 8), widened(drawn), boxed(drawn, 8), around_in_time(drawn, 2)):
        assert (wider | ~drawn).all()


def test_holes_are_filled_and_specks_dropped() -> None:
    mask = np.zeros((1, 100, 100), np.bool_)
    mask[0, 20:60, 20:60] = True
    mask[0, 30:40, 30:40] = False
    mask[0, 5, 5] = True
    result = solid(mask)
    assert result[0, 20:60, 20:60].all()
    assert not result[0, 5, 5]
    assert solid(mask, 0)[0, 5, 5]


def test_the_margin_grows_with_the_person() -> None:
    mask = np.zeros((1, 200, 300), np.bool_)
    mask[0, 90:100, 40:50] = True
    mask[0, 50:150, 150:250] = True
    result = widened(mask)[0]
    small, large = 50 + np.argmin(result[95, 50:]), 250 + np.argmin(result[100, 250:])
    assert 2 <= small - 50 <= 4
    assert 9 <= large - 250 <= 12


def test_a_moment_without_a_mask_is_bridged() -> None:
    mask = np.zeros((9, 20, 20), np.bool_)
    mask[:, 5:10, 5:10] = True
    mask[4] = False
    assert steady(mask, 10)[4, 5:10, 5:10].all()


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
    out, unsure = follow(drawn, drawn, frames, still(20), 8)
    assert not unsure.any()
    assert (out == drawn).all()


def test_a_moving_person_without_a_mask_is_noticed_wherever_in_the_shot() -> None:
    for missed in ([0], [19], [9], [0, 1, 2], [9, 10, 11]):
        frames, drawn = scene([walk(number) for number in range(20)])
        drawn[missed] = False
        _, unsure = follow(drawn, drawn, frames, still(20), 8)
        assert unsure[missed].all(), missed


def test_who_stands_still_stays_masked_however_long_they_are_missed() -> None:
    frames, drawn = scene([walk(10)] * 60)
    drawn[20:50] = False
    out, unsure = follow(drawn, drawn, frames, still(60), 8)
    assert out[20:50, 20:50, 110:125].all()
    assert unsure[20:24].all() and unsure[46:50].all()


def test_one_of_two_is_missed() -> None:
    frames, drawn = scene([walk(number) for number in range(20)])
    drawn[:, 5:12, 60:75] = True
    frames[:, 5:12, 60:75] = 180
    drawn[10, 5:12, 60:75] = False
    assert follow(drawn, drawn, frames, still(20), 8)[1][10]


def test_a_person_who_is_missed_for_seconds_is_missed_in_all_of_them() -> None:
    frames, drawn = scene([walk(number) for number in range(48)])
    drawn[14:34] = False  # longer than HELD_S
    assert follow(drawn, drawn, frames, still(48), 8)[1][14:34].all()


def test_a_part_of_a_person_who_stays_is_kept_and_noticed() -> None:
    frames, drawn = scene([walk(0)] * 20)
    drawn[10, 20:32] = False
    out, unsure = follow(drawn, drawn, frames, still(20), 8)
    assert out[10, 20:32, 90:105].all()
    assert unsure[10] and unsure.sum() == 1


def test_the_mask_of_one_is_no_sign_of_the_next() -> None:
    """Two who stand close; one is masked less and less, and at last not at all."""
    frames, drawn = scene([walk(0)] * 24)
    for number in range(24):
        left = 130 + (number % 3)
        frames[number, 20:50, left : left + 15] = 140 + 40 * (number % 2)
        drawn[number, 20:50, left : left + 15] = number < 10
    unsure = follow(drawn, drawn, frames, still(24), 8)[1]
    assert unsure[10:].all() and not unsure[:10].any()


def test_people_may_leave_at_the_edge_but_not_in_the_middle() -> None:
    out_of_picture = [(slice(20, 50), slice(min(200 + 6 * n, 240), min(215 + 6 * n, 240))) for n in range(7)]
    frames, drawn = scene([*out_of_picture, *[None] * 10])
    assert not follow(drawn, drawn, frames, still(17), 8)[1].any()
    frames, drawn = scene([walk(n) for n in range(7)] + [None] * 10)
    assert follow(drawn, drawn, frames, still(17), 8)[1][7]


def test_what_was_masked_out_of_caution_may_vanish() -> None:
    """A flickering false mask costs picture, not the clip; a person beyond doubt who is not masked at all does."""
    frames, drawn = scene([walk(number) for number in range(20)])
    sure = drawn.copy()
    drawn[::3, 0:12, 20:60] = True
    assert not follow(drawn, sure, frames, still(20), 8)[1].any()
    assert follow(drawn, drawn, frames, still(20), 8)[1].any()
    drawn[10], sure[10] = False, False
    assert follow(drawn, sure, frames, still(20), 8)[1][10]
