"""From a plan of ids to a batch of clips: what training and evaluation share.

Read, decode and collate are plain functions; threads run the first two, a few batches ahead. Which ids come next is
decided in order.py and schedule.py.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.loader.read import ShardReader
from understudy.loader.request import Decoder, Request
from understudy.loader.views import Draw
from understudy.shards.errors import UserError
from understudy.shards.manifest import Corpus

PADDING = -1  # the id and label of a row that only fills up a batch of evaluation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """This rank's rows of one step, all of one source. The views of a sample are neighbouring rows.

    On the loader's device: `clips` uint8 (N, 3, T, H, W) RGB, `labels` int64 (N,), `ids` int64 (N,), which are the
    samples' numbers in their corpus, and `ok` bool (N,). A row that is not ok is black: a sample that could not be
    read, which keeps its id and label, or padding, whose id and label are -1.
    """

    clips: torch.Tensor
    labels: torch.Tensor
    source: str
    ids: torch.Tensor
    ok: torch.Tensor


@dataclass(frozen=True)
class Feed:
    """One corpus with all that turns its ids into clips. `draw` maps (sample, visit) to windows and crops."""

    corpus: Corpus
    reader: ShardReader
    decoder: Decoder
    draw: Callable[[int, int], Draw]


@dataclass(frozen=True)
class Plan:
    """What a batch will hold, before any byte is read: int64 (n,) sample ids of one corpus and their visits."""

    feed: Feed
    ids: NDArray[np.int64]
    visits: NDArray[np.int64]


def load_sample(
    feed: Feed, sample: int, visit: int, out: NDArray[np.uint8], stop: threading.Event | None = None
) -> str | None:
    """Read, check and decode one sample into `out`, uint8 (C, K, 3, T, S, S); None, or why `out` is zeros.

    Raises StoppedError where `stop` is set while its shard is fetched.
    """
    if sample == PADDING:
        out[:] = 0
        return None
    payload, reason = feed.reader.read(sample, stop)
    if reason is not None:
        out[:] = 0
        return reason
    corpus, draw = feed.corpus, feed.draw(sample, visit)
    requests = [
        Request(
            payload=payload,
            codec=corpus.manifest.codec,
            frames=frames,
            crops=draw.crops,
            flips=draw.flips,
            width=int(corpus.width[sample]),
            height=int(corpus.height[sample]),
        )
        for frames in draw.windows
    ]
    failed = [reason for reason in feed.decoder(requests, out) if reason is not None]
    if failed:
        out[:] = 0  # a sample counts whole or not at all
    return failed[0] if failed else None


def load_ahead(
    plans: Generator[Plan], sample_shape: tuple[int, ...], threads: int, prefetch: int, pin_memory: bool
) -> Generator[tuple[Plan, torch.Tensor, list[str | None]], None, None]:
    """The batches of `plans` in order, with `prefetch` of them under way ahead of the one that is waited for.

    Yields the plan, its clips uint8 (n, *sample_shape) and for each sample None or the reason why it failed. What a
    thread raises is raised here. Closing or dropping the iterator stops the threads.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="understudy-loader")
    stop = threading.Event()
    under_way: deque[tuple[Plan, torch.Tensor, list[Future[str | None]]]] = deque()

    def finish() -> tuple[Plan, torch.Tensor, list[str | None]]:
        plan, clips, samples = under_way.popleft()
        return plan, clips, [sample.result() for sample in samples]

    try:
        for plan in plans:
            clips = torch.empty((len(plan.ids), *sample_shape), dtype=torch.uint8, pin_memory=pin_memory)
            rows = clips.numpy()
            samples = [
                pool.submit(load_sample, plan.feed, sample, visit, rows[i], stop)
                for i, (sample, visit) in enumerate(zip(plan.ids.tolist(), plan.visits.tolist()))
            ]
            under_way.append((plan, clips, samples))
            if len(under_way) > prefetch:
                yield finish()
        while under_way:
            yield finish()
    finally:
        stop.set()
        plans.close()
        pool.shutdown(wait=True, cancel_futures=True)


def collate(plan: Plan, clips: torch.Tensor, reasons: list[str | None], device: torch.device) -> Batch:
    """The batch on `device`: every sample's windows and crops become rows of their own."""
    n = len(plan.ids)
    rows = clips.flatten(0, 2)
    views = len(rows) // n
    padding = plan.ids == PADDING
    labels = np.where(padding, PADDING, plan.feed.corpus.label[plan.ids])
    ok = ~padding & np.array([reason is None for reason in reasons], np.bool_)

    def per_row(column: NDArray[np.int64] | NDArray[np.bool_]) -> torch.Tensor:
        return torch.as_tensor(column.repeat(views), device=device)

    return Batch(
        clips=rows.to(device, non_blocking=True),
        labels=per_row(labels),
        source=plan.feed.corpus.manifest.name,
        ids=per_row(plan.ids),
        ok=per_row(ok),
    )


class Failures:
    """Counts the samples that were skipped, says so in the log, and stops a job that only meets bad ones."""

    def __init__(self, max_consecutive: int) -> None:
        self.max_consecutive = max_consecutive
        self.skipped: Counter[tuple[str, str]] = Counter()
        self._in_a_row: dict[str, list[str]] = {}  # by source: the reasons since the last good sample

    def count(self, plan: Plan, reasons: list[str | None]) -> None:
        """Take note of one batch, in order. Raises UserError at `max_consecutive` failures of one source in a row."""
        corpus = plan.feed.corpus
        source = corpus.manifest.name
        row = self._in_a_row.setdefault(source, [])
        if all(reasons):
            log.warning("%s: not one of this batch's %d samples could be used", source, len(reasons))
        ids: list[int] = plan.ids.tolist()
        for sample, reason in zip(ids, reasons):
            if reason is None:
                if sample != PADDING:
                    row.clear()
                continue
            row.append(reason)
            self.skipped[(source, reason)] += 1
            if self.skipped[(source, reason)] == 1:
                log.warning(
                    "%s: sample %s is skipped (%s); more of the kind are only counted",
                    source,
                    corpus.keys[sample],
                    reason,
                )
            if len(row) >= self.max_consecutive:
                commonest = Counter(row).most_common(1)[0][0]
                raise UserError(
                    f"{source}: {len(row)} samples in a row can't be used, most often: {commonest}; "
                    f"check the corpus with: understudy lint {corpus.root}"
                )


def default_threads() -> int:
    """This process's share of the cores that the machine lets it use."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
