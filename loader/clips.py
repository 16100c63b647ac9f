"""The training stream: an infinite, seeded, resumable sequence of batches over weighted sources.

What is drawn when is decided in order.py, schedule.py and views.py; how it becomes a batch is in batch.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from types import TracebackType
from typing import Any, cast

import torch
from torch import distributed

from understudy.loader.batch import Batch, Failures, Feed, Loaded, Plan, default_threads, load_ahead
from understudy.loader.decode import choose_decoder
from understudy.loader.order import GROUP, Order, check_layout, default_lanes
from understudy.loader.philox import stream_key
from understudy.loader.prefetch import Demand, fetch_ahead, room_ahead
from understudy.loader.read import OPEN_SHARDS, ShardReader
from understudy.loader.schedule import Schedule
from understudy.loader.views import Clip, Draw, Views, draw_training
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError

STATE_VERSION = 1
PREFETCH = 2  # batches under way ahead of the one that is waited for


@dataclass(frozen=True)
class LoaderSource:
    """A corpus and its share of the steps, relative to the other sources' weights."""

    corpus: Corpus
    weight: float = 1.0


class ClipLoader:
    """Infinite iterator of `Batch`, each from one source.

    `batch_size` is the rows of a step over all ranks, views included: batch_size / views.count samples are read.
    Which samples, windows and crops a step has depends on the corpora, `clip`, `views`, `batch_size`, `seed` and
    `lanes` alone; `rank` of `world_size` takes its part of them (own_rank says what they are by default). `lanes`
    (default: the largest divisor of a step's samples that is at most 64) must be divisible by the world size.

    `skipped` counts unusable samples of this rank by (source, reason) since this object was made; their rows are not
    ok. `max_consecutive_failures` of one source in a row raise UserError. With `allow_changed_corpora` a state may be
    of other corpora, in as many sources of the same weights: the stream goes on at its step, in the order of these.
    With `places` batches say where videos were filled in, in so many parts a side (`Batch.holes`).
    `wait_seconds` adds up the time that the caller spent waiting here. Use it as a context manager, or call `close()`,
    to stop its threads.
    """

    def __init__(
        self,
        sources: Sequence[LoaderSource],
        clip: Clip,
        views: Views,
        batch_size: int,
        seed: int,
        decoder: str = "auto",
        *,
        rank: int | None = None,
        world_size: int | None = None,
        threads: int | None = None,
        prefetch: int = PREFETCH,
        lanes: int | None = None,
        device: torch.device | str = "cpu",
        max_consecutive_failures: int = 100,
        allow_changed_corpora: bool = False,
        places: int = 0,
    ) -> None:
        rank, world_size = own_rank(rank, world_size)
        samples_per_step = check_batch(batch_size, views.count, rank, world_size)
        lanes = default_lanes(samples_per_step) if lanes is None else lanes
        check_layout(samples_per_step, lanes, world_size)
        names = [source.corpus.manifest.name for source in sources]
        if len(set(names)) < len(names):
            raise UserError(f"two sources have the same name: {', '.join(names)}; pack one of them under another name")
        corpora = [source.corpus for source in sources]
        digests = [corpus.manifest.digest for corpus in corpora]
        self._schedule = Schedule([source.weight for source in sources], seed)
        self._orders = [
            Order(digest, [shard.nsamples for shard in corpus.manifest.shards], seed, samples_per_step, lanes)
            for corpus, digest in zip(corpora, digests)
        ]
        at_once = [order.shards_at_once(world_size) for order in self._orders]
        self._demands = [Demand(corpus, shards) for corpus, shards in zip(corpora, at_once)]
        self._room = room_ahead(self._demands)
        self._threads = default_threads() if threads is None else threads
        self._feeds = [
            training_feed(corpus, clip, views, seed, decoder, torch.device(device), shards, self._threads, places)
            for corpus, shards in zip(corpora, at_once)
        ]
        self._settings: dict[str, Any] = {
            "version": STATE_VERSION,
            "seed": seed,
            "batch_size": batch_size,
            "clip": asdict(clip),
            "views": {**asdict(views), "scale": list(views.scale), "ratio": list(views.ratio)},
            "lanes": lanes,
            "group": GROUP,
            # Half a digest is enough to tell corpora apart, and keeps the state small.
            "sources": [{"digest": d[:32], "weight": s.weight} for d, s in zip(digests, sources)],
        }
        self._allow_changed = allow_changed_corpora
        self._sample_shape = (1, views.count, 3, clip.frames, clip.size, clip.size)
        self._rank, self._world_size = rank, world_size
        self._prefetch = prefetch
        self._device = torch.device(device)
        self._failures = Failures(max_consecutive_failures)
        self.wait_seconds = 0.0
        self._step = 0
        self._batches = self._batches_from(0)

    @property
    def skipped(self) -> dict[tuple[str, str], int]:
        """Samples of this rank that could not be used, by (source, reason)."""
        return dict(self._failures.skipped)

    @property
    def step(self) -> int:
        """Steps that the caller has taken since the start of the stream."""
        return self._step

    def __iter__(self) -> ClipLoader:
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        try:
            loaded = next(self._batches)
        except StopIteration:
            raise RuntimeError("this loader was closed, by close() or by an error before") from None
        self._failures.count(loaded.plan, loaded.reasons)
        batch = loaded.take()
        self.wait_seconds += time.perf_counter() - started
        self._step += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The place after the last batch that the caller took, as JSON; the same on every rank, under 1 KB."""
        return {**self._settings, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, on any world size that divides the lanes.

        Raises UserError where the state is empty or of other sources or settings, naming what differs.
        """
        if type(state.get("step")) is not int or state["step"] < 0:
            raise UserError("no loader state in this checkpoint; resume from another one, or start a new run")
        before = dict(state)
        if self._allow_changed:
            before["sources"] = _renamed(state.get("sources"), self._settings["sources"])
        differ = [
            f"{name} was {before.get(name)}, is {value}"
            for name, value in self._settings.items()
            if before.get(name) != value
        ]
        if differ:
            only_corpora = not self._allow_changed and all(words.startswith("sources") for words in differ)
            raise UserError(
                f"the checkpoint's data differ from this run's: {'; '.join(differ)}; use the same, "
                + ("pass allow_changed_corpora, " if only_corpora else "")
                + "or start a new run"
            )
        self._batches.close()
        self._step = state["step"]
        self._batches = self._batches_from(self._step)

    def close(self) -> None:
        """Stop the threads. May be called more than once."""
        self._batches.close()

    @staticmethod
    def share_room(loaders: Sequence[ClipLoader]) -> None:
        """Have loaders that are used in turn fetch ahead into the room that there is for all of them, each its part.

        Raises UserError where the cache can't hold what they read at once.
        """
        room = room_ahead([demand for loader in loaders for demand in loader._demands])
        for loader in loaders:
            loader._room = None if room is None else room // len(loaders)
            loader._batches.close()
            loader._batches = loader._batches_from(loader._step)

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _batches_from(self, step: int) -> Generator[Loaded, None, None]:
        # Nothing in here refers to this object, so that dropping it drops the iterator, which stops the threads.
        plans = training_plans(self._feeds, self._orders, self._schedule, step, self._rank, self._world_size)
        ahead = fetch_ahead(plans, self._room)
        return load_ahead(ahead, self._sample_shape, self._threads, self._prefetch, self._device)


