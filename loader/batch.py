"""From a plan of ids to a batch of clips: what training and evaluation share.

Read, decode and collate are plain functions; threads run the first two, a few batches ahead. Which ids come next is
decided in order.py and schedule.py.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.loader.memory import Memory
from understudy.loader.read import ShardReader
from understudy.loader.request import BatchDecoder, Decoder, Request
from understudy.loader.views import Draw, hole_shares
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.machine import usable_cores

# Batches that a GPU may be behind its program before the next is made for it, so that they do not pile up. A program
# that waits for its GPU no later than this, as recipes/train.py does, never waits for that in the loader.
LEAD = 3
TOGETHER = 4  # samples that a thread reads before it decodes them: more would not stay in its cache
PADDING = -1  # the id and label of a row that only fills up a batch of evaluation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """This rank's rows of one step, all of one source. The views of a sample are neighbouring rows.

    On the loader's device: `clips` uint8 (N, 3, T, H, W) RGB, `labels` int64 (N,), `ids` int64 (N,), which are the
    samples' numbers in their corpus, and `ok` bool (N,). A row that is not ok is black: a sample that could not be
    read, which keeps its id and label, or padding, whose id and label are -1. `holes`, where it is asked for, is uint8
    (N, T, places, places): how much of each part of every frame was filled in, 255 for all of it.
    """

    clips: torch.Tensor
    labels: torch.Tensor
    source: str
    ids: torch.Tensor
    ok: torch.Tensor
    holes: torch.Tensor | None = None


@dataclass(frozen=True)
class Feed:
    """One corpus with all that turns its ids into clips. `draw` maps (sample, visit) to windows and crops. `places` is
    the side of `Batch.holes`, 0 where these aren't wanted.
    """

    corpus: Corpus
    reader: ShardReader
    decoder: Decoder | BatchDecoder
    draw: Callable[[int, int], Draw]
    places: int = 0


@dataclass(frozen=True)
class Plan:
    """What a batch will hold, before any byte is read: int64 (n,) sample ids of one corpus and their visits."""

    feed: Feed
    ids: NDArray[np.int64]
    visits: NDArray[np.int64]


def read_sample(
    feed: Feed, sample: int, visit: int, stop: threading.Event | None = None
) -> tuple[list[Request], str | None]:
    """Read and check one sample: a request for each of its windows, or none and the reason why. Padding has neither.

    Raises StoppedError where `stop` is set while its shard is fetched.
    """
    if sample == PADDING:
        return [], None
    corpus, draw = feed.corpus, feed.draw(sample, visit)
    payload, windows, reason = feed.reader.read_frames(sample, draw.windows, stop)
    if reason is not None:
        return [], reason
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
        for frames in windows
    ]
    return requests, None


def load_samples(
    feed: Feed,
    decoder: Decoder,
    visits: Sequence[tuple[int, int]],
    out: NDArray[np.uint8],
    stop: threading.Event | None = None,
) -> list[str | None]:
    """Read, check and decode samples, given as id and visit, into `out`, uint8 (n, C, K, 3, T, S, S).

    For each None, or why its entry is zeros.
    """
    read = [read_sample(feed, sample, visit, stop) for sample, visit in visits]
    reasons = [reason for _, reason in read]
    good = [i for i, (requests, _) in enumerate(read) if requests]
    # All at once, as usual, or else each good one alone, since a decoder has no use for gaps.
    runs = [range(len(read))] if len(good) == len(read) else [range(i, i + 1) for i in good]
    windows, *shape = out.shape[1:]
    for run in runs:
        requests = [request for i in run for request in read[i][0]]
        answers = decoder(requests, out[run.start : run.stop].reshape(-1, *shape))
        for i, start in zip(run, range(0, len(answers), windows)):
            reasons[i] = next(filter(None, answers[start : start + windows]), None)
    for i, reason in enumerate(reasons):
        if reason is not None or i not in good:
            out[i] = 0  # a sample counts whole or not at all
    return reasons


def load_holes(
    feed: Feed, visits: Sequence[tuple[int, int]], sample_shape: tuple[int, ...], stop: threading.Event | None = None
) -> tuple[NDArray[np.uint8], list[str | None]]:
    """Where samples were filled in, uint8 (n, C, K, T, places, places), and for each None or why that can't be had."""
    windows, views, _, frames, *_ = sample_shape
    shares = np.zeros((len(visits), windows, views, frames, feed.places, feed.places), np.uint8)
    reasons: list[str | None] = []
    for out, (sample, visit) in zip(shares, visits):
        cells, reason = (None, None) if sample == PADDING else feed.reader.read_holes(sample, stop)
        reasons.append(reason)
        if cells is not None:
            draw = feed.draw(sample, visit)
            for i, window in enumerate(draw.windows):
                out[i] = hole_shares(cells[window], draw.crops, draw.flips, feed.places)
    return shares, reasons


