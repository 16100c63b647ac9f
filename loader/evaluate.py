"""The evaluation pass: every sample of a corpus exactly once, in fixed views, equally many batches on every rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from understudy.loader.batch import (
    PADDING,
    Batch,
    Failures,
    Feed,
    Plan,
    default_threads,
    load_ahead,
)
from understudy.loader.clips import check_batch, own_rank
from understudy.loader.decode import choose_decoder
from understudy.loader.prefetch import Demand, fetch_ahead, room_ahead
from understudy.loader.read import OPEN_SHARDS, ShardReader
from understudy.loader.views import Clip, Draw, EvalViews, draw_evaluation
from understudy.shards.corpus import Corpus


class EvalLoader:
    """Finite iterable of `Batch`; each `iter()` is a pass of its own, and `len()` is its number of batches.

    `batch_size` is the rows of a step over all ranks, clips x crops of them a sample, clip by clip. Rank r takes the
    r-th of `world_size` equal parts of the corpus (see clips.own_rank for their defaults), in corpus order; rows that
    fill up the last batches are padding: not ok, id and label -1. A sample that can't be used is not ok too, but keeps
    its id and label, and is counted in `skipped`.
    """

    def __init__(
        self,
        corpus: Corpus,
        clip: Clip,
        views: EvalViews,
        batch_size: int,
        decoder: str = "auto",
        *,
        rank: int | None = None,
        world_size: int | None = None,
        threads: int | None = None,
        prefetch: int = 2,
        device: torch.device | str = "cpu",
        max_consecutive_failures: int = 100,
    ) -> None:
        rank, world_size = own_rank(rank, world_size)
        samples_per_step = check_batch(batch_size, views.clips * views.crops, rank, world_size)
        self._per_batch = samples_per_step // world_size
        at_once = shards_at_once([shard.nsamples for shard in corpus.manifest.shards], self._per_batch * (prefetch + 1))
        self._room = room_ahead([Demand(corpus, at_once)])
        self._threads = default_threads() if threads is None else threads
        self._feed = Feed(
            corpus=corpus,
            reader=ShardReader(corpus, min(at_once, OPEN_SHARDS)),
            decoder=choose_decoder(decoder, corpus.manifest.codec, torch.device(device), self._threads),
            draw=partial(_draw, corpus, clip, views),
        )
        self._sample_shape = (views.clips, views.crops, 3, clip.frames, clip.size, clip.size)
        self._rank, self._world_size = rank, world_size
        self._prefetch = prefetch
        self._device = torch.device(device)
        self._failures = Failures(max_consecutive_failures)

    @property
    def skipped(self) -> dict[tuple[str, str], int]:
        """Samples of this rank that could not be used, by (source, reason), over all passes so far."""
        return dict(self._failures.skipped)

    def __len__(self) -> int:
        return math.ceil(math.ceil(len(self._feed.corpus) / self._world_size) / self._per_batch)

    def __iter__(self) -> Iterator[Batch]:
        plans = evaluation_plans(self._feed, self._per_batch, self._rank, self._world_size)
        ahead = fetch_ahead(plans, self._room)
        for loaded in load_ahead(ahead, self._sample_shape, self._threads, self._prefetch, self._device):
            self._failures.count(loaded.plan, loaded.reasons)
            yield loaded.take()


def shards_at_once(nsamples: Sequence[int], samples: int) -> int:
    """How many shards so many samples in a row lie in at most, shard i having `nsamples[i]`."""
    ends = np.cumsum(nsamples)
    # From the last sample of each shard on.
    last = np.searchsorted(ends, np.minimum(ends - 1 + samples - 1, ends[-1:] - 1), side="right")
    return int((last - np.arange(len(ends))).max(initial=0)) + 1


def evaluation_plans(feed: Feed, per_batch: int, rank: int, world_size: int) -> Iterator[Plan]:
    """The batches of `rank`, `per_batch` samples each: its part of the corpus, filled up with padding."""
    per_rank = math.ceil(len(feed.corpus) / world_size)
    slots = np.full(math.ceil(per_rank / per_batch) * per_batch, PADDING, np.int64)
    mine = np.arange(rank * per_rank, min((rank + 1) * per_rank, len(feed.corpus)))
    slots[: len(mine)] = mine
    for ids in slots.reshape(-1, per_batch):
        yield Plan(feed, ids, np.zeros(per_batch, np.int64))


def _draw(corpus: Corpus, clip: Clip, views: EvalViews, sample: int, visit: int) -> Draw:
    return draw_evaluation(
        clip, views, int(corpus.frames[sample]), int(corpus.width[sample]), int(corpus.height[sample])
    )
