"""What a peer hands over, and the two usual ways to make it: torch's worker processes, and threads."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spec import CLIP, Draws, Spec, Task, order, tasks

# The frames of a window of one sample, in its order: uint8 RGB (H, W, 3) each.
ReadFrames = Callable[[int, NDArray[np.int32]], Sequence[NDArray[np.uint8]]]
# Fills uint8 (K, 3, T, S, S) with the crops of a task.
Fill = Callable[[Task, NDArray[np.uint8]], None]

RING = 4  # batches whose memory is used in turn by what runs in threads: faster than fresh pages each time


class Loaded(NamedTuple):
    """One batch: clips uint8 (n * K, 3, T, S, S) RGB, and (sample, visit) of each of the n videos.

    The clips may be overwritten when RING - 2 more batches have been taken.
    """

    clips: torch.Tensor
    tasks: Sequence[tuple[int, int]]


def clip_shape(views: int) -> tuple[int, ...]:
    """(K, 3, T, S, S)."""
    return (views, 3, CLIP.frames, CLIP.size, CLIP.size)


class Visits:
    """Counts how often a sample came by, for readers with an order of their own."""

    def __init__(self) -> None:
        self._seen: Counter[int] = Counter()

    def next(self, sample: int) -> int:
        """0 for the first time, 1 for the second."""
        self._seen[sample] += 1
        return self._seen[sample] - 1


class _Clips(torch.utils.data.Dataset[Loaded]):
    """Makes whole batches in the memory that the processes share: 5 % faster than torch's default collation."""

    def __init__(self, spec: Spec, fill: Fill) -> None:
        self._draws, self._views, self._fill = Draws.load(spec.draws), spec.views, fill

    def __getitems__(self, indices: list[tuple[int, int]]) -> Loaded:
        shape = (len(indices), *clip_shape(self._views))
        storage = torch.UntypedStorage._new_shared(math.prod(shape))
        clips = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
        for index, out in zip(indices, clips.numpy()):
            self._fill(self._draws.task(*index), out)
        return Loaded(clips.flatten(0, 1), indices)


class _Order(torch.utils.data.Sampler[tuple[int, int]]):
    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return order(self._samples)


def by_workers(spec: Spec, fill: Fill) -> Iterator[Loaded]:
    """A map-style dataset in torch's DataLoader with as many worker processes as the spec has threads."""
    return iter(
        torch.utils.data.DataLoader(
            _Clips(spec, fill),
            batch_size=spec.videos,
            sampler=_Order(len(Draws.load(spec.draws))),
            collate_fn=_as_it_is,
            num_workers=spec.threads,
            worker_init_fn=quiet_worker,
            multiprocessing_context="fork",
        )
    )


def _as_it_is(batch: Loaded) -> Loaded:
    return batch


def quiet_worker(_: int) -> None:
    """One thread a worker process."""
    torch.set_num_threads(1)


def from_collated(batch: Any) -> Loaded:
    """What torch's default collation makes of (clips, sample, visit)."""
    clips, samples, visits = batch
    return Loaded(clips.flatten(0, 1), list(zip(samples.tolist(), visits.tolist())))


def by_threads(spec: Spec, fill: Fill) -> Iterator[Loaded]:
    """A thread pool that is kept two batches ahead."""
    ring = torch.empty((RING, spec.videos, *clip_shape(spec.views)), dtype=torch.uint8)
    stream = tasks(Draws.load(spec.draws))
    under_way: deque[tuple[torch.Tensor, list[tuple[int, int]], list[Any]]] = deque()
    with ThreadPoolExecutor(spec.threads) as pool:
        number = 0
        while True:
            clips = ring[number % RING]
            todo = [next(stream) for _ in range(spec.videos)]
            futures = [pool.submit(fill, task, out) for task, out in zip(todo, clips.numpy())]
            under_way.append((clips, [(task.sample, task.visit) for task in todo], futures))
            number += 1
            if len(under_way) > 2:
                clips, done, futures = under_way.popleft()
                for future in futures:
                    future.result()
                yield Loaded(clips.flatten(0, 1), done)
