"""Which segmenters there are and getting one by name; the user's own masks as one; a segmenter that looks again.

The networks are in `segment_mediapipe.py` and `segment_torch.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from understudy.privacy.detect import Hit, What
from understudy.privacy.opencv import opencv
from understudy.privacy.segment import Frames, Segmentation, Segmenter
from understudy.shards.errors import UserError
from understudy.shards.sources import RefusedError

Name = Literal["mediapipe", "maskrcnn", "transformers"]
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
    white where people are. Of a frame without a file nothing is known. Gets the video's frames in order, each once;
    `every` is how many frames of the video one step is.
    """

    folder: Path
    every: float = 1.0
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
            # The frame on display at that time; the small part keeps 1.9999 from being 1.
            path = self.folder / f"{int(self.given * self.every + 1e-3):06d}.png"
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
            if mask is not None:
                if abs(mask.shape[1] * height - mask.shape[0] * width) > STRETCH * mask.shape[0] * width:
                    shapes = f"{mask.shape[1]} x {mask.shape[0]}, its pictures are {width} x {height}"
                    raise RefusedError(f"its masks are of another shape: {shapes}")
                size = (width, height)
                probability[number] = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) / np.float32(255)
                confidence[number] = 1
            self.given += 1
        return Segmentation(probability, confidence, probability.max((1, 2)))

    def check_count(self) -> None:
        """After all frames: raise RefusedError unless the last mask is of the last of them, else all may be shifted."""
        last = max((int(path.stem) for path in self.folder.glob("*.png") if path.stem.isdigit()), default=-1)
        if not int((self.given - 1) * self.every + 1e-3) <= last < self.given * self.every - 0.5:
            frames = round(self.given * self.every)
            raise RefusedError(f"its masks go up to number {last}, it has {frames} frames: make one for each, from 0")


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
