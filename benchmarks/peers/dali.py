"""Stock DALI on CPU: the shards' JPEGs through its image decoder, or a clip through its video decoder.

The colours are taken apart by OpenCV: DALI's own transposition is nine times slower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from peers.batches import RING, Loaded, clip_shape
from peers.pixels import to_planes
from spec import CLIP, Draws, Spec, Task, tasks

from understudy.shards.corpus import Corpus

BYTES = NDArray[np.uint8]
PREFETCH = 2


def run(spec: Spec) -> Iterator[Loaded]:
    todo = _Feed(spec)
    images = spec.options["graph"] == "images"  # else videos
    graph = _images if images else _video
    options = {
        "batch_size": spec.videos * (CLIP.frames if images else 1),
        "num_threads": spec.threads,
        "device_id": None,
    }
    pipe = pipeline_def(graph)(spec, todo, **options, prefetch_queue_depth=PREFETCH)
    pipe.build()
    ring = torch.empty((RING, spec.videos, *clip_shape(spec.views)), dtype=torch.uint8)
    number = 0
    while True:
        try:
            views = pipe.run()
        except RuntimeError as error:  # a page of text, of which this says what is wrong
            raise RuntimeError(str(error).partition("encountered:")[2].partition("C++ context")[0]) from None
        clips = ring[number % RING]
        for k, view in enumerate(views):
            made = torch.from_dlpack(view.as_tensor()).view(spec.videos, CLIP.frames, CLIP.size, CLIP.size, 3)
            for frames, out in zip(made.numpy(), clips.numpy()[:, k]):
                to_planes(frames, out)
        number += 1
        yield Loaded(clips.flatten(0, 1), todo.under_way.popleft())


class _Feed:
    """What goes into the pipeline for each batch: the encoded bytes, what to decode of them, and boxes."""

    def __init__(self, spec: Spec) -> None:
        self.under_way: deque[list[tuple[int, int]]] = deque()
        self._videos = spec.videos
        self._tasks = tasks(Draws.load(spec.draws))
        self._read = _jpeg_source(spec) if spec.source_format == "mjpeg" else _file_source(spec)

    def images(self) -> tuple[list[BYTES], ...]:
        """For each frame: its JPEG; corner and size (y, x) of the box around all views; each view's corners in it."""
        jpegs: list[BYTES] = []
        boxes: list[list[NDArray[np.int32]]] = []
        for task in self._next():
            stream, offsets = self._read(task.sample)
            jpegs += [stream[offsets[i] : offsets[i + 1]] for i in task.window.tolist()]
            corners, ends = _corners(task)
            first, last = corners.min(axis=0), ends.max(axis=0)
            row = [first, last - first]
            for corner, end in zip(corners, ends):
                row += [corner - first, end - first]
            boxes += [row] * CLIP.frames
        return jpegs, *(list(column) for column in zip(*boxes))

    def videos(self) -> tuple[list[BYTES], ...]:
        """For each video: its bytes, the frames to decode, and the top left and bottom right corner of each view."""
        rows: list[list[Any]] = []
        for task in self._next():
            row = [self._read(task.sample)[0], task.window]
            for corner, end in zip(*_corners(task)):
                row += [corner, end]
            rows.append(row)
        return tuple(list(column) for column in zip(*rows))

    def _next(self) -> list[Task]:
        batch = [next(self._tasks) for _ in range(self._videos)]
        self.under_way.append([(task.sample, task.visit) for task in batch])
        return batch


def _corners(task: Task) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(y, x) of the top left corner and of the end of each view, int32 (K, 2)."""
    corners = np.ascontiguousarray(task.crops[:, [1, 0]])  # DALI takes no strided rows
    return corners, corners + np.ascontiguousarray(task.crops[:, [3, 2]])


def _images(spec: Spec, feed: _Feed) -> tuple[Any, ...]:
    inputs = fn.external_source(feed.images, num_outputs=3 + 2 * spec.views, batch=True)
    jpegs, first, size, *corners = inputs
    # Only what some view needs is decoded, once for all views.
    decoded = fn.decoders.image_slice(jpegs, first, size, axes=[0, 1], normalized_anchor=False, normalized_shape=False)
    return tuple(_resize(spec, decoded, corner, end) for corner, end in zip(corners[::2], corners[1::2]))


def _video(spec: Spec, feed: _Feed) -> tuple[Any, ...]:
    inputs = fn.external_source(feed.videos, num_outputs=2 + 2 * spec.views, batch=True)
    encoded, frames, *corners = inputs
    decoded = fn.decoders.video(encoded, frames=frames, device="cpu")
    return tuple(_resize(spec, decoded, corner, end) for corner, end in zip(corners[::2], corners[1::2]))


def _resize(spec: Spec, frames: Any, corner: Any, end: Any) -> Any:
    return fn.resize(
        frames,
        roi_start=fn.cast(corner, dtype=types.FLOAT),
        roi_end=fn.cast(end, dtype=types.FLOAT),
        size=[CLIP.size, CLIP.size],
        interp_type=types.INTERP_LINEAR,
        antialias=spec.antialias,
    )


def _jpeg_source(spec: Spec):
    corpus = Corpus.open(spec.corpus)
    shards = [np.memmap(corpus.shard_path(number), np.uint8, "r") for number in range(len(corpus.manifest.shards))]
    spans = corpus.spans.tolist()

    def read(sample: int) -> tuple[BYTES, list[int]]:
        shard = shards[corpus.shard[sample]]
        (start, length), (index, index_length) = spans[sample]
        offsets = shard[index : index + index_length].view("<i8").tolist()
        return shard[start : start + length].view(np.ndarray), offsets

    return read


def _file_source(spec: Spec):
    files = [np.frombuffer(Path(path).read_bytes(), np.uint8) for path in spec.files]

    def read(sample: int) -> tuple[BYTES, None]:
        return files[sample], None

    return read
