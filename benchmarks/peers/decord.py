"""torch DataLoader, decord and OpenCV on video files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from peers.batches import Loaded, by_workers
from peers.pixels import filler
from spec import Spec


def run(spec: Spec) -> Iterator[Loaded]:
    from decord import VideoReader, cpu

    def read(sample: int, window: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
        reader = VideoReader(spec.files[sample], ctx=cpu(0), num_threads=1)
        return list(reader.get_batch(window).asnumpy())

    return by_workers(spec, filler(spec, read))
