"""torch DataLoader, PyAV and OpenCV on video files."""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np
from numpy.typing import NDArray
from peers.batches import Loaded, by_workers
from peers.pixels import filler
from spec import Spec


def run(spec: Spec) -> Iterator[Loaded]:
    def read(sample: int, window: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
        return frames(spec.files[sample], window)

    return by_workers(spec, filler(spec, read))


def frames(path: str, window: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
    """Seek to the group of pictures of the first frame, decode up to the last, convert those that are wanted."""
    wanted = set(window.tolist())
    last = max(wanted)
    found: dict[int, NDArray[np.uint8]] = {}
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        ticks = 1 / (stream.average_rate * stream.time_base)  # a frame
        start = stream.start_time or 0
        container.seek(start + int(min(wanted) * ticks), stream=stream)
        for frame in container.decode(stream):
            number = round((frame.pts - start) / ticks)
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number >= last:
                break
    return [found[number] for number in window.tolist()]
