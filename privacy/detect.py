"""What a detector of people, faces or text is, and how one looks at small things in a frame.

Which ones there are is in `detectors.py`, the networks in `detect_opencv.py`, `detect_mtcnn.py`, `detect_torch.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

What = Literal["person", "face", "text"]
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Hit:
    """One thing seen in one frame: `box` is x0, y0, x1, y1 in pixels of the frame, `score` is the network's, 0..1."""

    what: What
    box: tuple[float, float, float, float]
    score: float


class Detector(Protocol):
    """Looks for one kind of thing. `models` names the weights behind it: two things with a model in common are not
    independent of each other, whatever else differs. `licence` is that of the weights.
    """

    @property
    def name(self) -> str:
        """As in detectors.NAMES."""
        ...

    @property
    def what(self) -> What:
        """What its hits are."""
        ...

    @property
    def licence(self) -> str:
        """Licence of the weights, in words."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the weights, as in a removal record."""
        ...

    def __call__(self, frames: Frames) -> list[list[Hit]]:
        """The hits in each of `frames`, RGB uint8 (T, H, W, 3)."""
        ...


def parts(height: int, width: int, tiles: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Boxes x0, y0, x1, y1 that cover a frame: for each n of `tiles` an n x n grid whose neighbours share a quarter
    of their width, so that what one cuts in two, another has whole if it is smaller than that.
    """
    boxes: list[tuple[int, int, int, int]] = []
    for count in tiles:
        columns, rows = _spans(width, count), _spans(height, count)
        boxes += [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]
    return boxes


def _spans(length: int, count: int) -> list[tuple[int, int]]:
    size = length if count == 1 else min(length, round(length / (0.75 * count + 0.25)))
    starts = np.linspace(0, length - size, count).round().astype(int).tolist()
    return [(start, start + size) for start in starts]


def strongest(hits: Sequence[Hit], overlap: float = 0.5) -> list[Hit]:
    """`hits` of one frame without those that mostly cover a stronger one, strongest first (non-maximum suppression)."""
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: -hit.score):
        if all(_overlap(hit.box, other.box) < overlap for other in kept):
            kept.append(hit)
    return kept


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
