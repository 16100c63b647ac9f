"""Which segmenters there are and getting one by name; the user's own masks as one; a segmenter that looks again.

The networks are in `segment_mediapipe.py` and `segment_torch.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.detect import Hit, What
from understudy.privacy.masks import SPECK
from understudy.privacy.opencv import opencv
from understudy.privacy.segment import Frames, Segmentation, Segmenter
from understudy.shards.errors import UserError
from understudy.shards.sources import RefusedError

Name = Literal["mediapipe", "maskrcnn", "transformers"]
MUST_BE = "they must be white, 255, where people are, and black elsewhere"
STRETCH = 0.02  # by which a mask may be wider or narrower than its frame: sizes are rounded


def load_segmenter(name: Name, weights: Path | None = None, device: str = "cpu") -> Segmenter:
    """The segmenter called `name`; `weights` is a file or folder as `segment_torch.py` says, or a wheel for mediapipe.

    Raises UserError where weights or a library are missing, with what to do.
    """
    if name == "mediapipe":
        from understudy.privacy.segment_mediapipe import MediaPipe

        return MediaPipe.load(weights)
    from understudy.privacy import segment_torch

    if name == "maskrcnn":
        return segment_torch.load_maskrcnn(weights, device)
    if name == "transformers":
        return segment_torch.load_transformers(weights, device)
    raise UserError(f"segmenter {name!r}: there are mediapipe, maskrcnn, transformers")


@dataclass
class MaskFiles:
    """Masks that the user has, as a segmenter for one video: FOLDER/000000.png and so on, one for each of its frames,
    white where people are. Of a frame without a file nothing is known. Gets frames in order, each once; `numbers` are
    those that they have in the video, listed at the latest when they are given.
    """

    folder: Path
    numbers: list[int] = field(default_factory=list)
    given: int = 0

    name: str = "masks"
    licence: str = "of the masks' owner"
    models: tuple[str, ...] = ()
    still_there: float = 0.5

    def __call__(self, frames: Frames) -> Segmentation:
        """The masks of the next `len(frames)` frames."""
        cv2 = opencv()

        if not self.folder.is_dir():
            raise RefusedError("it has no folder of masks")
        height, width = frames.shape[1:3]
        probability = np.zeros(frames.shape[:3], np.float32)
        confidence = np.zeros(len(frames), np.float32)
        for number in range(len(frames)):
            path = self.folder / f"{self.numbers[self.given]:06d}.png"
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
            if picture is not None:
                mask, clear = _grey(picture)
                if abs(mask.shape[1] * height - mask.shape[0] * width) > STRETCH * mask.shape[0] * width:
                    shapes = f"{mask.shape[1]} x {mask.shape[0]}, its pictures are {width} x {height}"
                    raise RefusedError(f"its masks are of another shape: {shapes}")
                size = (width, height)
                probability[number] = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) / np.float32(255)
                confidence[number] = clear
            self.given += 1
        return Segmentation(probability, confidence, probability.max((1, 2)))

    def check_count(self, frames: int) -> None:
        """Raise RefusedError unless the last mask is of the last of the video's `frames`, else all may be shifted."""
        last = max((int(path.stem) for path in self.folder.glob("*.png") if path.stem.isdigit()), default=-1)
        if last != frames - 1:
            raise RefusedError(f"its masks go up to number {last}, it has {frames} frames: make one for each, from 0")


def _grey(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
    """A mask (H, W) of a picture (H, W, 3), and whether it is clear. Raises RefusedError for what looks like labels:
    read as grey, 1 and the dark red of a palette are nobody.
    """
    mask = picture[..., 0]
    if (picture != mask[..., None]).any():
        raise RefusedError(f"its masks are in colours: {MUST_BE}")
    # Soft edges are fine, so long as there is more that they are the edge of.
    marked, white = np.count_nonzero(mask), np.count_nonzero(mask >= 128)
    clear = bool(marked <= 2 * white)
    if not clear and marked > SPECK * mask.size:
        raise RefusedError(f"its masks are more grey than white: {MUST_BE}")
    return mask, clear


@dataclass(frozen=True)
class Recheck:
    """A segmenter as a detector: does it still see anyone, now that those it saw are gone?"""

    segment: Segmenter
    what: What = "person"

    @property
    def name(self) -> str:
        """The segmenter's."""
        return self.segment.name

    @property
    def licence(self) -> str:
        """The segmenter's."""
        return self.segment.licence

    @property
    def models(self) -> tuple[str, ...]:
        """The segmenter's."""
        return self.segment.models

    def __call__(self, frames: Frames) -> list[list[Hit]]:
        """A hit, the whole frame, for each frame in which somebody is seen."""
        whole = (0.0, 0.0, float(frames.shape[2]), float(frames.shape[1]))
        presence = self.segment(frames).presence.tolist()
        return [[Hit("person", whole, score)] if score > self.segment.still_there else [] for score in presence]
