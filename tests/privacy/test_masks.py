"""Masks: holes filled, specks dropped, margins by size, moments bridged."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from understudy.privacy.masks import around_in_time, boxed, solid, steady, widened

masks = arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(16, 24), st.integers(16, 24)))


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
