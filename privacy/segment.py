"""What a segmenter of people is. Which ones there are is in `segmenters.py`; masks are the business of `masks.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Segmentation:
    """What a segmenter sees in frames (T, H, W, 3).

    `probability` float32 (T, H, W): that a pixel is of a person, 0..1. `confidence` float32 (T,): how sure it is that
    it missed nobody, 0..1; removal keeps no pixel of a frame below its limit. `presence` float32 (T,): how sure that
    there is anybody, 0..1.
    """

    probability: NDArray[np.float32]
    confidence: NDArray[np.float32]
    presence: NDArray[np.float32]


class Segmenter(Protocol):
    """Finds the people in a few consecutive frames of one shot. `models` names its weights, as detectors do."""

    @property
    def name(self) -> str:
        """For the removal record."""
        ...

    @property
    def licence(self) -> str:
        """Licence of the weights, in words."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the weights: an audit with any of them would not be independent."""
        ...

    @property
    def still_there(self) -> float:
        """The presence from which somebody is there, when what is left of a removal is looked at again."""
        ...

    def __call__(self, frames: Frames) -> Segmentation:
        """The people in `frames`, RGB uint8 (T, H, W, 3). The same frames give the same answer."""
        ...