Checked = tuple[list[tuple[Request, str | None]], str | None]


def check_sample(
    feed: Feed, decoder: BatchDecoder, sample: int, visit: int, stop: threading.Event | None = None
) -> Checked:
    """As `read_sample`; with each request comes what the decoder says of it before it decodes."""
    requests, reason = read_sample(feed, sample, visit, stop)
    return [(request, decoder.check(request)) for request in requests], reason


def decode_together(
    decoder: BatchDecoder, samples: list[Future[Checked]], sample_shape: tuple[int, ...]
) -> tuple[torch.Tensor, list[str | None]]:
    """Decode what `check_sample` read, all at once: clips uint8 (n, *sample_shape) and why which samples are zeros."""
    clips = torch.empty((len(samples), *sample_shape), dtype=torch.uint8, device=decoder.device)
    windows = sample_shape[0]
    read = [sample.result() for sample in samples]
    requests: list[Request | None] = []
    verdicts: list[str | None] = []
    for checked, _ in read:
        requests += [request for request, _ in checked] or [None] * windows
        verdicts += [verdict for _, verdict in checked] or [None] * windows
    answers = decoder.decode(requests, verdicts, clips.flatten(0, 1))
    reasons: list[str | None] = []
    for i, (_, reason) in enumerate(read):
        failed = [answer for answer in answers[i * windows : (i + 1) * windows] if answer is not None]
        if failed:
            clips[i].zero_()  # a sample counts whole or not at all
        reasons.append(failed[0] if failed else reason)
    return clips, reasons


