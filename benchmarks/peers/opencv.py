"""torch DataLoader and OpenCV, decoder and all, on video files."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from peers.batches import Loaded, by_workers
from peers.pixels import filler
from spec import Spec


def run(spec: Spec) -> Iterator[Loaded]:
    def read(sample: int, window: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
        return frames(spec.files[sample], window)

    return by_workers(spec, filler(spec, read, bgr=True))


def frames(path: str, window: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
    """Seek to the first frame, `grab` to the last, convert those that are wanted; they come as BGR."""
    wanted = set(window.tolist())
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    found: dict[int, NDArray[np.uint8]] = {}
    try:
        if min(wanted):
            capture.set(cv2.CAP_PROP_POS_FRAMES, min(wanted))
        for number in range(min(wanted), max(wanted) + 1):
            if not capture.grab():
                raise RuntimeError(f"{path}: no frame {number}")
            if number in wanted:
                _, found[number] = capture.retrieve()
    finally:
        capture.release()
    return [found[number] for number in window.tolist()]
