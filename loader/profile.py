"""What each stage of the loader can do alone, and all of them together: which one bounds it.

The stages are the loader's own functions, over the loader's own plans. What a training step costs is not here.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, cycle, islice
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.loader.batch import PADDING, Feed, Plan, collate, load_ahead, read_sample
from understudy.loader.clips import PREFETCH, check_batch, training_feed, training_plans
from understudy.loader.decode import resolve_decoder
from understudy.loader.memory import Memory
from understudy.loader.native import check_native
from understudy.loader.order import Order, default_lanes
from understudy.loader.prefetch import Demand, fetch_ahead, room_ahead
from understudy.loader.read import OPEN_SHARDS, ShardReader
from understudy.loader.request import BatchDecoder, Payload, Request
from understudy.loader.schedule import Schedule
from understudy.loader.views import Clip, Views
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.kinds import Codec

SEED = 0
WARM_UP = 5  # batches before the clock starts: shards are opened, memory is touched for the first time
HELD = 8  # batches of encoded samples that are decoded again and again

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """What one stage does alone, on the threads that it has in the loader. A sample is a crop: a row of a batch."""

    name: str
    samples_per_second: float
    cpu_ms_per_sample: float
    share: float  # of the CPU time of all stages


@dataclass(frozen=True)
class Profile:
    """The stages in their order, and the whole loader. `bound` is the stage that is the slowest alone; `failed` counts
    the stored videos that the whole loader met and could not use.
    """

    corpus: str
    codec: Codec
    decoder: str
    clip: Clip
    views: int
    batch_size: int
    threads: int
    device: str
    stages: tuple[Stage, ...]
    whole: Stage
    bound: str
    failed: int


class Trace:
    """Collects the events of a Chrome trace, which https://ui.perfetto.dev opens. Any thread may add some."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def timed(self, name: str, call: Callable[P, R]) -> Callable[P, R]:
        """`call`, with an event each time."""

        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            start = time.perf_counter_ns()
            try:
                return call(*args, **kwargs)
            finally:
                took = time.perf_counter_ns() - start
                place = {"pid": 0, "tid": threading.get_native_id()}
                self._events.append({"name": name, "ph": "X", "ts": start / 1e3, "dur": took / 1e3, **place})

        return wrapped

    def as_json(self) -> str:
        """All events so far, in the trace event format."""
        return json.dumps({"traceEvents": self._events}) + "\n"


class Pipeline:
    """The training loader of one corpus, taken apart. Raises UserError where `ClipLoader` does."""

    def __init__(
        self, corpus: Corpus, clip: Clip, views: Views, batch_size: int, decoder: str, threads: int, device: str
    ) -> None:
        samples = check_batch(batch_size, views.count, 0, 1)
        self.corpus, self.clip, self.views, self.batch_size = corpus, clip, views, batch_size
        self.threads, self.device = threads, torch.device(device)
        self.decoder = resolve_decoder(decoder, corpus.manifest.codec, self.device)
        self.failed = 0
        counts = [shard.nsamples for shard in corpus.manifest.shards]
        self._order = Order(corpus.manifest.digest, counts, SEED, samples, default_lanes(samples))
        at_once = self._order.shards_at_once(1)
        self._room = room_ahead([Demand(corpus, at_once)])
        self._feed = training_feed(corpus, clip, views, SEED, decoder, self.device, at_once, threads)
        self._shape = (samples, 1, views.count, 3, clip.frames, clip.size, clip.size)

    # Each of these goes on without end, a batch an item.

    def order(self) -> Iterator[object]:
        """Which samples come next."""
        return self._plans(self._feed)

    def read(self) -> Iterator[object]:
        """Encoded samples, read and checked; what lies elsewhere is fetched. Windows and crops are drawn."""
        return _in_threads(self.threads, self._requests, fetch_ahead(self._plans(self._feed), self._room))

    def decode(self) -> Iterator[object]:
        """Clips, of encoded samples in memory."""
        requests = [asked for asked in map(self._requests, islice(self._plans(self._feed), HELD)) if asked]
        if not requests:
            raise UserError(f"{self.corpus.root}: no sample can be read; check it with: understudy lint")
        decoder, shape = self._feed.decoder, (self._shape[0], *self._shape[2:])
        if isinstance(decoder, BatchDecoder):
            clips = torch.empty(shape, dtype=torch.uint8, device=self.device)
            checked = [
                (asked, [decoder.check(request) for request in asked]) for asked in requests
            ]  # by those who read
            return (self._finished(decoder.decode(*both, clips[: len(both[0])])) for both in cycle(checked))
        memory = Memory(spare=2 * self.threads)

        def work(asked: list[Request]) -> object:
            out = memory.take(math.prod(shape)).reshape(shape)
            return decoder(asked, out[: len(asked)])

        return _in_threads(self.threads, work, cycle(requests))

    def deliver(self) -> Iterator[object]:
        """Clips in memory to the device, as batches."""
        plan = next(self._plans(self._feed))
        clips = torch.zeros(self._shape, dtype=torch.uint8)
        if isinstance(self._feed.decoder, BatchDecoder):
            clips = clips.to(self.device)
        elif self.device.type == "cuda":
            clips = clips.pin_memory()
        reasons: list[str | None] = [None] * len(plan.ids)
        return (self._finished(collate(plan, clips, None, reasons, self.device)) for _ in count())

    def whole(self, trace: Trace | None = None) -> Generator[object, None, None]:
        """All of that, as `ClipLoader` does it; what can't be used is counted in `failed`."""
        plans = self._plans(_traced(self._feed, trace) if trace else self._feed)
        if trace:
            plans = iter(trace.timed("order", plans.__next__), None)
        batches = load_ahead(fetch_ahead(plans, self._room), self._shape[1:], self.threads, PREFETCH, self.device)
        take = trace.timed("wait for a batch", batches.__next__) if trace else batches.__next__
        try:
            while True:
                loaded = take()
                self.failed += sum(reason is not None for reason in loaded.reasons)
                yield self._finished(loaded.take())
        finally:
            batches.close()

    def _plans(self, feed: Feed) -> Iterator[Plan]:
        return training_plans([feed], [self._order], Schedule([1.0], SEED), 0, 0, 1)

    def _requests(self, plan: Plan) -> list[Request]:
        visits = zip(plan.ids.tolist(), plan.visits.tolist())
        read = [read_sample(self._feed, sample, visit) for sample, visit in visits if sample != PADDING]
        return [request for requests, _ in read for request in requests]

    def _finished(self, result: object) -> object:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return result