def _renamed(sources: Any, now: list[dict[str, Any]]) -> Any:
    """A state's sources with the digests of those that take their places, where there are as many."""
    if not isinstance(sources, list) or len(cast("list[Any]", sources)) != len(now):
        return cast(object, sources)
    return [{**old, "digest": new["digest"]} for old, new in zip(cast("list[dict[str, Any]]", sources), now)]


def training_feed(
    corpus: Corpus,
    clip: Clip,
    views: Views,
    seed: int,
    decoder: str,
    device: torch.device,
    shards_at_once: int,
    threads: int,
    places: int = 0,
) -> Feed:
    """A corpus and what turns its ids into random views."""
    return Feed(
        corpus=corpus,
        reader=ShardReader(corpus, min(shards_at_once, OPEN_SHARDS)),
        decoder=choose_decoder(decoder, corpus.manifest.codec, device, threads),
        draw=partial(_draw, corpus, clip, views, stream_key("views", corpus.manifest.digest, seed)),
        places=places,
    )


def training_plans(
    feeds: Sequence[Feed], orders: Sequence[Order], schedule: Schedule, step: int, rank: int, world_size: int
) -> Iterator[Plan]:
    """What each step from `step` on holds on `rank`, without end."""
    while True:
        source, place = schedule.at(step)
        ids, visits = orders[source].step(place, rank, world_size)
        yield Plan(feeds[source], ids, visits)
        step += 1


def own_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Both as given; where neither is, those of torch.distributed, else of the launcher's environment, else 0 of 1.

    So that a plain loop that is launched on several ranks doesn't train each of them on the same rows.
    """
    if rank is not None and world_size is not None:
        return rank, world_size
    if rank is not None or world_size is not None:
        raise UserError("rank and world_size belong together; give both, or neither to have this process's own")
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def check_batch(batch_size: int, views: int, rank: int, world_size: int) -> int:
    """Samples a step over all ranks. Raises UserError where the rows of a step do not divide evenly."""
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} of {world_size} ranks; ranks go from 0 to {world_size - 1}")
    if batch_size < 1 or batch_size % (views * world_size):
        raise UserError(
            f"batch size {batch_size} does not divide into {views} views on {world_size} ranks; "
            f"choose a multiple of {views * world_size}"
        )
    return batch_size // views


def _draw(corpus: Corpus, clip: Clip, views: Views, key: int, sample: int, visit: int) -> Draw:
    return draw_training(
        clip,
        views,
        int(corpus.frames[sample]),
        int(corpus.width[sample]),
        int(corpus.height[sample]),
        key,
        sample,
        visit,
    )
