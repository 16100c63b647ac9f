"""Plain threads, simplejpeg and OpenCV on the same mjpeg shards: both release the GIL, and nothing is copied."""

from __future__ import annotations

from collections.abc import Iterator

from peers.batches import Loaded, by_threads
from peers.jpegs import shard_frames
from peers.pixels import filler
from spec import Spec


def run(spec: Spec) -> Iterator[Loaded]:
    return by_threads(spec, filler(spec, shard_frames(spec)))