def profile(pipeline: Pipeline, seconds: float, say: Callable[[str], object] = lambda _: None) -> Profile:
    """Time each stage for `seconds` and then all of them together; `say` hears what comes next."""
    parts = (pipeline.order, pipeline.read, pipeline.decode, pipeline.deliver, pipeline.whole)
    timings: list[tuple[str, float, float]] = []
    for part in parts:
        say(part.__name__)
        timings.append((part.__name__, *_time(part(), pipeline.batch_size, seconds)))
    whole = timings.pop()
    total = sum(cpu for _, _, cpu in timings)
    stages = tuple(Stage(name, rate, cpu, cpu / max(total, 1e-9)) for name, rate, cpu in timings)
    variant = f" ({check_native()})" if pipeline.decoder == "native" else ""
    return Profile(
        corpus=pipeline.corpus.manifest.name,
        codec=pipeline.corpus.manifest.codec,
        decoder=pipeline.decoder + variant,
        clip=pipeline.clip,
        views=pipeline.views.count,
        batch_size=pipeline.batch_size,
        threads=pipeline.threads,
        device=str(pipeline.device),
        stages=stages,
        whole=Stage(*whole, share=1.0),
        bound=min(stages, key=lambda stage: stage.samples_per_second).name,
        failed=pipeline.failed,
    )


def trace_batches(pipeline: Pipeline, batches: int) -> str:
    """The Chrome trace of `batches` batches of the whole loader, from the very first, as JSON."""
    trace = Trace()
    with closing(pipeline.whole(trace)) as running:
        for _ in range(batches):
            next(running)
    return trace.as_json()


class _TracedReader(ShardReader):
    def __init__(self, reader: ShardReader, trace: Trace) -> None:
        super().__init__(reader.corpus, OPEN_SHARDS)
        self._timed = trace.timed("read", super().read_frames)

    def read_frames(
        self, sample: int, frames: NDArray[np.int32], stop: threading.Event | None = None
    ) -> tuple[Payload, NDArray[np.int32], str | None]:
        """As the reader does."""
        return self._timed(sample, frames, stop)


def _traced(feed: Feed, trace: Trace) -> Feed:
    decoder = feed.decoder
    if isinstance(decoder, BatchDecoder):
        decoder = replace(decoder, decode=trace.timed("decode", decoder.decode))
    else:
        decoder = trace.timed("decode", decoder)
    return replace(feed, reader=_TracedReader(feed.reader, trace), decoder=decoder)


def _time(batches: Iterator[object], batch_size: int, seconds: float) -> tuple[float, float]:
    """Samples a second, and milliseconds of this process's CPU time for each."""
    for _ in range(WARM_UP):
        next(batches)
    done, start, cpu = 0, time.perf_counter(), time.process_time()
    while True:
        next(batches)
        done += batch_size
        wall = time.perf_counter() - start
        if wall >= seconds:
            return done / wall, 1000 * (time.process_time() - cpu) / done


def _in_threads(threads: int, work: Callable[[T], object], items: Iterator[T]) -> Iterator[object]:
    """`work` of each item, in turn, done by threads that are kept busy."""
    with ThreadPoolExecutor(threads) as pool:
        under_way = deque[Future[object]](pool.submit(work, item) for item in islice(items, 2 * threads))
        for item in items:
            yield under_way.popleft().result()
            under_way.append(pool.submit(work, item))