@dataclass(frozen=True)
class Loaded:
    """A batch with its plan and, for each sample, None or the reason why it failed. `ready`: when a GPU has it all."""

    plan: Plan
    reasons: list[str | None]
    batch: Batch
    ready: torch.cuda.Event | None

    def take(self) -> Batch:
        """The batch, for the caller's current stream: what comes next there waits for it, but not the caller."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.batch.clips.device)
            stream.wait_event(self.ready)
            batch = self.batch
            for tensor in (batch.clips, batch.labels, batch.ids, batch.ok, batch.holes):
                if tensor is not None:
                    tensor.record_stream(stream)  # so that its memory is not given away before that stream is done
        return self.batch


def _stop_all() -> None:
    for stop in list(_stops):
        stop.set()


# The interpreter waits for threads before it ends, and these for downloads: a program that died of an error would stay
# until all are done. The hook is the one by which concurrent.futures waits; what is registered last is called first.
_stops: weakref.WeakSet[threading.Event] = weakref.WeakSet()
getattr(threading, "_register_atexit", atexit.register)(_stop_all)


def load_ahead(
    plans: Generator[Plan], sample_shape: tuple[int, ...], threads: int, prefetch: int, device: torch.device
) -> Generator[Loaded, None, None]:
    """The batches of `plans` in order and on `device`, `prefetch` of them under way ahead of the one waited for.

    `sample_shape` is (C, K, 3, T, S, S). What a thread raises is raised here. Closing or dropping the iterator stops
    the threads.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="understudy-loader")
    # Batches go to the device one after another, from a thread and on a stream of their own, while the caller computes.
    delivery = ThreadPoolExecutor(1, thread_name_prefix="understudy-loader-delivery")
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    stop = threading.Event()
    _stops.add(stop)
    under_way: deque[Future[Loaded]] = deque()
    used: deque[torch.cuda.Event] = deque()  # when a GPU is done with each batch that was taken
    memory = Memory(spare=prefetch + 2)

    def start(plan: Plan) -> Future[Loaded]:
        feed, decoder = plan.feed, plan.feed.decoder
        visits = list(zip(plan.ids.tolist(), plan.visits.tolist()))
        holes = pool.submit(load_holes, feed, visits, sample_shape, stop) if feed.places else None
        if isinstance(decoder, BatchDecoder):
            read = [pool.submit(check_sample, feed, decoder, sample, visit, stop) for sample, visit in visits]
            return delivery.submit(deliver, plan, partial(decode_together, decoder, read, sample_shape), holes)
        shape = (len(visits), *sample_shape)
        if stream:  # torch uses it again by itself
            clips = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            clips = torch.as_tensor(memory.take(math.prod(shape)).reshape(shape))
        # A few samples at a time: to take turns in the interpreter costs as much as what a sample needs of it.
        together = min(TOGETHER, math.ceil(len(visits) / threads))
        made = [
            pool.submit(load_samples, feed, decoder, visits[i : i + together], clips.numpy()[i : i + together], stop)
            for i in range(0, len(visits), together)
        ]

        def decoded() -> tuple[torch.Tensor, list[str | None]]:
            return clips, [reason for part in made for reason in part.result()]

        return delivery.submit(deliver, plan, decoded, holes)

    def deliver(
        plan: Plan,
        make: Callable[[], tuple[torch.Tensor, list[str | None]]],
        holes: Future[tuple[NDArray[np.uint8], list[str | None]]] | None,
    ) -> Loaded:
        with torch.cuda.stream(stream) if stream else nullcontext():
            while len(used) > LEAD:
                used.popleft().synchronize()
            clips, reasons = make()
            shares = None
            if holes is not None:
                shares, missing = holes.result()
                for i, reason in enumerate(missing):
                    if reason is not None:
                        clips[i].zero_()  # a sample counts whole or not at all
                reasons = [reason or other for reason, other in zip(reasons, missing)]
            batch = collate(plan, clips, shares, reasons, device)
            ready = torch.cuda.Event() if stream else None
            if ready:
                ready.record(stream)
            return Loaded(plan, reasons, batch, ready)

    def mark_used() -> None:  # by the caller, who comes back for more
        if stream:
            event = torch.cuda.Event(blocking=True)
            event.record(torch.cuda.current_stream(device))
            used.append(event)

    try:
        for plan in plans:
            under_way.append(start(plan))
            if len(under_way) > prefetch:
                yield under_way.popleft().result()
                mark_used()
        while under_way:
            yield under_way.popleft().result()
            mark_used()
    finally:
        stop.set()
        plans.close()
        pool.shutdown(wait=True, cancel_futures=True)
        delivery.shutdown(wait=True, cancel_futures=True)


def collate(
    plan: Plan,
    clips: torch.Tensor,
    holes: NDArray[np.uint8] | None,
    reasons: list[str | None],
    device: torch.device,
) -> Batch:
    """The batch on `device`: every sample's windows and crops become rows of their own. Waits for no copy."""
    n = len(plan.ids)
    rows = clips.flatten(0, 2)
    views = len(rows) // n
    padding = plan.ids == PADDING
    labels = np.where(padding, PADDING, plan.feed.corpus.label[plan.ids])
    ok = ~padding & np.array([reason is None for reason in reasons], np.bool_)

    def there(column: NDArray[np.int64] | NDArray[np.bool_] | NDArray[np.uint8]) -> torch.Tensor:
        values = torch.as_tensor(column)
        return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)

    return Batch(
        clips=rows.to(device, non_blocking=True),
        labels=there(labels.repeat(views)),
        source=plan.feed.corpus.manifest.name,
        ids=there(plan.ids.repeat(views)),
        ok=there(ok.repeat(views)),
        holes=None if holes is None else there(holes.reshape(len(rows), *holes.shape[3:])),
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
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
