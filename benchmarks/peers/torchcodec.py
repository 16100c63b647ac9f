"""torch DataLoader, torchcodec and OpenCV on video files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from peers.batches import Loaded, by_workers
from spec import Spec


def run(spec: Spec) -> Iterator[Loaded]:
    from peers.pixels import filler
    from torchcodec.decoders import VideoDecoder

    def read(sample: int, window: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
        decoder = VideoDecoder(
            spec.files[sample], dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate"
        )
        return list(decoder.get_frames_at(window.tolist()).data.numpy())

    read(0, np.zeros(1, np.int32))  # its libraries are loaded late: here, not in every worker
    return by_workers(spec, filler(spec, read))
