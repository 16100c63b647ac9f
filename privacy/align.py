"""Aligning two pictures by their pixels, where there are too few corners to go by: blank walls, blur, grain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.opencv import opencv

F32 = NDArray[np.float32]
Matrix = NDArray[np.float64]

SIDE = 128  # pixels of the longer side that alignment works at
STEPS = 12
SOFT = 6.0  # grey levels: differences beyond count less and less, they are of what moves
DAMPING = 40.0  # pixels' worth of evidence against any motion at all


@dataclass(frozen=True)
class Small:
    """A picture made small: `grey` float32 (h, w) without grain, `counts` float32 (h, w) 1 where it is background;
    `scale` is small pixels per pixel.
    """

    grey: F32
    counts: F32
    scale: float

    @staticmethod
    def of(grey: NDArray[np.uint8], people: NDArray[np.bool_]) -> Small:
        """From a whole frame (H, W) and where its people are (H, W)."""
        cv2 = opencv()

        scale = min(1.0, SIDE / max(grey.shape))
        size = (max(8, round(grey.shape[1] * scale)), max(8, round(grey.shape[0] * scale)))
        small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        free = cv2.resize((~people).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
        # Blurring draws people into what is around them.
        free = cv2.erode(free.astype(np.float32), np.ones((3, 3)))
        return Small(cv2.GaussianBlur(small, (0, 0), 1.2), free, scale)


def mismatch(now: Small, reference: Small, matrix: Matrix) -> float:
    """Mean difference in grey levels, brightness apart, of the background under `matrix`; inf where none is shared.

    `matrix` (3, 3) maps pixels of the frame `now` to those of `reference`.
    """
    warped, weight = _warped(reference, _shrunk(matrix, now.scale), now.grey.shape)
    weight = weight * now.counts
    total = float(weight.sum())
    if total < 0.05 * weight.size:
        return float("inf")
    difference = (warped - now.grey) * weight
    return float((np.abs(difference - difference.sum() / total * weight)).sum() / total)


def align(now: Small, reference: Small, guess: Matrix) -> Matrix:
    """The affine motion (3, 3) near `guess`, as in `mismatch`, under which the backgrounds differ least.

    Gauss-Newton on robustly weighted differences (Baker and Matthews 2004), damped towards the guess, so that a
    picture without any structure stays where it is.
    """
    cv2 = opencv()

    matrix = _shrunk(guess, now.scale)
    height, width = now.grey.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = (x - width / 2) / width, (y - height / 2) / width
    centre = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float64)
    for _ in range(STEPS):
        warped, weight = _warped(reference, matrix, now.grey.shape)
        dx = cv2.Sobel(warped, cv2.CV_32F, 1, 0, scale=1 / 8)
        dy = cv2.Sobel(warped, cv2.CV_32F, 0, 1, scale=1 / 8)
        difference = now.grey - warped
        weight = weight * now.counts
        weight = weight / (1 + (difference / SOFT) ** 2)
        # Motions that move the frame by a pixel at its rim: shift, stretch and turn; and a change of brightness.
        slopes = np.stack([dx, dy, dx * x, dx * y, dy * x, dy * y, np.ones_like(dx)]).reshape(7, -1)
        weighted = slopes * weight.ravel()
        normal = weighted @ slopes.T + np.diag([DAMPING] * 6 + [1.0])
        step = np.linalg.solve(normal.astype(np.float64), (weighted @ difference.ravel()).astype(np.float64))
        a = np.array([[step[2], step[3], step[0]], [step[4], step[5], step[1]], [0, 0, 0]])
        move = np.eye(3) + centre @ (a / width) @ np.linalg.inv(centre)
        matrix = matrix @ move
        if np.abs(step[:6]).max() < 0.01:
            break
    grow = np.diag([1 / now.scale, 1 / now.scale, 1.0])
    return grow @ matrix @ np.linalg.inv(grow)


def _shrunk(matrix: Matrix, scale: float) -> Matrix:
    shrink = np.diag([scale, scale, 1.0])
    return shrink @ matrix @ np.linalg.inv(shrink)


def _warped(picture: Small, matrix: Matrix, shape: tuple[int, ...]) -> tuple[F32, F32]:
    """The picture as seen through `matrix`, and where it counts."""
    cv2 = opencv()

    size = (shape[1], shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    grey = cv2.warpPerspective(picture.grey, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    counts = cv2.warpPerspective(picture.counts, matrix, size, flags=flags)
    return grey, np.floor(counts + 0.01)
