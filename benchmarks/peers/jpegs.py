"""Frames out of the bytes of our mjpeg members, by simplejpeg (libjpeg-turbo)."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from peers.batches import ReadFrames, Visits, clip_shape
from peers.pixels import filler
from spec import Draws, Spec

from understudy.shards.corpus import Corpus


def decode(stream: memoryview, offsets: NDArray[np.int64], window: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
    """The frames of `window` from the member KEY.mjpg, by the numbers in KEY.off."""
    starts, ends = offsets[window].tolist(), offsets[window + 1].tolist()
    # The coarser upsampling stays within the tolerance and saves 7 %; the coarser transform does not.
    return [simplejpeg.decode_jpeg(stream[start:end], fastupsample=True) for start, end in zip(starts, ends)]


def shard_frames(spec: Spec) -> ReadFrames:
    """A function that reads a sample from its shard and decodes a window of it."""
    corpus = Corpus.open(spec.corpus)
    descriptors = [os.open(corpus.shard_path(number), os.O_RDONLY) for number in range(len(corpus.manifest.shards))]
    spans, shards = corpus.spans.tolist(), corpus.shard.tolist()

    def read(sample: int, window: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
        (start, _), (index, index_length) = spans[sample]
        shard = descriptors[shards[sample]]
        offsets = np.frombuffer(os.pread(shard, index_length, index), "<i8")
        first, end = int(offsets[window.min()]), int(offsets[window.max() + 1])  # only the window's bytes
        return decode(memoryview(os.pread(shard, end - first, start + first)), offsets - first, window)

    return read


def sample_clips(spec: Spec) -> Callable[[int, bytes, bytes], tuple[torch.Tensor, int, int]]:
    """For readers that hand over whole samples in an order of their own: a function from a sample's number, its mjpg
    and its off to its clips (K, 3, T, S, S), number and visit.
    """
    draws, visits = Draws.load(spec.draws), Visits()

    def clips(sample: int, stream: bytes, offsets: bytes) -> tuple[torch.Tensor, int, int]:
        task = draws.task(sample, visits.next(sample))
        out = np.empty(clip_shape(spec.views), np.uint8)
        index = np.frombuffer(offsets, "<i8")
        filler(spec, lambda _, window: decode(memoryview(stream), index, window))(task, out)
        return torch.from_numpy(out), task.sample, task.visit

    return clips
