"""What the demo's pictures are made of: round cones and flat plates in 3-D, and what is built from them.

Lengths in metres, up is +y and the ground is y = 0. A solid moves: its points have one row for each frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Colour = tuple[float, float, float]  # red, green, blue in 0..1
Ink = Callable[[], Colour]  # gives a new colour that stands out from the scene


@dataclass(frozen=True)
class Cone:
    """A round cone: the hull of two balls, with centres `a` and `b` (T, 3) and radii `ra` and `rb`.

    `part` is which part of a person it is, an index into `figure.PARTS`, or -1 where it is no person. `bands` is how
    many darker bands it has between its ends.
    """

    a: Array
    b: Array
    ra: float
    rb: float
    colour: Colour
    part: int = -1
    bands: float = 0.0


@dataclass(frozen=True)
class Plate:
    """A flat convex quadrilateral, lit evenly, with `corners` (T, 4, 3) in order around it.

    It is drawn as if `behind` metres farther away: for large plates that things stand on or before.
    """

    corners: Array
    colour: Colour
    behind: float = 0.0


Solid = Cone | Plate


def spot(frames: int, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> Array:
    """A point (T, 3) from three coordinates, each a number or (T,)."""
    return np.stack([np.broadcast_to(np.asarray(value, dtype=np.float64), frames) for value in (x, y, z)], axis=-1)


def rod(a: Array, b: Array, radius: float, colour: Colour) -> Cone:
    """A straight bar with round ends."""
    return Cone(a, b, radius, radius, colour)


def ball(centre: Array, radius: float, colour: Colour) -> Cone:
    """A ball."""
    return Cone(centre, centre, radius, radius, colour)


def chain(points: Sequence[Array], radius: float, colour: Colour) -> list[Solid]:
    """Rods from point to point: ropes, strings, rims."""
    return [rod(a, b, radius, colour) for a, b in itertools.pairwise(points)]


def plate(corners: Sequence[Array], colour: Colour, behind: float = 0.0) -> Plate:
    """A plate from its four corners, (T, 3) each."""
    return Plate(np.stack(corners, axis=1), colour, behind)


def box(centre: Array, size: tuple[float, float, float], colour: Colour, behind: float = 0.0) -> list[Solid]:
    """An upright block, `size` in x, y, z: its top, its front (+z) and its sides, each in a shade of its own."""
    w, h, d = (extent / 2 for extent in size)

    def face(shade: float, *corners: tuple[float, float, float]) -> Plate:
        return plate([centre + np.array(corner) for corner in corners], shaded(colour, shade), behind)

    return [
        face(0.70, (-w, -h, -d), (-w, h, -d), (-w, h, d), (-w, -h, d)),
        face(0.75, (w, -h, -d), (w, h, -d), (w, h, d), (w, -h, d)),
        face(0.88, (-w, -h, d), (w, -h, d), (w, h, d), (-w, h, d)),
        face(1.00, (-w, h, -d), (w, h, -d), (w, h, d), (-w, h, d)),
    ]


def shaded(colour: Colour, by: float) -> Colour:
    """`colour` made darker by a factor."""
    return colour[0] * by, colour[1] * by, colour[2] * by
