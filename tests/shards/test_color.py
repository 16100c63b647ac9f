"""Pixels: tone curve, HDR, alpha, turning. Colour matrices and ranges are held end to end in test_ingest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.shards.color import KNEE, PEAK, bend, over_black, to_sdr, turns_sideways, upright


def pq(light: float) -> int:
    """16-bit PQ value of light in cd/m2."""
    y = (light / 10000) ** (2610 / 16384)
    return round(65535 * ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32))


def hlg(light: float) -> int:
    """16-bit HLG value of scene light, 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return round(65535 * (np.sqrt(3 * light) if light <= 1 / 12 else a * np.log(12 * light - b) + c))


def pixel(*values: int) -> np.ndarray:
    return np.array([[values if len(values) == 3 else values * 3]], np.uint16)


def test_the_tone_curve_leaves_darkness_alone_and_ends_at_one():
    light = np.linspace(0, 2 * PEAK, 4001, dtype=np.float32)
    shown = bend(light)
    assert np.array_equal(shown[light <= KNEE], light[light <= KNEE])
    assert (np.diff(shown) >= 0).all()
    assert shown[light >= PEAK] == pytest.approx(1.0)
    slope = np.diff(shown) / np.diff(light)
    assert np.abs(np.diff(slope)).max() < 0.03  # no corner anywhere below the peak, least of all at the knee


@pytest.mark.parametrize(
    ("curve", "black", "dim", "white", "peak"),
    [
        ("pq", 0, pq(203 * 0.18), pq(203), pq(1000)),
        ("hlg", 0, hlg(0.0620), hlg(0.2647), hlg(1.0)),  # 18 % grey and diffuse white of a 1000 cd/m2 screen
    ],
)
def test_hdr_greys_stay_grey_and_as_bright_as_on_a_plain_screen(curve, black, dim, white, peak):
    shown = [to_sdr(pixel(value), curve)[0, 0] for value in (black, dim, white, peak)]
    assert all(np.ptp(rgb) <= 1 for rgb in shown)
    grey = [int(rgb[1]) for rgb in shown]
    assert grey[0] == 0
    assert grey[1] == pytest.approx(118, abs=3)  # sRGB of 18 % light
    assert 200 < grey[2] < 240
    assert grey[3] == 255


@given(hnp.arrays(np.uint16, (1, 8, 3)), st.sampled_from(["pq", "hlg", "sdr"]))
def test_any_value_has_a_colour_and_brighter_is_not_darker(rgb, curve):
    grey = np.sort(rgb[..., :1], axis=1).repeat(3, axis=2)
    assert (np.diff(to_sdr(grey, curve).astype(int), axis=1) >= 0).all()
    assert to_sdr(rgb, curve).shape == rgb.shape


def test_wide_colours_come_out_as_the_same_colours():
    """BT.709's red, given in BT.2020 primaries at the same light, is red again."""
    red_2020 = np.array([0.6274, 0.0691, 0.0164])
    shown = to_sdr(pixel(*(round(65535 * v ** (1 / 2.4)) for v in red_2020)), "sdr")[0, 0]
    assert shown[0] >= 253 and shown[1] <= 12 and shown[2] <= 12


def test_alpha_is_seen_on_black():
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]], np.uint8)
    assert over_black(rgba).tolist() == [[[200, 100, 50], [0, 0, 0], [100, 50, 25]]]


# What a display matrix a b / c d does to a picture with A B in the upper row and C D in the lower.
TURNS = {
    (1, 0, 0, 1): "AB/CD",
    (0, 1, -1, 0): "CA/DB",  # a quarter turn clockwise: a phone held upright
    (-1, 0, 0, -1): "DC/BA",
    (0, -1, 1, 0): "BD/AC",
    (-1, 0, 0, 1): "BA/DC",  # mirrored: a front camera
    (1, 0, 0, -1): "CD/AB",
    (0, 1, 1, 0): "AC/BD",
    (0, -1, -1, 0): "DB/CA",
}


@pytest.mark.parametrize(("matrix", "shown"), TURNS.items())
def test_pictures_are_turned_and_mirrored(matrix, shown):
    a, b, c, d = matrix
    picture = np.array([[65, 66], [67, 68]], np.uint8).repeat(2, 0).repeat(3, 1)[..., None].repeat(3, 2)
    turned = upright(picture, np.array([a, b, 0, c, d, 0, 0, 0, 1], np.int32) << 16)
    assert turned.shape == ((6, 4, 3) if turns_sideways(np.array([a, b, 0, c, d])) else (4, 6, 3))
    corners = turned[:: turned.shape[0] - 1, :: turned.shape[1] - 1, 0]
    assert "/".join("".join(map(chr, row)) for row in corners) == shown


def test_a_slightly_slanted_matrix_is_taken_for_the_nearest_quarter():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    slanted = (np.array([0.9, 0.3, 0, -0.3, 0.9, 0, 0, 0, 1]) * 65536).astype(np.int32)
    assert np.array_equal(upright(picture, slanted), picture)
    assert upright(picture, None) is picture
