"""A memory map of decoded RGB frames, cropped and resized in threads: what FFCV amounts to for video."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from peers.batches import Loaded, by_threads
from peers.pixels import filler
from spec import Draws, Spec


def run(spec: Spec) -> Iterator[Loaded]:
    draws = Draws.load(spec.draws)
    bytes_a_frame = draws.sizes.prod(axis=1, dtype=np.int64) * 3
    starts = np.concatenate([[0], np.cumsum(bytes_a_frame * draws.frames)])
    data = np.memmap(spec.files[0], np.uint8, "r")

    def read(sample: int, window: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
        width, height = draws.sizes[sample].tolist()
        frames = data[starts[sample] : starts[sample + 1]].reshape(-1, height, width, 3)
        return [np.asarray(frames[i]) for i in window.tolist()]

    return by_threads(spec, filler(spec, read))
